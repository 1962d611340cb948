"""Folding batch norms into the convolutions beside them, for inference."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sctnet.models.layers import ResidualBlock
from sctnet.models.msca import MSCABlock

if TYPE_CHECKING:
    from sctnet.models.sctnet import SCTNet, SegmentationHead

Network = TypeVar("Network", bound=nn.Module)

_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)  # the latter where several GPUs train


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
    fused = folded_copy(network)
    fused.config = network.config.model_copy(update={"auxiliary_head": False})
    fused.auxiliary_head = None
    fold_head(fused.head)
    for module in fused.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True  # nobody else reads what it rectifies
    return fused


def is_fused(network: nn.Module) -> bool:
    """Say whether no norm stands right behind a convolution of a sequence any more."""
    return not any(
        isinstance(first, nn.Conv2d) and isinstance(second, _NORMS)
        for module in network.modules()
        if isinstance(module, nn.Sequential)
        for first, second in pairwise(module)
    )


def folded_copy(network: Network) -> Network:
    """Return a copy in eval mode; in sequences and blocks of whatever network, norms are folded."""
    folded = copy.deepcopy(network).eval()
    for module in list(folded.modules()):
        if isinstance(module, nn.Sequential):
            fold_sequential(module)
        elif isinstance(module, ResidualBlock):
            module.conv1, module.norm1 = fold(module.conv1, module.norm1)
            module.conv2, module.norm2 = fold(module.conv2, module.norm2)
        elif isinstance(module, MSCABlock):
            expand = module.feed_forward.expand
            module.feed_forward_norm, module.feed_forward.expand = fold_before(
                module.feed_forward_norm, expand
            )
    return folded


def fold_head(head: SegmentationHead) -> None:
    """Fold the second norm; a ReLU keeps the first."""
    head.conv, head.norm2 = fold(head.conv, head.norm2)


def fold_sequential(modules: nn.Sequential) -> None:
    """Fold every norm that follows a convolution."""
    for index in range(len(modules) - 1):
        first, second = modules[index], modules[index + 1]
        if isinstance(first, nn.Conv2d) and isinstance(second, _NORMS):
            modules[index], modules[index + 1] = fold(first, second)


def fold(conv: nn.Conv2d, norm: nn.Module) -> tuple[nn.Conv2d, nn.Module]:
    """Fold a norm into the convolution before it; what is no batch norm stays."""
    if not isinstance(norm, _NORMS):
        return conv, norm
    return fuse_conv_bn_eval(conv, norm), nn.Identity()


def fold_before(norm: nn.Module, conv: nn.Conv2d) -> tuple[nn.Module, nn.Conv2d]:
    """Fold a norm into the 1x1 convolution after it: W (s x + t) + b = (W s) x + (W t + b)."""
    if not isinstance(norm, _NORMS):
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
