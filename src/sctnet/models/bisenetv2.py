"""BiSeNetV2 (Yu et al. 2021): a branch of detail and a light one of semantics, a row of Table 1.

Computed as in CoinCheung's code, which rectifies at some places where the paper draws nothing. That
code has no large variant; ours is the paper's alpha = 2 and d = 3: all maps twice as wide, and
three times as many of the semantic layers that keep their size.
"""

from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.context_path import pooled, repeated
from sctnet.models.heads import SegmentationHead
from sctnet.models.layers import BatchNorm, conv_norm, initialise_convolutions
from sctnet.models.network import Features, NetworkConfig, SegmentationNetwork, Widths

EXPANSION = 6
AUXILIARY_CHANNELS = 128
DROPOUT = 0.1
REPEATS = (1, 1, 3)
"""Layers of a semantic stage that keep its size, in the plain variant."""


class BiSeNetV2Config(NetworkConfig):
    """Everything that decides the architecture of a BiSeNetV2."""

    channels: int = Field(ge=8, multiple_of=8, description="of the detail branch at stride 2")
    depth: int = Field(default=1, ge=1, description="times as many semantic layers")
    auxiliary_head: bool = True


BISENETV2_VARIANTS: dict[str, dict[str, Any]] = {
    "bisenetv2": {"channels": 64},
    "bisenetv2-l": {"channels": 128, "depth": 3},
}


class GatherExpansion(nn.Module):
    """3x3, widening depthwise and 1x1 convolution, and a shortcut; a stride of 2 has one more."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        hidden = EXPANSION * in_channels
        self.gather = conv_norm(in_channels, in_channels, 3, activation=nn.ReLU)
        self.expand: nn.Module = nn.Identity()
        widening = conv_norm(in_channels, hidden, 3, stride, in_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride == 1:
            self.depthwise = nn.Sequential(*widening, nn.ReLU())
        else:
            self.expand = widening
            self.depthwise = conv_norm(hidden, hidden, 3, groups=hidden, activation=nn.ReLU)
            self.shortcut = nn.Sequential(
                conv_norm(in_channels, in_channels, 3, stride, in_channels),
                conv_norm(in_channels, channels),
            )
        self.project = conv_norm(hidden, channels)

    def forward(self, x: Float[Tensor, "n ci h_in w_in"]) -> Float[Tensor, "n c h w"]:
        """Return the rectified sum."""
        residual = self.project(self.depthwise(self.expand(self.gather(x))))
        return F.relu(residual + self.shortcut(x))


class Stem(nn.Module):
    """Stride 4 by a convolution and, side by side, a bottleneck and a pool."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv_norm(3, channels, 3, 2, activation=nn.ReLU)
        self.convolved = nn.Sequential(
            conv_norm(channels, channels // 2, activation=nn.ReLU),
            conv_norm(channels // 2, channels, 3, 2, activation=nn.ReLU),
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.fusion = conv_norm(2 * channels, channels, 3, activation=nn.ReLU)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h4 w4"]:
        """Return the fused map."""
        x = self.first(images)
        y: Tensor = self.fusion(torch.cat([self.convolved(x), self.pool(x)], dim=1))
        return y


class ContextEmbedding(nn.Module):
    """The global average, added to every pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = BatchNorm(channels)
        self.average = conv_norm(channels, channels, activation=nn.ReLU)
        self.fusion = conv_norm(channels, channels, 3, activation=nn.ReLU)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return a map of the same size."""
        y: Tensor = self.fusion(x + self.average(self.norm(pooled(x))))
        return y


class GuidedAggregation(nn.Module):
    """Both branches, each at its own size and each gated by the other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.detail_same = _separable(channels)
        self.detail_down = nn.Sequential(
            *conv_norm(channels, channels, 3, 2), nn.AvgPool2d(3, stride=2, padding=1)
        )
        self.semantic_up = conv_norm(channels, channels, 3)
        self.semantic_same = _separable(channels)
        self.fusion = conv_norm(channels, channels, 3, activation=nn.ReLU)

    def forward(
        self, detail: Float[Tensor, "n c h8 w8"], semantic: Float[Tensor, "n c h32 w32"]
    ) -> Float[Tensor, "n c h8 w8"]:
        """Return the fused map."""
        size = (detail.shape[2], detail.shape[3])
        fine = self.detail_same(detail) * repeated(self.semantic_up(semantic), size).sigmoid()
        coarse = self.detail_down(detail) * self.semantic_same(semantic).sigmoid()
        y: Tensor = self.fusion(fine + repeated(coarse, size))
        return y


class AuxiliaryHead(nn.Module):
    """A head at twice the size of its map, with more channels the coarser that is."""

    def __init__(self, in_channels: int, stride: int, num_classes: int) -> None:
        super().__init__()
        self.conv = conv_norm(in_channels, AUXILIARY_CHANNELS, 3, activation=nn.ReLU)
        self.dropout = nn.Dropout(DROPOUT)
        self.up = conv_norm(AUXILIARY_CHANNELS, stride**2, 3, activation=nn.ReLU)
        self.classifier = nn.Conv2d(stride**2, num_classes, 1)

    def forward(self, x: Float[Tensor, "n ci h w"]) -> Float[Tensor, "n k h2 w2"]:
        """Return the logits."""
        x = self.dropout(self.conv(x))
        y: Tensor = self.classifier(self.up(repeated(x, (2 * x.shape[2], 2 * x.shape[3]))))
        return y


class BiSeNetV2(SegmentationNetwork):
    """The two-branch network; all its features are rectified.

    Stages 2 to 4 are those of the semantic branch, stage 4 before the context embedding. The
    decoder input is the aggregated map at stride 8, the decoder feature the output of the head's
    3x3 convolution. In training, four auxiliary heads read stem and stages.
    """

    config: BiSeNetV2Config
    folds_norms = True
    logits_stride = 8
    backbone_parts = ("detail", "stem", "stage2", "stage3", "stage4", "context")

    def __init__(self, config: BiSeNetV2Config) -> None:
        super().__init__()
        self.config = config
        c, classes = config.channels, config.num_classes
        self.widths = Widths(c, 2 * c, 2 * c, 16 * c)
        self.detail = nn.Sequential(
            *_detail_stage(3, c, 2), *_detail_stage(c, c, 3), *_detail_stage(c, 2 * c, 3)
        )
        self.stem = Stem(c // 4)
        layers = [config.depth * repeats for repeats in REPEATS]
        self.stage2 = _semantic_stage(c // 4, c // 2, layers[0])
        self.stage3 = _semantic_stage(c // 2, c, layers[1])
        self.stage4 = _semantic_stage(c, 2 * c, layers[2])
        self.context = ContextEmbedding(2 * c)
        self.fusion = GuidedAggregation(2 * c)
        self.head = SegmentationHead(
            2 * c, 16 * c, classes, bias=False, normalises=False, dropout=DROPOUT
        )
        self.auxiliary_head = (
            nn.ModuleList(
                AuxiliaryHead(channels, stride, classes)
                for channels, stride in ((c // 4, 4), (c // 2, 8), (c, 16), (2 * c, 32))
            )
            if config.auxiliary_head
            else None
        )
        self._initialise()

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        """Return all features; logits stay at stride 8."""
        stem = self.stem(images)
        stage2 = self.stage2(stem)
        stage3 = self._stage(self.stage3, stage2)
        stage4 = self._stage(self.stage4, stage3)
        decoder_input = self.fusion(self.detail(images), self.context(stage4))
        features = Features(stage2, stage3, stage4, decoder_input, *self.head(decoder_input))
        if self.auxiliary_head is None:
            return features
        maps = zip(self.auxiliary_head, (stem, stage2, stage3, stage4), strict=True)
        return features._replace(auxiliary_logits=tuple(head(x) for head, x in maps))

    def decode(
        self, decoder_input: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n cf h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        feature, logits = self.head(decoder_input)
        return feature, logits

    def _initialise(self) -> None:
        """Start the residual of every layer at zero, as the code does."""
        initialise_convolutions(self)
        for module in self.modules():
            if isinstance(module, GatherExpansion):
                norm = module.project[1]
                assert isinstance(norm, nn.BatchNorm2d)
                nn.init.zeros_(norm.weight)


def _detail_stage(in_channels: int, channels: int, depth: int) -> list[nn.Module]:
    widths = (in_channels, *[channels] * (depth - 1))
    return [
        conv_norm(width, channels, 3, 1 if index else 2, activation=nn.ReLU)
        for index, width in enumerate(widths)
    ]


def _semantic_stage(in_channels: int, channels: int, repeats: int) -> nn.Sequential:
    first = GatherExpansion(in_channels, channels, stride=2)
    return nn.Sequential(
        first, *(GatherExpansion(channels, channels, stride=1) for _ in range(repeats))
    )


def _separable(channels: int) -> nn.Sequential:
    return nn.Sequential(
        *conv_norm(channels, channels, 3, groups=channels),
        nn.Conv2d(channels, channels, 1, bias=False),
    )
