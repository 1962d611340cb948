"""Losses and learning rates against the released numbers, PyTorch and properties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from released import REFERENCE
from torch.nn import functional as F

import sctnet
from sctnet.data.augmentation import Sample
from sctnet.data.class_frequencies import balanced_weights
from sctnet.models.layers import resize
from sctnet.pipeline.preprocessing import PreprocessingConfig
from sctnet.training.losses import (
    boundaries,
    boundary_cross_entropy,
    cross_entropy,
    hard_example_cross_entropy,
)
from sctnet.training.optim import build_optimizer, set_learning_rate
from sctnet.training.recipe import OHEM, LossRecipe, OptimizerRecipe, ScheduleRecipe
from sctnet.training.schedule import learning_rate
from sctnet.training.segmentation_criterion import SegmentationCriterion

LABELLED_MEAN = 8.719155464  # of ce_main, over the labelled pixels alone


def test_cross_entropy_equals_the_released_one() -> None:
    with np.load(REFERENCE / "sctnet_s_reference_part.npz") as arrays:
        labels = torch.from_numpy(arrays["label"]).long()
        main = resize(torch.from_numpy(arrays["logits"]).double(), (128, 192))
        auxiliary = resize(torch.from_numpy(arrays["aux_logits"]).double(), (128, 192))
        expected_main, expected_auxiliary = float(arrays["ce_main"]), float(arrays["ce_aux"])
    summed = cross_entropy(main, labels)
    assert float(summed / labels.numel()) == pytest.approx(expected_main, rel=1e-6)
    assert float(summed / (labels != 255).sum()) == pytest.approx(LABELLED_MEAN, rel=1e-6)
    auxiliary_mean = cross_entropy(auxiliary, labels) / labels.numel()
    assert float(auxiliary_mean) == pytest.approx(expected_auxiliary, rel=1e-6)


def _task(**loss: object) -> SegmentationCriterion:
    torch.manual_seed(0)
    model = sctnet.create_model("tiny", 5, drop_path=0)
    return SegmentationCriterion(model, PreprocessingConfig(), LossRecipe(**loss), None).eval()


def _batch(images: int = 4, labels: torch.Tensor | None = None) -> Sample:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (images, 3, 40, 56), generator=generator).to(torch.uint8)
    if labels is None:
        labels = torch.randint(0, 5, (images, 40, 56), generator=generator).to(torch.uint8)
        labels[0, :30] = 255  # images with different shares of labelled pixels
    return Sample(pixels, labels, torch.tensor([[40, 56]] * images))


@torch.no_grad()
@pytest.mark.parametrize("ohem", [None, OHEM(threshold=1.0)])
def test_a_step_does_not_depend_on_how_it_is_divided(ohem: OHEM | None) -> None:
    """With batch statistics frozen, parts of a batch add up to the whole of it."""
    task, batch = _task(ohem=ohem), _batch()
    pixels = task.count(batch).float()
    whole = task(batch, pixels)["loss"]
    parts = [
        task(Sample(*(tensor[first : first + 2] for tensor in batch)), pixels)["loss"]
        for first in (0, 2)
    ]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-5)


@pytest.mark.parametrize("ohem", [None, OHEM()])
@pytest.mark.parametrize("divide_by", ["labelled", "all"])
def test_no_labelled_pixel_is_no_loss_and_no_nan(ohem: OHEM | None, divide_by: str) -> None:
    task = _task(ohem=ohem, divide_by=divide_by).train()
    batch = _batch(labels=torch.full((4, 40, 56), 255, dtype=torch.uint8))
    loss = task(batch, task.count(batch).clamp(min=1).float())["loss"]
    loss.backward()
    assert float(loss.detach()) == 0
    gradients = [p.grad for p in task.parameters() if p.grad is not None]
    assert gradients
    assert all(bool((gradient == 0).all()) for gradient in gradients)


@torch.no_grad()
def test_auxiliary_loss_has_its_weight() -> None:
    batch = _batch()
    losses = {}
    for weight in (0.4, 0.8):
        task = _task(auxiliary_weight=weight)
        losses[weight] = task(batch, torch.tensor(100.0))
    assert float(losses[0.8]["loss_auxiliary"]) == pytest.approx(
        2 * float(losses[0.4]["loss_auxiliary"])
    )
    assert float(losses[0.4]["loss"]) == pytest.approx(
        float(losses[0.4]["loss_main"] + losses[0.4]["loss_auxiliary"])
    )


def test_boundaries_are_four_pixels_wide() -> None:
    labels = torch.zeros(1, 9, 12, dtype=torch.long)
    labels[..., 5:] = 3
    expected = torch.zeros(9, 12, dtype=torch.bool)
    expected[:, 3:7] = True
    assert torch.equal(boundaries(labels)[0], expected)
    labels[0, 4] = 255  # belongs to no class, and hides nothing of the others'
    expected[4] = False
    assert torch.equal(boundaries(labels)[0], expected)
    assert not boundaries(torch.full((2, 9, 12), 255)).any()
    assert not boundaries(torch.full((2, 9, 12), 7)).any()


def test_boundaries_and_the_rest_weigh_the_same() -> None:
    labels = torch.zeros(3, 20, 30, dtype=torch.long)
    labels[0, :, 15:] = 1
    labels[1, :10] = 255
    labels[1, 18:] = 2
    unsure = torch.zeros(3, 1, 20, 30, dtype=torch.float64, requires_grad=True)
    loss = boundary_cross_entropy(unsure, labels)
    shares = torch.tensor([4 / 30, 4 / 10])  # the third image has no boundary and no loss
    expected = (2 * shares * (1 - shares)).sum() * math.log(2) / 3
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-6)
    loss.backward()
    assert unsure.grad is not None
    assert not unsure.grad[1, :, :10].any()
    assert not unsure.grad[2].any()
    each = [boundary_cross_entropy(unsure[[i]], labels[[i]]) for i in range(3)]
    assert float((sum(each) / 3).detach()) == pytest.approx(float(loss.detach()))
    ignored = boundary_cross_entropy(unsure, torch.full_like(labels, 255))
    assert float(ignored.detach()) == 0


def test_padding_is_zero_after_normalisation() -> None:
    task = _task()
    batch = _batch()
    sizes = torch.tensor([[40, 56], [1, 1], [17, 56], [40, 3]])
    images = task.preprocessing.normalise_crops(batch.image, sizes)
    for image, (height, width) in zip(images, sizes.tolist(), strict=True):
        outside = torch.ones_like(image, dtype=torch.bool)
        outside[:, :height, :width] = False
        assert bool((image[outside] == 0).all())
        assert bool((image[~outside] != 0).all())  # no byte equals the mean


def test_hard_examples_are_those_of_low_probability() -> None:
    logits = torch.zeros(1, 2, 1, 4)
    logits[0, 1, 0] = torch.tensor([3.0, 1.0, -1.0, -3.0])  # surer to less sure of class 1
    labels = torch.ones(1, 1, 4, dtype=torch.long)
    losses = F.cross_entropy(logits, labels, reduction="none").flatten()
    two_hardest = hard_example_cross_entropy(logits, labels, None, 0.5, 0.25)
    assert float(two_hardest) == pytest.approx(4 * float(losses[2:].mean()))
    at_least = hard_example_cross_entropy(logits, labels, None, 1e-6, 0.75)
    assert float(at_least) == pytest.approx(4 * float(losses[1:].mean()))


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=30))
def test_balanced_weights_have_mean_one_over_the_pixels(counts: list[int]) -> None:
    weights = balanced_weights(torch.tensor(counts)).double()
    assert bool((weights > 0).all())
    assert bool(weights.isfinite().all())
    if sum(counts):
        mean = (weights * torch.tensor(counts)).sum() / sum(counts)
        assert float(mean) == pytest.approx(1, rel=1e-5)


def test_rarer_classes_weigh_more() -> None:
    weights = balanced_weights(torch.tensor([900, 100, 0]))
    assert float(weights[1] / weights[0]) == pytest.approx(3)
    assert weights[2] == weights[1]


def test_schedule_warms_up_and_decays() -> None:
    schedule = ScheduleRecipe(iterations=160_000, power=1.0, final_rate=1e-6)
    assert learning_rate(0, 4e-4, schedule) == pytest.approx(4e-4 * 1e-6)
    halfway = 4e-4 - (4e-4 - 1e-6) * 750 / 160_000
    assert learning_rate(750, 4e-4, schedule) == pytest.approx(halfway * (1e-6 + 0.9999995 - 0.5))
    middle = (4e-4 + 1e-6) / 2
    assert learning_rate(80_000, 4e-4, schedule) == pytest.approx(middle)
    assert learning_rate(160_000, 4e-4, schedule) == pytest.approx(1e-6)
    released = ScheduleRecipe(iterations=100, power=0.9, warmup_iterations=0)
    rates = [learning_rate(i, 1.0, released) for i in range(101)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 1
    assert rates[100] == 0


def test_the_heads_learn_faster_and_the_dappm_does_not() -> None:
    model = sctnet.create_model("tiny", 3)
    optimizer = build_optimizer(model, OptimizerRecipe(rate=1e-3))
    schedule = ScheduleRecipe(iterations=10, warmup_iterations=0)
    set_learning_rate(optimizer, 5, schedule)
    rates = {
        id(parameter): group["lr"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        expected = 5e-3 if name.startswith(("head.", "auxiliary_head.")) else 5e-4
        assert rates[id(parameter)] == pytest.approx(expected), name
    assert len(rates) == len(list(model.parameters()))
