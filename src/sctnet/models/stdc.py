"""STDC (Fan et al. 2021): short-term dense concatenation, rows of Table 1.

Computed as in the authors' code, up to the last step: they resize the logits with aligned corners.
"""

from collections import OrderedDict
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from sctnet.models.context_path import ContextPath, FeatureFusion
from sctnet.models.heads import SegmentationHead
from sctnet.models.layers import conv_norm, initialise_convolutions
from sctnet.models.network import Features, NetworkConfig, SegmentationNetwork, Widths

AUXILIARY_CHANNELS = 64


class STDCConfig(NetworkConfig):
    """Everything that decides the architecture of an STDC-Seg."""

    base_channels: int = Field(default=64, ge=4, multiple_of=2)
    depths: tuple[int, int, int]
    context_channels: int = Field(default=128, ge=1)
    head_channels: int = Field(default=256, ge=4)
    auxiliary_head: bool = True


STDC_VARIANTS: dict[str, dict[str, Any]] = {
    "stdc1": {"depths": (2, 2, 2)},
    "stdc2": {"depths": (4, 5, 3)},
}


class DenseConcatenation(nn.Module):
    """Four convolutions in a row, each narrower, whose outputs stand side by side.

    A stride of 2 is that of a depthwise convolution behind the first; the first's own output is
    pooled.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        widths = (channels // 2, channels // 4, channels // 8, channels // 8)
        self.first = conv_norm(in_channels, widths[0], activation=nn.ReLU)
        self.further = nn.ModuleList(
            conv_norm(*pair, 3, activation=nn.ReLU) for pair in pairwise(widths)
        )
        self.down: nn.Module = nn.Identity()
        self.pool: nn.Module = nn.Identity()
        if stride == 2:
            self.down = conv_norm(widths[0], widths[0], 3, 2, groups=widths[0])
            self.pool = nn.AvgPool2d(3, stride=2, padding=1)

    def forward(self, x: Float[Tensor, "n ci h_in w_in"]) -> Float[Tensor, "n c h w"]:
        """Return all four maps, concatenated."""
        x = self.first(x)
        maps, x = [self.pool(x)], self.down(x)
        for convolution in self.further:
            x = convolution(x)
            maps.append(x)
        return torch.cat(maps, dim=1)


class STDC(SegmentationNetwork):
    """The network of STDC blocks, BiSeNet's context path on it, and detail from stage 2.

    All its features are rectified. The decoder input is the fused map; the decoder feature is the
    output of the head's 3x3 convolution. In training, two auxiliary heads read the context at
    strides 8 and 16, and one for boundaries (detail guidance) reads stage 2. The authors' targets
    and loss of that one are others: a pyramid of Laplacians, cross-entropy and Dice.
    """

    config: STDCConfig
    folds_norms = True
    logits_stride = 8
    backbone_parts = ("stem", "stage2", "stage3", "stage4")
    context_parts = ("context",)

    def __init__(self, config: STDCConfig) -> None:
        super().__init__()
        self.config = config
        c, context, head = config.base_channels, config.context_channels, config.head_channels
        self.widths = Widths(8 * c, 16 * c, head, head)
        self.stem = nn.Sequential(
            conv_norm(3, c // 2, 3, 2, activation=nn.ReLU),
            conv_norm(c // 2, c, 3, 2, activation=nn.ReLU),
        )
        second, third, fourth = config.depths
        self.stage2 = _stage(2, c, 4 * c, second)
        self.stage3 = _stage(2 + second, 4 * c, 8 * c, third)
        self.stage4 = _stage(2 + second + third, 8 * c, 16 * c, fourth)
        self.context = ContextPath(8 * c, 16 * c, context)
        self.fusion = FeatureFusion(4 * c + context, head, _attention(head))
        self.head = _head(head, head, config.num_classes)
        self.auxiliary_head = (
            nn.ModuleDict(
                {
                    "context8": _head(context, AUXILIARY_CHANNELS, config.num_classes),
                    "context16": _head(context, AUXILIARY_CHANNELS, config.num_classes),
                    "boundary": _head(4 * c, AUXILIARY_CHANNELS, 1),
                }
            )
            if config.auxiliary_head
            else None
        )
        initialise_convolutions(self)

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        """Return all features; logits stay at stride 8."""
        stage2 = self.stage2(self.stem(images))
        stage3 = self._stage(self.stage3, stage2)
        stage4 = self._stage(self.stage4, stage3)
        size = (stage2.shape[2], stage2.shape[3])
        context8, context16 = self.context(stage3, stage4, size)
        decoder_input = self.fusion(stage2, context8)
        features = Features(stage2, stage3, stage4, decoder_input, *self.head(decoder_input))
        if self.auxiliary_head is None:
            return features
        heads = self.auxiliary_head
        return features._replace(
            auxiliary_logits=(heads["context8"](context8)[1], heads["context16"](context16)[1]),
            boundary_logits=heads["boundary"](stage2)[1],
        )

    def decode(
        self, decoder_input: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n cf h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        feature, logits = self.head(decoder_input)
        return feature, logits


def _stage(first: int, in_channels: int, channels: int, depth: int) -> nn.Sequential:
    """Build a stage; the blocks of the network are numbered through, as the authors do."""
    blocks = [DenseConcatenation(in_channels, channels, stride=2)]
    blocks += [DenseConcatenation(channels, channels, stride=1) for _ in range(depth - 1)]
    return nn.Sequential(OrderedDict((str(first + i), block) for i, block in enumerate(blocks)))


def _attention(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels // 4, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(channels // 4, channels, 1, bias=False),
    )


def _head(in_channels: int, channels: int, num_classes: int) -> SegmentationHead:
    return SegmentationHead(in_channels, channels, num_classes, bias=False, normalises=False)
