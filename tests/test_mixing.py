"""Soft targets and what is done to a batch: every pixel and every share accounted for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sctnet.pipeline.preprocessing import Preprocessing, PreprocessingConfig
from sctnet.training.classification.batch_augmentation import BatchAugmentation
from sctnet.training.classification.mixup import (
    Mix,
    draw_mix,
    soft_cross_entropy,
    soft_targets,
    softened_divergence,
)
from sctnet.training.classification.rand_augment import RandAugment, operations
from sctnet.training.classification.recipe import ClassificationAugmentation, RandAugmentRecipe

ALPHAS = st.sampled_from((0.0, 0.2, 0.8, 1.0))


@settings(max_examples=100, deadline=None)
@given(
    ALPHAS,
    ALPHAS,
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 7),
    st.floats(0, 0.9),
    st.integers(0, 10**9),
)
def test_targets_sum_to_one_and_follow_the_pixels(
    mixup: float, cutmix: float, height: int, width: int, count: int, smoothing: float, seed: int
) -> None:
    """A batch whose pictures are constant tells of each pixel where it is from."""
    mix = draw_mix(mixup, cutmix, height, width, np.random.default_rng(seed))
    labels = torch.arange(count) % 5
    targets = soft_targets(labels, 5, smoothing)
    assert torch.allclose(targets.sum(1), torch.ones(count), atol=1e-6)
    if mix is None:
        assert mixup == cutmix == 0
        return
    mixed = mix.targets(targets)
    assert torch.allclose(mixed.sum(1), torch.ones(count), atol=1e-6)
    assert bool((mixed >= 0).all())
    own = torch.zeros(count, 1, height, width)
    own[0] = 1
    shares = mix.images(own).mean((1, 2, 3))
    expected = torch.zeros(count)
    expected[0] += mix.weight
    expected[-1] += 1 - mix.weight
    assert torch.allclose(shares, expected, atol=1e-5), "as many pixels as the targets say"


def test_both_mixes_are_drawn_and_shares_are_beta_distributed() -> None:
    mixes = [draw_mix(0.8, 1.0, 64, 64, np.random.default_rng(seed)) for seed in range(2000)]
    boxes = [mix for mix in mixes if mix is not None and mix.box is not None]
    shares = np.array([mix.weight for mix in mixes if mix is not None and mix.box is None])
    assert 900 < len(boxes) < 1100
    assert shares.mean() == pytest.approx(0.5, abs=0.04)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.02)
    assert all(mix is not None for mix in mixes)


def test_losses_are_pytorchs() -> None:
    logits, labels = torch.randn(6, 9), torch.randint(9, (6,))
    smooth = soft_cross_entropy(logits, soft_targets(labels, 9, 0.1))
    theirs = torch.nn.CrossEntropyLoss(label_smoothing=0.1, reduction="sum")
    torch.testing.assert_close(smooth, theirs(logits, labels))
    teacher = torch.randn(6, 9)
    same = softened_divergence(teacher, (teacher / 3).softmax(1), 3.0)
    assert float(same) == pytest.approx(0, abs=1e-5)
    soft = (teacher / 3).softmax(1)
    by_hand = 9 * (soft * (soft.log() - (logits / 3).log_softmax(1))).sum()
    torch.testing.assert_close(softened_divergence(logits, soft, 3.0), by_hand)


def picture() -> torch.Tensor:
    rows, columns = torch.meshgrid(
        torch.linspace(0.02, 0.97, 32), torch.linspace(0.02, 0.97, 40), indexing="ij"
    )
    return torch.stack([rows, columns, 1 - rows])[None].repeat(2, 1, 1, 1)


@pytest.mark.parametrize("name", list(operations()))
@pytest.mark.parametrize("strength", [0.0, 0.9, 1.0])
def test_an_operation_changes_pictures_into_pictures(name: str, strength: float) -> None:
    """Without strength, those that have one change nothing; two signs do two things."""
    pixels = picture()
    changed = operations()[name](pixels, torch.full((2,), strength), torch.tensor([1.0, -1.0]))
    assert changed.shape == pixels.shape
    assert bool(changed.isfinite().all())
    signed = {"rotate", "colour", "contrast", "brightness", "sharpness"} | {
        f"{way} {axis}" for way in ("shear", "translate") for axis in "xy"
    }
    if strength == 0 and name not in {"auto contrast", "equalise", "invert", "posterise"}:
        torch.testing.assert_close(changed, pixels, atol=1e-4, rtol=0)
    if strength > 0 and name != "auto contrast":
        assert float((changed - pixels).abs().mean()) > 5e-4
        assert torch.equal(changed[0], changed[1]) == (name not in signed)


def test_geometry_goes_where_it_says() -> None:
    dot = torch.zeros(1, 3, 41, 41)
    dot[:, :, 10, 20] = 1
    full, plus = torch.ones(1), torch.ones(1)

    def found(name: str) -> tuple[int, int]:
        moved = operations()[name](dot, full, plus)[0, 0]
        moved = torch.where((moved - 128 / 255).abs() < 1e-4, 0, moved)
        row, column = divmod(int(moved.argmax()), 41)
        return row, column

    assert found("translate x") in {(10, 38), (10, 39)}  # 0.45 x 41 to the right
    assert found("translate y") in {(28, 20), (29, 20)}
    assert found("shear x") == (10, 17)  # 10 rows above the middle, a slope of 0.3
    row, column = found("rotate")
    assert np.hypot(row - 20, column - 20) == pytest.approx(10, abs=1)
    assert abs(np.degrees(np.arctan2(column - 20, 20 - row))) == pytest.approx(30, abs=5)


def test_rand_augment_draws_for_each_picture_from_pytorchs_generator() -> None:
    pixels = torch.rand(32, 3, 32, 32)
    augment = RandAugment(RandAugmentRecipe())
    torch.manual_seed(1)
    first = augment(pixels)
    torch.manual_seed(1)
    assert torch.equal(augment(pixels), first)
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1
    untouched = sum(torch.equal(one, other) for one, other in zip(first, pixels, strict=True))
    assert 2 <= untouched <= 16, "a quarter, at a probability of a half for each of two"
    assert torch.equal(RandAugment(RandAugmentRecipe(probability=1e-9))(pixels), pixels)


def test_erasing_fills_one_rectangle_with_noise_of_the_right_size() -> None:
    preparation = Preprocessing(PreprocessingConfig())
    recipe = ClassificationAugmentation(crop=32, erasing=1.0)
    pixels = torch.full((64, 3, 64, 64), -1.0)
    torch.manual_seed(0)
    erased = BatchAugmentation(recipe, preparation)(pixels)
    gone = (erased != -1).all(1)
    assert torch.equal(gone, (erased != -1).any(1)), "all colours of a pixel"
    shares = gone.float().mean((1, 2))
    assert float(shares.min()) > 0.01
    assert float(shares.max()) < 0.36
    for mask in gone:
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert int(rows * columns) == int(mask.sum())
    values = erased.permute(0, 2, 3, 1)[gone]
    assert values.mean(0).tolist() == pytest.approx([123.7, 116.3, 103.5], abs=3)
    some = BatchAugmentation(ClassificationAugmentation(crop=32, erasing=0.25), preparation)
    assert 5 <= int((some(pixels) != -1).flatten(1).any(1).sum()) <= 28


def test_a_mix_of_one_picture_is_that_picture() -> None:
    pixels = torch.rand(1, 3, 8, 8)
    for mix in (Mix(0.3, None), Mix(0.75, (0, 0, 4, 4))):
        torch.testing.assert_close(mix.images(pixels), pixels)
