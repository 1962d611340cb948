"""From a checkpoint of another network's authors to a model folder, strictly."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sctnet.checkpoints.authors_names import AUTHORS_NAMES
from sctnet.checkpoints.backbone import save_backbone
from sctnet.checkpoints.model_folder import WeightsSource, check_tensor, save_model
from sctnet.checkpoints.paddle_checkpoint import PADDLE_SUFFIX, read_paddle_checkpoint
from sctnet.checkpoints.released_checkpoint import (
    ConversionReport,
    read_checkpoint,
    state_dict_of,
)
from sctnet.errors import SctnetError
from sctnet.models import NetworkConfig, SegmentationNetwork, build, model_configuration
from sctnet.models.registry import FAMILIES, family_of


def authors_variants() -> tuple[str, ...]:
    """Return the variants whose authors' checkpoints can be read."""
    known = (family.variants for family in FAMILIES if family.network in AUTHORS_NAMES)
    return tuple(name for variants in known for name in variants)


def convert_authors_checkpoint(
    checkpoint: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    variant: str,
    classes: Sequence[str] | None = None,
) -> ConversionReport:
    """Convert a checkpoint of a network's authors to a model folder, and report every key.

    ``variant`` is one of :func:`authors_variants`. A file without a head is an ImageNet backbone
    and becomes a start for training. Files are those of PyTorch or, with the ending ``.pdparams``,
    of Paddle; nothing in them is executed. Raises :class:`SctnetError`, and writes nothing, for a
    file that cannot be read, unknown or missing keys, values that are not finite, and shapes of
    another variant.
    """
    path = Path(checkpoint)
    content = _read(path, model_configuration(variant, 2))
    num_classes = content.config.num_classes
    if content.backbone_only and classes is not None:
        raise SctnetError(f"{path}: a backbone has no classes, leave the class names out")
    if classes is not None and len(classes) != num_classes:
        raise SctnetError(f"{path}: {len(classes)} class names given, the file has {num_classes}")
    network = build(content.config)
    network.load_state_dict({**network.state_dict(), **content.tensors})
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    source = WeightsSource(file=path.name, sha256=sha256)
    if content.backbone_only:
        save_backbone(network, folder, with_context=False, source=source)
    else:
        save_model(network, folder, classes, source=source)
    return ConversionReport(
        used=content.used,
        ignored=content.ignored,
        missing=content.missing,
        sha256=sha256,
        variant=variant,
        num_classes=num_classes,
        backbone_only=content.backbone_only,
    )


def authors_start(checkpoint: str | os.PathLike[str], config: NetworkConfig) -> dict[str, Tensor]:
    """Return the tensors of such a checkpoint by our names, without the classifiers.

    The file does not name its classes. Raises :class:`SctnetError` for all that
    :func:`convert_authors_checkpoint` refuses.
    """
    tensors = _read(Path(checkpoint), config).tensors
    return {key: value for key, value in tensors.items() if "classifier" not in key}


class _Content(NamedTuple):
    """A checkpoint's tensors by our names, and what happened to its keys."""

    config: NetworkConfig
    tensors: dict[str, Tensor]
    used: tuple[str, ...]
    ignored: dict[str, str]
    missing: tuple[str, ...]
    backbone_only: bool


def _read(path: Path, config: NetworkConfig) -> _Content:
    """Match a file's keys with the network's; classes and auxiliary head are those of the file."""
    if path.suffix == PADDLE_SUFFIX:
        found = read_paddle_checkpoint(path)
    else:
        found = _without_wrapper(state_dict_of(read_checkpoint(path), path), path)
    names = AUTHORS_NAMES[family_of(config.variant).network]
    classifier = found.get(names.theirs("head.classifier.weight"))
    classes = 2 if classifier is None else len(classifier)
    updates: dict[str, int] = {"num_classes": classes}
    if "auxiliary_head" in type(config).model_fields:
        updates["auxiliary_head"] = True
    config = config.model_copy(update=updates)
    with torch.device("meta"):
        network = build(config)
        helping = [key for key in network.state_dict() if key.startswith("auxiliary_head.")]
        if helping and not any(names.theirs(key) in found for key in helping):
            config = config.model_copy(update={"auxiliary_head": False})
            network = build(config)
    expected = network.state_dict()
    ours = {names.theirs(key): key for key in expected}
    if not any(key.startswith(names.backbone) for key in found) and any(
        key.startswith(names.backbone) for key in ours
    ):
        found = {f"{names.backbone}{key}": tensor for key, tensor in found.items()}
    tensors, ignored = {}, {}
    for key, tensor in found.items():
        group = next((word for word, heads in names.ignored.items() if key.startswith(heads)), None)
        if key in ours:
            check_tensor(key, tensor, expected[ours[key]], str(path))
            tensors[ours[key]] = names.changed(ours[key], tensor)
        elif (first := names.original(key)) in found and first != key:
            if not torch.equal(tensor, found[first]):
                raise SctnetError(
                    f"{path}: {key} and {first} are one tensor of {config.variant}, but differ "
                    "here; download the file again"
                )
            ignored[key] = "repetitions"
        elif group is not None:
            ignored[key] = group
        else:
            raise SctnetError(f"{path}: {key} is not a key of the authors' {config.variant}")
    for key in expected:
        module, _, last = key.rpartition(".")
        if last == "num_batches_tracked" and f"{module}.running_mean" in tensors:
            tensors.setdefault(key, torch.zeros(()).long())  # Paddle counts none; nothing reads it
    missing = tuple(
        key for key in expected if key not in tensors and not key.endswith(names.absent)
    )
    backbone_only = not any(key.startswith("head.") for key in tensors)
    needed = [key for key in missing if not backbone_only or key.startswith(_backbone(network))]
    if needed:
        raise SctnetError(
            f"{path}: lacks {len(needed)} tensors of {config.variant}, the first is "
            f"{names.theirs(needed[0])}; the file is incomplete or another network's"
        )
    used = tuple(key for key in found if key in ours)
    return _Content(config, tensors, used, ignored, missing, backbone_only)


def _without_wrapper(found: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Drop the ``module.`` that parallel training puts before every key."""
    plain = {key.removeprefix("module."): tensor for key, tensor in found.items()}
    if len(plain) < len(found):
        raise SctnetError(f"{path}: holds keys with and without module.; remove one of the two")
    return plain


def _backbone(network: SegmentationNetwork) -> tuple[str, ...]:
    return tuple(f"{part}." for part in network.backbone_parts)
