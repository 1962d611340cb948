"""The network in the compiled library: as PyTorch's, whatever the size and instruction set."""

import copy
import os
import pickle
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import deviation
from torch import Tensor, nn
from torch.nn import functional as F

import sctnet
from sctnet.checkpoints.model_folder import ModelConfig
from sctnet.inference.runtimes.cpu_runtime import CpuRuntime
from sctnet.inference.runtimes.torch_runtime import TorchRuntime
from sctnet.kernels import instruction_set, library
from sctnet.kernels.network import CpuNetwork, has_cpu_kernels, network, packing
from sctnet.kernels.network import steps as kinds
from sctnet.kernels.network.memory import Buffer, Memory
from sctnet.kernels.network.packing import Weights
from sctnet.kernels.network.writer import Norm, Writer
from sctnet.models import create_model
from sctnet.models.cfblock import KernelAttention, grouped_double_normalisation
from sctnet.models.network import IMAGENET_MEAN, IMAGENET_STD
from sctnet.pipeline.preprocessing import Preprocessing, PreprocessingConfig

STATISTICS = IMAGENET_MEAN, IMAGENET_STD
CHOSEN = instruction_set()
if CHOSEN is None:
    pytest.skip("there is no compiled library here", allow_module_level=True)
OFFERED = [kind for kind in library().instruction_sets if kind.offered]
on_each = pytest.mark.parametrize("kind", OFFERED, ids=lambda kind: kind.name)
on_each_with_pairs = pytest.mark.parametrize(
    "kind", [kind for kind in OFFERED if kind.takes_pairs], ids=lambda kind: kind.name
)
needs_pairs = pytest.mark.skipif(
    not CHOSEN.multiplies_pairs, reason="this processor does not multiply bfloat16"
)


@pytest.fixture(autouse=True)
def dirty_memory(monkeypatch):
    """All memory begins with what is not a number: who reads what nobody wrote is found out."""
    clean = packing.aligned

    def dirty(length, kind=np.float32):
        memory = clean(length, kind)
        memory.view(np.uint8)[:] = 255
        return memory

    monkeypatch.setattr(packing, "aligned", dirty)


# Single steps


def computed(write, x: Tensor, kind, short: bool = False) -> Tensor:
    """Return the maps that ``write(writer, plane)`` makes of C x H x W maps."""
    weights = Weights(kind.shape, short)
    writer = Writer(weights, threads=1)
    channels, height, width = x.shape
    source = writer.plane(height, width, channels, frame=4, short=short)
    made = write(writer, source)
    program = writer.program(made)
    arrays = weights.arrays() if weights._factors._arrays else (weights._terms.array(), None)
    factors = np.empty(0, np.uint16 if short else np.float32) if arrays[1] is None else arrays[1]
    memory = np.full(program.memory, np.nan, np.float32)
    scratch = np.full((1, program.scratch), np.nan, np.float32)
    values = x.permute(1, 2, 0)
    values = (values.bfloat16().contiguous().view(torch.uint16) if short else values).numpy()
    # The source is written where its frame is cleared: by the first step.
    given = None, memory, program.offsets, (arrays[0], factors), scratch
    library().compute(kind, program.steps[:1].copy(), *given)
    view(memory.view(factors.dtype), source)[:] = values
    library().compute(kind, program.steps[1:].copy(), *given)
    return torch.from_numpy(view(memory, made).copy()).permute(2, 0, 1)


def view(memory: np.ndarray, plane: Buffer) -> np.ndarray:
    strides = np.array([plane.row, plane.pixel, 1]) * memory.itemsize
    return np.lib.stride_tricks.as_strided(memory[plane.begin :], plane.shape, strides)


@on_each
@settings(max_examples=150)
@given(
    kernel=st.sampled_from([(3, 3), (1, 1), (7, 1), (1, 7), (9, 1), (1, 5), (3, 1), (7, 7)]),
    stride=st.integers(1, 2),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    depth=st.sampled_from([3, 8, 16, 20, 33, 64]),
    channels=st.sampled_from([1, 8, 19, 32, 40, 70]),
    activation=st.integers(0, 2),
    residual=st.booleans(),
    seed=st.integers(0, 9),
)
def test_convolutions_are_those_of_pytorch(
    kind, kernel, stride, height, width, depth, channels, activation, residual, seed
):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(depth, height, width, generator=generator)
    padding = (kernel[0] // 2, kernel[1] // 2)
    convolution = nn.Conv2d(depth, channels, kernel, stride, padding)
    residual = residual and stride == 1 and channels == depth and activation != kinds.GELU

    def write(writer, source):
        target = writer.strided(convolution, source)
        plus = source if residual else None
        writer.convolution("name", convolution, source, target, activation, plus)
        return target

    expected = convolution.double()(x.double())
    expected = expected + x if residual else expected
    expected = [lambda y: y, F.relu, F.gelu][activation](expected)
    convolution.float()
    found = computed(write, x, kind)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 3e-5


@on_each_with_pairs
@settings(max_examples=60)
@given(
    kernel=st.sampled_from([(3, 3), (1, 1), (7, 1), (1, 7)]),
    stride=st.integers(1, 2),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    depth=st.sampled_from([4, 16, 32, 50]),
    channels=st.sampled_from([1, 19, 64]),
)
def test_short_products_are_of_rounded_factors(
    kind, kernel, stride, height, width, depth, channels
):
    """To the last bit but those of float32's sums, where there is no transform before rounding."""
    x = torch.randn(depth, height, width)
    if kernel == (3, 3) and stride == 1:
        depth = kind.shape.lanes // 2  # too few channels for tiles
        x = x[:1].repeat(depth, 1, 1)
    convolution = nn.Conv2d(depth, channels, kernel, stride, (kernel[0] // 2, kernel[1] // 2))

    def write(writer, source):
        target = writer.strided(convolution, source)
        writer.convolution("name", convolution, source, target)
        return target

    weight = convolution.weight.detach().bfloat16().double()
    expected = F.conv2d(
        x.bfloat16().double(),
        weight,
        convolution.bias.detach().double(),
        stride,
        convolution.padding,
    )
    assert (computed(write, x, kind, short=True) - expected).abs().max() < 3e-5


def norm_of(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels).eval()
    for values in (norm.weight.data, norm.bias.data, norm.running_mean):
        values.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


@on_each
@settings(max_examples=60)
@given(
    size=st.sampled_from([5, 9, 17, 0]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 16, 37]),
)
def test_pools_are_those_of_pytorch(kind, size, height, width, channels):
    x, norm = torch.randn(channels, height, width), norm_of(channels)
    stride = {5: 2, 9: 4, 17: 8, 0: 1}[size]
    pool = nn.AvgPool2d(size, stride, size // 2) if size else nn.AdaptiveAvgPool2d(1)
    expected = F.relu(norm(pool(x[None])))[0]

    def write(writer, source):
        target = writer.plane(expected.shape[1], expected.shape[2], channels)
        writer.pool(source, size, stride, Norm("norm", norm), target)
        return target

    assert (computed(write, x, kind) - expected).abs().max() < 1e-5


@on_each
@settings(max_examples=60)
@given(
    sizes=st.tuples(*[st.integers(1, 50)] * 4),
    rectify=st.booleans(),
    first=st.integers(0, 3),
)
def test_resizes_and_norms_are_those_of_pytorch(kind, sizes, rectify, first):
    channels, height, width = 24, *sizes[:2]
    x, norm = torch.randn(channels, height, width), norm_of(channels + first)

    def write(writer, source):
        affine = writer.plane(height, width, channels)
        writer.affine(source, Norm("norm", norm, first), affine, rectify)
        resized = writer.plane(*sizes[2:], channels)
        writer.resize(affine, Norm("nothing else", nn.Identity()), resized)
        return resized

    normed = norm(F.pad(x, (0, 0, 0, 0, first, 0))[None])[:, first:]
    expected = F.interpolate(F.relu(normed) if rectify else normed, sizes[2:], mode="bilinear")
    assert (computed(write, x, kind) - F.relu(expected)[0]).abs().max() < 1e-4


@on_each
@settings(max_examples=40)
@given(
    norm=st.sampled_from(["l1", "l2"]),
    groups=st.sampled_from([1, 2, 8]),
    sides=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    spread=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_the_double_normalisation_is_the_networks(kind, norm, groups, sides, spread):
    maps = torch.randn(32, *sides) * spread

    def write(writer, source):
        target = writer.plane(*source.shape)
        writer.normalise(source, 32 // groups, norm == "l2", target)
        return target

    expected = grouped_double_normalisation(maps.double()[None], groups, norm)[0]
    assert (computed(write, maps, kind) - expected).abs().max() < 1e-4


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 200)), max_size=40))
def test_no_two_planes_share_a_place(requests):
    memory, held = Memory(), []
    for give, length in requests:
        if give and held:
            memory.give_back(held.pop(length % len(held)))
            continue
        begin, end = memory.take(length)
        assert end - begin >= length
        assert end <= memory.length
        assert all(end <= other[0] or begin >= other[1] for other in held)
        held.append((begin, end))
    most = memory.length
    for span in held:
        memory.give_back(span)
    assert most == 0 or memory.take(most) == (0, most), "what is given back can be had as a whole"


# Whole networks


def with_statistics(model: nn.Module) -> nn.Module:
    """Return the model as training leaves it: with statistics, and kernels that can tell apart."""
    for module in model.modules():
        if isinstance(module, KernelAttention):
            module.kernels.data *= 200
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return model.eval()


VARIANTS = [
    ("sctnet-s", {}),
    ("sctnet-tiny", {}),
    ("sctnet-tiny", {"attention_kernel": "7x7", "attention_norm": "l2"}),
    ("sctnet-tiny", {"attention_kernel": "1x9+9x1", "stage4_depth": 1, "stage3_depth": 2}),
    ("sctnet-tiny", {"attention_kernel": "1x1", "base_channels": 12, "dappm_channels": 7}),
    ("sctnet-tiny", {"stage3_block": "residual", "stage4_block": "residual"}),
    ("sctnet-tiny", {"num_classes": 300, "attention_kernels": 6, "attention_groups": 3}),
]


@on_each
@pytest.mark.parametrize(("variant", "options"), VARIANTS)
@pytest.mark.parametrize(
    "size",
    [
        (1, 1),
        (33, 31),
        (64, 160),
        (97, 50),
        *(pytest.param(size, marks=pytest.mark.slow) for size in ((1, 500), (500, 2))),
    ],
)
def test_logits_are_those_of_the_network(kind, variant, options, size):
    torch.manual_seed(0)
    model = with_statistics(create_model(variant, **{"num_classes": 19} | options))
    fused = model.fuse()
    assert has_cpu_kernels(fused)
    images = torch.randn(2, 3, *size)
    found = CpuNetwork(fused, *STATISTICS, kind=kind)(images)
    with torch.inference_mode():
        in_pytorch = fused.features(images).logits
        expected = model.double().features(images.double()).logits
    assert found.shape == expected.shape
    assert deviation(found, expected) < 1e-6 + 5 * deviation(in_pytorch, expected)


@on_each_with_pairs
@pytest.mark.parametrize(
    "size",
    [
        (1, 1),
        (33, 31),
        *(pytest.param(size, marks=pytest.mark.slow) for size in ((96, 160), (500, 2))),
    ],
)
def test_short_factors_cost_little(kind, size):
    torch.manual_seed(0)
    model = with_statistics(create_model("sctnet-s", 19)).fuse()
    images = torch.randn(1, 3, *size)
    exact = CpuNetwork(model, *STATISTICS, kind=kind)(images)
    short = CpuNetwork(model, *STATISTICS, short=True, kind=kind)(images)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        in_pytorch = model.features(images).logits.float()
    assert (short - exact).std() < 4 * (in_pytorch - exact).std()
    assert not torch.equal(short, exact)


def test_norms_of_several_gpus_are_norms():
    model = with_statistics(create_model("sctnet-tiny", 5))
    images = torch.randn(1, 3, 50, 70)
    expected = CpuNetwork(model.fuse(), *STATISTICS)(images)
    several = nn.SyncBatchNorm.convert_sync_batchnorm(model).eval()
    assert torch.equal(CpuNetwork(several.fuse(), *STATISTICS)(images), expected)


def test_what_overflows_is_refused():
    """Finite weights, whose similarities to the kernels are not."""
    model = create_model("sctnet-tiny", 5).eval()
    block = model.stage4[3]
    block.attention_norm.weight.data *= 1e25
    block.attention.stripes[0].kernels.data *= 1e18
    segmenter = segmenter_of(model)
    assert isinstance(segmenter.runtime, CpuRuntime)
    with pytest.raises(sctnet.SctnetError, match="not finite"):
        segmenter(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))


def test_a_copy_in_another_process_finds_the_same():
    model = CpuNetwork(create_model("sctnet-tiny", 5).eval().fuse(), *STATISTICS)
    images = torch.randn(1, 3, 41, 67)
    expected = model(images)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images), expected)
    assert torch.equal(copy.deepcopy(model)(images), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_has_its_own_memory(platform, monkeypatch):
    monkeypatch.setattr(packing.sys, "platform", platform)
    model = CpuNetwork(create_model("sctnet-tiny", 5).eval().fuse(), *STATISTICS)
    images = torch.randn(8, 3, 80, 80)
    expected = model(images)
    child = os.fork()
    if not child:
        os._exit(0 if all(torch.equal(model(images), expected) for _ in range(20)) else 1)
    assert all(torch.equal(model(images), expected) for _ in range(20))
    assert os.waitpid(child, 0)[1] == 0


def test_idle_memory_is_bounded(monkeypatch):
    model = CpuNetwork(create_model("sctnet-tiny", 5).eval().fuse(), *STATISTICS)
    model(torch.randn(1, 3, 64, 64))
    assert len(model._idle) == 1
    monkeypatch.setattr(network, "_KEPT_VALUES", model._idle[0].size)
    model(torch.randn(1, 3, 128, 128))
    assert not model._idle


def test_a_lack_of_memory_is_named_as_such(monkeypatch):
    def refused(*_):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(packing.mmap, "mmap", refused)
    with pytest.raises(MemoryError):
        packing.aligned(1000)


def test_bytes_are_normalised_as_the_preparation_does():
    model = CpuNetwork(create_model("sctnet-tiny", 5).eval().fuse(), *STATISTICS)
    images = torch.randint(0, 256, (2, 3, 41, 67), dtype=torch.uint8)
    prepared = Preprocessing(PreprocessingConfig())(images)
    assert torch.equal(model(images), model(prepared))


@pytest.mark.parametrize("short", sorted({False, CHOSEN.takes_pairs}))
def test_neither_threads_nor_neighbours_change_a_bit(short, monkeypatch):
    model = CpuNetwork(create_model("sctnet-s", 5).eval().fuse(), *STATISTICS, short=short)
    images = [torch.randn(1, 3, 50 + 16 * k, 70) for k in range(4)]
    alone = [model(image) for image in images]
    monkeypatch.setattr(network, "_threads", lambda callers: 3 // callers)
    assert all(map(torch.equal, alone, map(model, images)))
    found = {}
    callers = [
        threading.Thread(target=lambda k=k: found.update({k: [model(i) for i in images]}))
        for k in range(3)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 3
    assert all(
        torch.equal(*pair) for each in found.values() for pair in zip(each, alone, strict=True)
    )
    beside = model.side_by_side(3)
    assert all(map(torch.equal, alone, map(beside, images)))


@pytest.mark.parametrize(
    "options",
    [
        {"stage3_block": "gfa"},
        {"stage4_block": "msca"},
        {"norm_position": "post"},
    ],
)
def test_other_networks_are_left_to_pytorch(options):
    model = create_model("sctnet-tiny", 5, **options).eval()
    assert not has_cpu_kernels(model.fuse())
    assert isinstance(segmenter_of(model).runtime, TorchRuntime)


def test_what_is_not_finite_is_left_to_pytorch():
    model = create_model("sctnet-tiny", 5).eval()
    model.stage4[3].attention.stripes[0].kernels.data[0, 0] = torch.nan
    segmenter = segmenter_of(model)
    assert isinstance(segmenter.runtime, TorchRuntime)
    with pytest.raises(sctnet.SctnetError, match="not finite"):
        segmenter(np.zeros((40, 40, 3), np.uint8))


def test_too_narrow_networks_are_not_shortened():
    model = create_model("sctnet-tiny", 5).eval()
    assert not has_cpu_kernels(model.fuse(), short=True)
    assert isinstance(segmenter_of(model, "bf16").runtime, TorchRuntime)


def segmenter_of(model, precision="auto"):
    names = tuple(f"class {k}" for k in range(5))
    config = ModelConfig(network=model.config, classes=names)
    return sctnet.Segmenter.from_model(model, config, "cpu", precision)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_pairs)])
def test_a_segmenter_labels_as_pytorch_does(precision):
    model = with_statistics(create_model("sctnet-s", 5))
    segmenter = segmenter_of(model, precision)
    assert isinstance(segmenter.runtime, CpuRuntime)
    assert segmenter.runtime.precision == precision
    picture = np.random.default_rng(0).integers(0, 256, (96, 130, 3), np.uint8)
    plain = TorchRuntime(model.fuse(), segmenter.config.preparation)
    images = [torch.from_numpy(picture).permute(2, 0, 1)[None]]
    for options in ({}, {"scale": 0.7}, {"mirrored": True}):
        (found,), (expected,) = segmenter.runtime(images, **options), plain(images, **options)
        assert found.shape == expected.shape
        same = (found.argmax(1) == expected.argmax(1)).float().mean()
        assert same >= (1 if precision == "fp32" else 0.9)


def test_panels_are_whole_vectors():
    matrix = np.arange(3 * 5, dtype=np.float64).reshape(3, 5)
    panels = packing.as_panels(matrix, 16)
    assert panels.shape == (1, 3, 16)
    assert np.array_equal(panels[0, :, :5], matrix)
    assert not panels[0, :, 5:].any()
