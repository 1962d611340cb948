"""What BiSeNet (Yu et al. 2018) and STDC (Fan et al. 2021) share: context, brought to stride 8."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.layers import conv_norm


class AttentionRefinement(nn.Module):
    """A 3x3 convolution whose channels are weighted by what they are on average."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = conv_norm(in_channels, channels, 3, activation=nn.ReLU)
        self.attention = conv_norm(channels, channels)

    def forward(self, x: Float[Tensor, "n ci h w"]) -> Float[Tensor, "n c h w"]:
        """Return the weighted map."""
        y: Tensor = self.conv(x)
        gate: Tensor = self.attention(pooled(y)).sigmoid()
        return y * gate


class ContextPath(nn.Module):
    """The global average, and stages 4 and 3, refined and added from coarse to fine."""

    def __init__(self, stage3: int, stage4: int, channels: int) -> None:
        super().__init__()
        self.average = conv_norm(stage4, channels, activation=nn.ReLU)
        self.refine4 = AttentionRefinement(stage4, channels)
        self.smooth4 = conv_norm(channels, channels, 3, activation=nn.ReLU)
        self.refine3 = AttentionRefinement(stage3, channels)
        self.smooth3 = conv_norm(channels, channels, 3, activation=nn.ReLU)

    def forward(
        self,
        stage3: Float[Tensor, "n c3 h16 w16"],
        stage4: Float[Tensor, "n c4 h32 w32"],
        size: tuple[int, int],
    ) -> tuple[Float[Tensor, "n c h8 w8"], Float[Tensor, "n c h16 w16"]]:
        """Return context at ``size``, which is that of stride 8, and at stride 16."""
        fourth = self.refine4(stage4) + self.average(pooled(stage4))
        at16 = self.smooth4(repeated(fourth, (stage3.shape[2], stage3.shape[3])))
        third = self.refine3(stage3) + at16
        return self.smooth3(repeated(third, size)), at16


class FeatureFusion(nn.Module):
    """Detail and context, fused by a 1x1 convolution; x + x times the attention to its channels.

    The two codes differ in ``attention``, a map of what the channels are on average.
    """

    def __init__(self, in_channels: int, channels: int, attention: nn.Module) -> None:
        super().__init__()
        self.fusion = conv_norm(in_channels, channels, activation=nn.ReLU)
        self.attention = attention

    def forward(
        self, detail: Float[Tensor, "n cd h w"], context: Float[Tensor, "n cc h w"]
    ) -> Float[Tensor, "n c h w"]:
        """Return the fused map."""
        x = self.fusion(torch.cat([detail, context], dim=1))
        y: Tensor = x + x * self.attention(pooled(x)).sigmoid()
        return y


def pooled(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c 1 1"]:
    """Return the mean of every channel."""
    return x.mean((2, 3), keepdim=True)


def repeated(x: Float[Tensor, "n c h_in w_in"], size: tuple[int, int]) -> Tensor:
    """Repeat pixels, as both codes do here."""
    return F.interpolate(x, size, mode="nearest")
