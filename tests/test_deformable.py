"""InternImage's deformable convolution and pooling against plain loops and PyTorch."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sctnet.models.internimage import DeformableConvolution, deformed_sum, pooled


def naive_sum(x: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Return the sum, tap by tap and corner by corner."""
    n, height, width, channels = x.shape
    groups = offsets.shape[3]
    size = channels // groups
    total = torch.zeros_like(x)
    for image, row, column, group in (
        (i, r, c, g)
        for i in range(n)
        for r in range(height)
        for c in range(width)
        for g in range(groups)
    ):
        own = slice(group * size, (group + 1) * size)
        for tap in range(9):
            right, down = offsets[image, row, column, group, tap].tolist()
            right, down = right + column + tap // 3 - 1, down + row + tap % 3 - 1
            for y in (math.floor(down), math.floor(down) + 1):
                for z in (math.floor(right), math.floor(right) + 1):
                    if 0 <= y < height and 0 <= z < width:
                        share = (1 - abs(down - y)) * (1 - abs(right - z))
                        weight = weights[image, row, column, group, tap]
                        total[image, row, column, own] += weight * share * x[image, y, z, own]
    return total


def test_taps_are_summed_as_by_hand() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    offsets = 2 * torch.randn(2, 4, 5, 3, 9, 2, dtype=torch.float64)  # some leave the map
    weights = torch.randn(2, 4, 5, 3, 9, dtype=torch.float64).softmax(4)
    expected = naive_sum(x, offsets, weights)
    torch.testing.assert_close(deformed_sum(x, offsets, weights), expected, rtol=0, atol=1e-12)


def test_resting_taps_are_a_convolution() -> None:
    torch.manual_seed(0)
    x, weights = torch.randn(1, 7, 9, 4).double(), torch.randn(9).double()
    found = deformed_sum(x, torch.zeros(1, 7, 9, 2, 9, 2).double(), weights.expand(1, 7, 9, 2, 9))
    kernel = weights.reshape(3, 3).T.expand(4, 1, 3, 3)  # taps go down first
    expected = F.conv2d(x.permute(0, 3, 1, 2), kernel, padding=1, groups=4).permute(0, 2, 3, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_gradients_are_those_of_differences() -> None:
    torch.manual_seed(0)
    module = DeformableConvolution(4, 2).double()
    x = torch.randn(1, 3, 4, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(module, (x,))


@pytest.mark.parametrize("size", [(7, 5), (1, 1), (12, 18), (3, 40)], ids=str)
@pytest.mark.parametrize("side", [1, 2, 3, 6])
def test_pooled_maps_are_adaptive_averages(size: tuple[int, int], side: int) -> None:
    x = torch.randn(2, 3, *size).double()
    expected = F.adaptive_avg_pool2d(x, side)
    torch.testing.assert_close(pooled(x, side), expected, rtol=0, atol=1e-12)
