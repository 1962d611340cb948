"""The parts of the networks: how they start and what they compute."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import network
from torch import nn
from torch.nn import functional as F

from sctnet.export.channels_last import ChannelsLastNormalisation, normalise_channels_last
from sctnet.models import create_model, model_configuration
from sctnet.models.cfblock import (
    GroupedDoubleNormalisation,
    KernelAttention,
    cfblock,
    grouped_double_normalisation,
)
from sctnet.models.gfa import GPUFriendlyAttention
from sctnet.models.layers import BatchNorm, DropPath, PointwiseConv, adaptive_average

# Initialisation.


def all_kernels(model):
    parts = [module for module in model.modules() if isinstance(module, KernelAttention)]
    return [attention.kernels.detach() for attention in parts]


def largest_difference(kernels):
    """Between any kernel and the first of its attention."""
    return float((kernels - kernels[:1]).abs().max())


def movements(model, steps):
    """How each attention's kernels move in some steps of AdamW, computed in float64."""
    model = model.double()
    before = [kernels.clone() for kernels in all_kernels(model)]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    labels = torch.randint(5, (2, 64, 64))
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimiser.step()
    return [after - start for after, start in zip(all_kernels(model), before, strict=True)]


def test_attention_kernels_start_small_and_different():
    for kernels in all_kernels(network("sctnet-s")):
        assert float(kernels.std()) == pytest.approx(0.001, rel=0.03)
        assert abs(float(kernels.mean())) < 5 * 0.001 / math.sqrt(kernels.numel())
        assert len(torch.unique(kernels.flatten(1), dim=0)) == 64


def test_attention_kernels_learn_different_things_unless_they_start_equal():
    """The released code starts them at zero; then all kernels of a block learn one thing."""
    for movement in movements(network(), steps=3):
        assert largest_difference(movement) > 1e-3
        assert len(torch.unique(movement.flatten(1), dim=0)) == len(movement)
    for movement in movements(network(attention_init_std=0.0), steps=3):
        assert movement.abs().max() > 1e-3
        assert largest_difference(movement) < 1e-9


def test_learned_vectors_of_gfa_start_small():
    model = network("sctnet-s", stage3_block="gfa", stage4_block="gfa")
    for module in model.modules():
        if isinstance(module, GPUFriendlyAttention):
            for vectors in (module.keys.detach(), module.values.detach()):
                assert float(vectors.std()) == pytest.approx(0.001, rel=0.05)


@pytest.mark.parametrize("kind", ["cfblock", "msca"])
def test_convolutions_start_as_kaiming_fan_out(kind):
    """Kaiming: std = sqrt(2 / fan-out); within five standard errors of the measured std."""
    model = network("sctnet-s", stage3_block=kind, stage4_block=kind)
    classifiers = (model.head.classifier, model.auxiliary_head.classifier)
    for name, conv in model.named_modules():
        if not isinstance(conv, nn.Conv2d):
            continue
        weight = conv.weight.detach()
        fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1] / conv.groups
        expected = 0.01 if conv in classifiers else math.sqrt(2 / fan_out)
        tolerance = 5 / math.sqrt(2 * weight.numel())
        assert float(weight.std()) == pytest.approx(expected, rel=tolerance), name
        assert not conv.bias.any(), name


def test_norms_start_as_identity():
    for module in network().modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()


# Layers.


def test_post_norm_ends_in_a_norm():
    """Equation 1: with post-norm the block's output is standardised, with pre-norm it is not."""
    x = 3 * torch.randn(4, 16, 8, 8) + 2
    for position, expected in (("post", True), ("pre", False)):
        block = cfblock(16, model_configuration("tiny", 5, norm_position=position, drop_path=0))
        y = block(x).detach()
        standard = torch.allclose(y.mean(dim=(0, 2, 3)), torch.zeros(16), atol=1e-4)
        assert standard == expected, position


def test_one_image_trains_the_whole_network():
    """At 64x64 all pools of the DAPPM leave a single value per channel."""
    model = network()
    singles = [scale[0] for scale in model.dappm.scales[1:]]
    logits = model(torch.randn(1, 3, 64, 64))
    logits.square().mean().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    for norm in singles:
        assert not norm.running_mean.any()
        assert (norm.running_var == 1).all()
    assert model.stem[1].running_mean.any()


def test_a_single_value_uses_the_running_statistics():
    norm = BatchNorm(4)
    plain = nn.BatchNorm2d(4)
    for module in (norm, plain):
        torch.manual_seed(0)
        module.running_mean.normal_()
        module.running_var.uniform_(0.5, 2)
        nn.init.normal_(module.weight)
    value = torch.randn(1, 4, 1, 1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        plain(value)
    assert torch.equal(norm(value), plain.eval()(value))
    assert norm.training
    assert norm.num_batches_tracked == 0


@pytest.mark.parametrize("shape", [(2, 4, 1, 1), (1, 4, 1, 2), (3, 4, 5, 6)], ids=str)
def test_several_values_use_their_own_statistics(shape):
    norm, plain = BatchNorm(4, eps=1e-6), nn.BatchNorm2d(4, eps=1e-6)
    x = torch.randn(shape)
    assert torch.equal(norm(x), plain(x))
    assert all(map(torch.equal, norm.state_dict().values(), plain.state_dict().values()))


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    side=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_adaptive_average_is_pytorchs(size, side, seed):
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    expected = F.adaptive_avg_pool2d(x, side)
    torch.testing.assert_close(adaptive_average(x, side), expected, rtol=1e-12, atol=1e-12)


def test_drop_path_drops_whole_images_and_keeps_the_expectation():
    torch.manual_seed(0)
    rate, images = 0.25, 4000
    branch = torch.randn(images, 2, 3, 3)
    drop_path = DropPath(rate)
    ratio = (drop_path(branch) / branch).flatten(1)
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio))
    kept = ratio[:, 0] > 0
    assert torch.allclose(ratio[kept], torch.tensor(1 / (1 - rate)))
    standard_error = math.sqrt(rate * (1 - rate) / images)
    assert abs(float(kept.float().mean()) - (1 - rate)) < 5 * standard_error
    assert drop_path.eval()(branch) is branch
    assert DropPath(0.0)(branch) is branch


# Grouped double normalisation, equation 2.


def slow_normalisation(similarity, groups, norm):
    """Map by map and pixel by pixel, in numpy's float64."""
    n, k, h, w = similarity.shape
    attention = np.empty((n, k, h, w))
    for image in range(n):
        for index in range(k):
            powers = np.exp(similarity[image, index] - similarity[image, index].max())
            attention[image, index] = powers / powers.sum()
    result = np.empty_like(attention)
    size = k // groups
    for image, index, y, x in np.ndindex(n, k, h, w):
        first = index // size * size
        members = attention[image, first : first + size, y, x]
        total = members.sum() if norm == "l1" else math.sqrt((members**2).sum())
        result[image, index, y, x] = attention[image, index, y, x] / (total + 1e-6)
    return result


@given(
    n=st.integers(1, 2),
    groups=st.integers(1, 3),
    size=st.integers(1, 3),
    h=st.integers(1, 3),
    w=st.integers(1, 3),
    scale=st.sampled_from([0.1, 1.0, 10.0, 60.0]),
    norm=st.sampled_from(["l1", "l2"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_normalisation_equals_the_slow_one(n, groups, size, h, w, scale, norm, seed):
    similarity = scale * np.random.default_rng(seed).standard_normal((n, groups * size, h, w))
    ours = grouped_double_normalisation(torch.from_numpy(similarity), groups, norm)
    np.testing.assert_allclose(
        ours.numpy(), slow_normalisation(similarity, groups, norm), rtol=1e-9, atol=1e-300
    )


@given(
    groups=st.integers(1, 3),
    size=st.integers(1, 3),
    scale=st.sampled_from([0.1, 10.0, 300.0]),
    norm=st.sampled_from(["l1", "l2"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_channels_last_normalisation_is_the_same(groups, size, scale, norm, seed):
    generator = torch.Generator().manual_seed(seed)
    similarity = scale * torch.randn(2, groups * size, 4, 5, generator=generator)
    original = GroupedDoubleNormalisation(groups * size, groups, norm)
    found = ChannelsLastNormalisation(original)(similarity)
    torch.testing.assert_close(found, original(similarity), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("block", ["cfblock", "gfa"])
def test_a_network_that_normalises_channels_last_is_the_same(block):
    student = network(stage3_block=block, stage4_block=block).eval().double()
    images = torch.randn(1, 3, 64, 96).double()
    with torch.inference_mode():
        expected = student(images)
        normalise_channels_last(student)
        torch.testing.assert_close(student(images), expected, rtol=0, atol=1e-8)
    assert sum(isinstance(part, ChannelsLastNormalisation) for part in student.modules()) >= 2
    assert not any("same_group" in key for key in student.state_dict())


def test_groups_are_consecutive_maps():
    similarity = torch.randn(2, 12, 5, 7)
    attention = grouped_double_normalisation(similarity, 3)
    sums = attention.view(2, 3, 4, 5, 7).sum(dim=2)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=2e-3)
    interleaved = attention.view(2, 4, 3, 5, 7).sum(dim=1)
    assert (interleaved - 1).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_normalised_in_float32(dtype):
    """Over 96 x 128 pixels a float16 softmax would lose most of its values."""
    similarity = torch.randn(1, 8, 96, 128).to(dtype)
    attention = grouped_double_normalisation(similarity, 2)
    assert attention.dtype == dtype
    assert torch.equal(attention, grouped_double_normalisation(similarity.float(), 2).to(dtype))


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_gradient_is_finite_where_no_map_attends(norm):
    """One pixel takes all attention; elsewhere every map is exactly 0."""
    similarity = torch.zeros(1, 8, 2, 2)
    similarity[:, :, 0, 0] = 200
    similarity.requires_grad_()
    attention = grouped_double_normalisation(similarity, 2, norm)
    assert not attention[..., 1, 1].any()
    attention.square().sum().backward()
    assert similarity.grad.isfinite().all()


@pytest.mark.parametrize(("channels", "gathers"), [(8, True), (16, False)])
def test_strided_pointwise_convolution_of_few_channels_is_computed_without_a_stride(
    channels: int, gathers: bool
) -> None:
    """The kernel of oneDNN with a stride writes past its memory; the gathered one must be equal."""
    ours = PointwiseConv(channels, 12, 1, stride=2).double()
    usual = nn.Conv2d(channels, 12, 1, stride=2).double()
    usual.load_state_dict(ours.state_dict())
    images = torch.randn(2, channels, 9, 14, dtype=torch.float64)
    seen = []
    for layer in (ours, usual):
        x = images.clone().contiguous(memory_format=torch.channels_last).requires_grad_()
        y = layer(x)
        y.square().sum().backward()
        assert layer.weight.grad is not None
        assert layer.bias is not None
        seen.append((y, x.grad, layer.weight.grad, layer.bias.grad))
    for own, expected in zip(*seen, strict=True):
        torch.testing.assert_close(own, expected)
    assert seen[0][0].shape == (2, 12, 5, 7)
    node: Any = ours(images).grad_fn
    assert node._saved_stride == ((1, 1) if gathers else (2, 2))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), usual(images))


def test_no_network_trains_a_strided_pointwise_convolution_of_few_channels() -> None:
    student = create_model("sctnet-tiny", 3).train()
    features = student.features(torch.randn(2, 3, 64, 64))
    pending, seen = [features.logits.grad_fn], set()
    found = 0
    while pending:
        node: Any = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        pending += [before for before, _ in node.next_functions]
        if node.name().startswith("Convolution"):
            found += 1
            narrow = node._saved_weight.shape[1] < 16
            pointwise = node._saved_weight.shape[2:] == (1, 1)
            assert not (narrow and pointwise and tuple(node._saved_stride) != (1, 1))
    assert found > 10
