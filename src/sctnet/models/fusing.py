"""Folding batch norms into the convolutions beside them, for inference."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sctnet.models.layers import ResidualBlock
from sctnet.models.msca import MSCABlock

if TYPE_CHECKING:
    from sctnet.models.sctnet import SCTNet

Network = TypeVar("Network", bound="SCTNet")


def fuse(network: SCTNet) -> SCTNet:
    """Return a copy for inference, its batch norms folded into convolutions where that is exact.

    A norm goes into the convolution *before* it where it is its only reader: in the stem, the
    residual blocks and their shortcuts, the stride-2 convolution of stage 4 and the second norm of
    the head. It goes into the convolution *after* it where nothing stands between them and nothing
    is padded: the feed-forward norm of the MSCA block. The others stay: in the DAPPM and the head a
    ReLU stands between; in the CFBlock and the feed-forward network of GFA there is zero padding,
    which the norm would move away from zero at the borders; the attention norm of MSCA has two
    readers, that of GFA stands before learned vectors. Fusing twice changes nothing.
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
        elif isinstance(module, MSCABlock):
            expand = module.feed_forward.expand
            module.feed_forward_norm, module.feed_forward.expand = _fold_before(
                module.feed_forward_norm, expand
            )
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


def _fold_before(norm: nn.Module, conv: nn.Conv2d) -> tuple[nn.Module, nn.Conv2d]:
    """Fold a norm into the 1x1 convolution after it: W (s x + t) + b = (W s) x + (W t + b)."""
    if not isinstance(norm, nn.BatchNorm2d):
        return norm, conv
    assert norm.running_var is not None
    assert norm.running_mean is not None
    folded = copy.deepcopy(conv)
    assert folded.bias is not None
    scale = norm.weight.data / torch.sqrt(norm.running_var + norm.eps)
    shift = norm.bias.data - norm.running_mean * scale
    folded.bias.data += conv.weight.data.flatten(1) @ shift
    folded.weight.data *= scale[:, None, None]
    return nn.Identity(), folded
