"""Cross-entropy on the CPU of logits that are resized to labels, by the compiled library."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from sctnet.kernels.interpolation import interpolation_weights
from sctnet.kernels.library import instruction_set, library
from sctnet.kernels.threads import cores, parts

_SHARE_PIXELS = 20_000  # fewer are sooner done than handed to another thread


def cpu_cross_entropy(
    logits: Float32[Tensor, "n k h w"],
    labels: Int64[Tensor, "n height width"],
    class_weights: Float[Tensor, " k"] | None,
    ignored: int,
) -> Float32[Tensor, ""]:
    """Return the cross-entropy summed over the pixels whose label is not ``ignored``.

    ``F.interpolate`` (bilinear, align_corners=False) to the labels' size, then
    ``F.cross_entropy``, up to rounding; loss and gradient are computed at once, and no map at the
    labels' size is stored. Raises :class:`IndexError` for a label that is no class.
    """
    weights = torch.ones(logits.shape[1]) if class_weights is None else class_weights.float()
    loss: Tensor = _CrossEntropy.apply(logits, labels, weights, ignored)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor, ignored: int) -> Tensor:
        number, _, height, width = logits.shape
        by_pixel = np.ascontiguousarray(logits.permute(0, 2, 3, 1).numpy())
        upper, lower = np.empty_like(by_pixel), np.empty_like(by_pixel)
        losses = np.empty((number, height))
        sides = (
            interpolation_weights((height, labels.shape[1]), 0, labels.shape[1]),
            interpolation_weights((width, labels.shape[2]), 0, labels.shape[2]),
        )
        threads = min(torch.get_num_threads(), cores(), labels.numel() // _SHARE_PIXELS)
        pieces = [
            (image, *piece) for image in range(number) for piece in parts(height, threads, number)
        ]
        kernels, kind = library(), instruction_set()
        assert kernels is not None
        assert kind is not None
        valid = kernels.cross_entropy(
            kind,
            by_pixel,
            labels.contiguous().numpy(),
            weights.contiguous().numpy(),
            ignored,
            sides,
            (upper, lower),
            losses,
            np.array(pieces, np.int64),
            threads,
        )
        if not valid:
            raise IndexError(f"a label is none of the {logits.shape[1]} classes, nor {ignored}")
        upper[:, 1:] += lower[:, :-1]
        # The last row has none below it, and reads itself instead.
        upper[:, -1] += lower[:, -1]
        ctx.save_for_backward(torch.from_numpy(upper).permute(0, 3, 1, 2))
        return torch.tensor(losses.sum(), dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (of_logits,) = ctx.saved_tensors
        return of_logits * gradient, None, None, None
