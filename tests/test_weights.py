"""A model on disk: what is written, what is refused, and what serves as a start."""

import json
import math
import shutil
import subprocess
from functools import partial
from unittest.mock import Mock

import huggingface_hub
import pytest
import shared
import torch
from huggingface_hub import errors as hub_errors
from safetensors.torch import load_file, save_file

import sctnet
from sctnet import provenance
from sctnet.checkpoints.backbone import load_start, save_backbone
from sctnet.checkpoints.model_folder import (
    BUNDLED,
    WeightsSource,
    find_model,
    load_config,
    load_model,
    load_strictly,
    save_model,
    usable_device,
)
from sctnet.errors import SctnetError
from sctnet.pipeline.preprocessing import PreprocessingConfig, WorkingSize

CLASSES = ("road", "car", "sky")
network = partial(shared.network, num_classes=3)
KEY = "head.classifier.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_model(network(), tmp_path_factory.mktemp("saved") / "model", CLASSES)


@pytest.fixture
def folder(saved, tmp_path):
    """A model folder to damage."""
    return shutil.copytree(saved, tmp_path / "model")


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def equal(left, right):
    return left.keys() == right.keys() and all(left[key].equal(right[key]) for key in left)


def refusal(function, *arguments):
    """The one sentence with which a mistake is refused."""
    with pytest.raises(SctnetError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def rewrite(folder, **tensors):
    """Replace tensors in a folder's weights; None takes one out."""
    file = folder / "model.safetensors"
    content = load_file(file) | tensors
    save_file({key: value for key, value in content.items() if value is not None}, file)


def reconfigure(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def cut(file, size):
    file.write_bytes(file.read_bytes()[:size])


def with_network(folder, **fields):
    reconfigure(
        folder, network=json.loads((folder / "config.json").read_text())["network"] | fields
    )


# Saving.


def test_folder_holds_what_was_given(tmp_path):
    preparation = PreprocessingConfig(
        mean=(1, 2, 3), working_size=WorkingSize(rule="longer-side", pixels=480)
    )
    source = WeightsSource(file="official.pth", sha256="0" * 64)
    colours = [(128, 64, 128), (0, 0, 142), (70, 130, 180)]
    model = network(attention_norm="l2", auxiliary_head=False)
    folder = sctnet.save_model(
        model,
        tmp_path / "new" / "model",
        CLASSES,
        colours=colours,
        preparation=preparation,
        source=source,
        card="# A card\n",
    )
    config = load_config(folder)
    assert config.network == model.config
    assert config.classes == CLASSES
    assert config.colours == tuple(colours)
    assert config.preparation == preparation
    assert config.source == source
    assert (folder / "README.md").read_text() == "# A card\n"
    names = {"README.md", "config.json", "model.safetensors"}
    assert {file.name for file in folder.iterdir()} == names
    assert {oct(file.stat().st_mode & 0o777) for file in folder.iterdir()} == {"0o644"}


def test_names_and_card_have_defaults(tmp_path):
    folder = save_model(network(num_classes=2), tmp_path)
    assert load_config(folder).classes == ("class 0", "class 1")
    assert "class 0, class 1" in (folder / "README.md").read_text()


def test_saving_again_replaces(folder):
    model = network(num_classes=2, seed=1)
    save_model(model, folder)
    assert equal(load_model(folder).state_dict(), model.state_dict())
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"classes": ["road"]}, "1 class names for a network with 3 classes"),
        ({"classes": ["road", "car", "road"]}, "the class name 'road' stands twice"),
        ({"colours": [(0, 0, 0)]}, "1 colours for 3 classes"),
        ({"colours": [(0, 0, 256)] * 3}, "colours.0.2: Input should be less than or equal to 255"),
        ({"colours": [(-1, 0, 0)] * 3}, "colours.0.0: Input should be greater than or equal to 0"),
    ],
)
def test_a_refused_save_leaves_the_folder_alone(folder, arguments, words):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert words in refusal(lambda: save_model(network(seed=1), folder, **arguments))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_fused_network_is_not_saved(tmp_path):
    message = refusal(save_model, network().fuse(), tmp_path / "model")
    assert "fused" in message
    assert not (tmp_path / "model").exists()


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path):
    (tmp_path / "model").write_text("mine")
    assert str(tmp_path / "model") in refusal(save_model, network(), tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine"


FOREIGN = {
    "a README": ({"README.md": "# Mine"}, "holds a README.md that is not a model's"),
    "another tool's model": (
        {"README.md": "# Mine", "config.json": '{"model_type": "bert"}'},
        "holds a README.md",
    ),
    "another tool's settings": ({"config.json": '["mine"]'}, "holds a config.json that is not"),
    "a README and a broken text": ({"README.md": "# Mine", "config.json": "{"}, "a README.md"),
}


@pytest.mark.parametrize(("files", "words"), FOREIGN.values(), ids=FOREIGN)
def test_files_of_something_else_stay(tmp_path, files, words):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for save in (save_model, lambda *given: save_backbone(*given, with_context=True)):
        message = refusal(save, network(), tmp_path)
        assert message.startswith(f"{tmp_path}: ")
        assert words in message
        assert {file.name: file.read_text() for file in tmp_path.iterdir()} == files


def test_a_run_folder_becomes_a_model_folder(tmp_path):
    files = ("recipe.yaml", "metrics.jsonl")
    for name in files:
        (tmp_path / name).write_text("of the run")
    for seed in (0, 1):
        model = network(seed=seed)
        assert equal(load_model(save_model(model, tmp_path)).state_dict(), model.state_dict())
    assert {(tmp_path / name).read_text() for name in files} == {"of the run"}


def test_a_folder_can_be_saved_to_after_every_interruption(tmp_path, monkeypatch):
    """A save that stops at any of its renames leaves what the next one knows to be its own."""
    renamed = sctnet.checkpoints.model_folder.Path.replace
    for stop in range(3):
        calls = iter(range(3))

        def replace(source, target, calls=calls, stop=stop):
            if next(calls) == stop:
                raise KeyboardInterrupt
            return renamed(source, target)

        folder = tmp_path / str(stop)
        with monkeypatch.context() as patch:
            patch.setattr(sctnet.checkpoints.model_folder.Path, "replace", replace)
            with pytest.raises(KeyboardInterrupt):
                save_model(network(), folder)
        load_model(save_model(network(), folder))


def test_weights_in_half_precision_load_as_float32(folder):
    whole = load_file(folder / "model.safetensors")
    rewrite(folder, **{k: v.half() for k, v in whole.items() if v.is_floating_point()})
    loaded = load_model(folder).state_dict()
    assert loaded[KEY].dtype == torch.float32
    assert loaded[KEY].equal(whole[KEY].half().float())


# Strict loading.

WEIGHTS_REFUSED = {
    "a missing key": (lambda f: rewrite(f, **{KEY: None}), f"lacks {KEY}"),
    "many missing keys": (
        lambda f: rewrite(f, **dict.fromkeys(load_file(f / "model.safetensors"))),
        "lacks stem.0.weight, stem.0.bias, stem.1.weight and ",
    ),
    "an additional key": (lambda f: rewrite(f, extra=torch.zeros(1)), "has in addition extra"),
    "another shape": (
        lambda f: rewrite(f, **{KEY: torch.zeros(4, 32, 1, 1)}),
        f"{KEY} has the shape (4, 32, 1, 1), this network needs (3, 32, 1, 1)",
    ),
    "as many values in another shape": (
        lambda f: rewrite(f, **{KEY: torch.zeros(3, 32)}),
        f"{KEY} has the shape (3, 32)",
    ),
    "integers for floats": (
        lambda f: rewrite(f, **{KEY: torch.zeros(3, 32, 1, 1, dtype=torch.int32)}),
        f"{KEY} holds torch.int32, this network needs torch.float32",
    ),
    "not a number": (
        lambda f: rewrite(f, **{KEY: torch.full((3, 32, 1, 1), math.nan)}),
        f"{KEY} holds NaN or infinity",
    ),
    "infinity": (
        lambda f: rewrite(f, **{"stem.1.running_var": torch.full((8,), math.inf)}),
        "stem.1.running_var holds NaN or infinity",
    ),
    "another variant's weights": (
        lambda f: save_file(
            network("sctnet-s", auxiliary_head=True).state_dict(), f / "model.safetensors"
        ),
        "is it another variant's file?",
    ),
    "weights of fewer blocks": (
        lambda f: with_network(f, stage3_depth=2),
        "lacks stage3.5.",
    ),
    "cut in the header": (lambda f: cut(f / "model.safetensors", 100), "safetensors file"),
    "cut in the size": (lambda f: cut(f / "model.safetensors", 5), "safetensors file"),
    "cut in the tensors": (lambda f: cut(f / "model.safetensors", -1), "safetensors file"),
    "empty": (lambda f: cut(f / "model.safetensors", 0), "safetensors file"),
    "a text": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com"),
        "safetensors file",
    ),
}

CONFIG_REFUSED = {
    "empty": (lambda f: cut(f / "config.json", 0), "Invalid JSON"),
    "cut": (lambda f: cut(f / "config.json", -20), "Invalid JSON"),
    "not text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "not UTF-8 text"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "object"),
    "no network": (lambda f: (f / "config.json").write_text('{"classes": []}'), "network"),
    "an unknown field": (lambda f: reconfigure(f, labels=3), "labels: Extra inputs"),
    "an unknown option": (lambda f: with_network(f, width=3), "network.width: Extra inputs"),
    "a bad option": (lambda f: with_network(f, drop_path=2), "network.drop_path"),
    "groups that do not divide": (lambda f: with_network(f, attention_groups=5), "multiple of"),
    "a later format": (lambda f: reconfigure(f, format_version=2), "format_version"),
    "too few names": (lambda f: reconfigure(f, classes=["a", "b"]), "2 class names for a network"),
    "twice a name": (lambda f: reconfigure(f, classes=["a", "b", "a"]), "class name 'a' stands"),
    "too few colours": (lambda f: reconfigure(f, colours=[[0, 0, 0]]), "1 colours for 3 classes"),
    "a colour out of range": (
        lambda f: reconfigure(f, colours=[[0, 0, 256]] * 3),
        "colours.0.2: Input should be less",
    ),
    "a std of 0": (lambda f: reconfigure(f, preparation={"std": [1, 0, 1]}), "preparation.std.1"),
    "half a colour": (lambda f: reconfigure(f, colours=[[0, 0]] * 3), "colours.0"),
}


@pytest.mark.parametrize(("damage", "words"), WEIGHTS_REFUSED.values(), ids=WEIGHTS_REFUSED)
def test_damaged_weights_are_refused(folder, damage, words):
    damage(folder)
    message = refusal(load_model, folder)
    assert words in message
    assert str(folder / "model.safetensors") in message


@pytest.mark.parametrize(("damage", "words"), CONFIG_REFUSED.values(), ids=CONFIG_REFUSED)
def test_damaged_configurations_are_refused(folder, damage, words):
    damage(folder)
    message = refusal(load_model, folder)
    assert words in message
    assert str(folder / "config.json") in message


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_a_folder_without_a_file_is_refused(folder, lost):
    (folder / lost).unlink()
    assert refusal(load_model, folder) == f"{folder}: not a model folder, it holds no {lost}"


def test_a_refused_load_changes_nothing():
    model = network()
    before = state(model)
    tensors = state(network(seed=1)) | {KEY: torch.zeros(1)}
    assert KEY in refusal(load_strictly, model, tensors, "file")
    assert equal(state(model), before)


# Names and the hub.


@pytest.mark.parametrize(
    "name", ["no-such-model", "/no/such/model", "./owner/name", "~/model", "a/b/c", "owner/", "/x"]
)
def test_a_path_that_does_not_exist_never_asks_the_hub(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    assert f"{name}: does not exist" in refusal(load_model, name)


@pytest.mark.parametrize("name", ["a" * 5000, "b/" + "a" * 300, "a\0b"], ids=["a", "b/a", "0"])
def test_a_name_that_no_system_holds_does_not_exist(name, monkeypatch):
    def refuse(hub_id, **_):
        raise hub_errors.HFValidationError(hub_id)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    words = "no such model folder here" if "/" in name else "does not exist"
    assert f"{name}: {words}" in refusal(load_model, name)


def test_a_folder_without_a_configuration_hides_no_bundled_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "sctnet-s-camvid"
    (tmp_path / name).mkdir()
    assert find_model(name) == BUNDLED / name
    (tmp_path / name / "config.json").touch()
    assert "holds no model.safetensors" in refusal(find_model, name)
    assert find_model(f"{BUNDLED}/{name}") == BUNDLED / name


def downloaded(folder):
    """Return a stand-in for the hub's client, all of whose files are here already."""
    return lambda *_, dry_run=False, **__: [] if dry_run else str(folder)


def test_a_folder_without_a_configuration_hides_no_hub_id(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", downloaded(saved))
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    assert find_model("owner/name") == saved
    shutil.copytree(saved, folder, dirs_exist_ok=True)
    assert find_model("owner/name").resolve() == folder


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")], ids=str)
def test_the_cpu_is_usable(device):
    assert usable_device(device) == torch.device("cpu")


@pytest.mark.parametrize("device", ["meta", "gpu", "cuda:99", "hpu", "xla", "vulkan", "", None])
def test_an_unusable_device_is_named(saved, device):
    message = refusal(load_model, saved, device)
    assert message == f"device {str(device)!r} cannot be used here: try 'cpu'"


def test_a_file_is_not_a_folder(folder):
    file = folder / "model.safetensors"
    assert f"{file}: is not a folder" in refusal(load_model, file)


def test_an_empty_folder_is_no_model(tmp_path):
    message = refusal(load_model, tmp_path)
    assert message.endswith("it holds no config.json and no model.safetensors")


def test_a_hub_id_says_what_it_downloads_and_takes_no_pickles(saved, monkeypatch, caplog):
    asked = []

    def download(hub_id, allow_patterns, dry_run=False):
        asked.append((hub_id, sorted(allow_patterns)))
        weights = Mock(filename="model.safetensors", file_size=95_400_000, will_download=True)
        card = Mock(filename="README.md", file_size=300, will_download=False)
        return [weights, card] if dry_run else str(saved)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with caplog.at_level("INFO", logger="sctnet"):
        found = load_model("owner/name").state_dict()
    assert equal(found, load_model(saved).state_dict())
    files = [
        "README.md", "classifier.safetensors", "config.json", "merges.txt", "model-*.safetensors",
        "model.safetensors", "model.safetensors.index.json", "preprocessor_config.json",
        "processor_config.json", "special_tokens_map.json", "tokenizer*.json", "vocab.json",
    ]  # fmt: skip
    assert set(map(str, asked)) == {str(("owner/name", files))}
    sentence = "owner/name: downloads 95.4 MB from the hub: model.safetensors"
    assert sentence in caplog.messages


def test_a_hub_repository_without_a_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", downloaded(tmp_path))
    assert "not a model folder" in refusal(load_model, "owner/name")


class TransportError(Exception):
    """What an HTTP library raises: no OSError, and not the hub's."""


@pytest.mark.parametrize(
    "error",
    [
        hub_errors.RepositoryNotFoundError("404", response=Mock(headers={})),
        hub_errors.LocalEntryNotFoundError("no connection"),
        hub_errors.OfflineModeIsEnabled("offline"),
        hub_errors.HFValidationError("bad name"),
        PermissionError("cache"),
        TransportError("cut in the middle of a file"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_hub_that_fails_is_one_sentence(error, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    message = refusal(load_model, "owner/name")
    assert message.startswith("owner/name: ")
    assert type(error).__name__ in message


# Starts for training.


def changed(model, before):
    return {key for key, value in model.state_dict().items() if not value.equal(before[key])}


def test_a_model_of_the_same_classes_fills_everything(saved):
    model = network(seed=1)
    assert load_start(model, saved, CLASSES) == []
    assert equal(model.state_dict(), load_model(saved).state_dict())


@pytest.mark.parametrize("classes", [tuple("abcdefg"), CLASSES[::-1]], ids=["count", "order"])
def test_a_model_of_other_classes_keeps_new_classifiers(saved, classes):
    model = network(num_classes=len(classes), seed=1)
    before = state(model)
    new = load_start(model, saved, classes)
    assert set(new) == {key for key in before if "classifier" in key}
    start = load_model(saved).state_dict()
    for key, value in model.state_dict().items():
        assert value.equal(before[key] if key in new else start[key]), key


@pytest.mark.parametrize("with_context", [False, True])
def test_a_backbone_leaves_the_rest_new(tmp_path, with_context):
    start = network()
    folder = save_backbone(start, tmp_path / "backbone", with_context=with_context)
    assert "a backbone to start training from" in refusal(load_model, folder)
    model = network(num_classes=7, seed=1)
    before = state(model)
    new = load_start(model, folder, tuple("abcdefg"))
    rest = {"head", "auxiliary_head"} | (set() if with_context else {"dappm"})
    assert {key.split(".")[0] for key in new} == rest
    for key, value in model.state_dict().items():
        assert value.equal(before[key] if key in new else start.state_dict()[key]), key


def test_auxiliary_heads_may_come_and_go(tmp_path):
    with_head = save_model(network(), tmp_path / "with", CLASSES)
    without = save_model(network(auxiliary_head=False), tmp_path / "without", CLASSES)
    assert load_start(network(auxiliary_head=False, seed=1), with_head, CLASSES) == []
    new = load_start(network(seed=1), without, CLASSES)
    assert {key.split(".")[0] for key in new} == {"auxiliary_head"}


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("stem.0.weight", "lacks stem.0.weight"),
        ("dappm.compression.2.bias", "lacks dappm.compression.2.bias"),
        ("head.conv.weight", "lacks head.conv.weight"),
        ("auxiliary_head.classifier.bias", "lacks auxiliary_head.classifier.bias"),
    ],
)
@pytest.mark.parametrize("num_classes", [3, 7])
def test_an_incomplete_model_is_no_start(folder, lost, words, num_classes):
    rewrite(folder, **{lost: None})
    model = network(num_classes=num_classes, seed=1)
    before = state(model)
    assert words in refusal(load_start, model, folder, CLASSES)
    assert changed(model, before) == set()


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"stage4.5.attention_norm.weight": None}, "lacks stage4.5.attention_norm.weight"),
        ({"dappm.shortcut.2.bias": None}, "lacks dappm.shortcut.2.bias"),
        ({KEY: torch.zeros(3, 32, 1, 1)}, f"has in addition {KEY}"),
    ],
    ids=["stage 4", "DAPPM", "head"],
)
def test_an_incomplete_backbone_is_no_start(tmp_path, tensors, words):
    folder = save_backbone(network(), tmp_path / "backbone", with_context=True)
    rewrite(folder, **tensors)
    model = network(seed=1)
    before = state(model)
    assert words in refusal(load_start, model, folder, CLASSES)
    assert changed(model, before) == set()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"variant": "sctnet-s"}, "is it another variant's file?"),
        ({"stage3_depth": 2}, "lacks stage3.5."),
        ({"stage4_depth": 1}, "holds stage4.5."),
        ({"attention_kernel": "7x7"}, "this network lacks"),
    ],
    ids=str,
)
def test_another_network_is_no_start(saved, target, words):
    model = network(seed=1, **target)
    before = state(model)
    assert words in refusal(load_start, model, saved, CLASSES)
    assert changed(model, before) == set()


def test_a_start_draws_no_random_numbers(saved):
    model = network(seed=1)
    before = torch.get_rng_state()
    load_start(model, saved, CLASSES)
    assert torch.get_rng_state().equal(before)


# The commit of the code.


@pytest.mark.parametrize("tracked", [True, False])
def test_only_the_repository_of_the_code_is_named(tmp_path, monkeypatch, tracked):
    """An installation inside somebody's project has no commit; that one is the project's."""
    package = tmp_path / "lib" / "sctnet"
    package.mkdir(parents=True)
    shutil.copy(provenance.__file__, package)
    (tmp_path / "project.txt").touch()

    def git(*arguments):
        who = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    git("add", "." if tracked else "project.txt")
    git("commit", "--no-gpg-sign", "-m", "first")
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    commit = git("rev-parse", "--short=12", "HEAD")
    assert provenance.environment()["commit"] == (commit if tracked else None)
