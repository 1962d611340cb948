"""The multi-scale convolutional attention block of SegNeXt (Guo et al. 2022), a row of Table 4."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.block_configuration import BlockConfig
from sctnet.models.folding import FoldsNorms, fold_before
from sctnet.models.layers import BatchNorm, DropPath

STRIPES = (7, 11, 21)
TABLE_4_EXPANSION = 10
"""SegNeXt widens its feed-forward network 8 times in early stages and 4 times in late ones, which
gives 17.1 M or less; 10 lands near the 19.8 M parameters that Table 4 prints."""
LAYER_SCALE = 1e-2


def _depthwise(channels: int, height: int, width: int) -> nn.Conv2d:
    padding = (height // 2, width // 2)
    return nn.Conv2d(channels, channels, (height, width), padding=padding, groups=channels)


class MultiScaleConvolutionalAttention(nn.Module):
    """A 5x5 context and three stripes around it weigh the input, pixel by pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(channels, channels, 1)
        self.local = _depthwise(channels, 5, 5)
        self.stripes = nn.ModuleList(
            nn.Sequential(_depthwise(channels, 1, k), _depthwise(channels, k, 1)) for k in STRIPES
        )
        self.mix = nn.Conv2d(channels, channels, 1)
        self.project_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return the projected input, weighed by its multi-scale context."""
        values = F.gelu(self.project_in(x))
        local = self.local(values)
        context = local
        for stripe in self.stripes:
            context = context + stripe(local)
        y: Tensor = self.project_out(self.mix(context) * values)
        return y


class DepthwiseFeedForward(nn.Module):
    """1x1, depthwise 3x3, GELU, 1x1."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * channels
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.depthwise = _depthwise(hidden, 3, 3)
        self.squeeze = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Mix channels and neighbours."""
        y: Tensor = self.squeeze(F.gelu(self.depthwise(self.expand(x))))
        return y


class MSCABlock(FoldsNorms):
    """Pre-norm residual branches with a learned scale per channel, started at 0.01."""

    def __init__(self, channels: int, expansion: int, drop_path: float) -> None:
        super().__init__()
        self.attention_norm = BatchNorm(channels)
        self.attention = MultiScaleConvolutionalAttention(channels)
        self.attention_scale = nn.Parameter(torch.full((channels, 1, 1), LAYER_SCALE))
        self.feed_forward_norm: nn.Module = BatchNorm(channels)
        self.feed_forward = DepthwiseFeedForward(channels, expansion)
        self.feed_forward_scale = nn.Parameter(torch.full((channels, 1, 1), LAYER_SCALE))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Apply both branches; the attention has a shortcut of its own around the projections."""
        normalised = self.attention_norm(x)
        attended = self.attention(normalised) + normalised
        x = x + self.drop_path(self.attention_scale * attended)
        mixed = self.feed_forward(self.feed_forward_norm(x))
        y: Tensor = x + self.drop_path(self.feed_forward_scale * mixed)
        return y

    def fold_norms(self) -> None:
        """Fold the feed-forward norm into the 1x1 convolution after it.

        The attention norm stays: the attention and its shortcut both read it.
        """
        expand = self.feed_forward.expand
        self.feed_forward_norm, self.feed_forward.expand = fold_before(
            self.feed_forward_norm, expand
        )


def msca_block(channels: int, config: BlockConfig) -> MSCABlock:
    """Build the block of Table 4."""
    return MSCABlock(channels, TABLE_4_EXPANSION, config.drop_path)
