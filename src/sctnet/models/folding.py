"""Folding batch norms into the convolutions beside them, for inference.

A norm is folded into the convolution *before* it where nothing else reads that convolution, and
into the 1x1 convolution *after* it where nothing stands between them. It stays where a ReLU stands
between (DAPPM, first norm of the head), and before a convolution with zero padding (CFBlock), whose
border it would move away from zero.
"""

import copy
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)

_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)  # the latter where several GPUs train


class FoldsNorms(nn.Module, ABC):
    """A block with norms to fold that do not stand in a sequence."""

    @abstractmethod
    def fold_norms(self) -> None:
        """Fold this block's norms into its convolutions, where that changes nothing but rounding.

        Folding twice changes nothing. Sequences inside the block are folded without it.
        """


def folded_copy(network: Network) -> Network:
    """Return a copy in eval mode with the norms of all sequences and blocks folded."""
    folded = copy.deepcopy(network).eval()
    for module in list(folded.modules()):
        if isinstance(module, nn.Sequential):
            _fold_sequential(module)
        elif isinstance(module, FoldsNorms):
            module.fold_norms()
    return folded


def is_folded(network: nn.Module) -> bool:
    """Say whether no norm follows a convolution directly in any sequence."""
    return not any(
        isinstance(first, nn.Conv2d) and isinstance(second, _NORMS)
        for module in network.modules()
        if isinstance(module, nn.Sequential)
        for first, second in pairwise(module)
    )


def fold(conv: nn.Conv2d, norm: nn.Module) -> tuple[nn.Conv2d, nn.Module]:
    """Fold a norm into the convolution before it; anything but a batch norm stays."""
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


def _fold_sequential(modules: nn.Sequential) -> None:
    for index in range(len(modules) - 1):
        first, second = modules[index], modules[index + 1]
        if isinstance(first, nn.Conv2d) and isinstance(second, _NORMS):
            modules[index], modules[index + 1] = fold(first, second)
