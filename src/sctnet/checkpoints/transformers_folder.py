"""Folders as transformers writes them: config.json with ``model_type``, and model.safetensors."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from sctnet.checkpoints.model_folder import (
    CONFIG_FILE,
    PREPROCESSOR_FILE,
    WEIGHTS_FILE,
    check_finite,
    first_message,
    load_strictly,
    read_tensors,
)
from sctnet.errors import SctnetError
from sctnet.models import SegmentationNetwork, build
from sctnet.models.transformers_configuration import (
    SEGFORMER_SIZES,
    UPERNET_SIZES,
    TransformersConfig,
)
from sctnet.models.transformers_networks import STAGES, Placed, TransformersNetwork, placed
from sctnet.pipeline.preprocessing import PreprocessingConfig

_MAX_BYTES = 2 * 2**30
"""The largest, UPerNet on Swin-L, is below 1 GiB."""
_MAX_TEXT = 2**20

_WHOLE = {
    "segformer": "SegformerForSemanticSegmentation",
    "upernet": "UperNetForSemanticSegmentation",
}
_NEEDED = {
    "num_channels": 3,
    "hidden_act": "gelu",
    "patch_size": 4,
    "patch_sizes": [7, 3, 3, 3],
    "strides": [4, 2, 2, 2],
    "num_encoder_blocks": 4,
    "num_stages": 4,
    "reshape_last_stage": True,
    "use_absolute_embeddings": False,
    "out_features": list(STAGES),
}
"""Options of transformers that this package cannot choose, with the only value it computes."""
_RATES = (
    "drop_path_rate",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout_prob",
)
"""Rates that change training only; a start and the network may have different ones."""
_FOR_CLASSIFYING = re.compile(
    r"^(classifier|((swin|convnext)\.)?(layernorm|pooler))\.|relative_position_index$"
)
"""Keys of a backbone's file that no segmentation network has a place for."""


def is_transformers_folder(folder: Path) -> bool:
    """Say whether a folder's config.json is one of transformers and not of this package."""
    try:
        fields = _json(folder / CONFIG_FILE)
    except SctnetError:
        return False
    return isinstance(fields, dict) and "model_type" in fields and "network" not in fields


def has_stages(folder: Path) -> bool:
    """Say whether a network of ours shows the stages of this model, and prepares pictures alike.

    Any other model of transformers is a
    :class:`~sctnet.checkpoints.transformers_model.TransformersModel`.
    """
    fields = _json(folder / CONFIG_FILE)
    if not isinstance(fields, dict) or str(fields.get("model_type")) not in _WHOLE:
        return False
    try:
        _backbone_of(fields, folder / CONFIG_FILE)
        _check_normalisation(folder)
    except SctnetError:
        return False
    return True


def classes_of(folder: Path) -> tuple[str, ...]:
    """Return the names of a model's classes, in the order of ``id2label``.

    Raises :class:`SctnetError` where there are none, and for names that transformers made up.
    """
    file = folder / CONFIG_FILE
    fields = _json(file)
    names = _classes(fields if isinstance(fields, dict) else {}, file)
    if all(name == f"LABEL_{number}" for number, name in enumerate(names)):
        raise SctnetError(
            f"{file}: id2label: the classes have numbers alone (LABEL_0 and so on): write their "
            "names there"
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SctnetError(f"{file}: id2label: {twice!r} stands twice: give every class its own")
    return names


def load_transformers_model(folder: Path) -> tuple[TransformersNetwork, tuple[str, ...]]:
    """Return a whole segmentation network and its classes, in the order of ``id2label``.

    Raises :class:`SctnetError` for another kind of model, one that lacks a tensor or has one too
    many, values that are not finite, and a normalisation that is not ours.
    """
    fields = _fields(folder)
    file = folder / CONFIG_FILE
    model_type = fields["model_type"]
    if model_type not in _WHOLE:
        raise SctnetError(
            f"{file}: a {model_type} alone has no classes to teach; name it as model.init of an "
            f"upernet-{model_type} and fine-tune that, or name a {' or a '.join(_WHOLE.values())}"
        )
    _check_architecture(fields, file)
    classes = _classes(fields, file)
    _check_normalisation(folder)
    network = build(_configuration(fields, len(classes), file))
    assert isinstance(network, TransformersNetwork)
    weights = folder / WEIGHTS_FILE
    found = _placed(network, fields, weights)
    for key, shape in found.misfits.items():
        _refuse_shape(key, shape, network, weights)
    extra = [key for key in found.left_over if not _is_for_classifying(key)]
    if extra:
        raise SctnetError(
            f"{weights}: {extra[0]} has no place in this {network.config.variant}; "
            "do config.json and weights belong together?"
        )
    load_strictly(network, found.tensors, str(weights))
    return network, classes


def read_transformers_start(
    model: SegmentationNetwork, folder: Path, classes: Sequence[str]
) -> tuple[str, dict[str, Tensor]]:
    """Return the file of the weights, and the tensors that fit ``model``, by its own names.

    The file may hold a whole segmentation network of the same kind (without the classifiers, where
    its classes are others) or an encoder: SegFormer's, or Swin and ConvNeXt as they classify.
    Raises :class:`SctnetError` for one of another architecture, and for one that is not whole.
    """
    file, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    fields = _fields(folder)
    if not isinstance(model, TransformersNetwork):
        raise SctnetError(
            f"{folder}: a folder of transformers starts its own networks alone, not a "
            f"{model.config.variant}; choose a segformer-bN-hf or an upernet-* as model.variant"
        )
    _check_same_backbone(fields, model.config, file)
    found = _placed(model, fields, weights)
    is_whole = any(
        key.startswith("network.decode_head.") for key in (*found.tensors, *found.misfits)
    )
    others = not is_whole or _classes_or_none(fields, file) != tuple(classes)
    for key, shape in found.misfits.items():
        if not (others and "classifier" in key):
            _refuse_shape(key, shape, model, weights)
    extra = [key for key in found.left_over if not _may_be_left_over(key, model)]
    if extra:
        raise SctnetError(
            f"{weights}: {extra[0]} does not fit; this file cannot start a {model.config.variant}"
        )
    tensors = {
        key: tensor for key, tensor in found.tensors.items() if not (others and "classifier" in key)
    }
    lacking = [key for key in model.state_dict() if is_whole and _is_lacking(key, tensors, others)]
    if lacking:
        raise SctnetError(f"{weights}: lacks {lacking[0]}; it is not a whole network")
    return str(weights), tensors


def _fields(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG_FILE
    fields = _json(file)
    known = ("segformer", "upernet", "swin", "convnext")
    if not isinstance(fields, dict) or fields.get("model_type") not in known:
        kind = fields.get("model_type") if isinstance(fields, dict) else fields
        raise SctnetError(
            f"{file}: {str(kind)[:80]!r} cannot be used here; of transformers' networks "
            f"these can: {', '.join(known)}"
        )
    return fields


def _json(file: Path) -> Any:
    try:
        if file.stat().st_size > _MAX_TEXT:
            raise SctnetError(f"{file}: larger than 1 MiB; no configuration is so large")
        return json.loads(file.read_bytes())
    except OSError as error:
        raise SctnetError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise SctnetError(f"{file}: not JSON; download or copy it again") from error


def _check_architecture(fields: Mapping[str, Any], file: Path) -> None:
    wanted = _WHOLE[fields["model_type"]]
    named = fields.get("architectures")
    if isinstance(named, list) and named and wanted not in named:
        raise SctnetError(
            f"{file}: holds a {str(named[0])[:80]}, which labels no pixels; a teacher is a {wanted}"
        )


def _classes(fields: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    names = _classes_or_none(fields, file)
    if names is None:
        raise SctnetError(f"{file}: id2label: names no classes; write the name of every number")
    return names


def _classes_or_none(fields: Mapping[str, Any], file: Path) -> tuple[str, ...] | None:
    names = fields.get("id2label")
    if not isinstance(names, dict) or not names:
        return None
    if set(names) != {str(number) for number in range(len(names))}:
        raise SctnetError(f"{file}: id2label: the classes are not numbered 0, 1, 2 and so on")
    return tuple(str(names[str(number)]) for number in range(len(names)))


def _check_normalisation(folder: Path) -> None:
    """Refuse a network that was trained on images of another scale than a student's."""
    file = folder / PREPROCESSOR_FILE
    if not file.exists():
        return
    fields, ours = _json(file), PreprocessingConfig()
    for key, wanted in (("image_mean", ours.mean), ("image_std", ours.std)):
        given = fields.get(key) if isinstance(fields, dict) else None
        if given is None:
            continue
        scaled = [value / 255 for value in wanted]
        if (
            not isinstance(given, list)
            or len(given) != 3
            or not all(
                isinstance(value, int | float) and abs(value - mine) < 0.01
                for value, mine in zip(given, scaled, strict=True)
            )
        ):
            raise SctnetError(
                f"{file}: {key} is {given}, but a teacher sees the student's images, with "
                "ImageNet's mean and std; fine-tune it so, or take another"
            )


def _configuration(fields: Mapping[str, Any], num_classes: int, file: Path) -> TransformersConfig:
    """Return the variant with these sizes, or the family's first variant and its differences."""
    given = _sizes(fields, file)
    variants = SEGFORMER_SIZES if fields["model_type"] == "segformer" else UPERNET_SIZES
    family = {name: sizes for name, sizes in variants.items() if _backbone_of(fields, file) in name}
    first = next(iter(family or variants))
    chosen = {name: given.get(name, size) for name, size in variants[first].items()}

    def differing(name: str) -> dict[str, Any]:
        return {key: size for key, size in chosen.items() if size != variants[name][key]}

    variant = min(family or variants, key=lambda name: len(differing(name)))
    try:
        return TransformersConfig(
            variant=variant, num_classes=num_classes, architecture=differing(variant)
        )
    except ValidationError as error:
        raise SctnetError(f"{file}: {first_message(error)}") from error


def _backbone_of(fields: Mapping[str, Any], file: Path) -> str:
    if fields["model_type"] != "upernet":
        return str(fields["model_type"])
    backbone = fields.get("backbone_config")
    kind = backbone.get("model_type") if isinstance(backbone, dict) else None
    if kind not in ("swin", "convnext"):
        raise SctnetError(
            f"{file}: backbone_config: {str(kind)[:80]} cannot be used here; swin and convnext can"
        )
    return str(kind)


def _sizes(fields: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return the fields of head and backbone by name, lists as tuples."""
    own = dict(fields)
    if fields["model_type"] == "upernet":
        _backbone_of(fields, file)
        backbone = fields["backbone_config"]
        # Swin's own hidden_size is derived; the head's is meant.
        own = {**{key: value for key, value in backbone.items() if key != "hidden_size"}, **own}
    elif fields["model_type"] != "segformer":
        own.pop("out_features", None)  # of a file that classifies
    for key, wanted in _NEEDED.items():
        if own.get(key, wanted) != wanted:
            raise SctnetError(f"{file}: {key} is {own[key]}; here it can only be {wanted}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in own.items()}


def _check_same_backbone(fields: Mapping[str, Any], config: TransformersConfig, file: Path) -> None:
    kind = _backbone_of(fields, file)
    if kind != config.backbone:
        raise SctnetError(
            f"{file}: a {kind} cannot start a {config.variant}; choose a variant of the same kind"
        )
    given = _sizes(fields, file)
    for key, wanted in config.backbone_sizes.items():
        if key not in _RATES and key in given and given[key] != wanted:
            raise SctnetError(
                f"{file}: {key} is {given[key]}, this {config.variant} has {wanted}; choose the "
                f"variant of these sizes or set model.options.architecture.{key}"
            )


def _placed(network: TransformersNetwork, fields: Mapping[str, Any], weights: Path) -> Placed:
    """Read a file's tensors, safely, and find their places."""
    try:
        size = weights.stat().st_size
    except OSError as error:
        raise SctnetError(f"{weights}: cannot be read ({error.strerror})") from error
    if size > _MAX_BYTES:
        raise SctnetError(f"{weights}: larger than {_MAX_BYTES >> 30} GiB, no such network is")
    tensors = read_tensors(weights)
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() and not key.endswith(
            ("num_batches_tracked", "relative_position_index")
        ):
            raise SctnetError(f"{weights}: {key} holds {tensor.dtype}, no weights")
        check_finite(key, tensor, str(weights))
    return placed(network, tensors, fields["model_type"])


def _refuse_shape(
    key: str, shape: tuple[int, ...], network: SegmentationNetwork, weights: Path
) -> None:
    expected = tuple(network.state_dict()[key].shape) if key in network.state_dict() else "none"
    raise SctnetError(
        f"{weights}: {key} has the shape {shape}, this {network.config.variant} needs {expected}; "
        "is it another variant's file?"
    )


def _is_for_classifying(key: str) -> bool:
    return _FOR_CLASSIFYING.search(key) is not None


def _may_be_left_over(key: str, model: TransformersNetwork) -> bool:
    without_help = model.auxiliary_head is None and key.startswith("auxiliary_head.")
    return without_help or _is_for_classifying(key)


def _is_lacking(key: str, tensors: Mapping[str, Tensor], others: bool) -> bool:
    may_be_new = "auxiliary_head" in key or (others and "classifier" in key)
    return key not in tensors and not may_be_new
