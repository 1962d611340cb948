"""The check on every layout that is read: nothing to say of a whole one, a broken mask by name."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from sctnet.cli import app
from sctnet.data.dataset_yaml import FolderConfig, read_config

SIZE = (20, 28)


@dataclass(frozen=True)
class Layout:
    """Where a layout has its files, by the name of a split's folder and a number."""

    folders: dict[str, str]
    """By split."""
    image: str
    mask: str
    values: int
    """Masks hold 0 to this."""
    list_path: str = ""
    line: str = "{folder}_{number}"


LAYOUTS = {
    "Cityscapes": Layout(
        {"train": "train", "val": "val"},
        "leftImg8bit/{folder}/bonn/bonn_{number}_leftImg8bit.png",
        "gtFine/{folder}/bonn/bonn_{number}_gtFine_labelIds.png",
        33,
    ),
    "ADE20K": Layout(
        {"train": "training", "val": "validation"},
        "images/{folder}/ADE_{number}.jpg",
        "annotations/{folder}/ADE_{number}.png",
        150,
    ),
    "VOC": Layout(
        {"train": "train", "val": "val"},
        "VOCdevkit/VOC2012/JPEGImages/{folder}_{number}.jpg",
        "VOCdevkit/VOC2012/SegmentationClass/{folder}_{number}.png",
        20,
        "VOCdevkit/VOC2012/ImageSets/Segmentation/{split}.txt",
    ),
    "COCO-Stuff": Layout(
        {"train": "train", "test": "test"},
        "images/{folder}_{number}.jpg",
        "labels/{folder}_{number}.png",
        170,
        "imageLists/{split}.txt",
    ),
    "CamVid": Layout(
        {"train": "train", "val": "val", "test": "test"},
        "{folder}/{number}.png",
        "{folder}annot/{number}.png",
        11,
        "{split}.txt",
        "{folder}/{number}.png {folder}annot/{number}.png",
    ),
}


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def mask(values: int) -> np.ndarray:
    return (np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % (values + 1)).astype(np.uint8)


def build(root: Path, layout: Layout) -> None:
    """Write two pictures a split, whose masks show every value."""
    for place, (split, folder) in enumerate(layout.folders.items()):
        for number in range(2):
            write(
                root / layout.image.format(folder=folder, number=number),
                picture(10 * place + number),
            )
            write(root / layout.mask.format(folder=folder, number=number), mask(layout.values))
        if layout.list_path:
            lines = [layout.line.format(folder=folder, number=number) for number in range(2)]
            path = root / layout.list_path.format(split=split)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines))


def data(command: str, *arguments: object) -> Result:
    result = CliRunner().invoke(app, ["data", command, *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_whole_layout_is_checked(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    build(tmp_path, layout)
    result = data("check", tmp_path)
    assert result.exit_code == 0
    assert "Nothing is wrong." in result.output
    pictures = re.findall(r"^  (\w+): 2 pictures of 28 x 20, ", result.output, re.MULTILINE)
    assert pictures == list(layout.folders), "not the coarse ones and trainval, which are absent"


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_broken_mask_of_a_layout_is_named(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    build(tmp_path, layout)
    split, folder = list(layout.folders.items())[1]
    broken = tmp_path / layout.mask.format(folder=folder, number=1)
    write(broken, np.full(SIZE, layout.values + 1, np.uint8))
    result = data("check", tmp_path, "--html", tmp_path / "page.html")
    assert result.exit_code == 1
    assert f"error unreadable-mask in {split} (1)" in result.output
    assert f"{broken}: the value {layout.values + 1} is unknown" in result.output
    assert "errors: 1, warnings: 0" in result.output
    assert broken.name in (tmp_path / "page.html").read_text()
    broken.write_bytes(broken.read_bytes()[:50])
    assert f"{broken}: the image is damaged" in data("check", tmp_path).output


def test_joined_and_coarse_splits_are_left_out(tmp_path: Path) -> None:
    """They repeat pictures, and asking for them by name still works."""
    build(tmp_path / "voc", LAYOUTS["VOC"])
    lists = tmp_path / "voc/VOCdevkit/VOC2012/ImageSets/Segmentation"
    both = "\n".join((lists / f"{split}.txt").read_text() for split in ("train", "val"))
    (lists / "trainval.txt").write_text(both)
    build(tmp_path / "city", LAYOUTS["Cityscapes"])
    fine = LAYOUTS["Cityscapes"].mask.format(folder="train", number="{}")
    for number in range(2):
        coarse = fine.replace("gtFine", "gtCoarse").format(number)
        write(tmp_path / "city" / coarse, mask(33))
    for root, left_out in (("voc", "trainval"), ("city", "train_coarse")):
        whole = data("check", tmp_path / root)
        assert whole.exit_code == 0
        assert f"{left_out}:" not in whole.output
        named = data("check", tmp_path / root, "--splits", left_out)
        assert named.exit_code == 0
        assert f"{left_out}: " in named.output


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("Cityscapes", "leftImg8bit/test/bonn/bonn_9_leftImg8bit.png"),
        ("ADE20K", "images/testing/ADE_9.jpg"),
    ],
)
def test_splits_without_labels_are_read_all_the_same(name: str, image: str, tmp_path: Path) -> None:
    build(tmp_path, LAYOUTS[name])
    write(tmp_path / image, picture(99))
    result = data("check", tmp_path, "--html", tmp_path / "page.html")
    assert result.exit_code == 0
    assert "test: 1 picture of 28 x 20, no published labels" in result.output
    assert "test %" not in result.output
    (tmp_path / image).write_bytes(b"no picture")
    assert "error unreadable-image in test (1)" in data("check", tmp_path).output


def test_cocostuff_is_told_to_be_prepared_and_then_checked(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    build(tmp_path, LAYOUTS["COCO-Stuff"])
    (tmp_path / "annotations").mkdir()
    for path in (tmp_path / "labels").iterdir():
        scipy_io.savemat(tmp_path / "annotations" / f"{path.stem}.mat", {"S": mask(182)})
        path.unlink()
    before = data("check", tmp_path)
    assert before.exit_code == 1
    assert before.output.count(f"run sctnet data prepare {tmp_path}") == 2
    assert "train: cannot be opened" in before.output
    prepared = data("prepare", tmp_path)
    assert prepared.exit_code == 0
    assert "4 label maps written" in prepared.output
    after = data("check", tmp_path)
    assert after.exit_code == 0
    assert "Nothing is wrong." in after.output


# Outlines and instances


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Write a data set of COCO instances in train and LabelMe files in val; return the YAML."""
    for place, split in enumerate(("train", "val")):
        for name in "ab":
            write(tmp_path / split / f"{name}.png", picture(10 * place + ord(name)))
    outline = [2, 3, 20, 3, 20, 15, 2, 15]
    coco = {
        "images": [
            {"id": number, "file_name": f"{name}.png", "height": SIZE[0], "width": SIZE[1]}
            for number, name in enumerate("ab")
        ],
        "categories": [{"id": 5, "name": "car"}],
        "annotations": [
            {"image_id": number, "category_id": 5, "segmentation": [outline]} for number in (0, 1)
        ],
    }
    (tmp_path / "train.json").write_text(json.dumps(coco))
    points = [[2, 3], [20, 3], [20, 15]]
    shapes = {"shapes": [{"label": "car", "points": points}]}
    size = {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    for name in "ab":
        (tmp_path / "val" / f"{name}.json").write_text(json.dumps(shapes | size))
    return describe(tmp_path, masks={"val": "val"}, polygons={"train": "train.json"})


def describe(root: Path, **fields: object) -> Path:
    images = {"train": "train", "val": "val"}
    fields = {"images": images, "classes": ["background", "car"], **fields}
    (root / "own.yaml").write_text(yaml.safe_dump(fields))
    return root / "own.yaml"


def test_drawn_labels_are_checked(drawn: Path) -> None:
    result = data("check", drawn)
    assert result.exit_code == 0
    assert "Nothing is wrong." in result.output
    shares = re.search(r"car\W+([\d.]+)\W+2\W+([\d.]+)\W+2\b", result.output)
    assert shares is not None
    outlined = 100 * 19 * 13 / (SIZE[0] * SIZE[1])
    assert float(shares[1]) == pytest.approx(outlined, abs=0.006)
    assert float(shares[2]) < outlined, "a triangle is half of it"


def test_broken_drawn_labels_are_named(drawn: Path) -> None:
    path = drawn.parent / "train.json"
    content = json.loads(path.read_text())
    content["annotations"][1]["segmentation"] = {"size": [9, 9], "counts": [81]}
    path.write_text(json.dumps(content))
    labelme = drawn.parent / "val" / "b.json"
    labelme.write_text(labelme.read_text().replace("car", "cat"))
    result = data("check", drawn, "--html", drawn.parent / "page.html")
    assert result.exit_code == 1
    assert "error unreadable-mask in train (1)" in result.output
    assert f"{path / 'b.png'}: a run-length code of 9 x 9" in result.output
    assert f"{labelme}: the label 'cat' is not a class" in result.output
    path.write_text("{}")
    assert "error split in train" in data("check", drawn).output


def test_masks_beside_drawn_labels_are_mended(drawn: Path) -> None:
    """What is drawn has names and needs no mending; its split is told to be left out."""
    for name in "ab":
        (drawn.parent / "val" / f"{name}.json").rename(drawn.parent / f"{name}.json")
        write(drawn.parent / "masks" / f"{name}.png", mask(1) + 1)
    describe(drawn.parent, masks={"val": "masks"}, polygons={"train": "train.json"})
    for target in (drawn.parent / "mended.yaml", drawn.parent / "mended"):
        result = data("check", drawn, "--fix", target)
        assert "error off-by-one in val" in result.output
        assert "Left out: the split train, whose labels are not masks" in result.output
        fixed = target / "own.yaml" if target.is_dir() else target
        again = data("check", fixed)
        assert again.exit_code == 0
        assert "val: 2 pictures" in again.output
        assert "train:" not in again.output


def test_a_yaml_mends_masks_that_lie_among_outlines(drawn: Path) -> None:
    (drawn.parent / "train.json").unlink()
    for name in "ab":
        write(drawn.parent / "masks" / f"{name}.png", mask(1) + 1)
    describe(drawn.parent, masks={"val": "val", "train": "masks"})
    target = drawn.parent / "mended.yaml"
    assert "Written to" in data("check", drawn, "--fix", target).output
    assert "Nothing is wrong." in data("check", target).output


def test_descriptions_of_the_manual_are_read(tmp_path: Path) -> None:
    manual = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", manual, re.DOTALL)
    keys = set()
    for block in blocks:
        (tmp_path / "own.yaml").write_text(block)
        keys |= read_config(tmp_path / "own.yaml").model_fields_set
    assert keys == set(FolderConfig.model_fields), "the manual shows every key"
