"""Converts SegFormer checkpoints of MMSegmentation or the released SCTNet to teachers."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from sctnet.checkpoints.backbone import fill
from sctnet.checkpoints.model_folder import WeightsSource, load_strictly, save_model
from sctnet.checkpoints.released_checkpoint import read_checkpoint, state_dict_of
from sctnet.errors import SctnetError
from sctnet.models import NetworkConfig, SegmentationNetwork, build, model_configuration
from sctnet.models.segformer import SEGFORMER_VARIANTS

_PREFIXES = (
    # Inside a released SCTNet, as the released conversion tool leaves it, and MMSegmentation's own.
    ("auxiliary_head.1.teacher_backbone.", "auxiliary_head.1.teacher_head."),
    ("teacher_backbone.", "teacher_head."),
    ("backbone.", "decode_head."),
)

_PARTS = (
    (r"^layers\.(\d)\.0\.projection\.", r"stages.\1.0."),
    (r"^layers\.(\d)\.0\.norm\.", r"stages.\1.1."),
    (r"^layers\.(\d)\.1\.", r"stages.\1.2."),
    (r"^layers\.(\d)\.2\.", r"stages.\1.3."),
    (r"\.norm1\.", ".attention_norm."),
    (r"\.attn\.attn\.", ".attention.attention."),
    (r"\.attn\.sr\.", ".attention.reduce.0."),
    (r"\.attn\.norm\.", ".attention.reduce.1."),
    (r"\.norm2\.", ".feed_forward_norm."),
    (r"\.ffn\.layers\.0\.", ".feed_forward.expand."),
    (r"\.ffn\.layers\.1\.", ".feed_forward.depthwise."),
    (r"\.ffn\.layers\.4\.", ".feed_forward.squeeze."),
    (r"^convs\.(\d)\.conv\.", r"head.projections.\1.0."),
    (r"^convs\.(\d)\.bn\.", r"head.projections.\1.1."),
    (r"^fusion_conv\.conv\.", "head.fusion.0."),
    (r"^fusion_conv\.bn\.", "head.fusion.1."),
    (r"^conv_seg\.", "head.classifier."),
)
"""Names of MMSegmentation, then ours; several may apply to one key. Attention is packed in both."""


def convert_teacher(
    checkpoint: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
) -> NetworkConfig:
    """Turn a checkpoint of SegFormer with MMSegmentation's head into a model folder, strictly.

    Keys may stand bare or under ``state_dict``, and begin with ``backbone.`` and ``decode_head.``,
    with ``teacher_backbone.`` and ``teacher_head.``, or as these in a released SCTNet. Variant,
    classes and decoder width are found from the shapes. A student can only be taught by a teacher
    with its own classes, so name them. Nothing is executed. Raises :class:`SctnetError`
    for a file that cannot be read or does not hold such a network wholly; then nothing is written.
    """
    path = Path(checkpoint)
    tensors = _renamed(state_dict_of(read_checkpoint(path), path), path)
    config = _configuration(tensors, path)
    names = (
        [f"class {index}" for index in range(config.num_classes)] if classes is None else classes
    )
    if len(names) != config.num_classes:
        raise SctnetError(
            f"{path}: {len(names)} class names given, the file has {config.num_classes}"
        )
    network = build(config)
    load_strictly(network, tensors, str(path))
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    save_model(network, folder, names, source=WeightsSource(file=path.name, sha256=sha256))
    return config


def load_encoder(model: SegmentationNetwork, checkpoint: str | os.PathLike[str]) -> list[str]:
    """Start a SegFormer from a checkpoint of MMSegmentation; return the keys that stay new.

    The file is the ImageNet encoder (``mit_b2.pth``, keys bare or under ``backbone.``) or a whole
    network; everything but its classifier is taken, as the file does not name its classes. Nothing
    is executed. Raises :class:`SctnetError` for another network, another file, and an encoder that
    is not whole.
    """
    path = Path(checkpoint)
    if model.config.variant not in SEGFORMER_VARIANTS:
        raise SctnetError(
            f"{path}: a .pth file starts a segformer-b0 to -b5 alone; convert it first (sctnet "
            f"convert), or name a folder or hub id that fits {model.config.variant}"
        )
    found = state_dict_of(read_checkpoint(path), path)
    if any(key.startswith("layers.0.") for key in found):
        found = {f"backbone.{key}": tensor for key, tensor in found.items()}
    tensors = _renamed(found, path)
    for_classes = ("head.classifier.", "head.weight", "head.bias")
    tensors = {key: value for key, value in tensors.items() if not key.startswith(for_classes)}
    return fill(model, tensors, str(path))


def _renamed(found: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the teacher's tensors by our names."""
    for encoder, head in _PREFIXES:
        if not any(key.startswith(encoder) for key in found):
            continue
        tensors = {}
        for key, tensor in found.items():
            if key.startswith((encoder, head)):
                tensors[_our_name(key.removeprefix(encoder).removeprefix(head))] = tensor
        return tensors
    if any(key.startswith(("segformer.", "decode_head.linear_c.")) for key in found):
        raise SctnetError(
            f"{path}: has transformers' keys and head; nothing is to be converted, name its folder "
            "(config.json, model.safetensors) as the teacher or the start"
        )
    raise SctnetError(
        f"{path}: holds no SegFormer of MMSegmentation (no key begins with backbone. or "
        "teacher_backbone.); only such checkpoints can be read"
    )


def _our_name(name: str) -> str:
    for theirs, ours in _PARTS:
        name = re.sub(theirs, ours, name)
    return name


def _configuration(tensors: Mapping[str, Tensor], path: Path) -> NetworkConfig:
    """Find which SegFormer has these widths and depths."""
    needed = ["head.classifier.weight", *(f"stages.{stage}.0.weight" for stage in range(4))]
    lacking = [key for key in needed if key not in tensors or tensors[key].ndim != 4]
    if lacking:
        raise SctnetError(
            f"{path}: not a SegFormer with MMSegmentation's head, it has no {lacking[0]}"
        )
    classes, channels = tensors[needed[0]].shape[:2]
    widths = tuple(tensors[key].shape[0] for key in needed[1:])
    depths = tuple(_depth(tensors, stage) for stage in range(4))
    for variant, shape in SEGFORMER_VARIANTS.items():
        if (shape["widths"], shape["depths"]) == (widths, depths):
            return model_configuration(variant, classes, decoder_channels=channels)
    raise SctnetError(
        f"{path}: no SegFormer from B0 to B5 has the widths {widths} and depths {depths}; "
        "is the file incomplete?"
    )


def _depth(tensors: Mapping[str, Tensor], stage: int) -> int:
    prefix = f"stages.{stage}.2."
    return len({key.split(".")[3] for key in tensors if key.startswith(prefix)})
