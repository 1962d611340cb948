"""Networks of transformers: what they compute, how they teach, and folders of theirs."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from released import released_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

import sctnet
from sctnet.checkpoints.backbone import load_start, save_backbone
from sctnet.checkpoints.teacher_conversion import load_encoder
from sctnet.cli import app
from sctnet.data.registry import open_dataset
from sctnet.errors import SctnetError
from sctnet.models.transformers_configuration import SEGFORMER_SIZES, UPERNET_SIZES
from sctnet.models.transformers_networks import TransformersNetwork
from sctnet.training.alignment import Alignment
from sctnet.training.recipe import AlignmentRecipe, load_recipe
from sctnet.training.run_folder import read_metrics
from sctnet.training.teachers import load_teacher
from sctnet.training.trainer import train

CLASSES = open_dataset("synthetic", ["train"]).classes
STAGES = ["stage1", "stage2", "stage3", "stage4"]

SEGFORMER = {"hidden_sizes": [8, 16, 40, 64], "depths": [1, 1, 2, 1], "decoder_hidden_size": 12}
HEAD = {"hidden_size": 12, "auxiliary_channels": 8}
SWIN = {"embed_dim": 12, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 3, 4], "window_size": 3}
CONVNEXT = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
SMALL = {
    "segformer-b0-hf": SEGFORMER,
    "upernet-swin-tiny": {**HEAD, **SWIN},
    "upernet-convnext-tiny": {**HEAD, **CONVNEXT},
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def small(variant: str, classes: int = len(CLASSES), **architecture: Any) -> TransformersNetwork:
    torch.manual_seed(0)
    chosen = {**SMALL[variant], **architecture}
    network = sctnet.create_model(variant, classes, architecture=chosen)
    assert isinstance(network, TransformersNetwork)
    for name, tensor in network.named_buffers():  # as after training
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
    return network


def published(variant: str, folder: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    """Write a small network as transformers does, with the names that its classes have."""
    network = copy.deepcopy(small(variant, len(classes)).network)
    network.config.id2label = dict(enumerate(classes))
    network.config.label2id = {name: number for number, name in enumerate(classes)}
    network.save_pretrained(folder)
    if "swin" in variant:  # older files hold what is now computed
        block = "backbone.encoder.layers.0.blocks.0.attention.self."
        tensors = load_file(folder / "model.safetensors")
        assert f"{block}query.weight" in tensors
        tensors[f"{block}relative_position_index"] = torch.zeros(9, 9).long()
        save_file(tensors, folder / "model.safetensors")
    return folder


def encoder(kind: str, folder: Path, **sizes: Any) -> Path:
    """Write a small encoder alone, as it classifies."""
    torch.manual_seed(5)
    cls, config, own = {
        "segformer": ("SegformerForImageClassification", "SegformerConfig", SEGFORMER),
        "segformer alone": ("SegformerModel", "SegformerConfig", SEGFORMER),
        "swin": ("SwinForImageClassification", "SwinConfig", SWIN),
        "swin alone": ("SwinModel", "SwinConfig", SWIN),
        "convnext": ("ConvNextForImageClassification", "ConvNextConfig", CONVNEXT),
        "convnext alone": ("ConvNextModel", "ConvNextConfig", CONVNEXT),
    }[kind]
    chosen = getattr(transformers, config)(**{**own, **sizes}, num_labels=7)
    getattr(transformers, cls)(chosen).save_pretrained(folder)
    return folder


def assert_refused(function: Callable[[], Any], *named: str) -> None:
    with pytest.raises(SctnetError) as caught:
        function()
    for text in named:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)


# What they compute


@pytest.mark.parametrize("variant", SMALL)
@pytest.mark.parametrize("size", [(64, 96), (65, 97), (63, 94), (33, 32)])
@torch.no_grad()
def test_features_are_those_of_transformers(variant: str, size: tuple[int, int]) -> None:
    # In float64: in float32 the order of sums, which differs between processors, would show.
    network, images = small(variant).eval().double(), torch.randn(2, 3, *size).double()
    features = network.features(images)
    own, ours = network.network(images).logits, features.logits
    if "upernet" in variant:  # transformers resizes within
        ours = F.interpolate(ours, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours, own, rtol=0, atol=1e-10)
    assert network(images).shape == (2, len(CLASSES), *size)
    feature, logits = network.decode(features.decoder_input)
    assert torch.equal(feature, features.decoder_feature)
    assert torch.equal(logits, features.logits)
    assert features.auxiliary_logits == ()
    maps = (features.stage3, features.stage4, features.decoder_input, features.decoder_feature)
    assert tuple(one.shape[1] for one in maps) == tuple(network.widths)
    for one, stride in ((features.stage2, 8), (features.stage3, 16), (features.stage4, 32)):
        for side, pixels in zip(one.shape[2:], size, strict=True):
            assert math.floor(pixels / stride) <= side <= math.ceil(pixels / stride)


@pytest.mark.parametrize("variant", SMALL)
def test_all_that_learns_gets_gradients_and_helps(variant: str) -> None:
    network = small(variant).train()
    features = network.features(torch.randn(2, 3, 64, 96))
    outputs = [features.logits.square().mean()]
    if "segformer" in variant:
        assert features.auxiliary_logits == ()
    else:
        (helping,) = features.auxiliary_logits
        assert helping.shape == (2, len(CLASSES), *features.stage3.shape[2:])
        outputs.append(helping.square().mean())
    torch.stack(outputs).sum().backward()
    without = [name for name, one in network.named_parameters() if one.grad is None]
    assert without == []
    inside = {id(p) for module in network.backbone_modules() for p in module.parameters()}
    heads = {name for name, one in network.named_parameters() if id(one) not in inside}
    assert heads
    assert all("_head." in name for name in heads)


@pytest.mark.parametrize("variant", SMALL)
def test_the_classifier_takes_offsets(variant: str) -> None:
    model, images = small(variant).eval(), torch.rand(1, 3, 64, 64)
    offsets = torch.arange(len(CLASSES)) / 4
    with torch.no_grad():
        before = model.features(images).logits
        model.add_offsets(offsets.tolist())
        moved = model.features(images).logits - before
    torch.testing.assert_close(moved, offsets[:, None, None].expand_as(moved), atol=1e-5, rtol=0)


def test_without_an_auxiliary_head() -> None:
    network = small("upernet-swin-tiny", use_auxiliary_head=False).train()
    assert network.features(torch.randn(2, 3, 64, 64)).auxiliary_logits == ()
    assert not any("auxiliary" in key for key in network.state_dict())


PARAMETERS = {  # in millions, with 150 classes, as published
    "segformer-b0-hf": 3.8,
    "segformer-b1-hf": 13.7,
    "segformer-b2-hf": 27.5,
    "segformer-b3-hf": 47.3,
    "segformer-b4-hf": 64.1,
    "segformer-b5-hf": 84.7,
    "upernet-swin-tiny": 60,
    "upernet-swin-small": 81,
    "upernet-swin-base": 121,
    "upernet-swin-large": 234,
    "upernet-convnext-tiny": 60,
    "upernet-convnext-small": 82,
    "upernet-convnext-base": 122,
}


@pytest.mark.parametrize("variant", [*SEGFORMER_SIZES, *UPERNET_SIZES])
def test_the_variants_have_their_published_sizes(variant: str) -> None:
    with torch.device("meta"):
        network = sctnet.create_model(variant, 150)
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    assert millions == pytest.approx(PARAMETERS[variant], rel=0.015)


@pytest.mark.parametrize("variant", SMALL)
def test_saved_and_loaded_it_is_the_same(variant: str, tmp_path: Path) -> None:
    network, images = small(variant).eval(), torch.randn(1, 3, 64, 96)
    sctnet.save_model(network, tmp_path, CLASSES)
    assert {"format_version", "network"} <= json.loads(
        (tmp_path / "config.json").read_text()
    ).keys()
    loaded = sctnet.load_model(tmp_path)
    assert loaded.config == network.config
    with torch.inference_mode():
        assert torch.equal(loaded(images), network(images))
        assert torch.equal(loaded.fuse()(images), network(images))
    assert load_teacher(tmp_path).classes == CLASSES


@pytest.mark.parametrize(
    ("architecture", "named"),
    [
        ({"colour": 3}, "colour is none of architecture's hidden_sizes"),
        ({"depths": [1, 1]}, "architecture.depths: give 4 whole numbers"),
        ({"depths": 3}, "architecture.depths: give 4 whole numbers"),
        ({"hidden_sizes": [8, 16, 40, 10**7]}, "architecture"),
        ({"num_attention_heads": [0, 1, 1, 1]}, "cannot build this architecture"),
        ({"decoder_hidden_size": 1.5}, "cannot build this architecture"),
    ],
)
def test_wrong_architectures_are_refused(architecture: dict[str, Any], named: str) -> None:
    assert_refused(
        lambda: sctnet.create_model("segformer-b0-hf", 3, architecture=architecture), named
    )


def test_small_images_are_refused() -> None:
    assert_refused(lambda: small("segformer-b0-hf")(torch.zeros(1, 3, 31, 64)), "32 x 32 or more")


def test_without_the_package_one_sentence_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    assert_refused(
        lambda: sctnet.create_model("segformer-b0-hf", 3), 'pip install "sctnet[teachers]"'
    )


# As teachers


@pytest.mark.parametrize("variant", SMALL)
def test_a_published_folder_teaches(variant: str, tmp_path: Path) -> None:
    teacher = load_teacher(published(variant, tmp_path))
    assert teacher.classes == CLASSES
    own = small(variant).eval().state_dict()
    for key, value in teacher.network.state_dict().items():
        assert torch.equal(value, own[key]), key
    student = sctnet.create_model("tiny", len(CLASSES), drop_path=0)
    alignment = Alignment(AlignmentRecipe(teacher="x"), teacher, student.widths)
    images = torch.randn(2, 3, 65, 97)
    terms = alignment(images, student.features(images))
    assert set(terms) == {"logits", "decoder", "stage4", "stage3"}
    terms["logits"].backward()  # it passes through the teacher's own end of the head
    for part in ("stem", "stage4", "dappm"):
        assert all(bool(p.grad.any()) for p in student.get_submodule(part).parameters()), part
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("variant", ["segformer-b0-hf", "upernet-swin-tiny"])
def test_a_run_with_a_published_teacher(variant: str, tmp_path: Path) -> None:
    folder = published(variant, tmp_path / "teacher")
    train(recipe("synthetic/sctnet-tiny", f"alignment.teacher={folder}"), tmp_path / "run")
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert len(records) == 2
    terms = ("logits", "decoder", "stage4", "stage3")
    assert all(records[-1][f"loss_alignment_{term}"] > 0 for term in terms)
    sctnet.load_model(tmp_path / "run")


def test_a_run_that_makes_a_teacher(tmp_path: Path) -> None:
    start = encoder("swin", tmp_path / "swin")
    architecture = json.dumps(SMALL["upernet-swin-tiny"])
    settings = [
        "model.variant=upernet-swin-tiny",
        f"model.options={{architecture: {architecture}}}",
        f"model.init={start}",
        "run.precision=bf16",
        "run.ema_decay=0.5",
    ]
    train(recipe("synthetic/sctnet-tiny", *settings), tmp_path / "run")
    new = json.loads((tmp_path / "run" / "summary.json").read_text())["new_tensors"]
    assert "network.decode_head.classifier.weight" in new
    assert not any("backbone.swin" in key for key in new)
    assert load_teacher(tmp_path / "run").classes == CLASSES


def recipe(name: str, *settings: str) -> Any:
    common = (
        "augmentation.crop=[48, 64]",
        "run.precision=fp32",
        "schedule.iterations=2",
        "schedule.warmup_iterations=0",
        "run.batch_size=2",
        "run.log_every=1",
        "data.validation=[]",
        "data.workers=0",
        "loss.class_weights=none",
    )
    return load_recipe(name, [*common, *settings])


# As starts


@pytest.mark.parametrize(
    ("kind", "variant"),
    [
        ("segformer", "segformer-b0-hf"),
        ("segformer alone", "segformer-b0-hf"),
        ("swin", "upernet-swin-tiny"),
        ("swin alone", "upernet-swin-tiny"),
        ("convnext", "upernet-convnext-tiny"),
        ("convnext alone", "upernet-convnext-tiny"),
    ],
)
def test_an_encoder_fills_the_backbone_wholly(kind: str, variant: str, tmp_path: Path) -> None:
    folder = encoder(kind, tmp_path)
    network = small(variant)
    before = copy.deepcopy(network.state_dict())
    new = set(load_start(network, folder, CLASSES))
    backbone = tuple(f"{part}." for part in network.backbone_parts)
    assert new == {key for key in before if not key.startswith(backbone)}
    assert all(torch.equal(network.state_dict()[key], before[key]) for key in new)
    own = transformers.AutoModel.from_pretrained(folder).eval().double()
    network.double()
    images = torch.randn(1, 3, 128, 160).double()  # larger than Swin's windows in every stage
    with torch.inference_mode():
        last = own(images).last_hidden_state
        mine = {
            "segformer": lambda: network.eval().features(images).stage4,
            "swin": lambda: own.layernorm(network.eval().network.backbone.swin(images)[0]),
            "convnext": lambda: network.eval().network.backbone.encoder(
                network.network.backbone.embeddings(images)
            )[0],
        }[kind.split()[0]]()
    torch.testing.assert_close(mine, last, rtol=0, atol=1e-10)


@pytest.mark.parametrize("variant", SMALL)
def test_a_whole_network_starts_all_but_other_classes(variant: str, tmp_path: Path) -> None:
    folder = published(variant, tmp_path)
    other = ("a", "b", "c")
    network, same = small(variant, 3), small(variant)
    assert load_start(same, folder, CLASSES) == []
    new = load_start(network, folder, other)
    assert new == [key for key in network.state_dict() if "classifier" in key]
    renamed = small(variant)
    assert load_start(renamed, folder, tuple(reversed(CLASSES))) == [
        key for key in renamed.state_dict() if "classifier" in key
    ]


def test_our_own_backbone_folder_is_a_start_too(tmp_path: Path) -> None:
    network = small("upernet-swin-tiny")
    save_backbone(network, tmp_path, with_context=True)
    new = load_start(small("upernet-swin-tiny", 3), tmp_path, ("a", "b", "c"))
    assert new
    assert all("_head." in key for key in new)


@pytest.fixture(scope="module")
def mmsegmentation() -> dict[str, Tensor]:
    """Return a SegFormer-B2 as MMSegmentation names it."""
    start = "auxiliary_head.1.teacher_"
    return {
        key.removeprefix(start).replace("head.", "decode_head.", 1)
        if key.startswith(f"{start}head")
        else key.removeprefix(start): value
        for key, value in released_checkpoint("S", whole=True).items()
        if key.startswith(start)
    }


@pytest.mark.parametrize("form", ["bare", "backbone", "whole"])
def test_mmsegmentations_encoders_start_our_segformer(
    form: str, mmsegmentation: dict[str, Tensor], tmp_path: Path
) -> None:
    backbone = {k: v for k, v in mmsegmentation.items() if k.startswith("backbone.")}
    content = {
        "bare": {key.removeprefix("backbone."): value for key, value in backbone.items()},
        "backbone": {"state_dict": backbone},
        "whole": {"state_dict": mmsegmentation, "meta": {}},
    }[form]
    torch.save(content, tmp_path / "mit_b2.pth")
    network = sctnet.create_model("segformer-b2", 5)
    new = load_encoder(network, tmp_path / "mit_b2.pth")
    head = [key for key in network.state_dict() if key.startswith("head.")]
    assert new == ([key for key in head if "classifier" in key] if form == "whole" else head)
    theirs = backbone["backbone.layers.1.1.0.ffn.layers.0.weight"]
    assert torch.equal(network.state_dict()["stages.1.2.0.feed_forward.expand.weight"], theirs)


@pytest.mark.parametrize(
    ("change", "variant", "named"),
    [
        (lambda t: t.pop("backbone.layers.2.1.5.norm1.weight"), "segformer-b2", "lacks stages.2"),
        (lambda _: None, "segformer-b1", "this file cannot start a segformer-b1"),
        (lambda _: None, "segformer-b0", "cannot start a segformer-b0"),
        (
            lambda t: t["backbone.layers.0.0.norm.weight"].fill_(math.nan),
            "segformer-b2",
            "holds NaN or infinity",
        ),
        (lambda _: None, "sctnet-s", "starts a segformer-b0 to -b5 alone"),
        (lambda _: None, "segformer-b2-hf", "starts a segformer-b0 to -b5 alone"),
    ],
)
def test_checkpoints_that_are_no_start(
    change: Callable[[dict[str, Tensor]], None],
    variant: str,
    named: str,
    mmsegmentation: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    tensors = {key: value.clone() for key, value in mmsegmentation.items()}
    change(tensors)
    torch.save(tensors, tmp_path / "file.pth")
    with torch.device("meta" if "hf" in variant else "cpu"):
        network = sctnet.create_model(variant, 5)
    before = copy.deepcopy(network.state_dict())
    assert_refused(lambda: load_encoder(network, tmp_path / "file.pth"), named, "file.pth")
    if "hf" not in variant:
        assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.slow
def test_a_run_starts_from_a_pth_file(mmsegmentation: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(mmsegmentation, tmp_path / "mit_b2.pth")
    start = f"model.init={tmp_path}/mit_b2.pth"
    chosen = recipe("synthetic/sctnet-tiny", "model.variant=segformer-b2", start)
    train(chosen, tmp_path / "run")
    new = json.loads((tmp_path / "run" / "summary.json").read_text())["new_tensors"]
    assert new == ["head.classifier.weight", "head.classifier.bias"]
    assert_refused(
        lambda: train(recipe("synthetic/sctnet-tiny", start), tmp_path / "r"), "mit_b2.pth"
    )
    assert not (tmp_path / "r").exists()


# Wrong use is clear


def _json(
    change: Callable[[dict[str, Any]], Any], file: str = "config.json"
) -> Callable[..., None]:
    def spoil(folder: Path) -> None:
        path = folder / file
        fields = json.loads(path.read_text()) if path.exists() else {}
        change(fields)
        path.write_text(json.dumps(fields))

    return spoil


def _tensors(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return spoil


def _only_pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


FUSE = "decode_head.linear_fuse.weight"
SPOILT = [
    (_json(lambda f: f.update(model_type="bert")), "a bert labels no pixels"),
    (_json(lambda f: f.update(model_type=[1])), "labels no pixels"),
    (
        _json(lambda f: f.update(architectures=["SegformerForImageClassification"])),
        "holds a SegformerForImageClassification, which labels no pixels",
    ),
    (_json(lambda f: f.update(model_type="swin")), "a swin labels no pixels"),
    (_json(lambda f: f.pop("id2label")), "id2label: names no classes"),
    (_json(lambda f: f["id2label"].pop("1")), "id2label: the classes are not numbered"),
    (_json(lambda f: f["id2label"].update({"99": "x"})), "id2label"),
    (_json(lambda f: f.update(num_channels=4)), "num_channels is 4; here it can only be 3"),
    (_json(lambda f: f.update(depths=[1, 1, 1, 1])), "has no place"),
    (_json(lambda f: f.update(depths=[1, 2, 2, 1])), "lacks network.segformer.stages.1.blocks.1"),
    (_json(lambda f: f.update(depths="deep")), "config.json: architecture"),
    (_json(lambda f: f.update(decoder_hidden_size=16)), "has the shape"),
    (_tensors(lambda t: t[FUSE].view(-1)[3:4].fill_(math.nan)), f"{FUSE} holds NaN or infinity"),
    (_tensors(lambda t: t.pop(FUSE)), f"lacks network.{FUSE}"),
    (_tensors(lambda t: t.update(surplus=torch.ones(2))), "surplus has no place"),
    (_tensors(lambda t: t.update({FUSE: torch.ones(12, 48, 1, 1).int()})), "holds torch.int32"),
    (lambda folder: (folder / "model.safetensors").unlink(), "holds no model.safetensors"),
    (_only_pickled, "pytorch_model.bin may hold code"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "not a whole safetens"),
]


@pytest.mark.parametrize(("spoil", "named"), SPOILT)
def test_a_spoilt_folder_does_not_teach(
    spoil: Callable[[Path], None], named: str, tmp_path: Path
) -> None:
    folder = published("segformer-b0-hf", tmp_path / "teacher")
    spoil(folder)
    assert_refused(lambda: load_teacher(folder), named, str(folder))


def test_other_heads_are_named(tmp_path: Path) -> None:
    folder = published("upernet-swin-tiny", tmp_path / "upernet")
    _json(lambda f: f["backbone_config"].update(model_type="resnet"))(folder)
    # Other networks teach by their logits, as their own processor prepares pictures.
    assert_refused(lambda: load_teacher(folder), "holds no preprocessor_config.json")


@pytest.mark.parametrize(
    ("kind", "sizes", "variant", "named"),
    [
        ("swin", {}, "upernet-convnext-tiny", "a swin cannot start a upernet-convnext-tiny"),
        ("swin", {"window_size": 4}, "upernet-swin-tiny", "window_size is 4"),
        ("segformer", {"num_attention_heads": [1, 1, 5, 8]}, "segformer-b0-hf", "num_attention"),
        ("segformer", {}, "upernet-swin-tiny", "a segformer cannot start"),
    ],
)
def test_encoders_of_another_kind(
    kind: str, sizes: dict[str, Any], variant: str, named: str, tmp_path: Path
) -> None:
    folder = encoder(kind, tmp_path, **sizes)
    assert_refused(lambda: load_start(small(variant), folder, CLASSES), named, str(folder))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop("segformer.encoder.layer_norm.3.weight"), "lacks network.segformer"),
        (lambda t: t.update(surplus=torch.ones(2)), "surplus does not fit"),
        (lambda t: t["classifier.bias"].fill_(math.inf), "classifier.bias holds NaN"),
        (
            lambda t: t.update({"segformer.encoder.layer_norm.3.weight": torch.ones(3)}),
            "has the shape (3,)",
        ),
    ],
)
def test_spoilt_encoders(change: Callable[..., Any], named: str, tmp_path: Path) -> None:
    folder = encoder("segformer", tmp_path)
    _tensors(change)(folder)
    network = small("segformer-b0-hf")
    before = copy.deepcopy(network.state_dict())
    assert_refused(lambda: load_start(network, folder, CLASSES), named, str(folder))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_whole_start_is_whole(tmp_path: Path) -> None:
    folder = published("segformer-b0-hf", tmp_path)
    _tensors(lambda t: t.pop(FUSE))(folder)
    assert_refused(
        lambda: load_start(small("segformer-b0-hf"), folder, CLASSES), f"lacks network.{FUSE}"
    )


def test_our_own_networks_do_not_start_from_their_folders(tmp_path: Path) -> None:
    folder = encoder("segformer", tmp_path)
    student = sctnet.create_model("tiny", len(CLASSES))
    assert_refused(lambda: load_start(student, folder, CLASSES), "not a sctnet-tiny", str(folder))


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    folder = published("segformer-b0-hf", tmp_path / "teacher", ("wall", "sky", "floor"))
    chosen = recipe("synthetic/sctnet-tiny", f"alignment.teacher={folder}")
    assert_refused(
        lambda: train(chosen, tmp_path / "run"), str(folder), "3 classes (wall, sky, floor)"
    )
    assert not (tmp_path / "run").exists()


def test_the_two_kinds_of_files_are_not_taken_for_each_other(
    mmsegmentation: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = published("segformer-b0-hf", tmp_path / "theirs")
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "theirs.bin")
    done = CliRunner().invoke(
        app, ["convert", str(tmp_path / "theirs.bin"), str(tmp_path / "out"), "--teacher"]
    )
    assert isinstance(done.exception, SctnetError)
    assert "has transformers' keys and head" in str(done.exception)
    assert not (tmp_path / "out").exists()
    file = tmp_path / "mmsegmentation.pth"
    torch.save(mmsegmentation, file)
    assert_refused(lambda: load_teacher(file), str(file), "sctnet convert")
    assert_refused(lambda: sctnet.load_model(folder), str(folder), "transformers")
