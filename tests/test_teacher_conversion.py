"""SegFormer checkpoints in all their forms; and what is no SegFormer."""

from pathlib import Path

import pytest
import torch
from released import released_checkpoint
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from sctnet.checkpoints.teacher_conversion import convert_teacher
from sctnet.cli import app
from sctnet.errors import SctnetError
from sctnet.training.teachers import load_teacher

CLASSES = [f"name {index}" for index in range(19)]


@pytest.fixture(scope="module")
def released() -> dict[str, Tensor]:
    return released_checkpoint("S", whole=True)


@pytest.fixture(scope="module")
def bare(released: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the teacher as MMSegmentation names it."""
    start = "auxiliary_head.1."
    names = {"teacher_backbone.": "backbone.", "teacher_head.": "decode_head."}
    renamed = {}
    for key, value in released.items():
        for theirs, plain in names.items():
            if key.startswith(start + theirs):
                renamed[key.replace(start + theirs, plain)] = value
    return renamed


def test_all_forms_give_the_same_teacher(
    released: dict[str, Tensor], bare: dict[str, Tensor], tmp_path: Path
) -> None:
    prefixed = {
        key.replace("decode_head.", "teacher_head.").replace(
            "backbone.", "teacher_backbone."
        ): value
        for key, value in bare.items()
    }
    auxiliary = {"auxiliary_head.conv_seg.weight": torch.zeros(19, 320, 1, 1)}
    forms = {
        "released": {"state_dict": released, "meta": {"epoch": 1}},
        "bare": bare,
        "mmsegmentation": {"state_dict": {**bare, **auxiliary}},
        "prefixed": {"state_dict": prefixed},
    }
    found = {}
    for name, content in forms.items():
        torch.save(content, tmp_path / f"{name}.pth")
        config = convert_teacher(tmp_path / f"{name}.pth", tmp_path / name, CLASSES)
        assert config.variant == "segformer-b2"
        found[name] = load_file(tmp_path / name / "model.safetensors")
    assert len(found["bare"]) == len(bare) == 332
    for tensors in found.values():
        assert all(torch.equal(value, found["bare"][key]) for key, value in tensors.items())
    assert load_teacher(tmp_path / "bare").classes == tuple(CLASSES)


@pytest.mark.slow
def test_the_teacher_of_b_is_a_b3(tmp_path: Path) -> None:
    torch.save(released_checkpoint("B", whole=True), tmp_path / "b.pth")
    assert convert_teacher(tmp_path / "b.pth", tmp_path / "b").variant == "segformer-b3"


def test_on_the_command_line(bare: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(bare, tmp_path / "teacher.pth")
    arguments = [str(tmp_path / "teacher.pth"), str(tmp_path / "out"), "--teacher"]
    done = CliRunner().invoke(app, ["convert", *arguments, "--classes", ",".join(CLASSES)])
    assert done.exit_code == 0, done.output
    assert "segformer-b2, a teacher with 19 classes" in done.output
    assert load_teacher(tmp_path / "out").classes == tuple(CLASSES)


def _spoilt(bare: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    tensors = dict(bare)
    match what:
        case "a tensor less":
            del tensors["backbone.layers.0.1.0.attn.sr.weight"]
        case "a block less":
            tensors = {
                k: v for k, v in tensors.items() if not k.startswith("backbone.layers.2.1.5")
            }
        case "a tensor more":
            tensors["decode_head.linear_fuse.weight"] = torch.zeros(1)
        case "no head":
            tensors = {k: v for k, v in tensors.items() if k.startswith("backbone.")}
        case "another network":
            tensors = {"encoder.weight": torch.zeros(3)}
        case "no number":
            tensors["decode_head.conv_seg.bias"] = torch.full((19,), torch.nan)
    return tensors


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("a tensor less", "lacks stages.0.2.0.attention.reduce.0.weight"),
        ("a block less", "depths (3, 4, 5, 3)"),
        ("a tensor more", "has in addition linear_fuse.weight"),
        ("no head", "no head.classifier.weight"),
        ("another network", "holds no SegFormer of MMSegmentation"),
        ("no number", "holds NaN or infinity"),
    ],
)
def test_what_is_no_whole_teacher(
    what: str, named: str, bare: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(_spoilt(bare, what), tmp_path / "teacher.pth")
    with pytest.raises(SctnetError) as caught:
        convert_teacher(tmp_path / "teacher.pth", tmp_path / "out")
    assert named in str(caught.value)
    assert "teacher.pth" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_class_names_must_be_as_many_as_the_classes(
    bare: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(bare, tmp_path / "teacher.pth")
    with pytest.raises(SctnetError, match="2 class names given, the file has 19"):
        convert_teacher(tmp_path / "teacher.pth", tmp_path / "out", ["road", "car"])
