"""The cross-entropy of resized logits by the compiled library, against PyTorch in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from sctnet.kernels import cross_entropy, instruction_set, library
from sctnet.kernels.cross_entropy import cpu_cross_entropy
from sctnet.kernels.library import InstructionSet
from sctnet.training.losses import resized_cross_entropy

IGNORED = 255

if instruction_set() is None:
    pytest.skip("there is no compiled library here", allow_module_level=True)

OFFERED = [kind for kind in library().instruction_sets if kind.offered]


def by_pytorch(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    resized = F.interpolate(logits, labels.shape[1:], mode="bilinear")
    return F.cross_entropy(resized, labels, weights, ignore_index=IGNORED, reduction="sum")


def drawn(shape: tuple[int, ...], size: tuple[int, int], seed: int, scale: float = 4.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(shape, generator=generator)
    labels = torch.randint(0, shape[1], (shape[0], *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORED
    return logits, labels, torch.rand(shape[1], generator=generator) + 0.5


def loss_and_gradient(function, logits: Tensor, *others: object) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    loss = function(logits, *others)
    return loss.detach(), torch.autograd.grad(3 * loss, logits)[0]


def assert_as_pytorch(logits: Tensor, labels: Tensor, weights: Tensor | None) -> None:
    found = loss_and_gradient(cpu_cross_entropy, logits, labels, weights, IGNORED)
    exact = loss_and_gradient(
        by_pytorch, logits.double(), labels, None if weights is None else weights.double()
    )
    # Each resized logit is off by some roundings of the largest; the loss is a sum of such.
    one = 4 * 2**-23 * float(logits.abs().max())
    pixels = int((labels != IGNORED).sum())
    assert abs(float(found[0]) - float(exact[0])) <= (one * 2 + 1e-6) * max(1, pixels)
    reading = 4 * labels[0].numel() / logits[0, 0].numel() + 4  # pixels that read a logit, and more
    assert (found[1] - exact[1]).abs().max() <= 3 * 1.5 * reading * (one + 2e-6)


@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 12), st.integers(1, 12)),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    weighted=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_size_is_as_in_pytorch(shape, size, weighted, seed) -> None:
    logits, labels, weights = drawn(shape, size, seed)
    assert_as_pytorch(logits, labels, weights if weighted else None)


@pytest.mark.parametrize("kind", OFFERED, ids=lambda kind: kind.name)
@pytest.mark.parametrize("classes", [2, 8, 19, 150])
def test_every_instruction_set_is_as_pytorch(
    kind: InstructionSet, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "instruction_set", lambda: kind)
    logits, labels, weights = drawn((2, classes, 9, 12), (70, 96), classes)
    assert_as_pytorch(logits, labels, weights)
    assert_as_pytorch(logits.contiguous(memory_format=torch.channels_last), labels, None)


def test_neighbours_that_differ_by_hundreds_are_as_in_pytorch() -> None:
    """Halfway between two sure pixels, every class is far below both of their largest."""
    logits, labels, _ = drawn((1, 5, 6, 6), (48, 48), 0, scale=400.0)
    assert_as_pytorch(logits, labels, None)


def test_threads_change_nothing() -> None:
    logits, labels, weights = drawn((3, 11, 45, 60), (360, 480), 1)
    threads = torch.get_num_threads()
    try:
        found = []
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            found.append(loss_and_gradient(cpu_cross_entropy, logits, labels, weights, IGNORED))
    finally:
        torch.set_num_threads(threads)
    for each in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], each, strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(value: float) -> None:
    logits, labels, _ = drawn((1, 3, 4, 4), (16, 16), 2)
    logits[0, 1, 2, 2] = value
    assert not cpu_cross_entropy(logits, labels.fill_(0), None, IGNORED).isfinite()


def test_a_picture_without_labels_costs_nothing() -> None:
    logits, labels, _ = drawn((1, 3, 4, 4), (16, 16), 3)
    loss, gradient = loss_and_gradient(
        cpu_cross_entropy, logits, labels.fill_(IGNORED), None, IGNORED
    )
    assert float(loss) == 0
    assert not gradient.any()


@pytest.mark.parametrize("label", [-1, 3, 254, 2**40])
def test_a_label_that_is_no_class_is_told(label: int) -> None:
    logits, labels, _ = drawn((1, 3, 4, 4), (16, 16), 4)
    labels[0, 7, 7] = label
    with pytest.raises(IndexError, match="none of the 3 classes, nor 255"):
        cpu_cross_entropy(logits, labels, None, IGNORED)


def test_training_uses_it_for_what_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels, weights = drawn((1, 3, 4, 4), (16, 16), 5)
    computed = resized_cross_entropy(logits, labels, weights)
    assert torch.equal(computed, cpu_cross_entropy(logits, labels, weights, IGNORED))
    exact = by_pytorch(logits.double(), labels, weights.double())
    torch.testing.assert_close(
        resized_cross_entropy(logits.double(), labels, weights.double()), exact
    )
    monkeypatch.setattr("sctnet.training.losses.instruction_set", lambda: None)
    torch.testing.assert_close(resized_cross_entropy(logits, labels, weights), exact.float())
