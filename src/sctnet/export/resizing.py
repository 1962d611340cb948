"""Resizing in a graph, with the same result in every runtime.

``Resize`` itself will not do: OpenVINO's ONNX reader ignores its anti-aliasing (measured: errors of
up to 149 grey levels), TensorRT refuses it, and ONNX Runtime derives positions from an inverted
scale. But a bilinear resize is a product with one banded matrix for each axis. Cut into blocks of
rows, which read few neighbouring inputs each, that is a gather and a batched product of small
matrices, made of operators that all runtimes have, in about twice the time of PyTorch's own.

Places are whole numbers, so that a runtime that computes in bfloat16 cannot spoil them (measured:
29 % of the labels were wrong then). PyTorch rounds them to float32, and differs by less than 0.1
grey levels on noise of thousands of pixels.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sctnet.pipeline.preprocessing import Length

BLOCK = 8
"""Outputs computed together. More would multiply by more zeros, fewer would gather more inputs."""


def resize_pictures(
    pictures: Float[Tensor, "n h w c"], size: tuple[Length, Length], antialias: bool
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
    x: Float[Tensor, "n l c"], length: Length, antialias: bool
) -> Float[Tensor, "n lw c"]:
    """Resize the axis behind the batch."""
    n, _, columns = x.shape
    index, weights = _bands(x.shape[1], length, antialias)
    blocks, reach = index.shape
    gathered = x.index_select(1, index.flatten()).reshape(n, blocks, reach, columns)
    return (weights @ gathered).reshape(n, blocks * BLOCK, columns)[:, :length]


def _bands(
    inputs: Length, outputs: Length, antialias: bool
) -> tuple[Int[Tensor, "b r"], Float[Tensor, "b o r"]]:
    """Return which inputs each block of outputs reads, and how it weighs them.

    A weight falls evenly from 1 at the output's place to 0 where the next output, or without
    anti-aliasing the next input, has its own.
    """
    # Places are in units of 1 / (2 outputs) of an input, which makes them whole numbers.
    blocks = (outputs + BLOCK - 1) // BLOCK
    places = (2 * torch.arange(blocks * BLOCK) + 1) * inputs
    if not antialias:
        border = torch.scalar_tensor(outputs, dtype=torch.int64)
        places = places.maximum(border)  # which is repeated
    places = places.reshape(blocks, BLOCK)
    support = (inputs + outputs - 1) // outputs if antialias else 1  # in inputs, rounded up
    # The fall's length: the larger of the two distances, as both numbers are at most this.
    fall = 2 * torch.sym_max(inputs, outputs) if antialias else 2 * outputs  # type: ignore[no-untyped-call]
    reach = ((BLOCK - 1) * inputs + outputs - 1) // outputs + 2 * support + 2
    # Kept above 0 while it is divided: runtimes round negative quotients differently.
    lowest = places[:, :1] - fall - outputs + 2 * outputs * (support + 1)
    first = lowest // (2 * outputs) - (support + 1)
    index = first + torch.arange(reach)
    distances = ((2 * index + 1) * outputs)[:, None, :] - places[:, :, None]
    weights = (1 - distances.abs().float() / fall).clamp(min=0)
    if antialias:  # what lies outside does not count
        weights = weights * ((index >= 0) & (index < inputs))[:, None, :]
        weights = weights / weights.sum(2, keepdim=True).clamp(min=1e-9)
    # Not clamp: TensorRT does that to floating-point numbers only.
    inside = index.maximum(torch.scalar_tensor(0, dtype=torch.int64))
    return inside.minimum(torch.scalar_tensor(inputs - 1, dtype=torch.int64)), weights
