"""The folded shared head computes what the formula says, and never makes its large maps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import sctnet
from sctnet.models import SegmentationNetwork
from sctnet.models.layers import normalised_pixels, resize
from sctnet.models.pyramid import PyramidNetwork
from sctnet.training.alignment import Alignment, scale_alignment
from sctnet.training.recipe import AlignmentRecipe
from sctnet.training.shared_head import larger, moments, through_folded_head
from sctnet.training.teachers import NetworkTeacher

CLASSES = ("road", "car", "sky")
SMALL = {"widths": (8, 16, 40, 64), "depths": (1, 1, 1, 1), "decoder_channels": 16}
HF = {
    "hidden_sizes": (8, 16, 40, 64),
    "depths": (1, 1, 1, 1),
    "decoder_hidden_size": 16,
}


def segformer() -> SegmentationNetwork:
    return sctnet.create_model("segformer-b0", len(CLASSES), **SMALL)


def transformers_segformer() -> SegmentationNetwork:
    pytest.importorskip("transformers")
    return sctnet.create_model("segformer-b0-hf", len(CLASSES), architecture=HF)


def efficientnet() -> SegmentationNetwork:
    pytest.importorskip("efficientnet_lite_pytorch")
    return sctnet.create_model("efficientnet-lite2", len(CLASSES), decoder_channels=16)


NETWORKS = [segformer, transformers_segformer, efficientnet]


def drawn(make: Callable[[], SegmentationNetwork]) -> PyramidNetwork:
    """Return a network in float64 whose norms have statistics and weights of their own."""
    torch.manual_seed(0)
    network = make().double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 2)
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(0, 0.5)
    assert isinstance(network, PyramidNetwork)
    return network


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(
        found, expected, rtol=0, atol=1e-11 * float(expected.detach().abs().max())
    )


SIZES = [(6, 9), (12, 18), (11, 23), (7, 9)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_moments_are_those_of_the_resized_map(
    size: tuple[int, int], layout: torch.memory_format
) -> None:
    x = (torch.randn(3, 4, 6, 9).double() * 2 + 50).contiguous(memory_format=layout)
    resized, found = resize(x, size), moments(x, size)
    torch.testing.assert_close(found.mean, resized.mean((2, 3)))
    torch.testing.assert_close(
        found.deviations, resized.var((2, 3), correction=0) * size[0] * size[1]
    )
    mean, std = found.of_batch()
    torch.testing.assert_close(mean, resized.mean((0, 2, 3)))
    torch.testing.assert_close(std, resized.std((0, 2, 3)))


@pytest.mark.parametrize("make", NETWORKS)
def test_a_teachers_answer_is_that_of_its_whole_head(
    make: Callable[[], SegmentationNetwork],
) -> None:
    network = drawn(make)
    images = torch.randn(2, 3, 64, 104).double()
    student = (8, 13)
    with torch.no_grad():
        features = network.features(images)
        teacher = NetworkTeacher(network, CLASSES)
        answer = teacher.answer(teacher.encode(images, student), student)
    assert features.decoder_input is not None
    assert answer.decoder_input is not None
    for name in ("stage3", "stage4", "decoder_feature", "logits"):
        assert_equal(getattr(answer, name), getattr(features, name))
    expected = moments(features.decoder_input, answer.decoder_input.size)
    assert expected.size == features.decoder_input.shape[2:]
    for found, whole in zip(answer.decoder_input[:2], expected[:2], strict=True):
        assert_equal(found, whole)


@pytest.mark.parametrize("student", [(8, 12), (9, 13), (16, 24), (20, 30)])
@pytest.mark.parametrize("make", NETWORKS)
def test_folded_head_is_the_formula(
    make: Callable[[], SegmentationNetwork], student: tuple[int, int]
) -> None:
    """Expand, resize, align the scale, then the teacher's own head; its gradients too."""
    network = drawn(make)
    expansion = nn.Conv2d(10, network.widths.decoder_input or 0, 1).double()
    teachers = torch.randn(2, network.widths.decoder_input or 0, 16, 24).double() * 3 + 2
    size = larger((16, 24), student)
    taught = moments(teachers, size)
    x = torch.randn(2, 10, *student).double().requires_grad_()
    learned = [x, expansion.weight, expansion.bias]

    def formula() -> tuple[Tensor, Tensor]:
        expanded = resize(expansion(x), size)
        return network.decode(scale_alignment(expanded, taught))

    def folded() -> tuple[Tensor, Tensor]:
        return through_folded_head(x, expansion, network.fusion(), taught)

    results = []
    for form in (formula, folded):
        feature, logits = form()
        loss = (feature.sin() * torch.linspace(0, 1, size[1])).sum() + logits.square().sum()
        results.append((feature, logits, *torch.autograd.grad(loss, learned)))
    for expected, found in list(zip(*results, strict=True))[:-1]:
        assert_equal(found, expected)
    assert float(results[1][-1].abs().max()) < 1e-12  # a bias that the alignment takes away


def test_a_constant_channel_has_a_gradient() -> None:
    """Zero, where the square root's own would be infinite."""
    network = drawn(segformer)
    expansion = nn.Conv2d(10, 64, 1).double()
    x = torch.ones(2, 10, 4, 6).double().requires_grad_()
    taught = moments(torch.randn(2, 64, 8, 12).double(), (8, 12))
    feature, _ = through_folded_head(x, expansion, network.fusion(), taught)
    feature.sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
    assert bool(expansion.weight.grad.isfinite().all())  # type: ignore[union-attr]


class _LargestMap(TorchDispatchMode):
    """Remembers how many values the largest tensor has that anything computes."""

    values = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.values = max(self.values, tensor.numel())
        return result


def test_the_large_map_is_never_made() -> None:
    torch.manual_seed(0)
    student = sctnet.create_model("tiny", len(CLASSES))
    options = {**SMALL, "widths": (4, 8, 10, 16), "decoder_channels": 64}
    network = sctnet.create_model("segformer-b0", len(CLASSES), **options)
    alignment = Alignment(
        AlignmentRecipe(teacher="x"), NetworkTeacher(network, CLASSES), student.widths
    )
    images = torch.randn(2, 3, 64, 96)
    features = student.features(images)
    with _LargestMap() as largest:
        torch.stack(list(alignment(images, features).values())).sum().backward()
    pixels = 2 * 16 * 24
    assert 64 * pixels <= largest.values < 128 * pixels  # the concatenation has 4 * 64 channels


@pytest.mark.parametrize("variant", ["tiny", "ddrnet-23-slim"])
def test_other_heads_keep_the_formula(variant: str) -> None:
    """A teacher at stride 8, without one linear map; its student at stride 4 is larger."""
    torch.manual_seed(0)
    teacher = NetworkTeacher(sctnet.create_model(variant, len(CLASSES)), CLASSES).double()
    assert teacher.fusion() is None
    student = segformer().double().eval()
    alignment = Alignment(AlignmentRecipe(teacher="x"), teacher, student.widths).double()
    images = torch.randn(2, 3, 64, 96).double()
    features = student.features(images)
    terms = alignment(images, features)
    whole = teacher.network.features(images)
    size = (16, 24)
    taught = moments(resize(whole.decoder_input, size), size)
    expanded = alignment.projections["decoder"](features.decoder_input)
    assert expanded.shape[2:] == size
    feature, logits = teacher.decode(scale_alignment(expanded, taught))
    for name, ours, theirs in (
        ("decoder", feature, normalised_pixels(whole.decoder_feature)),
        ("logits", logits, whole.logits),
    ):
        first, second = ((x / 4).flatten(2).log_softmax(-1) for x in (ours, resize(theirs, size)))
        expected = 16 * F.kl_div(first, second, reduction="sum", log_target=True)
        torch.testing.assert_close(terms[name], expected / (2 * ours.shape[1]))
