"""Every network runs, learns, fuses and exports, and has the stated size."""

import importlib.util
import json
import math
from pathlib import Path

import jaxtyping
import pytest
import torch
from pydantic import ValidationError
from shared import deviation, network
from torch import nn
from torch.nn import functional as F

from sctnet.errors import SctnetError
from sctnet.models import VARIANTS, model_configuration
from sctnet.models.blocks import BLOCKS
from sctnet.models.cfblock import KernelAttention
from sctnet.models.counting import count_multiply_adds, count_parameters

each_variant = pytest.mark.parametrize("variant", VARIANTS)
LARGE = ("sctnet-b", "sctnet-l")
# The large variants' networks are the small ones', only wider.
large_when_slow = pytest.mark.parametrize(
    "variant",
    [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in VARIANTS],
)


def trained(variant):
    """A network in eval mode whose running statistics are no longer those of the start."""
    model = network(variant)
    with torch.no_grad():
        for _ in range(3):
            model(2 * torch.randn(2, 3, 64, 64) + 0.5)
    return model.eval()


# The battery: every variant passes it.


@each_variant
@pytest.mark.parametrize("size", [(64, 64), (97, 131)], ids=str)
def test_shapes(variant, size):
    assert_shapes(variant, size)


@large_when_slow
def test_shapes_at_the_size_of_camvid(variant):
    assert_shapes(variant, (360, 480))


def assert_shapes(variant, size):
    model = network(variant).eval()
    c = model.config.base_channels
    images = torch.randn(1, 3, *size)
    with torch.inference_mode():
        features = model.features(images)
        logits = model(images)
    channels = {"stage2": 2 * c, "stage3": 4 * c, "stage4": 8 * c, "decoder_input": 4 * c}
    channels |= {"decoder_feature": 4 * c, "logits": 5, "auxiliary_logits": 5}
    maps = features._asdict()
    (maps["auxiliary_logits"],) = features.auxiliary_logits
    assert maps.pop("boundary_logits") is None
    for name, feature in maps.items():
        stride = {"stage3": 16, "stage4": 32}.get(name, 8)
        expected = (1, channels[name], *(math.ceil(side / stride) for side in size))
        assert feature.shape == expected, name
    assert logits.shape == (1, 5, *size)
    assert torch.equal(
        logits, F.interpolate(features.logits, size, mode="bilinear", align_corners=False)
    )


@large_when_slow
def test_every_parameter_learns(variant):
    model = network(variant)
    assert model.training
    features = model.features(torch.randn(2, 3, 64, 64))
    labels = torch.randint(5, features.logits.shape[-2:]).expand(2, -1, -1)
    loss = F.cross_entropy(features.logits, labels)
    (loss + F.cross_entropy(features.auxiliary_logits[0], labels)).backward()
    wrong = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all()
    ]
    assert wrong == []


@large_when_slow
def test_save_and_load_bit_for_bit(variant, tmp_path):
    from sctnet.checkpoints.model_folder import load_model, save_model

    model = trained(variant)
    loaded = load_model(save_model(model, tmp_path / "model"))
    assert not loaded.training
    assert loaded.config == model.config
    before, after = model.state_dict(), loaded.state_dict()
    assert list(before) == list(after)
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))


@large_when_slow
def test_fused_network_computes_the_same(variant):
    model = trained(variant)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images = torch.randn(1, 3, 97, 131)
    with torch.inference_mode():
        logits = model(images)
        fused = model.fuse()
        assert deviation(fused(images), logits) < 1e-4
        assert torch.equal(fused.fuse()(images), fused(images))
        assert torch.equal(model(images), logits)
    assert [key for key, value in model.state_dict().items() if not value.equal(before[key])] == []
    assert model.auxiliary_head is not None
    assert fused.auxiliary_head is None
    assert not fused.config.auxiliary_head
    assert not fused.training
    # Left are the norms that stand before a ReLU or zero padding: in the DAPPM 5 scales,
    # 4 processes, compression and shortcut; the first of the head; 2 in each CFBlock.
    blocks = model.config.stage3_depth + model.config.stage4_depth
    assert count_norms(fused) == 5 + 4 + 2 + 1 + 2 * blocks
    assert count_norms(fused) < count_norms(model)
    assert count_norms(fused.fuse()) == count_norms(fused)


@pytest.mark.parametrize("kind", BLOCKS)
def test_fused_blocks_compute_the_same(kind):
    """In float64, with norms that do something and branches as large as what they are added to."""
    model = network(stage3_block=kind, stage4_block=kind).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
        for scale in ("attention_scale", "feed_forward_scale"):
            if hasattr(module, scale):
                getattr(module, scale).data.fill_(1)
    images = torch.randn(1, 3, 97, 131, dtype=torch.float64)
    with torch.inference_mode():
        fused = model.fuse()
        assert deviation(fused(images), model(images)) < 1e-12
        assert torch.equal(fused.fuse()(images), fused(images))
    # MSCA: the attention norm stays, which its shortcut reads too. SegFormer has layer norms.
    left = {"cfblock": 2, "residual": 0, "segformer": 0, "gfa": 2, "msca": 1}
    if kind in left:
        assert count_norms(fused) == 5 + 4 + 2 + 1 + 3 * left[kind]


def test_the_benchmark_compares_networks_without_auxiliary_heads(tmp_path, monkeypatch):
    """Its counts of norms are the inference network's; nothing is timed here."""
    file = Path(__file__).parents[1] / "benchmarks" / "folding.py"
    spec = importlib.util.spec_from_file_location("folding_benchmark", file)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path)
    monkeypatch.setattr(benchmark, "fastest", lambda *_: (1.0, 1.0))
    monkeypatch.setattr("sys.argv", ["folding.py"])
    benchmark.main()
    rows = json.loads((tmp_path / "fusing.json").read_text())["rows"]
    counts = {(row["batch_norms_plain"], row["batch_norms_fused"]) for row in rows}
    # Stem 2, residual blocks 6 x 2 and 2 shortcuts, stage 4's start 1, head 1 are folded.
    assert counts == {(18 + 2 + 12 + 2 + 1 + 1, 18)}


def count_norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.fixture
def _without_type_checks():
    """What a checker of types refuses: sizes that are symbols, and mistakes made on purpose."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def exported(model, size, *dynamic):
    """Export with the named dimensions open; the network is plain operators, no TorchScript."""
    shapes = dict.fromkeys(dynamic, torch.export.Dim.DYNAMIC)
    with torch.no_grad():
        program = torch.export.export(model, (torch.randn(2, 3, *size),), dynamic_shapes=(shapes,))
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert any(target is torch.ops.aten.conv2d.default for target in calls)
    assert not any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
    return program.module()


@large_when_slow
@pytest.mark.usefixtures("_without_type_checks")
def test_export_with_open_batch(variant):
    model = trained(variant)
    program = exported(model, (64, 64), 0)
    for batch in (1, 3):
        images = torch.randn(batch, 3, 64, 64)
        with torch.no_grad():
            assert deviation(program(images), model(images)) < 1e-6


@pytest.mark.usefixtures("_without_type_checks")
def test_export_with_open_size():
    """Sides above 256: below, the DAPPM's largest pool leaves one pixel, a case of its own."""
    model = trained("sctnet-tiny")
    program = exported(model, (320, 288), 0, 2, 3)
    for shape in [(1, 3, 257, 300), (1, 3, 360, 480), (2, 3, 512, 320)]:
        images = torch.randn(shape)
        with torch.no_grad():
            assert deviation(program(images), model(images)) < 1e-6


# Counts.


@pytest.mark.parametrize(
    ("variant", "num_classes", "parameters"),
    [
        ("sctnet-s", 19, 4_654_643),
        ("sctnet-s", 150, 4_671_542),
        ("sctnet-s", 171, 4_674_251),
        ("sctnet-b", 19, 17_437_779),
        ("sctnet-b", 150, 17_471_446),
        ("sctnet-b", 171, 17_476_843),
    ],
)
def test_parameters_equal_the_released_ones(variant, num_classes, parameters):
    model = network(variant, num_classes, auxiliary_head=False)
    assert count_parameters(model) == parameters
    if num_classes == 19:
        auxiliary = {"sctnet-s": 38_419, "sctnet-b": 150_547}[variant]
        assert count_parameters(network(variant, 19)) == parameters + auxiliary


@pytest.mark.parametrize(
    ("variant", "least", "most"), [("sctnet-tiny", 0.25e6, 0.4e6), ("sctnet-l", 40e6, 50e6)]
)
def test_parameters_of_our_own_variants(variant, least, most):
    assert least < count_parameters(network(variant, 19, auxiliary_head=False)) < most


@pytest.mark.parametrize(
    ("variant", "size", "billions"),
    [
        ("sctnet-s", (512, 1024), 8.007),
        ("sctnet-s", (768, 1536), 18.015),
        ("sctnet-s", (1024, 2048), 32.026),
        ("sctnet-b", (512, 1024), 29.881),
        ("sctnet-b", (768, 1536), 67.232),
        ("sctnet-b", (1024, 2048), 119.523),
    ],
)
def test_multiply_adds_equal_the_released_ones(variant, size, billions):
    assert round(count_multiply_adds(network(variant, 19), *size) / 1e9, 3) == billions


def test_multiply_adds_of_one_convolution():
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    assert count_multiply_adds(conv, 10, 14) == (5 * 7) * 8 * (3 * 3 * 3)


@pytest.mark.parametrize(
    ("kind", "millions"),
    [
        ("cfblock", 17.4),
        ("residual", 16.29),  # Table 4 prints 15.3; this is a block of the same width
        ("segformer", 22.2),
        ("gfa", 16.3),
        ("msca", 19.8),
    ],
)
def test_block_swaps_land_near_table_4(kind, millions):
    options = {"stage3_block": kind, "stage4_block": kind, "auxiliary_head": False}
    parameters = count_parameters(network("sctnet-b", 19, **options))
    assert parameters / 1e6 == pytest.approx(millions, rel=0.02)


# Options.


@pytest.mark.parametrize(
    "options",
    [
        *({"stage3_block": k, "stage4_block": k} for k in BLOCKS),
        {"stage3_block": "segformer", "stage4_block": "gfa"},
        # 208 channels hold no three heads of equal width.
        {"stage3_block": "segformer", "base_channels": 52},
        *(
            {"attention_kernel": form}
            for form in ("1x1", "1x1+1x1", "1x3+3x1", "1x5+5x1", "1x7+7x1", "1x9+9x1", "7x7")
        ),
        {"attention_norm": "l2"},
        {"stage3_block": "gfa", "stage4_block": "gfa", "attention_norm": "l2"},
        {"norm_position": "post"},
        {"norm_position": "post", "stage3_block": "gfa"},
        {"stage3_depth": 3, "stage4_depth": 1},
        {"attention_kernels": 12, "attention_groups": 3},
        {"drop_path": 0.0},
        {"auxiliary_head": False},
    ],
    ids=lambda options: ",".join(f"{key}={value}" for key, value in options.items()),
)
def test_every_option_runs_forward_and_backward(options):
    model = network(**options)
    logits = model(torch.randn(2, 3, 70, 54))
    assert logits.shape == (2, 5, 70, 54)
    logits.square().mean().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert all(name.startswith("auxiliary_head.") for name in without)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    ("form", "shapes"),
    [
        ("1x1", {(1, 1)}),
        ("1x1+1x1", {(1, 1)}),
        ("1x7+7x1", {(1, 7), (7, 1)}),
        ("1x9+9x1", {(1, 9), (9, 1)}),
        ("7x7", {(7, 7)}),
    ],
)
def test_attention_kernels_have_the_form_that_their_name_says(form, shapes):
    model = network(attention_kernel=form)
    kernels = [part.kernels for part in model.modules() if isinstance(part, KernelAttention)]
    assert {tuple(kernel.shape[2:]) for kernel in kernels} == shapes
    assert {len(kernel) for kernel in kernels} == {model.config.attention_kernels}
    assert len(kernels) == 3 * len(form.split("+"))  # in three CFBlocks


# Configuration.


@pytest.mark.parametrize(
    ("variant", "options", "words"),
    [
        ("sctnet-xl", {}, "unknown variant 'sctnet-xl': choose one of sctnet-s"),
        ("", {}, "unknown variant"),
        ("s", {"dropout": 0.1}, "sctnet-s: dropout: Extra inputs are not permitted; the options"),
        ("s", {"num_classes": 1}, "num_classes"),
        ("s", {"num_classes": 2.5}, "num_classes"),
        ("s", {"num_classes": "many"}, "num_classes"),
        ("s", {"num_classes": 65536}, "num_classes"),
        ("s", {"base_channels": 30}, "base_channels"),
        ("s", {"base_channels": 0}, "base_channels"),
        ("s", {"stage3_depth": 0}, "stage3_depth"),
        ("s", {"drop_path": 1.0}, "drop_path"),
        ("s", {"drop_path": -0.1}, "drop_path"),
        ("s", {"attention_init_std": -1}, "attention_init_std"),
        ("s", {"attention_norm": "l3"}, "attention_norm"),
        ("s", {"attention_kernel": "3x3"}, "attention_kernel"),
        ("s", {"norm_position": "both"}, "norm_position"),
        *(
            ("s", {"norm_position": "post", stage: kind}, f"for cfblock and gfa, {kind} has one")
            for stage, kind in (
                ("stage3_block", "residual"),
                ("stage4_block", "segformer"),
                ("stage4_block", "msca"),
            )
        ),
        ("s", {"attention_init_std": math.inf}, "attention_init_std"),
        ("s", {"stage4_block": "swin"}, "stage4_block"),
        ("s", {"attention_groups": 7}, "attention_kernels (64) must be a multiple of"),
        ("tiny", {"attention_groups": 64}, "attention_kernels (32) must be a multiple of"),
    ],
)
@pytest.mark.usefixtures("_without_type_checks")
def test_mistakes_in_the_configuration_are_named(variant, options, words):
    fields = {"num_classes": 5, **options}
    with pytest.raises(SctnetError) as caught:
        model_configuration(variant, **fields)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_configuration_is_frozen_and_survives_json():
    config = model_configuration("b", 19, attention_norm="l2")
    assert config.variant == "sctnet-b"
    assert type(config).model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError, match="frozen"):
        config.num_classes = 3
