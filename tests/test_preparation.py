"""The configuration of the preparation: what can be divided by and computed with."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from sctnet.preparation import Preparation, PreparationConfig, WorkingSize


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
        PreparationConfig(**fields)
    assert [error["loc"] for error in caught.value.errors()] == [place]


def test_a_mean_may_be_0_or_negative():
    """Some networks take pictures as they are, or centred elsewhere."""
    assert PreparationConfig(mean=(0, -1, 0), std=(1, 1, 1)).mean == (0, -1, 0)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(37, 51), (90, 150), (60, 80)])
def test_pictures_are_resized_and_normalised_and_keep_their_layout(size, antialias):
    rule = WorkingSize(rule="fixed", height=size[0], width=size[1])
    preparation = Preparation(PreparationConfig(working_size=rule, antialias=antialias))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 60, 80, 3), np.uint8)
    by_pixel = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    resized = F.interpolate(
        by_pixel.float(), size, mode="bilinear", align_corners=False, antialias=antialias
    )
    expected = (resized - preparation.mean) / preparation.std
    window = F.pad(by_pixel, (0, 7)).contiguous(memory_format=torch.channels_last)[..., :-7]
    for images in (by_pixel, window, by_pixel.contiguous()):
        prepared = preparation(images)
        torch.testing.assert_close(prepared, expected, atol=1e-5, rtol=1e-5)
        order = torch.contiguous_format if images.is_contiguous() else torch.channels_last
        assert prepared.is_contiguous(memory_format=order)
