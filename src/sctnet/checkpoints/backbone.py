"""Starts for training: backbones alone, and models whose classes may be others."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sctnet.checkpoints.model_folder import (
    WEIGHTS_FILE,
    ModelConfig,
    WeightsSource,
    check_tensor,
    check_tensors,
    find_model,
    load_config,
    read_tensors,
    write_folder,
)
from sctnet.checkpoints.transformers_folder import is_transformers_folder, read_transformers_start
from sctnet.errors import SctnetError
from sctnet.models import SegmentationNetwork, build

IMAGENET = "imagenet"
"""The start that asks for the ImageNet weights which come with a network's package."""


def save_backbone(
    model: SegmentationNetwork,
    folder: str | os.PathLike[str],
    *,
    with_context: bool,
    source: WeightsSource | None = None,
    card: str | None = None,
) -> Path:
    """Write the backbone of a model, with or without its context module (DAPPM), as a start."""
    config = ModelConfig(network=model.config, classes=(), source=source, backbone_only=True)
    tensors = _of_backbone(model, model.state_dict(), with_context)
    plain = f"# {model.config.variant}, backbone\n\nA start for training (`init`), not a model.\n"
    return write_folder(Path(folder), config, tensors, card or plain)


def load_start(
    model: SegmentationNetwork, folder: str | os.PathLike[str], classes: Sequence[str]
) -> list[str]:
    """Start a model from the weights of a folder or hub id; return the keys that stay new.

    A backbone fills the backbone (and the context module, if it has one); a model fills everything,
    but the classifiers where its classes are others than ``classes``, in name or order, and an
    auxiliary head that it does not have. A folder as transformers writes it serves its networks
    here, whole or as an encoder alone. The word ``imagenet`` stands for the weights that come with
    the network's own package. Anything else that does not fit, and a start that is not whole
    itself, raises :class:`SctnetError` and changes nothing.
    """
    if str(folder) == IMAGENET:
        origin, tensors = f"{IMAGENET} weights of {model.config.variant}", model.imagenet_weights()
    elif is_transformers_folder(path := find_model(folder)):
        origin, tensors = read_transformers_start(model, path, classes)
    else:
        origin, tensors = _read_start(path, classes)
    return fill(model, tensors, origin)


def fill(model: SegmentationNetwork, tensors: Mapping[str, Tensor], origin: str) -> list[str]:
    """Fill a model, the backbone wholly, by tensors of its own names; return what stays new.

    Raises :class:`SctnetError` for what does not fit, naming ``origin``, and changes nothing then.
    """
    if getattr(model, "auxiliary_head", None) is None:
        tensors = {key: value for key, value in tensors.items() if "auxiliary_head" not in key}
    expected = model.state_dict()
    new = [key for key in expected if key not in tensors]
    backbone = _of_backbone(model, expected, with_context=False)
    lacking = [key for key in new if key in backbone]
    extra = [key for key in tensors if key not in expected]
    if lacking or extra:
        what = f"lacks {lacking[0]}" if lacking else f"holds {extra[0]}, which this network lacks"
        raise SctnetError(f"{origin}: {what}; this file cannot start a {model.config.variant}")
    for key, tensor in tensors.items():
        check_tensor(key, tensor, expected[key], origin)
    model.load_state_dict({**expected, **tensors})
    return new


def _read_start(path: Path, classes: Sequence[str]) -> tuple[str, dict[str, Tensor]]:
    """Return the file of a folder's weights and those that serve for these classes."""
    config = load_config(path)
    file = path / WEIGHTS_FILE
    tensors = read_tensors(file)
    _check_start(tensors, config, str(file))
    if config.classes != tuple(classes):
        tensors = {key: value for key, value in tensors.items() if "classifier" not in key}
    return str(file), tensors


def _check_start(tensors: Mapping[str, Tensor], config: ModelConfig, origin: str) -> None:
    """Raise :class:`SctnetError` unless a start is whole, measured by its own configuration."""
    with torch.device("meta"):  # only keys and shapes; and the caller's random numbers stay
        network = build(config.network)
    expected = network.state_dict()
    if config.backbone_only:
        context = tuple(f"{part}." for part in network.context_parts)
        with_context = bool(context) and any(key.startswith(context) for key in tensors)
        expected = _of_backbone(network, expected, with_context)
    check_tensors(tensors, expected, origin, config.network.variant)


def _of_backbone(
    network: SegmentationNetwork, tensors: Mapping[str, Tensor], with_context: bool
) -> dict[str, Tensor]:
    """Return those of a network's tensors that belong to its backbone."""
    parts = network.backbone_parts + (network.context_parts if with_context else ())
    prefixes = tuple(f"{part}." for part in parts)
    return {key: value for key, value in tensors.items() if key.startswith(prefixes)}
