"""The paper's augmentations: random scale, crop, flip and photometric distortion.

The conventions are mmsegmentation 0.26's (Resize, RandomCrop, RandomFlip, PhotoMetricDistortion),
in which the paper's runs are described. Pixels stay bytes; normalisation happens on the device.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Int64, UInt8
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from sctnet.data.dataset import IGNORE, Labels, Picture
from sctnet.pipeline.preprocessing import WorkingSize

PictureCrop = UInt8[np.ndarray, "crop_h crop_w 3"]
LabelsCrop = UInt8[np.ndarray, "crop_h crop_w"]

_BRIGHTNESS = 32.0  # levels of 0-255
_CONTRAST = _SATURATION = (0.5, 1.5)
_HUE = 18  # of OpenCV's 180 steps
_LEVELS = np.arange(256, dtype=np.float64)
_AS_IS = WorkingSize()
_WHOLE_IS_FASTER = 4  # up to this many windows: OpenCV's resize takes a quarter of its warp's time


class AugmentationConfig(BaseModel):
    """What happens to a training picture.

    With a ratio r drawn from ``scale``, the picture is resized, its own ratio kept, to fit into
    r times ``scaled_from`` (width, height; the long side belongs to the longer of the two). None
    stands for its working size, the size at which the trained network will see it. A crop in
    which one class has ``max_class_share`` of the labelled pixels or more is drawn again,
    ``crop_tries`` times at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    crop: tuple[int, int] = Field(description="height, width in pixels")
    scale: tuple[float, float] = (0.5, 2.0)
    scaled_from: tuple[int, int] | None = Field(default=None, description="width, height")
    max_class_share: float = Field(default=0.75, gt=0, le=1)
    crop_tries: int = Field(default=10, ge=1)
    flip: float = Field(default=0.5, ge=0, le=1, description="probability")
    photometric: bool = True
    """Whether brightness, contrast, saturation and hue are changed at random."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> "AugmentationConfig":
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError("scale must be two positive ratios, the smaller first")
        if min(self.crop) < 1 or (self.scaled_from and min(self.scaled_from) < 1):
            raise ValueError("crop and scaled_from must be at least 1 pixel a side")
        return self


class Sample(NamedTuple):
    """One training crop; ``size`` is the height and width of its real pixels, without padding."""

    image: UInt8[Tensor, "3 h w"]
    labels: UInt8[Tensor, "h w"]
    size: Int64[Tensor, "2"]


class ViewedSample(NamedTuple):
    """A training crop that returns: one of the fixed views of its picture."""

    image: UInt8[Tensor, "3 h w"]
    labels: UInt8[Tensor, "h w"]
    size: Int64[Tensor, "2"]
    view: Int64[Tensor, ""]
    """Its number: that of the view times the number of pictures, plus that of the picture."""
    checksum: Int64[Tensor, ""]
    """Of the image's bytes (CRC-32)."""


def augment(
    image: Picture,
    labels: Labels,
    config: AugmentationConfig,
    generator: np.random.Generator,
    working_size: WorkingSize = _AS_IS,
) -> tuple[PictureCrop, LabelsCrop]:
    """Scale, crop, flip and distort a picture and its labels, at random.

    The result is ``config.crop`` pixels large, or smaller where the scaled picture is smaller.
    """
    height, width = working_size.apply(image.shape[0], image.shape[1])
    base = config.scaled_from or (width, height)
    scaled = _scaled_size(image.shape[0], image.shape[1], base, config.scale, generator)
    window, labels = _choose_crop(labels, scaled, config, generator)
    image = _resize_window(image, scaled, window)
    if generator.random() < config.flip:
        image, labels = cv2.flip(image, 1), cv2.flip(labels, 1)
    if config.photometric:
        image = distort(image, generator)
    return image, labels


def to_sample(image: Picture, labels: Labels, crop: tuple[int, int]) -> Sample:
    """Pad right and below to ``crop`` (height, width): pixels with 0, labels with 255."""
    height, width = labels.shape
    padded_image = np.zeros((3, *crop), np.uint8)
    cv2.split(image, [plane[:height, :width] for plane in padded_image])  # writes into the planes
    padded_labels = np.full(crop, IGNORE, np.uint8)
    padded_labels[:height, :width] = labels
    return Sample(
        torch.from_numpy(padded_image),
        torch.from_numpy(padded_labels),
        torch.tensor([height, width]),
    )


class _Window(NamedTuple):
    """A rectangle of the scaled picture."""

    top: int
    left: int
    height: int
    width: int


def _scaled_size(
    height: int,
    width: int,
    base: tuple[int, int],
    scale: tuple[float, float],
    generator: np.random.Generator,
) -> tuple[int, int]:
    """Return the (height, width) of the scaled picture; the rounding is mmcv's ``imrescale``."""
    ratio = generator.uniform(*scale)
    target = [max(1, int(side * ratio)) for side in base]
    factor = min(max(target) / max(height, width), min(target) / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def _choose_crop(
    labels: Labels,
    scaled: tuple[int, int],
    config: AugmentationConfig,
    generator: np.random.Generator,
) -> tuple[_Window, LabelsCrop]:
    """Draw a crop of the scaled picture; return it and its labels (nearest neighbour)."""
    height, width = min(config.crop[0], scaled[0]), min(config.crop[1], scaled[1])
    for _ in range(config.crop_tries):
        top = int(generator.integers(scaled[0] - height + 1))
        left = int(generator.integers(scaled[1] - width + 1))
        # The source of each pixel as cv2.INTER_NEAREST has it, for the crop's pixels alone.
        rows = np.arange(top, top + height) * labels.shape[0] // scaled[0]
        columns = np.arange(left, left + width) * labels.shape[1] // scaled[1]
        crop = labels.take(rows, axis=0).take(columns, axis=1)
        if _is_varied(crop, config.max_class_share):
            break
    return _Window(top, left, height, width), crop


def _is_varied(labels: Labels, max_class_share: float) -> bool:
    counts = cv2.calcHist([labels], [0], None, [256], [0, 256]).ravel()[:IGNORE]
    return bool(np.count_nonzero(counts) > 1 and counts.max() < max_class_share * counts.sum())


def _resize_window(image: Picture, scaled: tuple[int, int], window: _Window) -> PictureCrop:
    """Return a window of the bilinearly resized picture.

    A window that is small beside the whole is computed alone; that is equal, but that OpenCV then
    places samples at multiples of 1/32 pixel.
    """
    top, left, height, width = window
    rows, columns = slice(top, top + height), slice(left, left + width)
    if scaled == image.shape[:2]:
        return np.ascontiguousarray(image[rows, columns])
    if scaled[0] * scaled[1] <= _WHOLE_IS_FASTER * height * width:
        whole = cv2.resize(image, (scaled[1], scaled[0]), interpolation=cv2.INTER_LINEAR)
        return np.ascontiguousarray(whole[rows, columns])
    step_y, step_x = image.shape[0] / scaled[0], image.shape[1] / scaled[1]
    # Pixel centres: x of the window lies at (left + x + 0.5) * step - 0.5 of the source.
    source_of_window = np.array(
        [
            [step_x, 0, (left + 0.5) * step_x - 0.5],
            [0, step_y, (top + 0.5) * step_y - 0.5],
        ]
    )
    warped = cv2.warpAffine(
        image,
        source_of_window,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(warped)


def distort(image: Picture, generator: np.random.Generator) -> Picture:
    """Change brightness, contrast, saturation and hue, each with probability one half.

    Contrast comes before or after saturation and hue, by a coin.
    """
    brightness, contrast, saturation, hue, contrast_first = generator.random(5) < 0.5
    shift = generator.uniform(-_BRIGHTNESS, _BRIGHTNESS) if brightness else 0.0
    contrasted = _to_bytes(_LEVELS * generator.uniform(*_CONTRAST)) if contrast else None
    factor = generator.uniform(*_SATURATION) if saturation else 1.0
    turn = int(generator.integers(-_HUE, _HUE)) if hue else 0

    if brightness:
        # Levels are cut to whole ones; a saturated sum takes a tenth of a table's time.
        image = cv2.add(image, np.full(3, math.floor(shift), np.float64))
    if contrasted is not None and contrast_first:
        image = cv2.LUT(image, contrasted)
    if saturation or hue:
        # One table a channel: a table for all three takes OpenCV twice as long.
        hues, saturations, values = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
        if hue:
            hues = cv2.LUT(hues, ((_LEVELS + turn) % 180).astype(np.uint8))
        if saturation:
            saturations = cv2.LUT(saturations, _to_bytes(_LEVELS * factor))
        image = cv2.cvtColor(cv2.merge([hues, saturations, values]), cv2.COLOR_HSV2RGB)
    return image if contrasted is None or contrast_first else cv2.LUT(image, contrasted)


def _to_bytes(levels: np.ndarray) -> np.ndarray:
    return levels.clip(0, 255).astype(np.uint8)
