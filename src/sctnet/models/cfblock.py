"""The Conv-Former block (Figure 4): a transformer block made of convolutions alone."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.block_configuration import BlockConfig
from sctnet.models.layers import BatchNorm, DropPath

_KERNEL_SHAPES: dict[str, tuple[tuple[int, int], ...]] = {
    # Height x width; the order of a pair is the released code's (vertical first).
    "1x1": ((1, 1),),
    "1x1+1x1": ((1, 1), (1, 1)),
    "1x3+3x1": ((3, 1), (1, 3)),
    "1x5+5x1": ((5, 1), (1, 5)),
    "1x7+7x1": ((7, 1), (1, 7)),
    "1x9+9x1": ((9, 1), (1, 9)),
    "7x7": ((7, 7),),
}


def grouped_double_normalisation(
    similarity: Float[Tensor, "n k h w"], groups: int, norm: str = "l1"
) -> Float[Tensor, "n k h w"]:
    """Normalise similarity maps twice: theta of equation 2.

    First a softmax over H x W within each map; then each pixel is divided by the norm of its
    values over the maps of its group (consecutive maps), plus 1e-6. The released code divides by
    their sum ("l1"), the paper's text says "l2". Computed in float32 at least: over a large map
    the softmax is far below what half precision resolves.
    """
    n, k, h, w = similarity.shape
    dtype = torch.promote_types(similarity.dtype, torch.float32)
    attention = similarity.flatten(2).softmax(dim=2, dtype=dtype).view(n, groups, k // groups, h, w)
    if norm == "l1":
        total = attention.sum(dim=2, keepdim=True)
    else:
        # Not the root of a sum of squares: its gradient is NaN where all maps are 0.
        total = torch.linalg.vector_norm(attention, dim=2, keepdim=True)
    return (attention / (total + 1e-6)).view(n, k, h, w).to(similarity.dtype)


class GroupedDoubleNormalisation(nn.Module):
    """:func:`grouped_double_normalisation` of ``kernels`` maps, as a part with a name."""

    def __init__(self, kernels: int, groups: int, norm: str) -> None:
        super().__init__()
        self.kernels, self.groups, self.norm = kernels, groups, norm

    def forward(self, similarity: Float[Tensor, "n k h w"]) -> Float[Tensor, "n k h w"]:
        """Normalise similarity maps twice."""
        return grouped_double_normalisation(similarity, self.groups, self.norm)


def small_random(*shape: int, std: float) -> nn.Parameter:
    """Return a parameter drawn from a truncated normal distribution; zeros where ``std`` is 0.

    By default it is small but not zero: equal kernels receive equal gradients and stay equal.
    """
    parameter = nn.Parameter(torch.zeros(shape))
    if std > 0:  # PyTorch divides by it
        nn.init.trunc_normal_(parameter, std=std)
    return parameter


class KernelAttention(nn.Module):
    """Attention to learned kernels by two convolutions with the same parameter (equation 2).

    The first measures how similar each patch is to each of the N kernels, the second mixes the
    kernels back with the normalised similarities. The second uses the kernels with their first
    two axes swapped; it is not a transposed convolution, the kernels are not flipped.
    """

    def __init__(self, channels: int, shape: tuple[int, int], config: BlockConfig) -> None:
        super().__init__()
        self.kernels = small_random(
            config.attention_kernels, channels, *shape, std=config.attention_init_std
        )
        self.padding = (shape[0] // 2, shape[1] // 2)
        self.normalisation: nn.Module = GroupedDoubleNormalisation(
            config.attention_kernels, config.attention_groups, config.attention_norm
        )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Attend to the kernels at every pixel."""
        similarity = F.conv2d(x, self.kernels, padding=self.padding)
        attention = self.normalisation(similarity)
        return F.conv2d(attention, self.kernels.transpose(0, 1), padding=self.padding)


class ConvolutionalAttention(nn.Module):
    """The sum of kernel attentions with stripes of different direction."""

    def __init__(self, channels: int, config: BlockConfig) -> None:
        super().__init__()
        self.stripes = nn.ModuleList(
            KernelAttention(channels, shape, config)
            for shape in _KERNEL_SHAPES[config.attention_kernel]
        )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return the summed attention of all stripes."""
        attended: Tensor = self.stripes[0](x)
        for stripe in self.stripes[1:]:
            attended = attended + stripe(x)
        return attended


class FeedForward(nn.Module):
    """Two 3x3 convolutions of the same width around a GELU (erf)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Mix channels and neighbours."""
        y: Tensor = self.conv2(F.gelu(self.conv1(x)))
        return y


class TransformerBlock(nn.Module):
    """Two residual branches, attention and feed-forward, each with a batch norm.

    Pre-norm, x + branch(norm(x)), is what the released code computes; post-norm,
    norm(x + branch(x)), is equation 1. The second norm's epsilon of 1e-6 is the released one's.
    """

    def __init__(
        self, attention: nn.Module, feed_forward: nn.Module, channels: int, config: BlockConfig
    ) -> None:
        super().__init__()
        self.attention_norm = BatchNorm(channels)
        self.attention = attention
        self.feed_forward_norm = BatchNorm(channels, eps=1e-6)
        self.feed_forward = feed_forward
        self.drop_path = DropPath(config.drop_path)
        self.pre_norm = config.norm_position == "pre"

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Apply both branches."""
        if self.pre_norm:
            x = x + self.drop_path(self.attention(self.attention_norm(x)))
            y: Tensor = x + self.drop_path(self.feed_forward(self.feed_forward_norm(x)))
            return y
        x = self.attention_norm(x + self.drop_path(self.attention(x)))
        y = self.feed_forward_norm(x + self.drop_path(self.feed_forward(x)))
        return y


def cfblock(channels: int, config: BlockConfig) -> TransformerBlock:
    """Build the paper's block: convolutional attention, then the 3x3 feed-forward network."""
    attention = ConvolutionalAttention(channels, config)
    return TransformerBlock(attention, FeedForward(channels), channels, config)
