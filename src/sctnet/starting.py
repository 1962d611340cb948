"""Starts for training: backbones alone, and models whose classes may be others."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sctnet.errors import SctnetError
from sctnet.models import SCTNet
from sctnet.weights import (
    WEIGHTS_FILE,
    ModelConfig,
    Source,
    check_tensor,
    check_tensors,
    find_model,
    load_config,
    read_tensors,
    write_folder,
)

BACKBONE_PARTS = ("stem.", "stage1.", "stage2.", "stage3.", "stage4.")


def save_backbone(
    model: SCTNet,
    folder: str | os.PathLike[str],
    *,
    with_dappm: bool,
    source: Source | None = None,
) -> Path:
    """Write the backbone of a model, with or without its DAPPM, as a start for training."""
    config = ModelConfig(network=model.config, classes=(), source=source, backbone_only=True)
    parts = BACKBONE_PARTS + (("dappm.",) if with_dappm else ())
    tensors = {key: value for key, value in model.state_dict().items() if key.startswith(parts)}
    card = f"# {model.config.variant}, backbone\n\nA start for training (`init`), not a model.\n"
    return write_folder(Path(folder), config, tensors, card)


def load_start(model: SCTNet, folder: str | os.PathLike[str], classes: Sequence[str]) -> list[str]:
    """Start a model from the weights of a folder or hub id; return the keys that stay new.

    A backbone fills stem to stage 4 (and the DAPPM, if it has one); a model fills everything, but
    the classifiers where its classes are others than ``classes``, in name or order, and an
    auxiliary head that it does not have.
    Anything else that does not fit, and a start that is not whole itself, raises
    :class:`SctnetError` and changes nothing.
    """
    path = find_model(folder)
    config = load_config(path)
    file = path / WEIGHTS_FILE
    tensors = read_tensors(file)
    _check_start(tensors, config, str(file))
    expected = model.state_dict()
    if config.classes != tuple(classes):
        tensors = {key: value for key, value in tensors.items() if "classifier" not in key}
    if model.auxiliary_head is None:
        tensors = {key: value for key, value in tensors.items() if "auxiliary_head" not in key}
    new = [key for key in expected if key not in tensors]
    lacking = [key for key in new if key.startswith(BACKBONE_PARTS)]
    extra = [key for key in tensors if key not in expected]
    if lacking or extra:
        what = f"lacks {lacking[0]}" if lacking else f"holds {extra[0]}, which this network lacks"
        raise SctnetError(f"{file}: {what}; it is no start for this {model.config.variant}")
    for key, tensor in tensors.items():
        check_tensor(key, tensor, expected[key], str(file))
    model.load_state_dict({**expected, **tensors})
    return new


def _check_start(tensors: Mapping[str, Tensor], config: ModelConfig, origin: str) -> None:
    """Raise :class:`SctnetError` unless a start is whole, measured by its own configuration."""
    with torch.device("meta"):  # only keys and shapes; and the caller's random numbers stay
        expected = SCTNet(config.network).state_dict()
    if config.backbone_only:
        with_dappm = any(key.startswith("dappm.") for key in tensors)
        parts = BACKBONE_PARTS + (("dappm.",) if with_dappm else ())
        expected = {key: value for key, value in expected.items() if key.startswith(parts)}
    check_tensors(tensors, expected, origin, config.network.variant)
