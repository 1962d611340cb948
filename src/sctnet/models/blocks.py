"""The blocks of Table 4; each of them can take the place of SCTNet's CFBlocks."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from sctnet.models.block_configuration import BlockConfig
from sctnet.models.cfblock import cfblock
from sctnet.models.gfa import gfa_block
from sctnet.models.layers import ResidualBlock
from sctnet.models.msca import msca_block
from sctnet.models.segformer_block import SegFormerBlock


class Block(NamedTuple):
    """What SCTNet, its configuration and its runtimes need to know of a block.

    A block whose norms can be folded is a :class:`~sctnet.models.folding.FoldsNorms`.
    """

    build: Callable[[int, BlockConfig], nn.Module]
    """Builds the block for a number of channels. It keeps channels and size."""
    has_post_norm: bool = False
    """Whether the block also exists with ``norm_position: post``."""
    has_cpu_kernel: bool = False
    """Whether ``kernels/`` computes the block; a network with any other runs in PyTorch."""


def _residual(channels: int, _: BlockConfig) -> ResidualBlock:
    return ResidualBlock(channels, channels, final_relu=False)


BLOCKS: dict[str, Block] = {
    "cfblock": Block(cfblock, has_post_norm=True, has_cpu_kernel=True),
    "residual": Block(_residual, has_cpu_kernel=True),
    "segformer": Block(SegFormerBlock),
    "gfa": Block(gfa_block, has_post_norm=True),
    "msca": Block(msca_block),
}
"""By the names that ``stage3_block`` and ``stage4_block`` take."""
