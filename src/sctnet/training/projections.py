"""The start of the projections by which a student's maps meet its teacher's."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn

from sctnet.models.layers import resize

_RIDGE = 0.3
"""Of the mean variance of the student's channels. With less, a small batch is learned by heart."""


@torch.no_grad()
def fit_projection(
    projection: nn.Conv2d,
    pairs: Iterable[tuple[Float[Tensor, "n cs hs ws"] | None, Float[Tensor, "n ct ht wt"] | None]],
) -> None:
    """Set a 1x1 convolution to the linear map from the student's values to the teacher's.

    It is the ridge regression over all pixels of the pairs (student, teacher), in all processes
    together; the teacher's maps are resized to the student's. From there the term's gradient tells
    the student what the map cannot explain. A random map of a trained student's stage has values
    far from the teacher's, and its gradient destroys what the student knows.
    """
    inside, outside = projection.in_channels, projection.out_channels
    device = projection.weight.device
    sums = torch.zeros(1 + inside + outside, 1 + inside, dtype=torch.float64, device=device)
    with torch.autocast(device.type, enabled=False):
        for student, teacher in pairs:
            assert student is not None  # both widths are known
            assert teacher is not None
            told = resize(teacher.float(), (student.shape[2], student.shape[3]))
            x, y = (each.double().transpose(0, 1).flatten(1) for each in (student, told))
            x = torch.cat((x.new_ones(1, x.shape[1]), x))
            sums += torch.cat((x, y)) @ x.T
        if distributed.is_initialized():
            distributed.all_reduce(sums)
        means = sums[:, 0] / sums[0, 0]
        covariance = (sums / sums[0, 0] - means[:, None] * means[: 1 + inside])[1:, 1:]
        within, between = covariance[:inside], covariance[inside:]
        ridge = (_RIDGE * within.trace() / inside).clamp(min=torch.finfo(within.dtype).tiny)
        weight = torch.linalg.solve(
            within + ridge * torch.eye(inside, dtype=within.dtype, device=device),
            between,
            left=False,
        )
        projection.weight.copy_(weight[:, :, None, None])
        assert projection.bias is not None
        projection.bias.copy_(means[1 + inside :] - weight @ means[1 : 1 + inside])
