"""What a student's map is told by a teacher's: the losses of Table 9(a) as pure functions.

Both maps have the same shape; :func:`at_larger_size` sees to height and width, a projection to the
channels. Everything is computed in float32 at least: a softmax over a whole map is far below what
half precision resolves.
"""

import torch
from jaxtyping import Float
from torch import Tensor
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
    divergence = _divergence(student.flatten(2), teacher.flatten(2), temperature)
    return divergence / (n * c)


def pixel_wise_divergence(
    student: Float[Tensor, "n c h w"], teacher: Float[Tensor, "n c h w"], temperature: float = 4.0
) -> Float[Tensor, ""]:
    """Return the divergence of the distributions over the channels (KL, Hinton et al. 2015).

    With p = softmax(x / T) over the C channels of every pixel,
    T² / (N H W) * sum p_teacher log(p_teacher / p_student).
    """
    pixels = student.shape[0] * student.shape[2] * student.shape[3]
    divergence = _divergence(student.movedim(1, -1), teacher.movedim(1, -1), temperature)
    return divergence / pixels


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


def _divergence(
    student: Float[Tensor, "*rows values"], teacher: Float[Tensor, "*rows values"], t: float
) -> Float[Tensor, ""]:
    """Return T² times the sum over the rows of KL(teacher || student)."""
    log_student, log_teacher = (
        (_precise(values) / t).log_softmax(dim=-1) for values in (student, teacher)
    )
    return F.kl_div(log_student, log_teacher, reduction="sum", log_target=True) * t**2


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
