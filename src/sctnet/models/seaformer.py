"""SeaFormer (Wan et al. 2023): attention along squeezed rows and columns, a row of Table 5.

Computed as in the authors' code.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.layers import conv_norm, drop_path_rates, initialise_convolutions
from sctnet.models.mobile_parts import GatedFusion, InvertedResidual, MobileTransformerBlock
from sctnet.models.network import Features, NetworkConfig, SegmentationNetwork, Widths

POSITIONS = 16
"""Learned positions along an axis; they are resized to its length."""
FEED_FORWARD_EXPANSIONS = (2, 4)
"""At strides 32 and 64."""


class SeaFormerConfig(NetworkConfig):
    """Everything that decides the architecture of a SeaFormer-B."""

    widths: tuple[int, int, int, int, int, int] = Field(description="at strides 2 to 64")
    depths: tuple[int, int] = Field(description="attention blocks at strides 32 and 64")
    heads: int = Field(ge=1)
    key_channels: tuple[int, int] = Field(description="of each head, at strides 32 and 64")
    fusion_channels: tuple[int, int] = Field(description="where strides 32 and 64 join stride 8")
    drop_path: float = Field(default=0.1, ge=0, lt=1, description="of the last block of a stage")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="before the classifier")


SEAFORMER_VARIANTS: dict[str, dict[str, Any]] = {
    "seaformer-b": {
        "widths": (16, 32, 64, 128, 192, 256),
        "depths": (4, 4),
        "heads": 8,
        "key_channels": (16, 24),
        "fusion_channels": (128, 160),
    },
}


class AxisAttention(nn.Module):
    """Multi-head attention along one axis, over which the other one was averaged."""

    def __init__(self, heads: int, key_channels: int, value_channels: int) -> None:
        super().__init__()
        self.heads = heads
        positions = (1, heads * key_channels, POSITIONS)
        self.query_positions = nn.Parameter(torch.randn(positions))
        self.key_positions = nn.Parameter(torch.randn(positions))
        self.project = nn.Sequential(nn.ReLU6(), conv_norm(value_channels, value_channels))

    def forward(
        self,
        query: Float[Tensor, "n k l"],
        key: Float[Tensor, "n k l"],
        value: Float[Tensor, "n v l"],
    ) -> Float[Tensor, "n v l 1"]:
        """Attend from every place of the axis to all."""
        attended = F.scaled_dot_product_attention(
            self._split(_positioned(query, self.query_positions)),
            self._split(_positioned(key, self.key_positions)),
            self._split(value),
        )
        projected: Tensor = self.project(attended.mT.reshape(*value.shape, 1))
        return projected

    def _split(self, x: Float[Tensor, "n c l"]) -> Float[Tensor, "n m l d"]:
        """Separate the heads."""
        n, _, length = x.shape
        return x.reshape(n, self.heads, -1, length).mT


class SqueezeAxialAttention(nn.Module):
    """Attention along rows and columns, gating what a convolution finds in the same queries."""

    def __init__(self, channels: int, heads: int, key_channels: int) -> None:
        super().__init__()
        keys, values = heads * key_channels, 2 * heads * key_channels
        self.query = conv_norm(channels, keys)
        self.key = conv_norm(channels, keys)
        self.value = conv_norm(channels, values)
        self.rows = AxisAttention(heads, key_channels, values)
        self.columns = AxisAttention(heads, key_channels, values)
        self.project = nn.Sequential(nn.ReLU6(), conv_norm(values, channels))
        everything = 2 * keys + values
        self.detail = nn.Sequential(
            conv_norm(everything, everything, 3, groups=everything),
            nn.ReLU6(),
            conv_norm(everything, channels),
        )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return the details, each between 0 and 1 times itself."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        rows = self.rows(query.mean(3), key.mean(3), value.mean(3))
        columns = self.columns(query.mean(2), key.mean(2), value.mean(2)).mT
        gate = F.hardsigmoid(self.project(value + (rows + columns)))
        y: Tensor = gate * self.detail(torch.cat([query, key, value], dim=1))
        return y


class LightHead(nn.Module):
    """Stride 8, gated by the strides 32 and 64 in turn; then a depthwise scale and a classifier."""

    def __init__(self, config: SeaFormerConfig) -> None:
        super().__init__()
        detail, contexts = config.widths[2], config.widths[4:]
        inside = (detail, *config.fusion_channels)
        sizes = zip(inside, contexts, config.fusion_channels, strict=False)
        self.fusions = nn.ModuleList(GatedFusion(*size) for size in sizes)
        channels = config.fusion_channels[-1]
        self.scale = conv_norm(channels, channels, groups=channels, activation=nn.ReLU)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(channels, config.num_classes, 1)

    def fused(self, detail: Tensor, contexts: Sequence[Tensor]) -> Tensor:
        """Return the gated map."""
        for fusion, context in zip(self.fusions, contexts, strict=True):
            detail = fusion(detail, context)
        return detail

    def forward(
        self, fused: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        feature = self.scale(fused)
        return feature, self.classifier(self.dropout(feature))


class SeaFormer(SegmentationNetwork):
    """The squeeze-enhanced axial transformer and its light head.

    Its features: strides 8, 16 and 32, the latter with its attention blocks. Stride 64 has no
    counterpart in a teacher. The decoder input is stride 8 after both gates, the decoder feature
    what the classifier reads. The authors train without an auxiliary head.
    """

    config: SeaFormerConfig
    folds_norms = True
    logits_stride = 8
    backbone_parts = ("stages",)

    def __init__(self, config: SeaFormerConfig) -> None:
        super().__init__()
        self.config = config
        _, _, _, third, fourth, _ = config.widths
        self.widths = Widths(third, fourth, config.fusion_channels[-1], config.fusion_channels[-1])
        self.stages = nn.ModuleList(_stages(config))
        self.head = LightHead(config)
        initialise_convolutions(self)
        nn.init.normal_(self.head.classifier.weight, std=0.01)

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        """Return all features; logits stay at stride 8."""
        x, stages = images, []
        for stage in self.stages:
            x = stage(x)
            stages.append(x)
        _, second, third, fourth, fifth = stages
        decoder_input = self.head.fused(second, (fourth, fifth))
        decoder_feature, logits = self.head(decoder_input)
        return Features(second, third, fourth, decoder_input, decoder_feature, logits)

    def decode(
        self, decoder_input: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n cf h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        feature, logits = self.head(decoder_input)
        return feature, logits


def _stages(config: SeaFormerConfig) -> list[nn.Sequential]:
    """Build what ends at the strides 4, 8, 16, 32 and 64."""
    stem, *widths = config.widths
    return [
        nn.Sequential(
            conv_norm(3, stem, 3, 2, activation=nn.ReLU),
            InvertedResidual(stem, stem, kernel=3, stride=1, expansion=1),
            InvertedResidual(stem, widths[0], kernel=3, stride=2, expansion=4),
            InvertedResidual(widths[0], widths[0], kernel=3, stride=1, expansion=3),
        ),
        nn.Sequential(
            InvertedResidual(widths[0], widths[1], kernel=5, stride=2, expansion=3),
            InvertedResidual(widths[1], widths[1], kernel=5, stride=1, expansion=3),
        ),
        nn.Sequential(
            InvertedResidual(widths[1], widths[2], kernel=3, stride=2, expansion=3),
            InvertedResidual(widths[2], widths[2], kernel=3, stride=1, expansion=3),
        ),
        nn.Sequential(
            InvertedResidual(widths[2], widths[3], kernel=5, stride=2, expansion=4),
            *_attention_blocks(config, 0),
        ),
        nn.Sequential(
            InvertedResidual(widths[3], widths[4], kernel=3, stride=2, expansion=6),
            *_attention_blocks(config, 1),
        ),
    ]


def _attention_blocks(config: SeaFormerConfig, number: int) -> list[nn.Module]:
    """Build those at stride 32 (0) or 64 (1)."""
    channels = config.widths[4 + number]
    (rates,) = drop_path_rates(config.depths[number : number + 1], config.drop_path)
    return [
        MobileTransformerBlock(
            SqueezeAxialAttention(channels, config.heads, config.key_channels[number]),
            channels,
            FEED_FORWARD_EXPANSIONS[number],
            rate,
        )
        for rate in rates
    ]


def _positioned(
    x: Float[Tensor, "n c l"], positions: Float[Tensor, "1 c p"]
) -> Float[Tensor, "n c l"]:
    """Add positions, resized to the length of the axis."""
    return x + F.interpolate(positions, x.shape[2], mode="linear", align_corners=False)
