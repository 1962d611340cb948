"""Folding batch norms into the convolutions before them, for inference."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sctnet.models.layers import ResidualBlock

if TYPE_CHECKING:
    from sctnet.models.sctnet import SCTNet

Network = TypeVar("Network", bound="SCTNet")


def fuse(network: SCTNet) -> SCTNet:
    """Return a copy for inference with every norm folded that can be folded exactly.

    A norm can be folded where it is the only reader of a convolution: in the stem, the residual
    blocks and their shortcuts, the stride-2 convolution of stage 4 and the second norm of the
    head. A norm *before* a convolution cannot: in the DAPPM and the head a ReLU stands between
    them, and in the CFBlock zero padding, which the norm would move away from zero at the borders.
    Fusing twice changes nothing.
    """
    fused = copy.deepcopy(network).eval()
    fused.config = network.config.model_copy(update={"auxiliary_head": False})
    fused.auxiliary_head = None
    for module in list(fused.modules()):
        if isinstance(module, nn.Sequential):
            _fuse_sequential(module)
        elif isinstance(module, ResidualBlock):
            module.conv1, module.norm1 = _fold(module.conv1, module.norm1)
            module.conv2, module.norm2 = _fold(module.conv2, module.norm2)
    fused.head.conv, fused.head.norm2 = _fold(fused.head.conv, fused.head.norm2)
    return fused


def is_fused(network: SCTNet) -> bool:
    """Say whether :func:`fuse` made this network."""
    return isinstance(network.head.norm2, nn.Identity)


def _fuse_sequential(modules: nn.Sequential) -> None:
    for index in range(len(modules) - 1):
        first, second = modules[index], modules[index + 1]
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            modules[index], modules[index + 1] = _fold(first, second)


def _fold(conv: nn.Conv2d, norm: nn.Module) -> tuple[nn.Conv2d, nn.Module]:
    if not isinstance(norm, nn.BatchNorm2d):
        return conv, norm
    return fuse_conv_bn_eval(conv, norm), nn.Identity()
