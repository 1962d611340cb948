"""Teachers: what alignment asks of a large network, and SegFormer's answer; their folders."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from sctnet.errors import SctnetError
from sctnet.models.segformer import SegFormer, SegFormerConfig
from sctnet.weights import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Source,
    check_tensors,
    find_model,
    first_message,
    read_tensors,
    write_folder,
)

SMALLEST_CROP = 32
"""Below it, a stage of SegFormer is smaller than its own reduction."""


class TeacherFeatures(NamedTuple):
    """What a teacher says of a batch of images."""

    stage3: Float[Tensor, "n c3 h3 w3"]
    stage4: Float[Tensor, "n c4 h4 w4"]
    concatenated: Float[Tensor, "n cc h w"]
    """What its decoder head makes its decisions from."""
    decoder_feature: Float[Tensor, "n d h w"]
    logits: Float[Tensor, "n k h w"]


class TeacherWidths(NamedTuple):
    """The channels of a teacher's features."""

    stage3: int
    stage4: int
    concatenated: int
    decoder_feature: int


@runtime_checkable
class Teacher(Protocol):
    """A module (``torch.nn.Module``) that can teach.

    ``features`` takes images normalised as the student's. ``decode``, the end of the teacher's
    decoder head, maps a concatenated feature to a decoder feature and logits; the student's own
    expanded feature is sent through it.
    """

    classes: tuple[str, ...]
    widths: TeacherWidths

    def features(self, images: Float[Tensor, "n 3 h w"]) -> TeacherFeatures:
        """Return all features of normalised RGB images."""

    def decode(
        self, concatenated: Float[Tensor, "n cc h w"]
    ) -> tuple[Float[Tensor, "n d h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Say whether the parameters learn; every module has this."""

    def eval(self) -> Any:
        """Use running statistics and drop nothing; every module has this."""


class SegFormerTeacher(nn.Module):
    """A SegFormer that teaches."""

    def __init__(self, network: SegFormer, classes: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.classes = tuple(classes)
        config = network.config
        self.widths = TeacherWidths(
            *config.widths[2:],
            len(config.widths) * config.decoder_channels,
            config.decoder_channels,
        )

    def features(self, images: Float[Tensor, "n 3 h w"]) -> TeacherFeatures:
        """Return all features; raises :class:`SctnetError` for crops below 32 x 32."""
        height, width = images.shape[2:]
        if min(height, width) < SMALLEST_CROP:
            raise SctnetError(
                f"augmentation.crop: a SegFormer cannot teach on {height} x {width} pixels, "
                f"use {SMALLEST_CROP} x {SMALLEST_CROP} or more"
            )
        features = self.network.features(images)
        return TeacherFeatures(
            features.stage3,
            features.stage4,
            features.concatenated,
            features.decoder_feature,
            features.logits,
        )

    def decode(
        self, concatenated: Float[Tensor, "n cc h w"]
    ) -> tuple[Float[Tensor, "n d h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        return self.network.head.decode(concatenated)


class TeacherConfig(BaseModel):
    """config.json of a teacher's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = Field(default=1, ge=1, le=1)
    network: SegFormerConfig
    classes: tuple[str, ...]
    source: Source | None = None

    @model_validator(mode="after")
    def _one_name_per_class(self) -> "TeacherConfig":
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("a class name stands twice, every class needs its own")
        if len(self.classes) != self.network.num_classes:
            raise ValueError(
                f"{len(self.classes)} class names for a teacher with "
                f"{self.network.num_classes} classes"
            )
        return self


def save_teacher(
    network: SegFormer,
    folder: str | os.PathLike[str],
    classes: Sequence[str],
    *,
    source: Source | None = None,
) -> Path:
    """Write a teacher's folder (config.json, model.safetensors, README.md) and return its path.

    Raises :class:`SctnetError` for class names that do not fit the network.
    """
    try:
        config = TeacherConfig(network=network.config, classes=tuple(classes), source=source)
    except ValidationError as error:
        raise SctnetError(f"cannot save the teacher: {first_message(error)}") from error
    card = (
        f"# {network.config.variant}\n\nA teacher with {len(config.classes)} classes: "
        f"{', '.join(config.classes)}.\n"
        "A student learns from it by `alignment.teacher=this-folder`.\n"
    )
    return write_folder(Path(folder), config, network.state_dict(), card)


def load_teacher(folder: str | os.PathLike[str]) -> SegFormerTeacher:
    """Return the teacher of a folder or hub id, in eval mode.

    Loading is strict. Raises :class:`SctnetError` for missing and broken files, a folder that
    holds no teacher, tensors that do not fit and values that are not finite.
    """
    path = find_model(folder)
    try:
        config = TeacherConfig.model_validate_json((path / CONFIG_FILE).read_bytes())
    except OSError as error:
        raise SctnetError(f"{path / CONFIG_FILE}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise SctnetError(
            f"{path / CONFIG_FILE}: describes no teacher ({first_message(error)}); "
            "make a teacher's folder by sctnet convert --teacher"
        ) from error
    network = SegFormer(config.network)
    fill_network(network, read_tensors(path / WEIGHTS_FILE), str(path / WEIGHTS_FILE))
    return SegFormerTeacher(network, config.classes).eval()


def fill_network(network: SegFormer, tensors: dict[str, Tensor], origin: str) -> None:
    """Copy tensors into a network that has exactly these keys, shapes and finite values."""
    check_tensors(tensors, network.state_dict(), origin, network.config.variant)
    network.load_state_dict(tensors)
