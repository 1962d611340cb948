"""Networks whose head fuses stages of several strides by one 1x1 convolution, as SegFormer's."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sctnet.models.folding import fold
from sctnet.models.layers import resize
from sctnet.models.network import Features, SegmentationNetwork


class Fusion(NamedTuple):
    """The end of such a head in eval mode: relu(weight x + bias) of every pixel, then logits."""

    weight: Float[Tensor, "cf ci"]
    bias: Float[Tensor, " cf"]
    classifier: nn.Module


class PyramidNetwork(SegmentationNetwork):
    """A network in four stages whose decoder input is their projections, side by side.

    The projections (the levels) are resized to the size of stage 1 and concatenated. From there to
    the head's rectifier everything is linear, and resizing commutes with 1x1 convolutions:
    :meth:`fusion` and the levels, each at its own stride, give what the large map gives.
    """

    @abstractmethod
    def stage_maps(self, images: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """Return the maps of strides 4, 8, 16 and 32 that the head reads."""

    @abstractmethod
    def levels(self, stages: list[Tensor]) -> Iterator[Tensor]:
        """Yield the projected stages in the order of their concatenation, each at its own size."""

    @abstractmethod
    def fusion(self) -> Fusion:
        """Return the end of the head, its norm folded by the running statistics."""

    def shown(self, stages: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return stages 2, 3 and 4 as the features have them."""
        return stages[1], stages[2], stages[3]

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        """Return all features; the decoder input is made, and is large."""
        stages = self.stage_maps(images)
        size = (stages[0].shape[2], stages[0].shape[3])
        decoder_input = torch.cat([resize(level, size) for level in self.levels(stages)], dim=1)
        decoder_feature, logits = self.decode(decoder_input)
        return Features(*self.shown(stages), decoder_input, decoder_feature, logits)


def folded_fusion(convolution: nn.Module, norm: nn.Module, classifier: nn.Module) -> Fusion:
    """Return the fusion of a 1x1 convolution, its norm (in eval mode) and a classifier."""
    assert isinstance(convolution, nn.Conv2d)
    folded, _ = fold(convolution, norm)
    weight = folded.weight.flatten(1)
    bias = weight.new_zeros(len(weight)) if folded.bias is None else folded.bias
    return Fusion(weight, bias, classifier)
