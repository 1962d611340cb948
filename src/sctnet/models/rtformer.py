"""RTFormer (Wang et al. 2022): two branches whose attention learns its keys or takes the other's.

Computed as in the authors' code. Stem, residual blocks, DAPPM and heads are DDRNet's.
"""

from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.dappm import DAPPM, norm_relu_conv
from sctnet.models.heads import SegmentationHead
from sctnet.models.layers import (
    BatchNorm,
    DropPath,
    ResidualBlock,
    initialise_convolutions,
    residual_pair,
    resize,
    strided_stem,
)
from sctnet.models.network import Features, NetworkConfig, SegmentationNetwork, Widths

HEADS = 8
CROSS_SIZE = 12
"""Keys and values of the high-resolution branch: so many squared, of the other branch."""


class RTFormerConfig(NetworkConfig):
    """Everything that decides the architecture of an RTFormer."""

    base_channels: int = Field(ge=4, multiple_of=4)
    dappm_channels: int = Field(default=128, ge=4)
    head_channels: int = Field(
        ge=4, description="of the auxiliary head; the head has twice as many"
    )
    last_injection: bool = Field(description="whether low takes from high in the last block too")
    drop_path: float = Field(default=0.2, ge=0, lt=1)
    auxiliary_head: bool = True


RTFORMER_VARIANTS: dict[str, dict[str, Any]] = {
    "rtformer-s": {"base_channels": 32, "head_channels": 64, "last_injection": True},
    "rtformer-b": {"base_channels": 64, "head_channels": 128, "last_injection": False},
}


class ExternalAttention(nn.Module):
    """Attention to learned keys and values, normalised over pixels, then over a head's keys."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.norm = BatchNorm(in_channels)
        self.keys = nn.Parameter(0.001 * torch.randn(channels, in_channels, 1, 1))
        self.values = nn.Parameter(0.001 * torch.randn(channels, channels, 1, 1))

    def forward(self, x: Float[Tensor, "n ci hi wi"]) -> Float[Tensor, "n c h w"]:
        """Return a map that is smaller by the stride."""
        products = F.conv2d(self.norm(x), self.keys, stride=self.stride)
        n, channels, height, width = products.shape
        of_heads = products.reshape(n, HEADS, channels // HEADS, height * width)
        weights = of_heads.softmax(dim=3)
        weights = weights / (weights.sum(dim=2, keepdim=True) + 1e-6)
        return F.conv2d(weights.reshape(products.shape), self.values)


class CrossResolutionAttention(nn.Module):
    """Attention of the high-resolution branch to the pooled low-resolution one."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.norm = BatchNorm(high)
        self.low_norm = BatchNorm(low)
        self.keys_values = nn.Conv2d(low, 2 * high, 1, bias=False)

    def forward(
        self, high: Float[Tensor, "n c h w"], low: Float[Tensor, "n cl hl wl"]
    ) -> Float[Tensor, "n c h w"]:
        """Return a map of the size of ``high``."""
        pooled = _largest(_largest(self.low_norm(low), 2), 3)
        keys, values = self.keys_values(pooled).flatten(2).chunk(2, dim=1)
        products = keys.mT @ self.norm(high).flatten(2)
        # By the number of keys: the authors scale by it and not by the channels.
        weights = (products / CROSS_SIZE).softmax(dim=1)
        y: Tensor = (values @ weights).reshape(high.shape)
        return y


class FeedForward(nn.Module):
    """Norm, 3x3 convolution, GELU, 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = BatchNorm(channels, eps=1e-6)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Mix channels and neighbours."""
        y: Tensor = self.conv2(F.gelu(self.conv1(self.norm(x))))
        return y


class RTFormerBlock(nn.Module):
    """Attention in both branches; the high one adds what the low one has, and gives it its own.

    A change of width halves the low-resolution map. Without ``injects``, low takes nothing.
    """

    def __init__(
        self, low_in: int, low: int, high: int, drop_path: float, injects: bool = True
    ) -> None:
        super().__init__()
        stride = 1 if low_in == low else 2
        self.low_shortcut: nn.Module = nn.Identity()
        if stride == 2:
            reduction = nn.Conv2d(low_in, low, 1, stride, bias=False)
            self.low_shortcut = nn.Sequential(BatchNorm(low_in), reduction)
        self.low_attention = ExternalAttention(low_in, low, stride)
        self.low_feed_forward = FeedForward(low)
        self.compression = norm_relu_conv(low, high, 1, bias=False)
        self.high_attention = CrossResolutionAttention(low, high)
        self.high_feed_forward = FeedForward(high)
        self.down = (
            nn.Sequential(*_halving(high, low // 2), *_halving(low // 2, low)) if injects else None
        )
        self.drop_path = DropPath(drop_path)

    def forward(
        self, low: Float[Tensor, "n ci hi wi"], high: Float[Tensor, "n ch h8 w8"]
    ) -> tuple[Float[Tensor, "n cl h w"], Float[Tensor, "n ch h8 w8"]]:
        """Return both unrectified maps."""
        low = self.low_shortcut(low) + self.drop_path(self.low_attention(low))
        low = low + self.drop_path(self.low_feed_forward(low))
        high = high + resize(self.compression(low), (high.shape[2], high.shape[3]))
        high = high + self.drop_path(self.high_attention(high, low))
        high = high + self.drop_path(self.high_feed_forward(high))
        return low if self.down is None else low + self.down(high), high


class RTFormer(SegmentationNetwork):
    """The two branches: stride 8 and, beside it, 16 and 32.

    Its features, all before a ReLU: stage 2, where the branches separate; stage 3 at stride 16; the
    low-resolution branch at stride 32 after both blocks. The decoder input is the high-resolution
    branch beside the resized DAPPM output; the decoder feature is the output of the head's 3x3
    convolution. In training, an auxiliary head reads the high-resolution branch before the blocks.
    """

    config: RTFormerConfig
    folds_norms = True
    logits_stride = 8
    backbone_parts = ("stem", "stage1", "stage2", "stage3", "compression", "high3", "stage4")
    context_parts = ("dappm",)

    def __init__(self, config: RTFormerConfig) -> None:
        super().__init__()
        self.config = config
        c, classes = config.base_channels, config.num_classes
        self.widths = Widths(4 * c, 8 * c, 4 * c, 2 * config.head_channels)
        self.stem = strided_stem(c)
        self.stage1 = residual_pair(c, c)
        self.stage2 = residual_pair(c, 2 * c, stride=2)
        self.stage3 = residual_pair(2 * c, 4 * c, stride=2)
        self.compression = norm_relu_conv(4 * c, 2 * c, 1, bias=False)
        self.high3 = ResidualBlock(2 * c, 2 * c, bias=False)
        self.stage4 = nn.ModuleList(
            [
                RTFormerBlock(4 * c, 8 * c, 2 * c, config.drop_path),
                RTFormerBlock(8 * c, 8 * c, 2 * c, config.drop_path, config.last_injection),
            ]
        )
        self.dappm = DAPPM(8 * c, config.dappm_channels, 2 * c, bias=False)
        self.head = SegmentationHead(4 * c, 2 * config.head_channels, classes, bias=False)
        self.auxiliary_head = (
            SegmentationHead(2 * c, config.head_channels, classes, bias=False)
            if config.auxiliary_head
            else None
        )
        initialise_convolutions(self)

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        """Return all features; logits stay at stride 8."""
        stage2 = self.stage2(F.relu(self.stage1(self.stem(images))))
        stage3 = self.stage3(F.relu(stage2))
        size = (stage2.shape[2], stage2.shape[3])
        high3 = self.high3(F.relu(stage2 + resize(self.compression(stage3), size)))
        low, high = stage3, high3
        for block in self.stage4:
            low, high = block(F.relu(low), F.relu(high))
        decoder_input = torch.cat([high, resize(self.dappm(low), size)], dim=1)
        decoder_feature, logits = self.head(decoder_input)
        auxiliary = () if self.auxiliary_head is None else (self.auxiliary_head(high3)[1],)
        return Features(stage2, stage3, low, decoder_input, decoder_feature, logits, auxiliary)

    def decode(
        self, decoder_input: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n cf h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        feature, logits = self.head(decoder_input)
        return feature, logits


def _halving(in_channels: int, channels: int) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, channels, 3, 2, padding=1, bias=False)
    return [BatchNorm(in_channels), nn.ReLU(), conv]


def _largest(x: Float[Tensor, "n c hi wi"], axis: int) -> Float[Tensor, "n c h w"]:
    """Reduce an axis to the largest values of as many regions, which may overlap.

    Equal to PyTorch's adaptive pooling, which cannot be exported to ONNX.
    """
    length = x.shape[axis]
    number = torch.arange(CROSS_SIZE, device=x.device)[:, None]
    first, last = number * length // CROSS_SIZE, ((number + 1) * length - 1) // CROSS_SIZE
    offsets = torch.arange((length + 2 * CROSS_SIZE - 2) // CROSS_SIZE, device=x.device)
    # Shorter regions repeat their last value.
    places = torch.minimum(first + offsets, last)
    values = x.index_select(axis, places.flatten())
    shape = (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])
    return values.reshape(shape).amax(axis + 1)
