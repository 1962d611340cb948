"""The configuration of the preparation: what can be divided by and computed with."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional as F

from sctnet.kernels import threads as sharing
from sctnet.kernels.preprocessing import cpu_preprocessing
from sctnet.pipeline import preprocessing as preparation
from sctnet.pipeline.preprocessing import Preprocessing, PreprocessingConfig, WorkingSize


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"std": (1, 0, 1)}, ("std", 1)),
        ({"std": (1, 1, -58.4)}, ("std", 2)),
        ({"std": (math.inf, 1, 1)}, ("std", 0)),
        ({"std": (math.nan, 1, 1)}, ("std", 0)),
        ({"mean": (0, math.nan, 0)}, ("mean", 1)),
        ({"mean": (0, 0, -math.inf)}, ("mean", 2)),
    ],
    ids=str,
)
def test_what_would_make_pictures_of_nan_is_refused(fields, place):
    with pytest.raises(ValidationError) as caught:
        PreprocessingConfig(**fields)
    assert [error["loc"] for error in caught.value.errors()] == [place]


def test_a_mean_may_be_0_or_negative():
    """Some networks take pictures as they are, or centred elsewhere."""
    assert PreprocessingConfig(mean=(0, -1, 0), std=(1, 1, 1)).mean == (0, -1, 0)


def fixed(size, antialias):
    rule = WorkingSize(rule="fixed", height=size[0], width=size[1])
    return Preprocessing(PreprocessingConfig(working_size=rule, antialias=antialias))


@pytest.mark.parametrize("loop", [True, False])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(37, 51), (90, 150), (60, 80)])
def test_pictures_are_resized_and_normalised_and_keep_their_layout(
    size, antialias, loop, monkeypatch
):
    if not loop:
        monkeypatch.setattr(preparation, "instruction_set", lambda: None)
    by_loop = []
    monkeypatch.setattr(
        preparation,
        "cpu_preprocessing",
        lambda *given: by_loop.append(given) or cpu_preprocessing(*given),
    )
    prepare = fixed(size, antialias)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 60, 80, 3), np.uint8)
    by_pixel = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    resized = F.interpolate(
        by_pixel.double(), size, mode="bilinear", align_corners=False, antialias=antialias
    )
    expected = (resized - prepare.mean) / prepare.std
    window = F.pad(by_pixel, (0, 7)).contiguous(memory_format=torch.channels_last)[..., :-7]
    for images in (by_pixel, window, by_pixel.contiguous()):
        prepared = prepare(images)
        torch.testing.assert_close(prepared.double(), expected, atol=5e-5, rtol=0)
        order = torch.contiguous_format if images.is_contiguous() else torch.channels_last
        assert prepared.is_contiguous(memory_format=order)
    assert len(by_loop) == (2 if loop and size != (60, 80) else 0), "not planes"


def test_double_precision_is_left_to_pytorch():
    images, prepare = pictures(1, 60, 80, 2), fixed((37, 51), antialias=True)
    expected = prepare(images)
    doubled = prepare.double()(images)
    assert doubled.dtype == torch.float64
    torch.testing.assert_close(doubled.float(), expected, atol=1e-4, rtol=0)


TRACED = """
import torch
from sctnet.pipeline.preprocessing import Preprocessing, PreprocessingConfig, WorkingSize

rule = WorkingSize(rule="fixed", height=37, width=51)
prepare = Preprocessing(PreprocessingConfig(working_size=rule))
black, white = (torch.full((1, 60, 80, 3), grey, dtype=torch.uint8) for grey in (0, 255))
traced = torch.jit.trace(prepare, (black.permute(0, 3, 1, 2),))
found, expected = (make(white.permute(0, 3, 1, 2)) for make in (traced, prepare))
torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
"""


def test_a_trace_sees_what_it_is_given_later():
    """Elsewhere: while it is traced a size is no int, which tests check here."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", TRACED], check=True, timeout=60)


@pytest.mark.parametrize("antialias", [True, False])
def test_preparing_in_bands_changes_nothing(antialias, monkeypatch):
    monkeypatch.setattr(preparation, "instruction_set", lambda: None)
    images = pictures(1, 230, 170, 0)
    prepare = fixed((81, 60), antialias)
    at_once = prepare(images)
    monkeypatch.setattr(preparation, "LARGE_PICTURE", 5000)
    monkeypatch.setattr(preparation, "_BAND_PIXELS", 37 * 170)
    torch.testing.assert_close(prepare(images), at_once, atol=2e-5, rtol=1e-5)


def pictures(number, height, width, seed):
    """Return noise, channels last, which no resize is kind to."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (number, height, width, 3), np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


sides = st.integers(1, 300)


@given(sides, sides, sides, sides, st.integers(1, 3), st.booleans(), st.integers(1, 3))
@settings(deadline=None, max_examples=150)
def test_the_compiled_loop_prepares_as_pytorch_does(
    height, width, rows, columns, number, antialias, threads
):
    """In float64: PyTorch's float32 is rounded at more places."""
    images = pictures(number, height, width, seed=height * width)
    mean, std = torch.tensor([124.0, 116, 104]), torch.tensor([58.0, 57, 56])
    mean, std = mean.view(1, 3, 1, 1), std.view(1, 3, 1, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = cpu_preprocessing(images, (rows, columns), antialias, mean, std)
    finally:
        torch.set_num_threads(before)
    resized = F.interpolate(
        images.double(), (rows, columns), mode="bilinear", align_corners=False, antialias=antialias
    )
    torch.testing.assert_close(found.double(), (resized - mean) / std, atol=1e-5, rtol=0)
    assert found.is_contiguous(memory_format=torch.channels_last)


@given(st.integers(1, 2000), st.integers(1, 16), st.integers(1, 40))
def test_parts_cover_a_length_once(length, threads, times):
    parts = sharing.parts(length, threads, times)
    assert [place for first, last in parts for place in range(first, last)] == [*range(length)]
    assert all(first < last for first, last in parts)


def test_pictures_of_the_working_size_are_only_normalised():
    images = pictures(2, 40, 50, 1)
    prepare = Preprocessing(PreprocessingConfig())
    expected = (images.float() - prepare.mean) / prepare.std
    torch.testing.assert_close(prepare(images), expected, atol=0, rtol=0)


def test_a_container_with_a_part_of_a_core_has_one(tmp_path):
    for text, expected in [("50000 100000", 1), ("150000 100000", 2), ("max 100000", 1 << 16)]:
        sharing._quota.cache_clear()
        file = tmp_path / "cpu.max"
        file.write_text(text)
        assert sharing._quota(file) == expected
    sharing._quota.cache_clear()
    assert sharing._quota(tmp_path / "nothing") == 1 << 16
    sharing._quota.cache_clear()
