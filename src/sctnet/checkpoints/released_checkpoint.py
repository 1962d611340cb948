"""From a checkpoint of the released code to a model folder, strictly."""

import hashlib
import os
import pickle
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sctnet.checkpoints.backbone import save_backbone
from sctnet.checkpoints.model_folder import Colour, WeightsSource, check_tensor, save_model
from sctnet.errors import SctnetError
from sctnet.models import SCTNet, SCTNetConfig, model_configuration

MAX_BYTES = 2 * 2**30
"""The largest released training checkpoint, B with its teacher and optimiser, is below 1 GiB."""

_NUMPY_SCALAR: Any = np.float64(0).__reduce__()[0]
_NUMPY_NAMES: list[Any] = [
    # A training checkpoint keeps its scores beside the weights, as numpy's floats, and PyTorch
    # opens it only if told that their constructors do nothing else. numpy 2 renamed the first.
    _NUMPY_SCALAR,
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
]

_RESIDUAL = {
    "conv1": "conv1",
    "bn1": "norm1",
    "conv2": "conv2",
    "bn2": "norm2",
    "downsample": "shortcut",
}
_HEAD = {"bn1": "norm1", "conv1": "conv", "bn2": "norm2", "conv_seg": "classifier"}
_CFBLOCK = {
    "attn_l.kv": "attention.stripes.0.kernels",
    "attn_l.kv3": "attention.stripes.1.kernels",
    "attn_l.norm": "attention_norm",
    "mlp_l.norm": "feed_forward_norm",
    "mlp_l.conv1": "feed_forward.conv1",
    "mlp_l.conv2": "feed_forward.conv2",
}
_STAGE_BLOCKS = ("layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1")


def released_names() -> dict[str, str]:
    """Return the table of module names: the released code's, then ours.

    A tensor's key is a module's name, then ``.weight``, ``.bias`` and so on (the attention's
    kernels are tensors themselves). It covers the inference network and the auxiliary head.
    """
    names = {f"backbone.conv1.{index}": f"stem.{index}" for index in (0, 1, 3, 4)}
    for block in _STAGE_BLOCKS:
        stage = block.replace("layer", "stage")
        for theirs, ours in _RESIDUAL.items():
            names[f"backbone.{block}.{theirs}"] = f"{stage}.{ours}"
    names |= {f"backbone.convdown4.{index}": f"stage4.{index}" for index in (0, 1)}
    for block, place in (("layer3_2", "stage3.3"), ("layer4", "stage4.3"), ("layer5", "stage4.5")):
        for theirs, ours in _CFBLOCK.items():
            names[f"backbone.{block}.{theirs}"] = f"{place}.{ours}"
    names |= {f"backbone.spp.scale0.{index}": f"dappm.scales.0.{index}" for index in (0, 2)}
    for scale in range(1, 5):
        # Their pooling is the first entry of the sequence; ours stands apart.
        for index in (0, 2):
            names[f"backbone.spp.scale{scale}.{index + 1}"] = f"dappm.scales.{scale}.{index}"
            names[f"backbone.spp.process{scale}.{index}"] = f"dappm.processes.{scale - 1}.{index}"
    for part in ("compression", "shortcut"):
        names |= {f"backbone.spp.{part}.{index}": f"dappm.{part}.{index}" for index in (0, 2)}
    for theirs, ours in _HEAD.items():
        names[f"decode_head.{theirs}"] = f"head.{ours}"
        names[f"auxiliary_head.0.{theirs}"] = f"auxiliary_head.{ours}"
    return names


_IGNORED = {
    "teacher": ("auxiliary_head.1.teacher_backbone.", "auxiliary_head.1.teacher_head."),
    "projections": (
        "auxiliary_head.1.feature_transforms.",
        "auxiliary_head.1.convstage4.",
        "auxiliary_head.1.convstage3.",
    ),
    "classifier of the pre-training": ("head.", "fc.", "backbone.head.", "backbone.fc."),
}
"""Keys that a checkpoint may have beside the network's; the first group with a matching prefix
counts."""


@dataclass(frozen=True)
class ConversionReport:
    """What happened to every key of a checkpoint.

    Keys are named as in a released segmentation checkpoint, with ``backbone.`` and without
    ``module.``; those of ``missing`` are ours.
    """

    used: tuple[str, ...]
    ignored: dict[str, str]
    """Key to group: teacher, projections, classifier of the pre-training."""
    missing: tuple[str, ...]
    """Tensors that a backbone file does not hold; a network initialises them."""
    sha256: str
    variant: str
    num_classes: int
    backbone_only: bool

    def __str__(self) -> str:
        network = f"segmentation network with {self.num_classes} classes"
        kind = "ImageNet backbone" if self.backbone_only else network
        lines = [
            f"{self.variant}, {kind}, sha256 {self.sha256}",
            f"{len(self.used)} tensors used",
        ]
        groups = Counter(self.ignored.values())
        lines += [f"{count} ignored: {group}" for group, count in groups.items()]
        if self.missing:
            parts = ", ".join(_parts(self.missing))
            lines.append(f"{len(self.missing)} not in the file, new in a network: {parts}")
        return "\n".join(lines)


def convert_checkpoint(
    checkpoint: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    variant: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    colours: Sequence[Colour] | None = None,
) -> ConversionReport:
    """Convert a released checkpoint to a model folder, and report what happened to every key.

    Keys may be at the top, under ``state_dict`` or under ``model``, with or without ``module.``. A
    file without heads is an ImageNet backbone: it must contain all of stem to stage 4, may contain
    a DAPPM, and becomes a start for training, not a model. Without ``variant`` the widths decide.
    Nothing is executed: the file is read with ``weights_only=True``. Raises :class:`SctnetError`,
    and writes nothing, for a file that cannot be read, for unknown or missing keys, one tensor
    under two keys, values that are not finite, shapes of another variant, and an output folder of
    something else.
    """
    path = Path(checkpoint)
    found = _with_released_names(state_dict_of(read_checkpoint(path), path), path)
    tensors, ignored = _renamed(found, path)
    backbone_only = not any(key.startswith(("head.", "auxiliary_head.")) for key in tensors)
    model = _matching_network(tensors, variant, classes, path)
    missing = _missing(tensors, model.state_dict(), model.config.variant, backbone_only, path)
    model.load_state_dict({**model.state_dict(), **tensors})
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    source = WeightsSource(file=path.name, sha256=sha256)
    if backbone_only:
        save_backbone(model, folder, with_context="dappm" not in _parts(missing), source=source)
    else:
        save_model(model, folder, classes, colours=colours, source=source)
    return ConversionReport(
        used=tuple(key for key in found if _our_key(key) in tensors),
        ignored=ignored,
        missing=missing,
        sha256=sha256,
        variant=model.config.variant,
        num_classes=model.config.num_classes,
        backbone_only=backbone_only,
    )


def released_start(checkpoint: str | os.PathLike[str], network: SCTNet) -> dict[str, Tensor]:
    """Return the tensors of a released checkpoint or backbone, by this package's names.

    The classifiers are left out: the file does not name their classes. So are a teacher, its
    projections and the classifier of the pre-training; any other key raises :class:`SctnetError`,
    as does all that :func:`convert_checkpoint` refuses: a backbone that is not whole, another
    variant's shapes, a part of a DAPPM or head.
    """
    path = Path(checkpoint)
    found = _with_released_names(state_dict_of(read_checkpoint(path), path), path)
    tensors = {k: v for k, v in _renamed(found, path)[0].items() if ".classifier." not in k}
    expected = {k: v for k, v in network.state_dict().items() if ".classifier." not in k}
    heads = [{k for k in part if k.startswith("auxiliary_head.")} for part in (tensors, expected)]
    if not all(heads):  # it may come and go
        for part, auxiliary in zip((tensors, expected), heads, strict=True):
            for key in auxiliary:
                del part[key]
    backbone_only = not any(key.startswith("head.") for key in tensors)
    _missing(tensors, expected, network.config.variant, backbone_only, path)
    return tensors


def _missing(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    variant: str,
    backbone_only: bool,
    path: Path,
) -> tuple[str, ...]:
    """Return the keys that a backbone file does not fill; raise for a misfit."""
    for key, tensor in tensors.items():
        if key not in expected:
            raise SctnetError(f"{path}: {_released_key(key)} does not exist in {variant}")
        check_tensor(_released_key(key), tensor, expected[key], str(path))
    missing = tuple(key for key in expected if key not in tensors)
    needed = [key for key in missing if not (backbone_only and _is_new_in_segmentation(key))]
    if needed:
        raise SctnetError(
            f"{path}: lacks {len(needed)} tensors of {variant}, the first is "
            f"{_released_key(needed[0])}; the file is incomplete or another network's"
        )
    _refuse_partial_dappm(tensors, expected, path)
    return missing


def read_checkpoint(path: Path) -> object:
    """Return the content of a PyTorch file without executing anything in it."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SctnetError(f"{path}: larger than {MAX_BYTES >> 30} GiB, no SCTNet is so large")
        with torch.serialization.safe_globals(_NUMPY_NAMES):
            return torch.load(path, map_location="cpu", weights_only=True)
    except SctnetError:
        raise
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise SctnetError(f"{path}: cannot be read ({error.strerror})") from error
    except pickle.UnpicklingError as error:
        raise SctnetError(
            f"{path}: no checkpoint of tensors alone, and not opened since it may hold code; "
            "save its state_dict alone with torch.save"
        ) from error
    except Exception as error:
        # A damaged file fails anywhere in the reader: OSError, IndexError, struct.error.
        raise SctnetError(
            f"{path}: not a whole PyTorch checkpoint; download or copy it again"
        ) from error


def state_dict_of(content: object, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, wherever it keeps them."""
    for key in ("state_dict_ema", "state_dict", "model"):  # an average counts more than the last
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise SctnetError(f"{path}: holds no state dict")
    wrong = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if wrong:
        raise SctnetError(f"{path}: {wrong[0]} is not a tensor, this is not a state dict")
    for key, value in content.items():
        if value.layout != torch.strided or value.is_meta:
            what = "holds no numbers" if value.is_meta else f"is stored as {value.layout}"
            raise SctnetError(f"{path}: {key} {what}; save it as a dense tensor")
    return {str(key): value for key, value in content.items()}


def _with_released_names(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Name keys as the segmentation checkpoints do.

    Parallel wrappers put ``module.`` before them; backbone files come without ``backbone.``; the
    release's timing script calls the head ``decoder``.
    """
    plain = {key: key.removeprefix("module.") for key in tensors}
    bare = not any(name.startswith("backbone.") for name in plain.values())
    origins: dict[str, str] = {}
    for key, shortened in plain.items():
        name = re.sub(r"^decoder\.", "decode_head.", shortened)
        outside = name.startswith(("decode_head.", "auxiliary_head.", "head.", "fc."))
        name = f"backbone.{name}" if bare and not outside else name
        if name in origins:
            raise SctnetError(
                f"{path}: {origins[name]} and {key} are one tensor of the network; remove one"
            )
        origins[name] = key
    return {name: tensors[key] for name, key in origins.items()}


def _renamed(found: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors: dict[str, Tensor] = {}
    ignored: dict[str, str] = {}
    for key, tensor in found.items():
        ours = _our_key(key)
        group = next((name for name, heads in _IGNORED.items() if key.startswith(heads)), None)
        if ours is not None:
            tensors[ours] = tensor
        elif group is not None:
            ignored[key] = group
        else:
            raise SctnetError(f"{path}: {key} is not a key of a released SCTNet")
    return tensors, ignored


_CLASSIFIERS = (
    "head.classifier.weight",
    "head.classifier.bias",
    "auxiliary_head.classifier.weight",
)
"""Each of them gives the number of classes; whether all are present is checked later."""

_NAMES = released_names()
_OUR_NAMES = {ours: theirs for theirs, ours in _NAMES.items()}


def _our_key(key: str) -> str | None:
    return _translated(key, _NAMES)


def _released_key(key: str) -> str:
    return _translated(key, _OUR_NAMES) or key


def _translated(key: str, names: Mapping[str, str]) -> str | None:
    if key in names:
        return names[key]
    module, _, last = key.rpartition(".")
    # The shortcut is a sequence of a convolution (0) and a norm (1) in both codes.
    parent, _, index = module.rpartition(".")
    if parent in names and index in {"0", "1"} and parent.endswith(("downsample", "shortcut")):
        return f"{names[parent]}.{index}.{last}"
    return f"{names[module]}.{last}" if module in names else None


def _matching_network(
    tensors: Mapping[str, Tensor],
    variant: str | None,
    classes: Sequence[str] | None,
    path: Path,
) -> SCTNet:
    stem = tensors.get("stem.0.weight")
    if stem is None:
        raise SctnetError(f"{path}: lacks backbone.conv1.0.weight; it is not a released SCTNet")
    found = {32: "sctnet-s", 64: "sctnet-b"}.get(_rows(stem))
    if variant is None and found is None:
        raise SctnetError(
            f"{path}: backbone.conv1.0.weight has the shape {tuple(stem.shape)}, "
            "which fits neither S (32 channels) nor B (64)"
        )
    classifier = next((tensors[key] for key in _CLASSIFIERS if key in tensors), None)
    # A backbone has no classes; the heads of the network built here are not written then.
    num_classes = 2 if classifier is None else _rows(classifier)
    if num_classes < 2:
        raise SctnetError(f"{path}: decode_head.conv_seg has {num_classes} classes, not 2 or more")
    if classes is not None and classifier is None:
        raise SctnetError(f"{path}: a backbone has no classes, leave the class names out")
    if classes is not None and len(classes) != num_classes:
        raise SctnetError(f"{path}: {len(classes)} class names given, the file has {num_classes}")
    auxiliary = classifier is None or any(key.startswith("auxiliary_head.") for key in tensors)
    config = model_configuration(variant or found or "", num_classes, auxiliary_head=auxiliary)
    if not isinstance(config, SCTNetConfig):
        raise SctnetError(
            f"variant: {variant} is not an SCTNet; leave it out, the file determines it"
        )
    return SCTNet(config)


def _rows(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.ndim else 0


def _parts(keys: Sequence[str]) -> list[str]:
    return sorted({key.split(".")[0] for key in keys})


def _is_new_in_segmentation(key: str) -> bool:
    return key.startswith(("dappm.", "head.", "auxiliary_head."))


def _refuse_partial_dappm(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path
) -> None:
    wanted = [key for key in expected if key.startswith("dappm.")]
    absent = [key for key in wanted if key not in tensors]
    if absent and len(absent) < len(wanted):
        raise SctnetError(
            f"{path}: holds a part of the DAPPM only, {_released_key(absent[0])} is missing"
        )
