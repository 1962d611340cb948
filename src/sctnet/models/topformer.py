"""TopFormer (Zhang et al. 2022): attention among the pooled tokens of four strides.

Computed as in the authors' code.
"""

from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.layers import conv_norm, drop_path_rates, initialise_convolutions, resize
from sctnet.models.mobile_parts import GatedFusion, InvertedResidual, MobileTransformerBlock
from sctnet.models.network import Features, NetworkConfig, SegmentationNetwork, Widths

FEED_FORWARD_EXPANSION = 2


class TopFormerConfig(NetworkConfig):
    """Everything that decides the architecture of a TopFormer-B."""

    stem_channels: int = Field(default=16, ge=1)
    widths: tuple[int, int, int, int] = Field(description="at strides 4 to 32")
    depth: int = Field(default=4, ge=1, description="attention blocks")
    heads: int = Field(default=8, ge=1)
    key_channels: int = Field(default=16, ge=1, description="of each head")
    decoder_channels: int = Field(default=256, ge=1)
    drop_path: float = Field(default=0.1, ge=0, lt=1, description="of the last block")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="before the classifier")


TOPFORMER_VARIANTS: dict[str, dict[str, Any]] = {"topformer-b": {"widths": (32, 64, 128, 160)}}


class TokenAttention(nn.Module):
    """Multi-head attention among all pixels of a small map; products are not scaled."""

    def __init__(self, channels: int, heads: int, key_channels: int) -> None:
        super().__init__()
        self.heads = heads
        keys, values = heads * key_channels, 2 * heads * key_channels
        self.query = conv_norm(channels, keys)
        self.key = conv_norm(channels, keys)
        self.value = conv_norm(channels, values)
        self.project = nn.Sequential(nn.ReLU6(), conv_norm(values, channels))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Attend from every pixel to all."""
        n, _, height, width = x.shape
        query, key, value = (
            projection(x).reshape(n, self.heads, -1, height * width).mT
            for projection in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        y: Tensor = self.project(attended.mT.reshape(n, -1, height, width))
        return y


class SemanticInjection(nn.Module):
    """A stride's own map, gated by its tokens, plus these tokens."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.fusion = GatedFusion(in_channels, in_channels, channels)
        self.semantics = conv_norm(in_channels, channels)

    def forward(
        self, x: Float[Tensor, "n ci h w"], tokens: Float[Tensor, "n ci ht wt"]
    ) -> Float[Tensor, "n c h w"]:
        """Return a map of the size of ``x``."""
        semantics = resize(self.semantics(tokens), (x.shape[2], x.shape[3]))
        y: Tensor = self.fusion(x, tokens) + semantics
        return y


class SimpleHead(nn.Module):
    """A 1x1 convolution and a classifier, on the sum of the strides 8, 16 and 32."""

    def __init__(self, config: TopFormerConfig) -> None:
        super().__init__()
        channels = config.decoder_channels
        self.fuse = conv_norm(channels, channels, activation=nn.ReLU)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(channels, config.num_classes, 1)

    def forward(
        self, x: Float[Tensor, "n c h w"]
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        feature = self.fuse(x)
        return feature, self.classifier(self.dropout(feature))


class TopFormer(SegmentationNetwork):
    """The token pyramid, its transformer at stride 64, and the simple head.

    Its features: strides 8, 16 and 32 of the pyramid, before the injection of semantics. The
    decoder input is the sum of the injected strides at stride 8, the decoder feature what the
    classifier reads. The authors train without an auxiliary head.
    """

    config: TopFormerConfig
    folds_norms = True
    logits_stride = 8
    backbone_parts = ("pyramid", "transformer")

    def __init__(self, config: TopFormerConfig) -> None:
        super().__init__()
        self.config = config
        widths, channels = config.widths, config.decoder_channels
        self.widths = Widths(*widths[2:], channels, channels)
        self.pyramid = nn.ModuleList(_pyramid(config))
        (rates,) = drop_path_rates((config.depth,), config.drop_path)
        self.transformer = nn.Sequential(*(_block(config, rate) for rate in rates))
        self.injections = nn.ModuleList(SemanticInjection(w, channels) for w in widths[1:])
        self.head = SimpleHead(config)
        initialise_convolutions(self)
        nn.init.normal_(self.head.classifier.weight, std=0.01)

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        """Return all features; logits stay at stride 8."""
        x, stages = images, []
        for stage in self.pyramid:
            x = stage(x)
            stages.append(x)
        # Half the last one's size, rounded up: stride 64.
        size = ((x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2)
        pooled = torch.cat([F.adaptive_avg_pool2d(stage, size) for stage in stages], dim=1)
        tokens = self.transformer(pooled).split(self.config.widths, dim=1)
        second, third, fourth = (
            inject(stage, its_tokens)
            for inject, stage, its_tokens in zip(
                self.injections, stages[1:], tokens[1:], strict=True
            )
        )
        full = (second.shape[2], second.shape[3])
        decoder_input = second + resize(third, full) + resize(fourth, full)
        decoder_feature, logits = self.head(decoder_input)
        return Features(stages[1], stages[2], stages[3], decoder_input, decoder_feature, logits)

    def decode(
        self, decoder_input: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n cf h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        feature, logits = self.head(decoder_input)
        return feature, logits


def _pyramid(config: TopFormerConfig) -> list[nn.Sequential]:
    """Build what ends at the strides 4, 8, 16 and 32."""
    stem, (first, second, third, fourth) = config.stem_channels, config.widths
    return [
        nn.Sequential(
            conv_norm(3, stem, 3, 2, activation=nn.ReLU),
            InvertedResidual(stem, stem, kernel=3, stride=1, expansion=1),
            InvertedResidual(stem, first, kernel=3, stride=2, expansion=4),
            InvertedResidual(first, first, kernel=3, stride=1, expansion=3),
        ),
        nn.Sequential(
            InvertedResidual(first, second, kernel=5, stride=2, expansion=3),
            InvertedResidual(second, second, kernel=5, stride=1, expansion=3),
        ),
        nn.Sequential(
            InvertedResidual(second, third, kernel=3, stride=2, expansion=3),
            InvertedResidual(third, third, kernel=3, stride=1, expansion=3),
        ),
        nn.Sequential(
            InvertedResidual(third, fourth, kernel=5, stride=2, expansion=6),
            InvertedResidual(fourth, fourth, kernel=5, stride=1, expansion=6),
            InvertedResidual(fourth, fourth, kernel=3, stride=1, expansion=6),
        ),
    ]


def _block(config: TopFormerConfig, drop_path: float) -> MobileTransformerBlock:
    channels = sum(config.widths)
    attention = TokenAttention(channels, config.heads, config.key_channels)
    return MobileTransformerBlock(attention, channels, FEED_FORWARD_EXPANSION, drop_path)
