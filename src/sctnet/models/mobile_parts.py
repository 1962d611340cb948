"""What the networks for mobile processors share: SeaFormer, TopFormer."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.layers import DropPath, conv_norm, resize


class InvertedResidual(nn.Module):
    """1x1 convolution that widens, depthwise convolution, 1x1 that narrows (Sandler et al. 2018).

    An expansion of 1 leaves the first one out. Blocks that keep size and width have a shortcut.
    """

    def __init__(
        self, in_channels: int, channels: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        widening = [conv_norm(in_channels, hidden), nn.ReLU()] if expansion > 1 else []
        self.residual = nn.Sequential(
            *widening,
            conv_norm(hidden, hidden, kernel, stride, groups=hidden),
            nn.ReLU(),
            conv_norm(hidden, channels),
        )
        self.has_shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Float[Tensor, "n ci hi wi"]) -> Float[Tensor, "n c h w"]:
        """Return the residual, with the shortcut where there is one."""
        y: Tensor = self.residual(x)
        return x + y if self.has_shortcut else y


class MobileFeedForward(nn.Module):
    """1x1 convolution, depthwise 3x3, ReLU6, 1x1 convolution."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        self.expand = conv_norm(channels, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.squeeze = conv_norm(hidden, channels)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Mix channels and neighbours."""
        y: Tensor = self.squeeze(F.relu6(self.depthwise(self.expand(x))))
        return y


class MobileTransformerBlock(nn.Module):
    """x + attention(x), then + feed-forward(.), without norms between: each convolution has one."""

    def __init__(
        self, attention: nn.Module, channels: int, expansion: int, drop_path: float
    ) -> None:
        super().__init__()
        self.attention = attention
        self.feed_forward = MobileFeedForward(channels, expansion)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Apply both branches."""
        x = x + self.drop_path(self.attention(x))
        y: Tensor = x + self.drop_path(self.feed_forward(x))
        return y


class GatedFusion(nn.Module):
    """A detailed map, projected, times a gate that a smaller map of context opens."""

    def __init__(self, detail_channels: int, context_channels: int, channels: int) -> None:
        super().__init__()
        self.detail = conv_norm(detail_channels, channels)
        self.gate = conv_norm(context_channels, channels)

    def forward(
        self, detail: Float[Tensor, "n cd h w"], context: Float[Tensor, "n cc hc wc"]
    ) -> Float[Tensor, "n c h w"]:
        """Return a map of the size of ``detail``."""
        gate = resize(F.hardsigmoid(self.gate(context)), (detail.shape[2], detail.shape[3]))
        y: Tensor = self.detail(detail) * gate
        return y
