"""The configuration of the preparation: what can be divided by and computed with."""

import math

import pytest
from pydantic import ValidationError

from sctnet.preparation import PreparationConfig


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
