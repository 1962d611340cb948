"""What a student's map is told by a teacher's: the losses of Table 9(a) as pure functions.

Both maps have the same shape; :func:`at_larger_size` sees to height and width, a projection to the
channels. Everything is computed in float32 at least: a softmax over a whole map is far below what
half precision resolves.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sctnet.models.layers import resize


def at_larger_size(
    student: Float[Tensor, "n _ hs ws"], teacher: Float[Tensor, "n _ ht wt"]
) -> tuple[Float[Tensor, "n _ h w"], Float[Tensor, "n _ h w"]]:
    """Resize maps (bilinear) to the larger height and width of the two."""
    height = max(student.shape[2], teacher.shape[2])
    width = max(student.shape[3], teacher.shape[3])
    first, second = (
        x if x.shape[2:] == (height, width) else resize(x, (height, width))
        for x in (student, teacher)
    )
    return first, second


def channel_wise_divergence(
    student: Float[Tensor, "n c h w"], teacher: Float[Tensor, "n c h w"], temperature: float = 4.0
) -> Float[Tensor, ""]:
    """Return the channel-wise distillation loss (CWD, Shu et al. 2021; equation 4).

    With p = softmax(x / T) over H x W of every (image, channel),
    T² / (N C) * sum p_teacher log(p_teacher / p_student).
    """
    n, c = student.shape[:2]
    return _divergence(student, teacher, temperature, "pixels") / (n * c)


def pixel_wise_divergence(
    student: Float[Tensor, "n c h w"], teacher: Float[Tensor, "n c h w"], temperature: float = 4.0
) -> Float[Tensor, ""]:
    """Return the divergence of the distributions over the channels (KL, Hinton et al. 2015).

    With p = softmax(x / T) over the C channels of every pixel,
    T² / (N H W) * sum p_teacher log(p_teacher / p_student).
    """
    pixels = student.shape[0] * student.shape[2] * student.shape[3]
    return _divergence(student, teacher, temperature, "channels") / pixels


def squared_distance(
    student: Float[Tensor, "n c h w"], teacher: Float[Tensor, "n c h w"]
) -> Float[Tensor, ""]:
    """Return the mean of (student - teacher)² (L2)."""
    return F.mse_loss(_precise(student), _precise(teacher))


def mutual_information_bound(
    student: Float[Tensor, "n c h w"],
    teacher: Float[Tensor, "n c h w"],
    raw_variance: Float[Tensor, " c"],
) -> Float[Tensor, ""]:
    """Return the variational bound of the mutual information, negated (VID, Ahn et al. 2019).

    With a learned variance v = log(1 + exp(raw_variance)) + 1e-6 for each channel, the mean of
    log(v) / 2 + (teacher - student)² / (2 v): what the student leaves open of the teacher, in nats,
    up to a constant. It may be negative.
    """
    variance = (F.softplus(_precise(raw_variance)) + 1e-6)[:, None, None]
    squares = (_precise(teacher) - _precise(student)).square()
    return (variance.log() + squares / variance).mean() / 2


class Targets(NamedTuple):
    """What a teacher says of every pixel; a row a pixel class, at one size."""

    logits: Float[Tensor, "n k h w"]
    labels: Int[Tensor, "n h w"]
    weights: Float[Tensor, "n h w"]
    """0 to 1: how much the pixel weighs."""


@torch.no_grad()
def targets(
    logits: Float[Tensor, "n k h w"],
    dropped: Float[Tensor, "n 1 h w"] | None,
    by_margin: bool,
) -> Targets:
    """Return the targets that a teacher's logits make.

    With p = softmax over the classes, a pixel weighs p(best) - p(next) if ``by_margin``, else 1,
    times the probability that it is none of the ``dropped`` classes (their logits together).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    best, following = logits.softmax(1).topk(2, dim=1).values.unbind(1)
    weights = best - following if by_margin else torch.ones_like(best)
    if dropped is not None:
        known = logits.logsumexp(1) - dropped[:, 0]
        weights = weights * known.sigmoid()
    return Targets(logits, logits.argmax(1), weights)


def soft_divergence(
    student: Float[Tensor, "n k h w"],
    teacher: Targets,
    temperature: float,
    class_weights: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """Return the divergence from the teacher's probabilities, summed over the weighted pixels.

    With p = softmax(x / T) and class weights v (1 without),
    T² * sum over pixels of w * sum over classes of v p_teacher log(p_teacher / p_student).
    """
    with torch.autocast(student.device.type, enabled=False):
        told, own = (
            _log_probabilities(each.to(teacher.logits.dtype) / temperature)
            for each in (teacher.logits, student)
        )
        terms = told.exp() * (told - own)
        if class_weights is not None:
            terms = terms * class_weights[:, None, None]
        return temperature**2 * (terms.sum(1) * teacher.weights).sum()


def _log_probabilities(logits: Float[Tensor, "n k h w"]) -> Float[Tensor, "n k h w"]:
    """Return the logarithm of the softmax over the classes."""
    return logits.log_softmax(1)


def hard_cross_entropy(
    student: Float[Tensor, "n k h w"],
    teacher: Targets,
    class_weights: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """Return the cross-entropy with the teacher's labels, summed over the weighted pixels."""
    losses = F.cross_entropy(student.float(), teacher.labels, class_weights, reduction="none")
    return (losses * teacher.weights).sum()


def _divergence(
    student: Float[Tensor, "n c h w"], teacher: Float[Tensor, "n c h w"], t: float, over: str
) -> Float[Tensor, ""]:
    """Return T² times the sum of KL(teacher || student), each over the channels or the pixels."""
    divergence: Tensor = _Divergence.apply(student, teacher, t, over)  # type: ignore[no-untyped-call]
    return divergence * t**2


_VALUES_IN_CACHE = 2**17
"""How much of a map a processor goes through at once, so that its cache holds it."""
_VALUES_ON_A_GPU = 2**25


class _Divergence(torch.autograd.Function):
    """The sum of KL(teacher || student) of softmaxes, beside whose maps nothing large is stored.

    They are gone through part by part: once for the sums and once for the gradient, which is
    (p_student - p_teacher) / T and follows from maps and sums. None flows to the teacher.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, t: float, over: str) -> Tensor:
        pixels_first = student.is_contiguous(memory_format=torch.channels_last)
        maps = [_as_stored(x, pixels_first) for x in (student, teacher)]
        axis = 1 if pixels_first == (over == "pixels") else 2
        # Exponents are x / T less the largest.
        shifts = [_precise(x.amax(axis, keepdim=True)) / t for x in maps]
        cross, *totals = (torch.zeros_like(shifts[0]) for _ in range(3))
        for part, sums in _parts(maps[0], axis):
            ours, theirs = _exponents(maps, shifts, t, part, sums)
            exponentials = theirs.exp()
            cross[sums] += theirs.sub_(ours).mul_(exponentials).sum(axis - 1, keepdim=True)
            totals[0][sums] += ours.exp_().sum(axis - 1, keepdim=True)
            totals[1][sums] += exponentials.sum(axis - 1, keepdim=True)
        shifts = [shift + total.log() for shift, total in zip(shifts, totals, strict=True)]
        ctx.save_for_backward(*maps, *shifts)
        ctx.t, ctx.axis, ctx.pixels_first, ctx.size = t, axis, pixels_first, student.shape[2:]
        return (cross / totals[1] + (totals[0] / totals[1]).log()).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        *maps, ours, theirs = ctx.saved_tensors
        result = torch.empty_like(maps[0])
        for part, sums in _parts(result, ctx.axis):
            first, second = _exponents(maps, (ours, theirs), ctx.t, part, sums)
            difference = first.exp_().sub_(second.exp_())
            torch.mul(difference, gradient / ctx.t, out=result[part])
        n, rows, columns = result.shape
        if ctx.pixels_first:
            return result.view(n, *ctx.size, columns).permute(0, 3, 1, 2), None, None, None
        return result.view(n, rows, *ctx.size), None, None, None


_Place = tuple[int, slice]


def _as_stored(x: Float[Tensor, "n c h w"], pixels_first: bool) -> Float[Tensor, "n rows columns"]:
    """Return n x (h w) x c or n x c x (h w), a view where the map is stored so."""
    if pixels_first:
        x = x.contiguous(memory_format=torch.channels_last)
        return x.permute(0, 2, 3, 1).flatten(1, 2)
    return x.contiguous().flatten(2)


def _parts(x: Float[Tensor, "n rows columns"], axis: int) -> Iterator[tuple[_Place, _Place]]:
    """Yield the places of parts of a map, and of their sums over an axis (1 or 2)."""
    values = _VALUES_IN_CACHE if x.device.type == "cpu" else _VALUES_ON_A_GPU
    step = max(1, values // x.shape[2])
    for picture in range(x.shape[0]):
        for first in range(0, x.shape[1], step):
            rows = slice(first, first + step)
            yield (picture, rows), (picture, slice(None) if axis == 1 else rows)


def _exponents(
    maps: Sequence[Tensor], shifts: Sequence[Tensor], t: float, part: _Place, sums: _Place
) -> list[Tensor]:
    return [
        torch.add(-shift[sums], x[part], alpha=1 / t) for x, shift in zip(maps, shifts, strict=True)
    ]


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
