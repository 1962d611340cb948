"""The GPU-friendly attention block of RTFormer (Wang et al. 2022), a row of Table 4."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.block_configuration import BlockConfig
from sctnet.models.cfblock import (
    FeedForward,
    GroupedDoubleNormalisation,
    TransformerBlock,
    small_random,
)


class GPUFriendlyAttention(nn.Module):
    """External attention with grouped double normalisation: learned keys and values per pixel.

    Keys and values are separate matrices of N vectors, as in RTFormer; the CFBlock enlarged them
    to kernels and shares them.
    """

    def __init__(self, channels: int, config: BlockConfig) -> None:
        super().__init__()
        count, std = config.attention_kernels, config.attention_init_std
        self.keys = small_random(count, channels, 1, 1, std=std)
        self.values = small_random(channels, count, 1, 1, std=std)
        self.normalisation: nn.Module = GroupedDoubleNormalisation(
            count, config.attention_groups, config.attention_norm
        )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Attend to the learned vectors at every pixel."""
        similarity = F.conv2d(x, self.keys)
        return F.conv2d(self.normalisation(similarity), self.values)


def gfa_block(channels: int, config: BlockConfig) -> TransformerBlock:
    """Build RTFormer's block: GPU-friendly attention, then two 3x3 convolutions."""
    return TransformerBlock(
        GPUFriendlyAttention(channels, config), FeedForward(channels), channels, config
    )
