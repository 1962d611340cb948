"""The losses between two maps, against sums written out and against PyTorch's distributions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence
from torch.nn import functional as F

from sctnet.training import distillation
from sctnet.training.alignment import scale_alignment
from sctnet.training.distillation import (
    at_larger_size,
    channel_wise_divergence,
    mutual_information_bound,
    pixel_wise_divergence,
    squared_distance,
)
from sctnet.training.shared_head import moments

N, C, H, W = 2, 3, 4, 5


@pytest.fixture
def maps() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(N, C, H, W, generator=generator) * 3 for _ in range(2))
    return student.double(), teacher.double()


def test_channel_wise_divergence_is_a_mean_over_images_and_channels(
    maps: tuple[Tensor, Tensor],
) -> None:
    student, teacher = (Categorical(logits=x.flatten(2) / 4) for x in maps)
    expected = 16 * kl_divergence(teacher, student).mean()
    torch.testing.assert_close(channel_wise_divergence(*maps), expected)


def test_pixel_wise_divergence_is_a_mean_over_pixels(maps: tuple[Tensor, Tensor]) -> None:
    student, teacher = (Categorical(logits=x.permute(0, 2, 3, 1) / 2) for x in maps)
    expected = 4 * kl_divergence(teacher, student).mean()
    torch.testing.assert_close(pixel_wise_divergence(*maps, temperature=2.0), expected)


@pytest.mark.parametrize("values", [1, 7, 2**17])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("loss", [channel_wise_divergence, pixel_wise_divergence])
def test_divergences_and_their_gradients_are_those_of_whole_softmaxes(
    loss: Callable[..., Tensor],
    layout: torch.memory_format,
    values: int,
    maps: tuple[Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However the maps lie in memory, and in however many parts they are gone through."""
    monkeypatch.setattr(distillation, "_VALUES_IN_CACHE", values)
    student, teacher = (x.contiguous(memory_format=layout) for x in maps)
    student.requires_grad_()
    axis, rows = ((2, 3), N * C) if loss is channel_wise_divergence else ((1,), N * H * W)
    logs = [x / 4 - (x / 4).logsumexp(axis, keepdim=True) for x in (student, teacher)]
    expected = 16 * (logs[1].exp() * (logs[1] - logs[0])).sum() / rows
    found = loss(student, teacher)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(3 * value, student)[0] for value in (found, expected)]
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0].is_contiguous(memory_format=layout)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), student)


def test_a_divergence_of_far_values_is_finite() -> None:
    student = torch.tensor([[[[0.0, 1e4, -1e4]]]], requires_grad=True)
    teacher = torch.tensor([[[[1e4, 0.0, 3.0]]]])
    loss = channel_wise_divergence(student, teacher)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(16 * 1e4 / 4)
    assert bool(student.grad.isfinite().all())  # type: ignore[union-attr]


def test_squared_distance(maps: tuple[Tensor, Tensor]) -> None:
    expected = sum((s - t) ** 2 for s, t in zip(*(x.flatten() for x in maps), strict=True))
    torch.testing.assert_close(squared_distance(*maps), expected / (N * C * H * W))


def test_mutual_information_is_a_gaussian_likelihood(maps: tuple[Tensor, Tensor]) -> None:
    """Up to the constant log(2 pi) / 2, the mean negative log-likelihood of the teacher."""
    student, teacher = maps
    raw = torch.tensor([-2.0, 0.5, 5.0]).double()
    std = (raw.exp().log1p() + 1e-6).sqrt()[:, None, None]
    expected = (
        -Normal(student, std).log_prob(teacher).mean()
        - torch.log(torch.tensor(2 * torch.pi).double()) / 2
    )
    torch.testing.assert_close(mutual_information_bound(student, teacher, raw), expected)


@pytest.mark.parametrize("loss", [channel_wise_divergence, pixel_wise_divergence, squared_distance])
def test_equal_maps_are_at_no_distance(loss: object, maps: tuple[Tensor, Tensor]) -> None:
    student, teacher = maps
    assert float(loss(teacher, teacher)) == pytest.approx(0, abs=1e-12)  # type: ignore[operator]
    assert float(loss(student, teacher)) > 0.01  # type: ignore[operator]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(
    dtype: torch.dtype, maps: tuple[Tensor, Tensor]
) -> None:
    """Of a large map, a softmax in half precision would be mostly zero, and its logarithm -inf."""
    student, teacher = (torch.randn(1, 2, 256, 256).to(dtype) * 9 for _ in range(2))
    loss = channel_wise_divergence(student, teacher)
    assert loss.dtype == torch.float32
    exact = channel_wise_divergence(student.double(), teacher.double())
    assert float(loss) == pytest.approx(float(exact), rel=1e-4)


@pytest.mark.parametrize(
    ("student", "teacher", "size"),
    [
        ((4, 6), (8, 12), (8, 12)),  # SCTNet at stride 8, SegFormer at 4
        ((8, 12), (4, 6), (8, 12)),  # a teacher that is coarser than its student
        ((4, 12), (8, 6), (8, 12)),
    ],
)
def test_maps_meet_at_the_larger_size(
    student: tuple[int, int], teacher: tuple[int, int], size: tuple[int, int]
) -> None:
    first, second = torch.randn(1, 2, *student), torch.randn(1, 3, *teacher)
    resized = at_larger_size(first, second)
    for ours, given in zip(resized, (first, second), strict=True):
        expected = F.interpolate(given, size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(ours, expected)


def test_scale_alignment_gives_the_teachers_statistics(maps: tuple[Tensor, Tensor]) -> None:
    student, teacher = maps
    aligned = scale_alignment(student * 50 + 7, moments(teacher, (H, W)))
    for statistic in (torch.mean, torch.std):
        ours, theirs = (statistic(x.transpose(0, 1).flatten(1), dim=1) for x in (aligned, teacher))
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    # A straight line per channel: the order of its pixels stays.
    assert torch.equal(aligned[:, 0].flatten().argsort(), student[:, 0].flatten().argsort())
