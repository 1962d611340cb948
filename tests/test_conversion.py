"""Released checkpoints in all their forms: each key is used, ignored by name, or refused."""

import hashlib
import json
import os
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from released import REFERENCE, released_checkpoint

import sctnet
from sctnet.checkpoints.backbone import load_start
from sctnet.checkpoints.model_folder import load_config, load_model
from sctnet.checkpoints.released_checkpoint import released_names
from sctnet.errors import SctnetError
from sctnet.models.counting import count_parameters

DESCRIPTION = json.loads((REFERENCE / "official_checkpoint_shapes.json").read_text())
CLASSIFIER = "decode_head.conv_seg.weight"


@pytest.fixture(scope="module")
def whole():
    """All that a training checkpoint of SCTNet-S holds, teacher and projections included."""
    return released_checkpoint("S", whole=True)


@pytest.fixture(scope="module")
def released(whole):
    """The network with its auxiliary head."""
    return {k: v for k, v in whole.items() if not k.startswith("auxiliary_head.1.")}


@pytest.fixture(scope="module")
def converted(released, tmp_path_factory):
    """What the plain form converts to; the parity tests prove its numbers."""
    folder = tmp_path_factory.mktemp("converted")
    torch.save(released, folder / "plain.pth")
    sctnet.convert_checkpoint(folder / "plain.pth", folder / "model")
    return load_model(folder / "model").state_dict()


@pytest.fixture
def convert(tmp_path):
    """Save a content as a checkpoint and convert it."""

    def save_and_convert(content, *arguments, legacy=False, **options):
        file = tmp_path / "official.pth"
        torch.save(content, file, _use_new_zipfile_serialization=not legacy)
        return sctnet.convert_checkpoint(file, tmp_path / "model", *arguments, **options)

    return save_and_convert


@pytest.fixture
def refused(convert, tmp_path):
    """Convert what must be refused; nothing is written."""

    def sentence(content, *arguments, **options):
        with pytest.raises(SctnetError) as caught:
            convert(content, *arguments, **options)
        assert [file.name for file in tmp_path.iterdir()] == ["official.pth"]
        return checked(str(caught.value), tmp_path / "official.pth")

    return sentence


def checked(message, file):
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    return message


def backbone(released, with_context=False):
    return {
        key: value
        for key, value in released.items()
        if key.startswith("backbone.") and (with_context or not key.startswith("backbone.spp."))
    }


def bare(tensors):
    return {key.removeprefix("backbone."): value for key, value in tensors.items()}


def timing_form(released):
    """The keys of the release's timing script."""
    return {
        key.removeprefix("backbone.").replace("decode_head.", "decoder."): value
        for key, value in released.items()
        if not key.startswith("auxiliary_head.")
    }


# What is accepted.

FORMS = {
    "bare": lambda s: s,
    "under state_dict": lambda s: {"state_dict": s},
    "under model": lambda s: {"model": s},
    "of a parallel wrapper": lambda s: {f"module.{key}": value for key, value in s.items()},
    "of a parallel wrapper, under state_dict": lambda s: {
        "state_dict": {f"module.{key}": value for key, value in s.items()}
    },
    "with the trainer's notes": lambda s: {
        "meta": {
            "iter": 160000,
            "config": "model = dict()",
            "CLASSES": ("road",),
            "PALETTE": [[128, 64, 128]],
            "hook_msgs": {"best_score": np.float64(0.7633), "last": np.float32(0.76)},
        },
        "state_dict": s,
        "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 4e-4, "params": [0]}]},
    },
    "of the timing script": timing_form,
    "of the timing script, with backbone.": lambda s: {
        key.replace("decode_head.", "decoder."): value for key, value in s.items()
    },
    "in half precision": lambda s: {
        key: value.half() if value.is_floating_point() else value for key, value in s.items()
    },
}


@pytest.mark.parametrize(
    "legacy", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["zip", "legacy"]
)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_converts_to_the_same_model(
    released, converted, convert, tmp_path, form, legacy
):
    report = convert(form(released), legacy=legacy)
    state = load_model(tmp_path / "model").state_dict()
    auxiliary = any(key.startswith("auxiliary_head.") for key in state)
    expected = {k: v for k, v in converted.items() if auxiliary or not k.startswith("auxiliary")}
    assert state.keys() == expected.keys()
    exact = form is not FORMS["in half precision"]
    for key, value in state.items():
        assert value.equal(expected[key] if exact else expected[key].half().to(value.dtype)), key
    assert report.variant == "sctnet-s"
    assert report.num_classes == 19
    assert report.missing == ()
    assert report.ignored == {}
    assert len(report.used) == len(state)
    assert not report.backbone_only


def test_whole_training_checkpoint_is_reported_key_by_key(whole, converted, convert, tmp_path):
    report = convert({"state_dict": whole}, "sctnet-s")
    state = load_model(tmp_path / "model").state_dict()
    assert all(state[key].equal(converted[key]) for key in converted)
    assert set(report.used) | set(report.ignored) == set(whole)
    assert not set(report.used) & set(report.ignored)
    counts = DESCRIPTION["key_counts"]["S"]
    assert Counter(report.ignored.values()) == {
        "teacher": counts["teacher"],
        "projections": counts["projections"],
    }
    assert len(report.used) == counts["student_inference"] + counts["auxiliary"] == len(state)
    for key, group in report.ignored.items():
        assert key.startswith(tuple(DESCRIPTION["groups"][group])), key
    text = str(report)
    for words in ("sctnet-s", "19 classes", "272 tensors used", "332 ignored: teacher"):
        assert words in text


def test_sources_are_recorded(released, convert, tmp_path):
    names = [f"thing {index}" for index in range(19)]
    colours = [(index, 0, 0) for index in range(19)]
    report = convert(released, classes=names, colours=colours)
    config = load_config(tmp_path / "model")
    digest = hashlib.sha256((tmp_path / "official.pth").read_bytes()).hexdigest()
    assert report.sha256 == config.source.sha256 == digest
    assert config.source.file == "official.pth"
    assert config.classes == tuple(names)
    assert config.colours == tuple(colours)


def test_names_are_one_to_one():
    names = released_names()
    assert len(set(names.values())) == len(names)


def test_b_with_the_classes_of_ade20k(convert, tmp_path):
    checkpoint = released_checkpoint("B", 150)
    # What is ignored needs a shape only: one stored number each.
    teacher = {
        key: torch.zeros(()).expand([150 if size == "K" else size for size in shape])
        for key, shape in DESCRIPTION["models"]["B"]
        if key.startswith("auxiliary_head.1.")
    }
    report = convert(checkpoint | teacher)
    assert (report.variant, report.num_classes) == ("sctnet-b", 150)
    assert set(report.used) == set(checkpoint)
    assert set(report.ignored) == set(teacher)
    assert Counter(report.ignored.values())["teacher"] == DESCRIPTION["key_counts"]["B"]["teacher"]
    model = load_model(tmp_path / "model")
    assert len(model.state_dict()) == len(checkpoint)
    auxiliary = count_parameters(model.auxiliary_head)
    assert count_parameters(model) - auxiliary == 17_471_446
    assert model.head.classifier.weight.equal(checkpoint[CLASSIFIER])


BACKBONES = {
    "with prefix": lambda s: backbone(s),
    "without prefix": lambda s: bare(backbone(s)),
    "under state_dict": lambda s: {"state_dict": bare(backbone(s))},
    "with prefix and classifier": lambda s: backbone(s) | {"head.fc.weight": torch.zeros(1000, 8)},
    "without prefix, with classifier": lambda s: (
        bare(backbone(s)) | {"head.fc.weight": torch.zeros(1000, 8)}
    ),
    "with DAPPM": lambda s: backbone(s, with_context=True),
    "without prefix, with DAPPM": lambda s: bare(backbone(s, with_context=True)),
}


@pytest.mark.parametrize("form", BACKBONES.values(), ids=BACKBONES)
def test_a_backbone_becomes_a_start(released, converted, convert, tmp_path, form):
    content = form(released)
    report = convert(content)
    with_context = any("spp." in key for key in content)
    assert report.backbone_only
    parts = {key.split(".")[0] for key in report.missing}
    assert parts == {"head", "auxiliary_head"} | (set() if with_context else {"dappm"})
    classifier = {"head.fc.weight": "classifier of the pre-training"}
    assert report.ignored == (classifier if "head.fc.weight" in content else {})
    assert set(report.used) == set(backbone(released, with_context))
    assert "classes" not in str(report)

    with pytest.raises(SctnetError, match="a backbone to start training from"):
        load_model(tmp_path / "model")
    torch.manual_seed(0)
    model = sctnet.create_model("sctnet-s", num_classes=7)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert tuple(load_start(model, tmp_path / "model", tuple("abcdefg"))) == report.missing
    for key, value in model.state_dict().items():
        assert value.equal(before[key] if key in report.missing else converted[key]), key


# What is refused.


def without(key):
    return lambda s: {name: value for name, value in s.items() if name != key}


def with_tensor(key, tensor):
    return lambda s: {**s, key: tensor}


STEM = "backbone.conv1.0.weight"

REFUSED = {
    "a key with and without module.": (
        lambda s: {**s, f"module.{STEM}": s[STEM]},
        f"{STEM} and module.{STEM} are one tensor of the network",
    ),
    "a head under both of its names": (
        lambda s: {"decoder.conv_seg.weight": s[CLASSIFIER], **s},
        f"decoder.conv_seg.weight and {CLASSIFIER} are one tensor of the network",
    ),
    "a sparse tensor": (
        lambda s: {**s, STEM: s[STEM].to_sparse()},
        f"{STEM} is stored as torch.sparse_coo; save it as a dense tensor",
    ),
    "a tensor without numbers": (
        lambda s: {**s, STEM: s[STEM].to("meta")},
        f"{STEM} holds no numbers",
    ),
    "not a number": (
        lambda s: {**s, STEM: torch.full_like(s[STEM], torch.nan)},
        f"{STEM} holds NaN or infinity",
    ),
    "infinity in one place": (
        with_tensor("decode_head.bn1.running_var", torch.tensor([1.0] * 127 + [torch.inf])),
        "decode_head.bn1.running_var holds NaN or infinity",
    ),
    "a number beyond float32": (
        with_tensor("decode_head.bn1.bias", torch.full((128,), 1e39, dtype=torch.float64)),
        "decode_head.bn1.bias holds NaN or infinity",
    ),
    "no stem": (without("backbone.conv1.0.weight"), "lacks backbone.conv1.0.weight"),
    "a missing kernel": (without("backbone.layer4.attn_l.kv3"), "backbone.layer4.attn_l.kv3"),
    "a missing shortcut": (
        without("backbone.layer2.0.downsample.1.bias"),
        "lacks 1 tensors of sctnet-s, the first is backbone.layer2.0.downsample.1.bias",
    ),
    "a missing statistic": (
        without("backbone.spp.scale1.1.running_mean"),
        "the first is backbone.spp.scale1.1.running_mean",
    ),
    "a missing classifier": (without(CLASSIFIER), f"the first is {CLASSIFIER}"),
    "no decode head": (
        lambda s: {k: v for k, v in s.items() if not k.startswith("decode_head.")},
        "the first is decode_head.bn1.weight",
    ),
    "a part of the auxiliary head": (
        without("auxiliary_head.0.conv1.bias"),
        "auxiliary_head.0.conv1.bias",
    ),
    "a part of the DAPPM": (
        without("backbone.spp.scale4.3.weight"),
        "backbone.spp.scale4.3.weight",
    ),
    "an unknown key": (
        with_tensor("backbone.layer6.weight", torch.ones(1)),
        "backbone.layer6.weight is not a key of a released SCTNet",
    ),
    "an unknown prefix": (
        with_tensor("neck.weight", torch.ones(1)),
        "neck.weight is not a key of a released SCTNet",
    ),
    "an unknown tensor of a known module": (
        with_tensor("backbone.conv1.0.scale", torch.ones(1)),
        "backbone.conv1.0.scale does not exist in sctnet-s",
    ),
    "kernels in each other's direction": (
        with_tensor("backbone.layer3_2.attn_l.kv", torch.ones(64, 128, 1, 7)),
        "backbone.layer3_2.attn_l.kv has the shape (64, 128, 1, 7)",
    ),
    "classifiers of different widths": (
        with_tensor("auxiliary_head.0.conv_seg.bias", torch.ones(20)),
        "auxiliary_head.0.conv_seg.bias has the shape (20,)",
    ),
    "integers for floats": (
        with_tensor("decode_head.bn1.weight", torch.ones(128, dtype=torch.int64)),
        "decode_head.bn1.weight holds torch.int64",
    ),
    "floats for a count": (
        with_tensor("decode_head.bn1.num_batches_tracked", torch.tensor(0.5)),
        "decode_head.bn1.num_batches_tracked holds torch.float32",
    ),
    "a stem of another network": (
        with_tensor("backbone.conv1.0.weight", torch.ones(48, 3, 3, 3)),
        "backbone.conv1.0.weight has the shape (48, 3, 3, 3), which fits neither S",
    ),
    "a number for a stem": (
        with_tensor("backbone.conv1.0.weight", torch.tensor(1.0)),
        "backbone.conv1.0.weight has the shape ()",
    ),
    "a number for a classifier": (with_tensor(CLASSIFIER, torch.tensor(1.0)), "conv_seg has 0"),
    "one class": (with_tensor(CLASSIFIER, torch.ones(1, 128, 1, 1)), "conv_seg has 1 classes"),
    "a value that is no tensor": (with_tensor("epoch", 3), "epoch is not a tensor"),
    "no state dict": (lambda _: [1, 2], "holds no state dict"),
    "an empty state dict": (lambda _: {"state_dict": {}}, "holds no state dict"),
    "a backbone less a key": (
        lambda s: without("layer5.mlp_l.conv2.bias")(bare(backbone(s))),
        "the first is backbone.layer5.mlp_l.conv2.bias",
    ),
    "a backbone with a part of a DAPPM": (
        lambda s: without("backbone.spp.compression.2.bias")(backbone(s, with_context=True)),
        "holds a part of the DAPPM only, backbone.spp.compression.2.bias is missing",
    ),
    "the head alone": (
        lambda s: {key: value for key, value in s.items() if key.startswith("decode_head.")},
        "lacks backbone.conv1.0.weight",
    ),
    "the timing script's form less a key": (
        lambda s: without("decoder.bn2.bias")(timing_form(s)),
        "the first is decode_head.bn2.bias",
    ),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(released, refused, change, words):
    assert words in refused(change(released))


@pytest.mark.parametrize("variant", ["sctnet-b", "sctnet-l", "tiny"])
def test_another_variant_is_refused(released, refused, variant):
    message = refused(released, variant)
    assert "is it another variant's file?" in message


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (lambda s: s, {"classes": ["a", "b"]}, "2 class names given, the file has 19"),
        (backbone, {"classes": ["a", "b"]}, "a backbone has no classes"),
    ],
    ids=["too few", "backbone"],
)
def test_class_names_that_do_not_fit_are_refused(released, refused, content, options, words):
    assert words in refused(content(released), **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ["a"] * 19}, "the class name 'a' stands twice"),
        ({"colours": [(0, 0, 0)]}, "1 colours for 19 classes"),
        ({"variant": "xl"}, "unknown variant 'xl'"),
    ],
    ids=["names", "colours", "variant"],
)
def test_mistakes_besides_the_file_write_nothing(released, convert, tmp_path, options, words):
    with pytest.raises(SctnetError, match=words):
        convert(released, **options)
    assert not (tmp_path / "model").exists()


def test_a_readme_of_something_else_stays(released, tmp_path):
    """``sctnet convert official.pth .`` in somebody's project."""
    torch.save(released, tmp_path / "official.pth")
    (tmp_path / "README.md").write_text("# My project")
    with pytest.raises(SctnetError, match=r"holds a README\.md that is not a model's"):
        sctnet.convert_checkpoint(tmp_path / "official.pth", tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"official.pth", "README.md"}
    assert (tmp_path / "README.md").read_text() == "# My project"


# Files that are no checkpoints.


class Trap:
    """An object whose unpickling leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (os.mkdir, (str(self.trace),))


def pickled(content, file):
    file.write_bytes(pickle.dumps(content, protocol=2))


def saved_in_the_old_way(content, file):
    torch.save(content, file, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [pickled, torch.save, saved_in_the_old_way])
def test_code_in_a_pickle_is_not_executed(write, tmp_path):
    trace, file = tmp_path / "trace", tmp_path / "official.pth"
    write({"state_dict": {"a": torch.ones(2)}, "meta": Trap(trace)}, file)
    with pytest.raises(SctnetError) as caught:
        sctnet.convert_checkpoint(file, tmp_path / "model")
    assert "may hold code" in checked(str(caught.value), file)
    assert sorted(tmp_path.iterdir()) == [file]
    # The trap works: whoever trusts the file falls into it.
    if write is pickled:
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert trace.is_dir()


def damaged(content, write=torch.save):
    def at(file):
        write({"a": torch.ones(8)}, file)
        file.write_bytes(content(file.read_bytes()))

    return at


NO_CHECKPOINTS = {
    "a text": lambda file: file.write_text("<html>Not found</html>\n"),
    "a large text": lambda file: file.write_text("version https://git-lfs.github.com\n" * 50),
    "empty": lambda file: file.touch(),
    "one byte": lambda file: file.write_bytes(b"\x80"),
    "a number": lambda file: file.write_bytes(pickle.dumps(5)),
    "a tensor": lambda file: torch.save(torch.ones(3), file),
    "cut in two": damaged(lambda data: data[: len(data) // 2]),
    "less its last byte": damaged(lambda data: data[:-1]),
    "missing": lambda _: None,
    "a directory": lambda file: file.mkdir(),
    "too large": lambda file: (file.touch(), os.truncate(file, 2**31 + 1)),
}


@pytest.mark.parametrize("make", NO_CHECKPOINTS.values(), ids=NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_refused(make, tmp_path):
    file = tmp_path / "official.pth"
    make(file)
    with pytest.raises(SctnetError) as caught:
        sctnet.convert_checkpoint(file, tmp_path / "model")
    message = checked(str(caught.value), file)
    assert not (tmp_path / "model").exists()
    if make is NO_CHECKPOINTS["too large"]:
        assert "larger than 2 GiB" in message


@pytest.mark.parametrize("write", [torch.save, saved_in_the_old_way])
def test_a_file_cut_anywhere_is_refused(write, tmp_path):
    file = tmp_path / "official.pth"
    write({"a": torch.ones(8)}, file)
    data = file.read_bytes()
    for size in range(0, len(data), 7):
        file.write_bytes(data[:size])
        with pytest.raises(SctnetError):
            sctnet.convert_checkpoint(file, tmp_path / "model")
