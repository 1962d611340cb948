"""Resizing a picture in a graph that every runtime computes alike.

``Resize`` itself will not do: OpenVINO's ONNX reader ignores its anti-aliasing (measured: errors of
up to 149 grey levels), TensorRT refuses it, and ONNX Runtime derives positions from an inverted
scale. But a bilinear resize is a product with one banded matrix for each axis.
Cut into blocks of rows, which read few neighbouring inputs each, that is a gather and a batched
product of small matrices, made of operators that all runtimes have. Beside PyTorch's own it is
equal to 1e-4 grey levels (without anti-aliasing to 0.03 on noise of thousands of pixels, because
PyTorch fuses a multiplication with an addition there), in about twice the time.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sctnet.preparation import Side

BLOCK = 8
"""Outputs computed together. More would multiply by more zeros, fewer would gather more inputs."""


def resized(
    pictures: Float[Tensor, "n h w c"], size: tuple[Side, Side], antialias: bool
) -> Float[Tensor, "n c hw ww"]:
    """Resize to (height, width) and put the channels first.

    Equal to ``F.interpolate(..., mode="bilinear", align_corners=False)`` of the same pictures with
    their channels first, up to rounding; sizes may be symbols.
    """
    n, height, width, channels = pictures.shape
    rows = _along_first_axis(pictures.reshape(n, height, width * channels), size[0], antialias)
    turned = rows.reshape(n, size[0], width, channels).permute(0, 2, 3, 1)
    columns = _along_first_axis(turned.reshape(n, width, channels * size[0]), size[1], antialias)
    return columns.reshape(n, size[1], channels, size[0]).permute(0, 2, 3, 1)


def _along_first_axis(
    x: Float[Tensor, "n l c"], length: Side, antialias: bool
) -> Float[Tensor, "n lw c"]:
    """Resize the axis behind the batch."""
    n, _, columns = x.shape
    index, weights = _bands(x.shape[1], length, antialias)
    blocks, reach = index.shape
    gathered = x.index_select(1, index.flatten()).reshape(n, blocks, reach, columns)
    return (weights @ gathered).reshape(n, blocks * BLOCK, columns)[:, :length]


def _bands(
    inputs: Side, outputs: Side, antialias: bool
) -> tuple[Int[Tensor, "b r"], Float[Tensor, "b o r"]]:
    """Return which inputs each block of outputs reads, and how it weighs them.

    In float32 and in the order of PyTorch's own computation, so that positions round alike.
    """
    blocks = (outputs + BLOCK - 1) // BLOCK
    support = (inputs + outputs - 1) // outputs if antialias else 1
    reach = ((BLOCK - 1) * inputs + outputs - 1) // outputs + 2 * support + 2
    scale = torch.scalar_tensor(inputs, dtype=torch.float32) / outputs
    width = scale.clamp(min=1) if antialias else torch.ones_like(scale)
    # In units of inputs, of which number i has its middle at i + 0.5.
    centres = scale * (torch.arange(blocks * BLOCK, dtype=torch.float32) + 0.5)
    if not antialias:
        centres = (centres - 0.5).clamp(min=0) + 0.5
    centres = centres.reshape(blocks, BLOCK)
    first = (centres[:, :1] - width - 0.5).floor()
    index = first + torch.arange(reach, dtype=torch.float32)
    distances = index[:, None, :] - centres[:, :, None] + 0.5
    weights = (1 - (distances * (1 / width)).abs()).clamp(min=0)
    if antialias:  # what lies outside does not count; without it, the border is repeated
        weights = weights * ((index >= 0) & (index < inputs))[:, None, :]
        weights = weights / weights.sum(2, keepdim=True).clamp(min=1e-9)
    return index.clamp(min=0).clamp(max=inputs - 1).to(torch.int64), weights
