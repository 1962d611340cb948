"""Augmentation: properties that hold for any draw, and agreement with whole-picture resizing."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sctnet.data.augmentation import (
    AugmentationConfig,
    _resize_window,
    _scaled_size,
    _Window,
    augment,
    distort,
    to_sample,
)
from sctnet.data.dataset import IGNORE
from sctnet.pipeline.preprocessing import Preprocessing, PreprocessingConfig, WorkingSize

sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))


def street(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture of flat blocks whose red channel is 20 times the label, and the labels."""
    blocks = np.random.default_rng(seed).integers(0, 11, (height // 12 + 1, width // 12 + 1))
    labels = np.kron(blocks, np.ones((12, 12)))[:height, :width].astype(np.uint8)
    return np.stack([labels * 20, 255 - labels, labels], axis=2).astype(np.uint8), labels


@settings(max_examples=60, deadline=None)
@given(size=sizes, crop=sizes, seed=st.integers(0, 2**31), base=st.none() | sizes)
def test_any_picture_gives_an_exact_sample(size, crop, seed, base) -> None:
    image, labels = street(*size, seed)
    labels[0, 0] = IGNORE
    config = AugmentationConfig(crop=crop, scaled_from=base)
    new_image, new_labels = augment(image, labels, config, np.random.default_rng(seed))
    height, width = new_labels.shape
    assert new_image.shape == (height, width, 3)
    assert 1 <= height <= crop[0]
    assert 1 <= width <= crop[1]
    assert new_image.dtype == new_labels.dtype == np.uint8
    assert set(np.unique(new_labels)) <= set(np.unique(labels))

    sample = to_sample(new_image, new_labels, crop)
    assert sample.image.shape == (3, *crop)
    assert sample.size.tolist() == [height, width]
    assert (sample.image[:, :height, :width].permute(1, 2, 0).numpy() == new_image).all()
    assert (sample.labels[:height, :width].numpy() == new_labels).all()
    outside = torch.ones(crop, dtype=torch.bool)
    outside[:height, :width] = False
    assert (sample.image[:, outside] == 0).all()
    assert (sample.labels[outside] == IGNORE).all()


def test_padding_is_zero_after_normalisation() -> None:
    image, labels = street(10, 12)
    sample = to_sample(image, labels, (16, 20))
    crops = Preprocessing(PreprocessingConfig()).normalise_crops(
        sample.image[None], sample.size[None]
    )
    assert (crops[0, :, 10:] == 0).all()
    assert (crops[0, :, :, 12:] == 0).all()
    assert (crops[0, :, :10, :12] != 0).any()


@pytest.mark.parametrize("seed", range(12))
def test_labels_go_where_their_pixels_go(seed: int) -> None:
    """Scaled, cropped, flipped: away from edges the red channel still tells the label."""
    image, labels = street(90, 120, seed)
    config = AugmentationConfig(crop=(70, 80), photometric=False)
    new_image, new_labels = augment(image, labels, config, np.random.default_rng(seed))
    inside = cv2.erode(new_labels, np.ones((5, 5))) == cv2.dilate(new_labels, np.ones((5, 5)))
    inside[[0, 1, -2, -1]] = inside[:, [0, 1, -2, -1]] = False  # the other side is unknown
    assert inside.mean() > 0.1
    assert (new_image[inside][:, 0] == new_labels[inside] * 20).all()


def test_flip_is_of_both_or_none() -> None:
    image, labels = street(24, 36)
    settings_ = {"crop": (24, 36), "scale": (1, 1), "photometric": False, "max_class_share": 1}
    for flip, expected in ((0, slice(None)), (1, slice(None, None, -1))):
        config = AugmentationConfig(flip=flip, **settings_)
        new_image, new_labels = augment(image, labels, config, np.random.default_rng(0))
        assert (new_image == image[:, expected]).all()
        assert (new_labels == labels[:, expected]).all()


@pytest.mark.parametrize("size", [(181, 242), (277, 370), (520, 600), (719, 960)])
def test_window_equals_the_crop_of_the_whole(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (45, 60, 3)).astype(np.uint8)
    image = cv2.resize(noise, (480, 360), interpolation=cv2.INTER_CUBIC)
    whole = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    for top, left in ((0, 0), (11, 23), (size[0] - 100, size[1] - 120)):
        window = _resize_window(image, size, _Window(top, left, 100, 120))
        difference = np.abs(window.astype(int) - whole[top : top + 100, left : left + 120])
        assert difference.max() <= 3
        assert difference.mean() < 0.5


@pytest.mark.parametrize(
    ("picture", "base", "ratio", "expected"),
    [
        pytest.param((360, 480), None, 0.5, (180, 240), id="of-its-own-size"),
        pytest.param((360, 480), None, 1.25, (450, 600), id="larger"),
        pytest.param((720, 960), (480, 360), 1.0, (360, 480), id="fits-the-base"),
        pytest.param((1024, 2048), (2048, 1024), 2.0, (2048, 4096), id="cityscapes-as-the-paper"),
        pytest.param((300, 600), (480, 360), 1.0, (240, 480), id="the-tighter-side-decides"),
        pytest.param((600, 300), (480, 360), 1.0, (480, 240), id="upright-turns-the-base"),
        pytest.param((3, 400), None, 0.1, (1, 40), id="never-empty"),
    ],
)
def test_scaled_size_is_mmcv_rescale(picture, base, ratio, expected) -> None:
    base = base or picture[::-1]
    generator = np.random.default_rng(0)
    assert _scaled_size(*picture, base, (ratio, ratio), generator) == expected


def test_crop_avoids_what_is_nearly_all_one_class() -> None:
    """Labels are 0 but for a small patch: most crops hold one class, the chosen ones two."""
    labels = np.zeros((120, 120), np.uint8)
    labels[50:70, 50:70] = 1
    image = np.zeros((120, 120, 3), np.uint8)

    def varied(tries: int) -> float:
        config = AugmentationConfig(crop=(30, 30), scale=(1, 1), crop_tries=tries)
        crops = [
            augment(image, labels, config, np.random.default_rng(seed))[1] for seed in range(200)
        ]
        return float(np.mean([0.25 < (crop == 1).mean() < 0.75 for crop in crops]))

    once = varied(1)
    assert varied(10) == pytest.approx(1 - (1 - once) ** 10, abs=0.12)


def test_ignored_pixels_do_not_count_as_a_class() -> None:
    """One class and void is one class: all ten tries are used up, as for a uniform picture."""
    labels = np.full((40, 40), 3, np.uint8)
    labels[:, ::2] = IGNORE
    config = AugmentationConfig(crop=(10, 10), scale=(1, 1), flip=0, photometric=False)
    states = []
    for case in (labels, np.full_like(labels, 3)):
        generator = np.random.default_rng(0)
        augment(np.zeros((40, 40, 3), np.uint8), case, config, generator)
        states.append(generator.bit_generator.state)
    assert states[0] == states[1]


class Scripted(np.random.Generator):
    """A generator whose coins and draws are written down."""

    def __init__(self, coins: list[float], draws: list[float], turn: int = 0) -> None:
        super().__init__(np.random.PCG64())
        self._coins, self._draws, self._turn = coins, iter(draws), turn

    def random(self, count: int) -> np.ndarray:
        assert count == len(self._coins)
        return np.array(self._coins)

    def uniform(self, low: float, high: float) -> float:
        draw = next(self._draws)
        assert low <= draw <= high
        return draw

    def integers(self, low: int, high: int) -> int:
        assert low <= self._turn < high
        return self._turn


YES, NO = 0.1, 0.9


@pytest.mark.parametrize(
    ("coins", "draws", "formula"),
    [
        pytest.param([NO] * 5, [], lambda x: x, id="nothing"),
        pytest.param([YES, NO, NO, NO, NO], [20.0], lambda x: x + 20, id="brightness"),
        pytest.param([NO, YES, NO, NO, NO], [1.4], lambda x: x * 1.4, id="contrast"),
        pytest.param(
            [YES, YES, NO, NO, YES],
            [-32.0, 1.5],
            lambda x: np.trunc((x - 32.0).clip(0)) * 1.5,
            id="contrast-after-brightness",
        ),
    ],
)
def test_lookup_tables_are_the_formulas(coins, draws, formula) -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 3)).astype(np.uint8)
    expected = np.trunc(formula(image.astype(float)).clip(0, 255))
    assert (distort(image, Scripted(coins, draws)) == expected).all()


def test_saturation_and_hue_are_matplotlibs() -> None:
    from matplotlib.colors import hsv_to_rgb, rgb_to_hsv

    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    hsv = rgb_to_hsv(image / 255)
    hsv[..., 0] = (hsv[..., 0] - 10 / 180) % 1
    hsv[..., 1] = (hsv[..., 1] * 0.6).clip(0, 1)
    distorted = distort(image, Scripted([NO, NO, YES, YES, NO], [0.6], turn=-10))
    assert np.abs(distorted - hsv_to_rgb(hsv) * 255).mean() < 2.5


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"scale": (2, 0.5)}, id="reversed"),
        pytest.param({"scale": (0, 1)}, id="zero"),
        pytest.param({"crop": (0, 5)}, id="no-crop"),
        pytest.param({"scaled_from": (0, 5)}, id="no-base"),
        pytest.param({"flip": 2}, id="probability"),
        pytest.param({"zoom": 2}, id="unknown-key"),
    ],
)
def test_configuration_is_checked(fields) -> None:
    with pytest.raises(ValidationError):
        AugmentationConfig(**{"crop": (8, 8), **fields})


def test_training_sees_pictures_at_the_working_size():
    """At ratio 1 a crop is a piece of what prediction sees, whatever the picture's own size."""
    image = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
    labels = np.arange(1080 * 1920).reshape(1080, 1920).astype(np.uint8) % 3
    config = AugmentationConfig(crop=(4000, 4000), scale=(1, 1), flip=0, photometric=False)
    rule = WorkingSize(rule="shorter-side", pixels=360)
    scaled, _ = augment(image, labels, config, np.random.default_rng(0), rule)
    assert scaled.shape == (360, 640, 3)
    as_is, _ = augment(image, labels, config, np.random.default_rng(0))
    assert as_is.shape == image.shape
