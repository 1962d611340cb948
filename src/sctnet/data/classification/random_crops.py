"""Random resized crops (Szegedy et al. 2015) for classification, and the centre crop of its test.

A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where the crop needs no more pixels.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from sctnet.data.images import EncodedImage

Crop = UInt8[np.ndarray, "side side 3"]

_TRIES = 10
_TEST_RATIO = 256 / 224


class CropConfig(BaseModel):
    """Which part of a picture is seen.

    A rectangle of a share of the area drawn from ``scale`` and a ratio of width to height drawn
    (its logarithm evenly) from ``ratio`` becomes ``crop`` x ``crop`` pixels, and is mirrored with
    the probability ``flip``. With ``fixed_crops``, a picture has that many crops, drawn once,
    that take turns from epoch to epoch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    crop: int = Field(ge=32, description="pixels a side")
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = Field(default=0.5, ge=0, le=1, description="probability")
    fixed_crops: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> "CropConfig":
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError("scale must be two shares of the area, the smaller first")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError("ratio must be two positive ratios, the smaller first")
        return self


class _Rectangle(NamedTuple):
    top: int
    left: int
    height: int
    width: int


def random_resized_crop(
    image: EncodedImage, config: CropConfig, generator: np.random.Generator
) -> Crop:
    """Return a crop as the configuration says, drawn from the generator."""
    rectangle = _random_rectangle(image.height, image.width, config, generator)
    crop = _cut(image, rectangle, (config.crop, config.crop))
    return np.ascontiguousarray(crop[:, ::-1]) if generator.random() < config.flip else crop


def resized_side(crop: int) -> int:
    """Return what the shorter side becomes before the centre crop: 256 for 224."""
    return round(crop * _TEST_RATIO)


def centre_crop(image: EncodedImage, crop: int) -> Crop:
    """Return the centre of a picture whose shorter side was resized to :func:`resized_side`."""
    window = min(image.height, image.width) * crop / resized_side(crop)
    side = max(1, round(window))
    top, left = (image.height - side) // 2, (image.width - side) // 2
    return _cut(image, _Rectangle(top, left, side, side), (crop, crop))


def to_tensor(crop: Crop) -> UInt8[Tensor, "3 side side"]:
    """Return a crop as the network's loader wants it."""
    return torch.from_numpy(crop).permute(2, 0, 1).contiguous()


def _random_rectangle(
    height: int, width: int, config: CropConfig, generator: np.random.Generator
) -> _Rectangle:
    for _ in range(_TRIES):
        area = height * width * generator.uniform(*config.scale)
        narrowest, widest = config.ratio
        ratio = math.exp(generator.uniform(math.log(narrowest), math.log(widest)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(generator.integers(0, height - h + 1))
            return _Rectangle(top, int(generator.integers(0, width - w + 1)), h, w)
    # The whole picture, as far as the ratio allows.
    w = min(width, round(height * config.ratio[1]))
    h = min(height, round(width / config.ratio[0]))
    w, h = max(1, w), max(1, h)
    return _Rectangle((height - h) // 2, (width - w) // 2, h, w)


def _cut(image: EncodedImage, rectangle: _Rectangle, size: tuple[int, int]) -> Crop:
    """Return a rectangle of the picture, resized to (height, width)."""
    enough = min(rectangle.height / size[0], rectangle.width / size[1])
    reduction = next(factor for factor in (8, 4, 2, 1) if factor <= enough or factor == 1)
    pixels = image.decode(reduction)
    # Only JPEGs come smaller; blocks at the edge are rounded up.
    factor = 1 if pixels.shape[:2] == (image.height, image.width) else reduction
    top, left, height, width = (round(value / factor) for value in rectangle)
    part = pixels[top : top + max(1, height), left : left + max(1, width)]
    smaller = part.shape[0] > size[0] or part.shape[1] > size[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(part, size[::-1], interpolation=method))
