"""SegFormer (Xie et al. 2021): a transformer, as a teacher and as a student.

Computed as in MMSegmentation. Its head differs from the original: it has a batch norm and a ReLU
after each stage's projection, and takes stage 1 first. Layer norms have an epsilon of 1e-6.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from sctnet.errors import SctnetError
from sctnet.models.layers import (
    DropPath,
    conv_norm,
    drop_path_rates,
    initialise_convolutions,
)
from sctnet.models.network import NetworkConfig, Widths
from sctnet.models.pyramid import Fusion, PyramidNetwork, folded_fusion
from sctnet.models.segformer_block import MixFeedForward

HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
"""Keys and values of a stage are taken on a map this much smaller."""
SMALLEST_SIDE = 32
"""Below it, a stage is smaller than its own reduction."""


class SegFormerConfig(NetworkConfig):
    """Everything that decides the architecture of a SegFormer."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    decoder_channels: int = Field(default=256, ge=1)
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    dropout: float = Field(default=0.1, ge=0, lt=1, description="before the classifier")


_NARROW, _WIDE = (32, 64, 160, 256), (64, 128, 320, 512)
SEGFORMER_VARIANTS: dict[str, dict[str, Any]] = {
    "segformer-b0": {"widths": _NARROW, "depths": (2, 2, 2, 2)},
    "segformer-b1": {"widths": _WIDE, "depths": (2, 2, 2, 2)},
    "segformer-b2": {"widths": _WIDE, "depths": (3, 4, 6, 3)},
    "segformer-b3": {"widths": _WIDE, "depths": (3, 4, 18, 3)},
    "segformer-b4": {"widths": _WIDE, "depths": (3, 8, 27, 3)},
    "segformer-b5": {"widths": _WIDE, "depths": (3, 6, 40, 3)},
}


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of every pixel."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Normalise each pixel."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ReducedAttention(nn.Module):
    """Multi-head self-attention whose keys and values come from a reduced map."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.reduce: nn.Module = nn.Identity()
        if reduction > 1:
            convolution = nn.Conv2d(channels, channels, reduction, reduction)
            self.reduce = nn.Sequential(convolution, ChannelNorm(channels))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Attend from every pixel to the reduced map."""
        queries = x.flatten(2).transpose(1, 2)
        keys = self.reduce(x).flatten(2).transpose(1, 2)
        attended, _ = self.attention(queries, keys, keys, need_weights=False)
        y: Tensor = attended.transpose(1, 2).reshape(x.shape)
        return y


class SegFormerEncoderBlock(nn.Module):
    """Pre-norm: x + attention(norm(x)), then + feed-forward(norm(.))."""

    def __init__(self, channels: int, heads: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.attention_norm = ChannelNorm(channels)
        self.attention = ReducedAttention(channels, heads, reduction)
        self.feed_forward_norm = ChannelNorm(channels)
        self.feed_forward = MixFeedForward(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Apply both branches."""
        x = x + self.drop_path(self.attention(self.attention_norm(x)))
        y: Tensor = x + self.drop_path(self.feed_forward(self.feed_forward_norm(x)))
        return y


class SegFormerHead(nn.Module):
    """Projections of four stages, concatenated at the first one's size, fused and classified."""

    def __init__(
        self, widths: Sequence[int], channels: int, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            conv_norm(width, channels, activation=nn.ReLU) for width in widths
        )
        self.fusion = conv_norm(len(widths) * channels, channels, activation=nn.ReLU)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def levels(self, stages: list[Tensor]) -> Iterator[Tensor]:
        """Yield the projection of every stage, at its own size."""
        for project, stage in zip(self.projections, stages, strict=True):
            yield project(stage)

    def decode(
        self, concatenated: Float[Tensor, "n d4 h w"]
    ) -> tuple[Float[Tensor, "n d h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        feature = self.fusion(concatenated)
        return feature, self.classifier(self.dropout(feature))

    def folded(self) -> Fusion:
        """Return what :meth:`decode` computes in eval mode."""
        return folded_fusion(self.fusion[0], self.fusion[1], self.classifier)


class SegFormer(PyramidNetwork):
    """The hierarchical transformer and its head.

    ``model(images)`` returns logits at the size of the images, ``model.features(images)`` the
    features for a student. Images have SCTNet's normalisation and at least 32 x 32 pixels.
    """

    config: SegFormerConfig
    folds_norms = True
    logits_stride = 4
    backbone_parts = ("stages",)

    def __init__(self, config: SegFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.widths = Widths(
            *config.widths[2:],
            len(config.widths) * config.decoder_channels,
            config.decoder_channels,
        )
        sizes = zip(
            (3, *config.widths[:-1]),
            config.widths,
            drop_path_rates(config.depths, config.drop_path),
            strict=True,
        )
        self.stages = nn.ModuleList(_stage(number, *size) for number, size in enumerate(sizes))
        self.head = SegFormerHead(
            config.widths, config.decoder_channels, config.num_classes, config.dropout
        )
        self._initialise()

    def stage_maps(self, images: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """Return all stages; raises :class:`SctnetError` for images below 32 x 32."""
        refuse_small_images(images, self.config.variant)
        x, stages = images, []
        for number, stage in enumerate(self.stages):
            x = self._stage(stage, x) if number >= 2 else stage(x)
            stages.append(x)
        return stages

    def levels(self, stages: list[Tensor]) -> Iterator[Tensor]:
        """Yield the head's projections."""
        return self.head.levels(stages)

    def fusion(self) -> Fusion:
        """Return the end of the head."""
        return self.head.folded()

    def decode(
        self, decoder_input: Float[Tensor, "n d4 h w"]
    ) -> tuple[Float[Tensor, "n d h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        return self.head.decode(decoder_input)

    def _initialise(self) -> None:
        initialise_convolutions(self)
        for module in self.modules():
            if isinstance(module, nn.MultiheadAttention):
                nn.init.trunc_normal_(module.in_proj_weight, std=0.02)
                nn.init.trunc_normal_(module.out_proj.weight, std=0.02)
        nn.init.normal_(self.head.classifier.weight, std=0.01)


def refuse_small_images(images: Float[Tensor, "n 3 h w"], variant: str) -> None:
    """Raise :class:`SctnetError` for images below 32 x 32."""
    height, width = images.shape[2:]
    if min(height, width) < SMALLEST_SIDE:
        raise SctnetError(
            f"{variant} cannot see {height} x {width} pixels: give it images or "
            f"crops (augmentation.crop) of {SMALLEST_SIDE} x {SMALLEST_SIDE} or more"
        )


def _stage(number: int, in_channels: int, channels: int, rates: list[float]) -> nn.Sequential:
    """Build overlapping patches, transformer blocks and a norm."""
    kernel, stride = (7, 4) if number == 0 else (3, 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2),
        ChannelNorm(channels),
        nn.Sequential(
            *(
                SegFormerEncoderBlock(channels, HEADS[number], REDUCTIONS[number], rate)
                for rate in rates
            )
        ),
        ChannelNorm(channels),
    )
