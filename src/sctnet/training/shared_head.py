"""The student's feature in the teacher's head, without the large maps that the formula names.

From the student's decoder input x to the rectifier of the teacher's head everything is linear once
the statistics are known: expansion (W1 x + b1), resize, scale alignment and fusion (Wf y + bf). A
bilinear resize is a matrix for the rows and one for the columns, commutes with 1x1 convolutions
and keeps constants. So, with u = resize(x), the expansion's statistics are W1 mean(u) + b1 and
diag(W1 Cov(u) W1^T), and one matrix Wf diag(std_teacher / std_student) W1 takes the place of all
three convolutions, at the student's own stride.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.layers import resize
from sctnet.models.pyramid import Fusion

Size = tuple[int, int]


class Moments(NamedTuple):
    """What the mean and std of each channel follow from, over any pictures of one size.

    ``deviations`` are the sums of the squared deviations from the picture's own ``mean``.
    """

    mean: Float[Tensor, "n c"]
    deviations: Float[Tensor, "n c"]
    size: Size

    def of_batch(self) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
        """Return mean and unbiased std over N x H x W."""
        pixels = self.size[0] * self.size[1]
        mean = self.mean.mean(0)
        between = (self.mean - mean).square().sum(0) * pixels
        return mean, ((self.deviations.sum(0) + between) / (len(self.mean) * pixels - 1)).sqrt()


def moments(x: Float[Tensor, "n c h_in w_in"], size: Size) -> Moments:
    """Return the moments of ``resize(x, size)``, which is not made; in float32 at least."""
    with torch.autocast(x.device.type, enabled=False):
        x = _precise(x)
        mean = _mean_of_resized(x, size)
        centred = x - mean[:, :, None, None]
        deviations = (centred * _between_pixels(centred, size)).sum((2, 3))
    return Moments(mean, deviations, size)


def larger(first: Size, second: Size) -> Size:
    """Return the larger height and the larger width."""
    return max(first[0], second[0]), max(first[1], second[1])


def through_folded_head(
    x: Float[Tensor, "n c h w"], expansion: nn.Conv2d, fusion: Fusion, teacher: Moments
) -> tuple[Float[Tensor, "n cf ht wt"], Float[Tensor, "n k ht wt"]]:
    """Return decoder feature and logits of a student's decoder input, at the teacher's size.

    Equal, up to rounding, to expanding it, resizing it, giving it the teacher's statistics
    (:func:`sctnet.training.alignment.scale_alignment`) and sending it through the teacher's head.
    """
    weight, bias = _folded(x, expansion, fusion, teacher)
    fused = resize(F.conv2d(x, weight[:, :, None, None], bias), teacher.size)
    feature = F.relu(fused, inplace=True)  # the gradient of the resize does not read its result
    return feature, fusion.classifier(feature)


def _folded(
    x: Float[Tensor, "n c h w"], expansion: nn.Conv2d, fusion: Fusion, teacher: Moments
) -> tuple[Float[Tensor, "cf c"], Float[Tensor, " cf"]]:
    """Return the one matrix and its bias that stand for expansion, alignment and fusion."""
    with torch.autocast(x.device.type, enabled=False):
        x, expand, fuse = (
            _precise(x),
            _precise(expansion.weight.flatten(1)),
            _precise(fusion.weight),
        )
        assert expansion.bias is not None
        resized = _mean_of_resized(x, teacher.size).mean(0)
        mean = expand @ resized + expansion.bias
        variance = ((expand @ _covariance(x, resized, teacher.size)) * expand).sum(1)
        teacher_mean, teacher_std = teacher.of_batch()
        ratio = teacher_std / (_std(variance) + 1e-6)
        weight = (fuse * ratio) @ expand
        bias = fuse @ ((expansion.bias - mean) * ratio + teacher_mean) + fusion.bias
    return weight, bias


def _covariance(
    x: Float[Tensor, "n c h w"], mean: Float[Tensor, " c"], size: Size
) -> Float[Tensor, "c c"]:
    """Return the unbiased covariances of the channels of ``resize(x, size)`` over N x H x W."""
    centred = x - mean[:, None, None]
    between = _between_pixels(centred, size)
    pixels = len(x) * size[0] * size[1]
    first, second = (maps.transpose(0, 1).flatten(1) for maps in (centred, between))
    return first @ second.T / (pixels - 1)


def _std(variance: Float[Tensor, " c"]) -> Float[Tensor, " c"]:
    """Return the root, and no gradient where a channel is constant, as ``torch.std`` has it."""
    varies = variance > 0
    return torch.where(varies, torch.where(varies, variance, 1).sqrt(), 0)


def _mean_of_resized(x: Float[Tensor, "n c h w"], size: Size) -> Float[Tensor, "n c"]:
    rows, columns = (
        _resizing(inside, outside, x).mean(0)
        for inside, outside in zip(x.shape[2:], size, strict=True)
    )
    return (x @ columns) @ rows


def _between_pixels(x: Float[Tensor, "n c h w"], size: Size) -> Float[Tensor, "n c h w"]:
    """Return y with sum(x' y) = sum(resize(x') resize(x)) over the pixels, for maps x' like x."""
    if x.shape[2:] == size:
        return x
    rows, columns = (
        _resizing(inside, outside, x) for inside, outside in zip(x.shape[2:], size, strict=True)
    )
    return (rows.T @ rows) @ x @ (columns.T @ columns)


def _resizing(inside: int, outside: int, like: Tensor) -> Float[Tensor, "outside inside"]:
    """Return the matrix by which a bilinear resize maps a row or a column."""
    units = torch.eye(inside, dtype=like.dtype, device=like.device)
    return F.interpolate(units[None], outside, mode="linear", align_corners=False)[0].T


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
