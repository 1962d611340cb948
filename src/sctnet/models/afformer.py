"""AFFormer (Dong et al. 2023): no decoder; pixels learn beside prototypes of a smaller map.

Computed as in the authors' code.
"""

from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.layers import (
    DropPath,
    adaptive_average,
    conv_norm,
    drop_path_rates,
    initialise_convolutions,
    resize,
)
from sctnet.models.network import Features, NetworkConfig, SegmentationNetwork, Widths
from sctnet.models.segformer import ChannelNorm

HEADS = 8
HIGH_PASS = ((3, 2), (5, 3), (7, 3))
"""Kernels, and of how many heads."""
LOW_PASS = (1, 2, 3, 6)
"""Sides of the averages, each of a quarter of the channels."""
EXPANSION = 2
NORM_GROUPS = 32


Even = Annotated[int, Field(ge=2, multiple_of=2)]
Wide = Annotated[int, Field(ge=HEADS, multiple_of=HEADS)]


class AFFormerConfig(NetworkConfig):
    """Everything that decides the architecture of an AFFormer."""

    widths: tuple[Even, Wide, Wide, Wide]
    depths: tuple[int, int, int] = Field(description="attention blocks at strides 8, 16 and 32")
    decoder_channels: int = Field(default=256, ge=2 * NORM_GROUPS, multiple_of=NORM_GROUPS)
    drop_path: float = Field(default=0.0, ge=0, lt=1, description="of the last block")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="before the classifier")


AFFORMER_VARIANTS: dict[str, dict[str, Any]] = {
    "afformer-b": {"widths": (32, 96, 176, 216), "depths": (2, 6, 2)},
}


class FrequencyFilters(nn.Module):
    """High frequencies of the values times the queries, plus their low frequencies."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.splits = [heads * channels // HEADS for _, heads in HIGH_PASS]
        self.high_pass = nn.ModuleList(
            nn.Conv2d(part, part, kernel, padding=kernel // 2, groups=part)
            for part, (kernel, _) in zip(self.splits, HIGH_PASS, strict=True)
        )

    def forward(
        self, query: Float[Tensor, "n c h w"], value: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n c h w"]:
        """Return the filtered values."""
        size = (value.shape[2], value.shape[3])
        low = torch.cat(
            [
                resize(adaptive_average(part, side), size)
                for part, side in zip(value.chunk(4, dim=1), LOW_PASS, strict=True)
            ],
            dim=1,
        )
        parts = torch.split(value, self.splits, dim=1)
        high = torch.cat(
            [conv(part) for conv, part in zip(self.high_pass, parts, strict=True)], dim=1
        )
        return query * high + F.relu(low)


class PrototypeBlock(nn.Module):
    """Linear attention and frequency filters, then a feed-forward network, both behind a norm.

    Positions and filters come from the encoder, whose blocks share them.
    """

    def __init__(self, channels: int, drop_path: float) -> None:
        super().__init__()
        hidden = EXPANSION * channels
        self.attention_norm = ChannelNorm(channels)
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)
        self.feed_forward_norm = ChannelNorm(channels)
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.squeeze = nn.Conv2d(hidden, channels, 1)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Float[Tensor, "n c h w"], filters: FrequencyFilters
    ) -> Float[Tensor, "n c h w"]:
        """Apply both branches."""
        x = x + self.drop_path(self._attention(self.attention_norm(x), filters))
        hidden = self.expand(self.feed_forward_norm(x))
        mixed = self.squeeze(F.gelu(hidden + self.depthwise(hidden)))
        y: Tensor = x + self.drop_path(mixed)
        return y

    def linears(self) -> tuple[nn.Conv2d, ...]:
        """Return the 1x1 convolutions, which start narrower than other convolutions."""
        return self.query_key_value, self.project, self.expand, self.squeeze

    def _attention(self, x: Tensor, filters: FrequencyFilters) -> Tensor:
        """Multiply keys and values first: the cost grows with the pixels, not with their square."""
        query, key, value = self.query_key_value(x).chunk(3, dim=1)
        n, channels, height, width = x.shape
        queries, keys, values = (
            part.reshape(n, HEADS, channels // HEADS, height * width)
            for part in (query, key, value)
        )
        products = keys.softmax(dim=3) @ values.mT
        attended = (products.mT @ queries).reshape(x.shape) * (channels // HEADS) ** -0.5
        y: Tensor = self.project(attended + filters(query, value))
        return y


class PrototypeEncoder(nn.Module):
    """Blocks that share their positions, a depthwise convolution before each, and their filters."""

    def __init__(self, channels: int, rates: list[float]) -> None:
        super().__init__()
        self.positions = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.filters = FrequencyFilters(channels)
        self.blocks = nn.ModuleList(PrototypeBlock(channels, rate) for rate in rates)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Apply all blocks."""
        for block in self.blocks:
            x = block(self.positions(x) + x, self.filters)
        return x


class PixelDescriptor(nn.Module):
    """A bottleneck around a depthwise convolution, with a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.residual = nn.Sequential(
            conv_norm(channels, hidden, activation=nn.Hardswish),
            conv_norm(hidden, hidden, 3, groups=hidden, activation=nn.Hardswish),
            conv_norm(hidden, channels),
        )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return shortcut + residual."""
        y: Tensor = x + self.residual(x)
        return y


class AFFormerStage(nn.Module):
    """Pixels, described at one size, and prototypes, encoded at a smaller one; their sum widened.

    Without an encoder (``rates`` is None) the second map is described with the first.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        strides: tuple[int, int],
        rates: list[float] | None,
    ) -> None:
        super().__init__()
        self.pixels = _embedding(channels, strides[0])
        self.prototypes = _embedding(channels, strides[1])
        self.describe = PixelDescriptor(channels)
        self.encoder = None if rates is None else PrototypeEncoder(channels, rates)
        self.aggregate = conv_norm(channels, out_channels, activation=nn.Hardswish)

    def forward(
        self, x: Float[Tensor, "n ci hi wi"]
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n ci hp wp"]]:
        """Return the stage's map, and its prototypes at their own size."""
        pixels = self.pixels(x)
        prototypes = self.prototypes(pixels)
        if self.encoder is None:
            return self.aggregate(self.describe(pixels + prototypes)), prototypes
        prototypes = self.encoder(prototypes)
        size = (pixels.shape[2], pixels.shape[3])
        # The one place where a network here aligns corners.
        enlarged = F.interpolate(prototypes, size, mode="bilinear", align_corners=True)
        return self.aggregate(self.describe(pixels) + enlarged), prototypes


class LinearHead(nn.Module):
    """A 1x1 convolution, group norm, ReLU and a classifier."""

    def __init__(self, config: AFFormerConfig) -> None:
        super().__init__()
        channels = config.decoder_channels
        self.squeeze = nn.Sequential(
            nn.Conv2d(config.widths[-1], channels, 1, bias=False),
            nn.GroupNorm(NORM_GROUPS, channels),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(channels, config.num_classes, 1)

    def forward(
        self, x: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        feature = self.squeeze(x)
        return feature, self.classifier(self.dropout(feature))


class AFFormer(SegmentationNetwork):
    """The head-free transformer: pixels stay at stride 8, prototypes shrink to 16 and 32.

    Its features: stage 2 at stride 8; the prototypes of stages 3 and 4 at strides 16 and 32. The
    decoder input is the last stage's map of pixels, the decoder feature what the classifier reads.
    The authors train without an auxiliary head.
    """

    config: AFFormerConfig
    folds_norms = True
    logits_stride = 8
    backbone_parts = ("stem", "stages")

    def __init__(self, config: AFFormerConfig) -> None:
        super().__init__()
        self.config = config
        first, second, third, fourth = config.widths
        self.widths = Widths(third, fourth, fourth, config.decoder_channels)
        self.stem = nn.Sequential(
            conv_norm(3, first // 2, 3, 2, activation=nn.Hardswish),
            conv_norm(first // 2, first, 3, 2, activation=nn.Hardswish),
        )
        # The authors count the first stage among those that drop paths, as one without effect.
        _, *rates = drop_path_rates((1, *config.depths), config.drop_path)
        self.stages = nn.ModuleList(
            [
                AFFormerStage(first, second, (1, 1), None),
                AFFormerStage(second, third, (2, 1), rates[0]),
                AFFormerStage(third, fourth, (1, 2), rates[1]),
                AFFormerStage(fourth, fourth, (1, 4), rates[2]),
            ]
        )
        self.head = LinearHead(config)
        initialise_convolutions(self)
        for module in self.modules():
            if isinstance(module, PrototypeBlock):
                for linear in module.linears():
                    nn.init.trunc_normal_(linear.weight, std=0.02)
        nn.init.normal_(self.head.classifier.weight, std=0.01)

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        """Return all features; logits stay at stride 8."""
        x = self.stem(images)
        maps, prototypes = [], []
        for stage in self.stages:
            x, smaller = stage(x)
            maps.append(x)
            prototypes.append(smaller)
        decoder_feature, logits = self.head(x)
        return Features(maps[1], prototypes[2], prototypes[3], x, decoder_feature, logits)

    def decode(
        self, decoder_input: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n cf h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        feature, logits = self.head(decoder_input)
        return feature, logits


def _embedding(channels: int, stride: int) -> nn.Sequential:
    """Build a depthwise convolution, a 1x1 convolution, a norm and a hard swish."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False),
        *conv_norm(channels, channels, activation=nn.Hardswish),
    )
