"""Small modules that all networks share."""

import math
from collections.abc import Callable, Sequence
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.folding import FoldsNorms, fold


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that falls back on its running statistics for a single value.

    One value per channel (the DAPPM's global branch with one image per process, any 1x1 map) has
    no variance: PyTorch refuses such a training step, and the released code needs two images.
    """

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Normalise each channel."""
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


_ONEDNN_BLOCK = 16  # channels


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution, whose gradient of the weights keeps within its memory on a processor.

    With fewer than 16 input channels (AVX2: fewer than 8), channels last and a stride, oneDNN's
    ``jit_1x1`` (float32) and ``jit_bf16_1x1`` write past the end of the memory in which they gather
    pixels for ``backward_weights``: in PyTorch 2.13 of ``nn.Conv2d(8, 16, 1, 2)`` on 2x8x96x128.
    So where gradients are recorded, the pixels that the stride reaches are gathered before, which
    computes the same.
    """

    def forward(self, x: Float[Tensor, "n c_in h_in w_in"]) -> Float[Tensor, "n c h w"]:
        """Convolve."""
        strided = self.stride != (1, 1) and self.in_channels < _ONEDNN_BLOCK
        if not (strided and torch.is_grad_enabled() and x.device.type == "cpu"):
            return super().forward(x)
        rows, columns = self.stride
        return F.conv2d(x[:, :, ::rows, ::columns], self.weight, self.bias)


class DropPath(nn.Module):
    """Stochastic depth: in training, a whole residual branch is dropped for some of the images.

    The branches that stay are scaled by 1 / (1 - rate), so that the expectation is unchanged.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Drop the branch for each image with probability ``rate``."""
        if not self.training or self.rate == 0:
            return branch
        kept = branch.new_empty(branch.shape[0], 1, 1, 1).bernoulli_(1 - self.rate)
        return branch * (kept / (1 - self.rate))

    def extra_repr(self) -> str:
        """Show the rate when the module is printed."""
        return f"rate={self.rate}"


def drop_path_rates(depths: Sequence[int], highest: float) -> list[list[float]]:
    """Return the rate of every block by stage, growing evenly from 0 to ``highest``."""
    steps = max(1, sum(depths) - 1)
    rates = iter(highest * index / steps for index in range(sum(depths)))
    return [list(islice(rates, depth)) for depth in depths]


def conv_norm(
    in_channels: int,
    channels: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[[], nn.Module] | None = None,
) -> nn.Sequential:
    """Build a convolution without bias, its batch norm and, where one is named, an activation.

    Odd kernels are padded so that only the stride changes the size.
    """
    conv: nn.Conv2d
    if kernel == 1 and groups == 1:
        conv = PointwiseConv(in_channels, channels, 1, stride, bias=False)
    else:
        conv = nn.Conv2d(
            in_channels, channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False
        )
    norm = BatchNorm(channels)
    return (
        nn.Sequential(conv, norm) if activation is None else nn.Sequential(conv, norm, activation())
    )


class ResidualBlock(FoldsNorms):
    """Two 3x3 convolutions and a shortcut (He et al. 2016).

    A stride above 1 or a change of width makes the shortcut a 1x1 convolution. Without
    ``final_relu`` the sum leaves unrectified; ``bias`` is that of the convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        final_relu: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=bias)
        self.norm1: nn.Module = BatchNorm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.norm2: nn.Module = BatchNorm(channels)
        self.relu = nn.ReLU()
        self.final_relu = nn.ReLU() if final_relu else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                PointwiseConv(in_channels, channels, 1, stride, bias=bias), BatchNorm(channels)
            )

    def forward(self, x: Float[Tensor, "n c_in h_in w_in"]) -> Float[Tensor, "n c h w"]:
        """Return shortcut + residual."""
        residual = self.relu(self.norm1(self.conv1(x)))
        residual = self.norm2(self.conv2(residual))
        y: Tensor = self.final_relu(residual + self.shortcut(x))
        return y

    def fold_norms(self) -> None:
        """Fold both norms; the shortcut is a sequence."""
        self.conv1, self.norm1 = fold(self.conv1, self.norm1)
        self.conv2, self.norm2 = fold(self.conv2, self.norm2)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, the last to ``expansion`` times the width, and a shortcut.

    A stride above 1 or a change of width makes the shortcut a 1x1 convolution. There are no biases.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        expansion: int = 2,
        stride: int = 1,
        final_relu: bool = False,
    ) -> None:
        super().__init__()
        out_channels = expansion * channels
        self.residual = nn.Sequential(
            *conv_norm(in_channels, channels, 1),
            nn.ReLU(),
            *conv_norm(channels, channels, 3, stride),
            nn.ReLU(),
            *conv_norm(channels, out_channels, 1),
        )
        self.final_relu = nn.ReLU() if final_relu else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = conv_norm(in_channels, out_channels, 1, stride)

    def forward(self, x: Float[Tensor, "n c_in h_in w_in"]) -> Float[Tensor, "n c h w"]:
        """Return shortcut + residual."""
        y: Tensor = self.final_relu(self.residual(x) + self.shortcut(x))
        return y


def strided_stem(channels: int) -> nn.Sequential:
    """Build two 3x3 convolutions of stride 2, with biases, each with its norm and a ReLU."""
    modules: list[nn.Module] = []
    for in_channels in (3, channels):
        conv = nn.Conv2d(in_channels, channels, 3, 2, padding=1)
        modules += [conv, BatchNorm(channels), nn.ReLU()]
    return nn.Sequential(*modules)


def residual_pair(in_channels: int, channels: int, stride: int = 1) -> nn.Sequential:
    """Build two blocks without biases; the second has no final ReLU."""
    return nn.Sequential(
        ResidualBlock(in_channels, channels, stride, bias=False),
        ResidualBlock(channels, channels, final_relu=False, bias=False),
    )


def adaptive_average(x: Float[Tensor, "n c h w"], side: int) -> Float[Tensor, "n c s s"]:
    """Return the means of ``side`` x ``side`` regions, as :func:`F.adaptive_avg_pool2d`.

    Written as two products, because exporters write PyTorch's as one addition for every pixel of a
    region where sides do not divide: AFFormer's file then takes minutes.
    """
    rows, columns = (_regions(length, side, x) for length in x.shape[2:])
    return rows @ x @ columns.mT


def _regions(length: int, side: int, like: Tensor) -> Float[Tensor, "s l"]:
    """Return the weight of each place in the mean of each region."""
    numbers = torch.arange(side, device=like.device)[:, None]
    first, end = numbers * length // side, ((numbers + 1) * length + side - 1) // side
    places = torch.arange(length, device=like.device)
    inside = (places >= first) & (places < end)
    return inside.to(like.dtype) / (end - first).to(like.dtype)


def normalised_pixels(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Normalise every pixel over its channels, without learned scale and shift."""
    channels = (x.shape[1],)
    return F.layer_norm(x.permute(0, 2, 3, 1), channels, eps=1e-6).permute(0, 3, 1, 2)


def resize(x: Float[Tensor, "n c h_in w_in"], size: tuple[int, int]) -> Float[Tensor, "n c h w"]:
    """Resize maps to (height, width), bilinear with align_corners=False as everywhere here."""
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def initialise_convolutions(network: nn.Module) -> None:
    """Draw the weights of every convolution: Kaiming normal (fan-out, ReLU), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            # PyTorch's own helper forgets the groups of depthwise ones.
            fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
