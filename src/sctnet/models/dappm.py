"""The pyramid pooling modules of DDRNet (Pan et al. 2022) and PIDNet (Xu et al. 2023)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sctnet.models.layers import BatchNorm, resize


def norm_relu_conv(
    in_channels: int, channels: int, kernel: int, bias: bool, groups: int = 1
) -> nn.Sequential:
    """Build the modules' one building block: batch norm, ReLU, convolution of the same size."""
    return nn.Sequential(
        BatchNorm(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, groups=groups, bias=bias),
    )


class DAPPM(nn.Module):
    """Context at five scales, from one pixel to the whole image, merged one after the other.

    Zero padding counts in the average pools, as released. ``bias`` is that of the convolutions,
    which DDRNet does without.
    """

    def __init__(
        self, in_channels: int, channels: int, out_channels: int, bias: bool = True
    ) -> None:
        super().__init__()
        pools = _pools()
        self.pools = nn.ModuleList(pools)
        self.scales = nn.ModuleList(norm_relu_conv(in_channels, channels, 1, bias) for _ in pools)
        self.processes = nn.ModuleList(
            norm_relu_conv(channels, channels, 3, bias) for _ in pools[1:]
        )
        self.compression = norm_relu_conv(len(pools) * channels, out_channels, 1, bias)
        self.shortcut = norm_relu_conv(in_channels, out_channels, 1, bias)

    def forward(self, x: Float[Tensor, "n c_in h w"]) -> Float[Tensor, "n c h w"]:
        """Return the aggregated context."""
        height, width = x.shape[-2:]
        outputs = [self.scales[0](x)]
        for pool, scale, process in zip(
            self.pools[1:], self.scales[1:], self.processes, strict=True
        ):
            context = resize(scale(pool(x)), (height, width))
            outputs.append(process(context + outputs[-1]))
        aggregated: Tensor = self.compression(torch.cat(outputs, dim=1)) + self.shortcut(x)
        return aggregated


class PAPPM(nn.Module):
    """The same context at five scales, merged in parallel: one grouped 3x3 convolution."""

    def __init__(self, in_channels: int, channels: int, out_channels: int) -> None:
        super().__init__()
        pools = _pools()
        pooled = (len(pools) - 1) * channels
        self.pools = nn.ModuleList(pools)
        self.scales = nn.ModuleList(norm_relu_conv(in_channels, channels, 1, False) for _ in pools)
        self.process = norm_relu_conv(pooled, pooled, 3, False, groups=len(pools) - 1)
        self.compression = norm_relu_conv(channels + pooled, out_channels, 1, False)
        self.shortcut = norm_relu_conv(in_channels, out_channels, 1, False)

    def forward(self, x: Float[Tensor, "n c_in h w"]) -> Float[Tensor, "n c h w"]:
        """Return the aggregated context."""
        height, width = x.shape[-2:]
        own = self.scales[0](x)
        contexts = [
            resize(scale(pool(x)), (height, width)) + own
            for pool, scale in zip(self.pools[1:], self.scales[1:], strict=True)
        ]
        processed = self.process(torch.cat(contexts, dim=1))
        y: Tensor = self.compression(torch.cat([own, processed], dim=1)) + self.shortcut(x)
        return y


def _pools() -> list[nn.Module]:
    return [
        nn.Identity(),
        nn.AvgPool2d(5, stride=2, padding=2),
        nn.AvgPool2d(9, stride=4, padding=4),
        nn.AvgPool2d(17, stride=8, padding=8),
        nn.AdaptiveAvgPool2d(1),
    ]
