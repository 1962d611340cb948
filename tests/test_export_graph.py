"""The graph that is exported: its resize, its working size and its tracing."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sctnet.export.resizing import BLOCK, resize_pictures
from sctnet.pipeline.preprocessing import WorkingSize

sides = st.integers(1, 70)


def half_up(value: Fraction) -> int:
    return max(1, math.floor(value + Fraction(1, 2)))


def test_resize_to_a_column():
    """Where PyTorch, of this version, repeats the first row when it smooths: held to the truth."""
    column = torch.arange(16.0).reshape(1, 16, 1, 1)
    expected = torch.tensor([1.8929, 5.5, 9.5, 13.1071]).reshape(1, 1, 4, 1)
    torch.testing.assert_close(resize_pictures(column, (4, 1), True), expected, rtol=0, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2), sides, sides, sides, st.integers(2, 70), st.booleans())
def test_resize_is_the_one_of_pytorch(n, height, width, new_height, new_width, antialias):
    pictures = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (n, height, width, 3)).astype(np.float32)
    )
    size = new_height, new_width
    expected = F.interpolate(
        pictures.permute(0, 3, 1, 2), size, mode="bilinear", antialias=antialias
    )
    result = resize_pictures(pictures, size, antialias)
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(
    ("size", "new_size"),
    [
        pytest.param((1001, 1334), (481, 641), id="smaller"),
        pytest.param((301, 403), (725, 1031), id="larger"),
        pytest.param((2000, 30), (11, 29), id="many inputs an output"),
        pytest.param((3, 5), (BLOCK * 9 + 1, BLOCK), id="blocks that end and do not"),
    ],
)
def test_resize_of_noise_stays_within_rounding(size, new_size, antialias):
    pictures = torch.from_numpy(np.random.default_rng(1).random((1, *size, 3), np.float32) * 255)
    expected = F.interpolate(
        pictures.permute(0, 3, 1, 2), new_size, mode="bilinear", antialias=antialias
    )
    difference = (resize_pictures(pictures, new_size, antialias) - expected).abs().max()
    assert difference < 0.05, "grey levels: PyTorch's places are rounded to float32"


@pytest.mark.parametrize("antialias", [True, False])
def test_resize_to_the_same_size_changes_nothing(antialias):
    pictures = torch.randint(0, 256, (2, 37, 53, 3)).float()
    assert resize_pictures(pictures, (37, 53), antialias).equal(pictures.permute(0, 3, 1, 2))


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 2000), st.integers(1, 4000))
def test_working_size_rounds_the_exact_ratio(height, width, pixels, longest):
    shorter = WorkingSize(rule="shorter-side", pixels=pixels, longest=longest)
    scale = min(Fraction(pixels, min(height, width)), Fraction(longest, max(height, width)))
    assert shorter.apply(height, width) == (half_up(height * scale), half_up(width * scale))
    scale = Fraction(pixels, max(height, width))
    longer = WorkingSize(rule="longer-side", pixels=pixels)
    assert longer.apply(height, width) == (half_up(height * scale), half_up(width * scale))
