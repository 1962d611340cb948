"""The base class of all segmentation networks, both students and teachers."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from sctnet.errors import SctnetError
from sctnet.models.activation_checkpointing import checkpointed
from sctnet.models.folding import folded_copy, is_folded
from sctnet.models.layers import resize

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""How the images of all networks are normalised by default: RGB, in units of 0-255."""


class NetworkConfig(BaseModel):
    """The base class of all configurations: frozen, validated, saved beside the weights.

    A variant's name is unique over all families, so that it tells which network to build.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    variant: str
    num_classes: int = Field(ge=2, le=65535)


class Features(NamedTuple):
    """The intermediate features of a network; strides in brackets.

    Those of SCTNet are before a ReLU and have 2C, 4C, 8C, 4C and 4C channels.
    """

    stage2: Float[Tensor, "n c2 h8 w8"] | None
    """(8)."""
    stage3: Float[Tensor, "n c3 h16 w16"]
    """(16)."""
    stage4: Float[Tensor, "n c4 h32 w32"]
    """(32)."""
    decoder_input: Float[Tensor, "n ci h w"] | None
    """The input of the head; in SCTNet, stage 2 concatenated with the resized DAPPM output (8)."""
    decoder_feature: Float[Tensor, "n cf h w"] | None
    """The input of the classifier before its norm; in a fused network, after the norm."""
    logits: Float[Tensor, "n k h w"]
    """At the size of the decoder feature."""
    auxiliary_logits: tuple[Float[Tensor, "n k _ _"], ...] = ()
    """Logits of the auxiliary heads, which help in training, each at a size of its own."""
    boundary_logits: Float[Tensor, "n 1 hb wb"] | None = None
    """Logits of a head that tells boundaries between classes, another help in training."""


class Widths(NamedTuple):
    """The channels of a network's features; None for a feature that it does not have."""

    stage3: int | None
    stage4: int | None
    decoder_input: int | None
    decoder_feature: int | None


class SegmentationNetwork(nn.Module, ABC):
    """A network that labels pixels and returns its intermediate features.

    ``model(images)`` maps normalised RGB images to logits of their size.
    """

    config: NetworkConfig
    widths: Widths
    checkpoints_stages: bool = False
    """Whether training computes stages 3 and 4 again for their gradients, which saves memory."""

    folds_norms: bool = False
    """Whether :meth:`fuse` folds batch norms into convolutions."""
    normed_stages: bool = False
    """Whether stages 3 and 4 end with a norm over the channels, as a SegFormer's do."""
    can_classify: bool = False
    """Whether the backbone ends with stage 4, so that a classifier can pre-train it."""
    logits_stride: int
    """The stride of the logits: pixels of the image per pixel of the logits, in each direction."""
    backbone_parts: tuple[str, ...]
    """The submodules that pretrained weights must fill."""
    classifier_part: str = "head.classifier"
    """The submodule with a bias for each class, whose output are the logits."""
    context_parts: tuple[str, ...] = ()
    """Submodules that learn at the backbone's rate, with or without pretrained weights."""

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
        """Return stage 4 alone, the input of a classifier; only if the network ``can_classify``."""
        raise NotImplementedError

    def drop_all_but_backbone(self) -> None:
        """Remove context module and heads, and what :meth:`features` needs of them."""
        for name, _ in list(self.named_children()):
            if name not in self.backbone_parts:
                setattr(self, name, None)

    @torch.no_grad()
    def add_offsets(self, offsets: Sequence[float]) -> None:
        """Add a number to the logits of each class, in the classifier's bias."""
        classifier = self.get_submodule(self.classifier_part)
        assert isinstance(classifier.bias, Tensor)
        classifier.bias += torch.tensor(offsets, dtype=torch.float64).to(classifier.bias)

    def backbone_modules(self) -> tuple[nn.Module, ...]:
        """Return the modules that learn at the base rate."""
        return tuple(self.get_submodule(part) for part in self.backbone_parts + self.context_parts)

    def _stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        """Return the output of stage 3 or 4 for ``x``."""
        again = self.checkpoints_stages and self.training and torch.is_grad_enabled()
        y: Tensor = checkpointed(stage, x) if again else stage(x)
        return y

    def fuse(self) -> "SegmentationNetwork":
        """Return a new network for inference with the same logits up to rounding.

        Batch norms are folded into convolutions where ``folds_norms``; an auxiliary head is left
        out. ``self`` is left as it was.
        """
        if not self.folds_norms:
            return copy.deepcopy(self).eval()
        fused = folded_copy(self)
        if "auxiliary_head" in type(self.config).model_fields:
            fused.config = self.config.model_copy(update={"auxiliary_head": False})
            fused.auxiliary_head = None  # type: ignore[assignment]
        return fused

    @property
    def is_fused(self) -> bool:
        """Whether :meth:`fuse` changed this network's form, so that it cannot be saved."""
        return self.folds_norms and is_folded(self)

    def imagenet_weights(self) -> dict[str, Tensor]:
        """Return ImageNet weights of the backbone, by the names of this network's tensors.

        Raises :class:`SctnetError` where the network has no such weights to download.
        """
        raise SctnetError(
            f"model.init: no ImageNet weights come with {self.config.variant}; "
            "name the folder or hub id of a start, or null"
        )
