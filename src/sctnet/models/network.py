"""What every segmentation network here is, whether it learns, teaches or does both."""

import copy
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from sctnet.errors import SctnetError
from sctnet.models.layers import resize
from sctnet.models.recomputation import recomputed

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""How the images of all networks are normalised by default: RGB, in units of 0-255."""


class NetworkConfig(BaseModel):
    """What all configurations share: frozen, validated, saved beside the weights.

    A variant's name is unique over all families, so that it tells which network to build.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    variant: str
    num_classes: int = Field(ge=2, le=65535)


class Features(NamedTuple):
    """What a network computes on the way; strides in brackets.

    Those of SCTNet are all unrectified and 2C, 4C, 8C, 4C and 4C channels wide.
    """

    stage2: Float[Tensor, "n c2 h8 w8"] | None
    """(8)."""
    stage3: Float[Tensor, "n c3 h16 w16"]
    """(16)."""
    stage4: Float[Tensor, "n c4 h32 w32"]
    """(32)."""
    decoder_input: Float[Tensor, "n ci h w"] | None
    """What the head decides from: of SCTNet, stage 2 beside the resized DAPPM output (8)."""
    decoder_feature: Float[Tensor, "n cf h w"] | None
    """What the classifier, or the norm before it, reads; after that norm where it is fused."""
    logits: Float[Tensor, "n k h w"]
    """At the size of the decoder feature."""
    auxiliary_logits: Float[Tensor, "n k ha wa"] | None
    """Of a further head that helps in training; None where there is none."""


class Widths(NamedTuple):
    """The channels of a network's features; None for a feature that it does not give."""

    stage3: int
    stage4: int
    decoder_input: int | None
    decoder_feature: int | None


class SegmentationNetwork(nn.Module, ABC):
    """A network that labels pixels, and shows what it computes on the way.

    ``model(images)`` maps normalised RGB images to logits of their size.
    """

    config: NetworkConfig
    widths: Widths
    recomputes_stages: bool = False
    """Whether training computes stages 3 and 4 again for their gradients, which saves memory."""

    can_classify: bool = False
    """Whether the backbone ends with stage 4, so that it can learn in a classifier."""
    logits_stride: int
    """How many pixels of an image a pixel of the logits stands for, in each direction."""
    backbone_parts: tuple[str, ...]
    """The submodules that pretrained weights must fill."""
    context_parts: tuple[str, ...] = ()
    """Submodules that learn at the backbone's rate but may start anew."""

    @abstractmethod
    def features(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        """Return all features of normalised RGB images."""

    @abstractmethod
    def decode(
        self, decoder_input: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n cf h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits: the end of the head, which can be shared."""

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k h w"]:
        """Map normalised RGB images to logits of their size."""
        return resize(self.features(images).logits, (images.shape[2], images.shape[3]))

    def logits_size(self, images: Float[Tensor, "n 3 h w"]) -> tuple[int, int]:
        """Return the height and width of the logits, and of decoder input and feature."""
        height, width = (-(-side // self.logits_stride) for side in images.shape[2:])
        return height, width

    def encode(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c4 h32 w32"]:
        """Return stage 4 alone, which is all that a classifier reads; if it ``can_classify``."""
        raise NotImplementedError

    def drop_all_but_backbone(self) -> None:
        """Remove context module and heads, and what :meth:`features` needs of them."""
        for name, _ in list(self.named_children()):
            if name not in self.backbone_parts:
                setattr(self, name, None)

    def backbone_modules(self) -> tuple[nn.Module, ...]:
        """Return what learns at the base rate."""
        return tuple(self.get_submodule(part) for part in self.backbone_parts + self.context_parts)

    def _stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        """Return what stage 3 or 4 makes of ``x``."""
        again = self.recomputes_stages and self.training and torch.is_grad_enabled()
        y: Tensor = recomputed(stage, x) if again else stage(x)
        return y

    def fuse(self) -> "SegmentationNetwork":
        """Return a new network for inference with the same logits up to rounding."""
        return copy.deepcopy(self).eval()

    @property
    def is_fused(self) -> bool:
        """Whether :meth:`fuse` changed this network's form, so that it cannot be saved."""
        return False

    def imagenet_weights(self) -> dict[str, Tensor]:
        """Return ImageNet weights of the backbone, by the names of this network's tensors.

        Raises :class:`SctnetError` where none can be had without being named.
        """
        raise SctnetError(
            f"model.init: no ImageNet weights come with {self.config.variant}; "
            "name the folder or hub id of a start, or null"
        )
