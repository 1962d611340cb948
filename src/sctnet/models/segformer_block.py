"""The efficient transformer block of SegFormer (Xie et al. 2021), a row of Table 4."""

import math

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.block_configuration import BlockConfig
from sctnet.models.layers import DropPath

HEAD_CHANNELS = 64
REDUCTION = 4
"""Keys and values are taken on a map this much smaller. SegFormer has 2 in its third stage and 1
in its fourth; 4 in both gives the 22.2 M parameters that Table 4 prints."""
EXPANSION = 4


class EfficientSelfAttention(nn.Module):
    """Multi-head self-attention whose keys and values come from a reduced map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The greatest common divisor, so that heads divide any width.
        self.heads = math.gcd(channels, max(1, channels // HEAD_CHANNELS))
        self.query = nn.Linear(channels, channels)
        self.reduction = nn.Conv2d(channels, channels, REDUCTION, REDUCTION)
        self.reduction_norm = nn.LayerNorm(channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.projection = nn.Linear(channels, channels)

    def forward(
        self, tokens: Float[Tensor, "n t c"], size: tuple[int, int]
    ) -> Float[Tensor, "n t c"]:
        """Attend from every token of an H x W map to the reduced map."""
        n, t, c = tokens.shape
        height, width = size
        feature_map = tokens.transpose(1, 2).reshape(n, c, height, width)
        # Padded, so that maps smaller than the reduction still have a key.
        padding = (0, -width % REDUCTION, 0, -height % REDUCTION)
        reduced = self.reduction(F.pad(feature_map, padding)).flatten(2).transpose(1, 2)
        keys, values = self.key_value(self.reduction_norm(reduced)).chunk(2, dim=-1)
        attended = F.scaled_dot_product_attention(
            self._split(self.query(tokens)), self._split(keys), self._split(values)
        )
        output: Tensor = self.projection(attended.transpose(1, 2).reshape(n, t, c))
        return output

    def _split(self, tokens: Tensor) -> Tensor:
        n, t, c = tokens.shape
        return tokens.reshape(n, t, self.heads, c // self.heads).transpose(1, 2)


class MixFeedForward(nn.Module):
    """Linear, depthwise 3x3 convolution, GELU, linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = EXPANSION * channels
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.squeeze = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Mix channels and neighbours."""
        y: Tensor = self.squeeze(F.gelu(self.depthwise(self.expand(x))))
        return y


class SegFormerBlock(nn.Module):
    """Pre-norm: x + attention(norm(x)), then + feed-forward(norm(.)), with layer norms."""

    def __init__(self, channels: int, config: BlockConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels, eps=1e-6)
        self.attention = EfficientSelfAttention(channels)
        self.feed_forward_norm = nn.LayerNorm(channels, eps=1e-6)
        self.feed_forward = MixFeedForward(channels)
        self.drop_path = DropPath(config.drop_path)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Apply both branches."""
        n, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        attended = self.attention(self.attention_norm(tokens), (h, w))
        x = x + self.drop_path(attended.transpose(1, 2).reshape(n, c, h, w))
        normalised = self.feed_forward_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y: Tensor = x + self.drop_path(self.feed_forward(normalised))
        return y
