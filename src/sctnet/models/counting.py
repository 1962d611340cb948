"""Counts parameters and multiply-adds."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Return the number of learned values; buffers are not counted."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_multiply_adds(model: nn.Module, height: int, width: int) -> int:
    """Return the multiply-adds of all convolutions and products of matrices, for one image.

    Taken from the operator calls of one forward pass on the meta device: nothing is computed.
    Biases, norms, activations, pooling and resizing are not counted.
    """
    abstract = copy.deepcopy(model).to("meta").eval()
    _drop_norms(abstract)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        abstract(torch.empty(1, 3, height, width, device="meta"))
    return int(counter.get_total_flops()) // 2


def _drop_norms(model: nn.Module) -> None:
    """Remove the norms: they are not counted, and take half of the time on the meta device."""
    for parent in model.modules():
        for name, module in parent.named_children():
            if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
                setattr(parent, name, nn.Identity())
