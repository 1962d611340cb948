"""Published layouts, written small by the tests: pairs, every raw value, names, and mistakes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sctnet.data import ade20k, cityscapes, cocostuff, voc
from sctnet.data.dataset import IGNORE, SegmentationDataset
from sctnet.data.registry import open_dataset
from sctnet.errors import SctnetError

PICTURE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
EVERY_BYTE = np.arange(256, dtype=np.uint8).reshape(16, 16)


def write(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def bytes_up_to(last: int) -> np.ndarray:
    """Return all values to ``last``, and 0 for those above it."""
    return np.where(last >= EVERY_BYTE, EVERY_BYTE, 0).astype(np.uint8)


def label_by_value(labels: np.ndarray, values: np.ndarray) -> list[int]:
    """Return the labels of the values 0, 1, 2 and so on, in their order."""
    pairs = dict(zip(values.ravel().tolist(), labels.ravel().tolist(), strict=True))
    return [pairs[value] for value in sorted(pairs)]


# Cityscapes

TRAIN_IDS = [
    *[255] * 7, 0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8, 9, 10, 11, 12, 13, 14,
    15, 255, 255, 16, 17, 18,
]  # fmt: skip


def cityscapes_mask(
    root: Path, values: np.ndarray, split: str = "val", ending: str = "gtFine_labelIds"
) -> Path:
    kind = ending.partition("_")[0]
    return write(root / kind / split / "bonn" / f"bonn_000000_000001_{ending}.png", values)


def cityscapes_picture(root: Path, split: str = "val", picture: np.ndarray = PICTURE) -> Path:
    name = "bonn_000000_000001_leftImg8bit.png"
    return write(root / "leftImg8bit" / split / "bonn" / name, picture)


def test_cityscapes_maps_every_id(tmp_path: Path) -> None:
    cityscapes_picture(tmp_path)
    values = bytes_up_to(33)
    values[-1, -1] = 255
    cityscapes_mask(tmp_path, values)
    dataset = open_dataset(tmp_path, ["val"])
    assert dataset.item_name(0) == "val/bonn/bonn_000000_000001_leftImg8bit.png"
    image, labels = dataset.pair(0)
    assert (image == PICTURE).all()
    assert labels.dtype == np.uint8
    assert label_by_value(labels, values) == [*TRAIN_IDS, 255]


def test_cityscapes_agrees_with_its_authors() -> None:
    helpers = pytest.importorskip("cityscapesscripts.helpers.labels")
    trained = sorted(
        (label for label in helpers.labels if 0 <= label.trainId < 255),
        key=lambda label: label.trainId,
    )
    assert tuple(label.name for label in trained) == cityscapes.CLASSES
    assert tuple(label.id for label in trained) == cityscapes.IDS
    assert tuple(label.color for label in trained) == cityscapes.COLOURS


def test_cityscapes_of_train_ids_only(tmp_path: Path) -> None:
    cityscapes_picture(tmp_path)
    values = bytes_up_to(18)
    values[-1, -1] = 255
    cityscapes_mask(tmp_path, values, ending="gtFine_labelTrainIds")
    labels = open_dataset(tmp_path, ["val"]).labels(0)
    assert label_by_value(labels, values) == [*range(19), 255]
    cityscapes_mask(tmp_path, np.full((16, 16), 7, np.uint8))  # ids come first
    assert (open_dataset(tmp_path, ["val"]).labels(0) == 0).all()
    cityscapes_mask(tmp_path, np.full((16, 16), 11, np.uint8)).unlink()
    cityscapes_mask(tmp_path, np.full((16, 16), 19, np.uint8), ending="gtFine_labelTrainIds")
    with pytest.raises(SctnetError, match=r"TrainIds\.png: the value 19 is .* 0-18 and 255"):
        open_dataset(tmp_path, ["val"]).labels(0)


@pytest.mark.parametrize(
    ("split", "folder"), [("train_coarse", "train"), ("train_extra", "train_extra")]
)
def test_cityscapes_with_coarse_labels(tmp_path: Path, split: str, folder: str) -> None:
    cityscapes_picture(tmp_path, folder)
    cityscapes_mask(tmp_path, np.full((16, 16), 7, np.uint8), folder, "gtCoarse_labelIds")
    if folder == "train":
        cityscapes_mask(tmp_path, np.full((16, 16), 8, np.uint8), "train")
        both = open_dataset(tmp_path, ["train", "train_coarse"])
        assert [int(both.labels(i)[0, 0]) for i in range(2)] == [1, 0]
        assert both.item_name(0) != both.item_name(1)
    assert (open_dataset(tmp_path, [split]).labels(0) == 0).all()


def test_cityscapes_test_has_no_labels(tmp_path: Path) -> None:
    cityscapes_picture(tmp_path, "test")
    cityscapes_picture(tmp_path, "train")
    cityscapes_mask(tmp_path, EVERY_BYTE * 0, "train")
    for with_dummies in (False, True):
        if with_dummies:
            cityscapes_mask(tmp_path, EVERY_BYTE * 0, "test")
        dataset = open_dataset(tmp_path, ["test"])
        assert not dataset.labelled
        assert (dataset.image(0) == PICTURE).all()
        with pytest.raises(SctnetError, match="Cityscapes test has no published labels: train"):
            dataset.pair(0)
    with pytest.raises(SctnetError, match="the split 'test' has no labels: open it alone"):
        open_dataset(tmp_path, ["train", "test"])


def test_cityscapes_broken_in_every_way(tmp_path: Path) -> None:
    (tmp_path / "leftImg8bit").mkdir()
    with pytest.raises(SctnetError, match="no split 'dev': choose from train, val, test, train_c"):
        open_dataset(tmp_path, ["dev"])
    with pytest.raises(SctnetError, match=r"val: no picture \*/\*_leftImg8bit\.png is there"):
        open_dataset(tmp_path, ["val"])
    cityscapes_picture(tmp_path)
    with pytest.raises(SctnetError, match=r"has no mask: expected .*_gtFine_labelIds\.png"):
        open_dataset(tmp_path, ["val"])
    broken: list[tuple[np.ndarray, str]] = [
        (np.full((16, 16), 34, np.uint8), r"Ids\.png: the value 34 is unknown"),
        (np.full((16, 16), 254, np.uint8), r"Ids\.png: the value 254 is unknown"),
        (np.full((16, 16), 263, np.uint16), r"Ids\.png: the value 263 is unknown"),
        (PICTURE, r"Ids\.png: the mask holds colours"),
        (np.zeros((16, 8), np.uint8), r"bit\.png is 16 x 16 but its mask .* is 8 x 16"),
    ]
    for mask, sentence in broken:
        cityscapes_mask(tmp_path, mask)
        with pytest.raises(SctnetError, match=sentence):
            open_dataset(tmp_path, ["val"]).pair(0)
    path = cityscapes_mask(tmp_path, EVERY_BYTE % 34)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(SctnetError, match=r"Ids\.png: the image is damaged"):
        open_dataset(tmp_path, ["val"]).pair(0)


# ADE20K


def ade_mask(root: Path, values: np.ndarray) -> Path:
    return write(root / "annotations" / "validation" / "ADE_val_00000001.png", values)


def ade_picture(root: Path, folder: str = "validation", name: str = "ADE_val_00000001") -> Path:
    return write(root / "images" / folder / f"{name}.jpg", PICTURE)


def test_ade20k_maps_every_value(tmp_path: Path) -> None:
    ade_picture(tmp_path)
    values = bytes_up_to(150)
    ade_mask(tmp_path, values)
    dataset = open_dataset(tmp_path, ["val"])
    assert dataset.item_name(0) == "validation/ADE_val_00000001.jpg"
    assert label_by_value(dataset.pair(0)[1], values) == [255, *range(150)]
    ade_mask(tmp_path, np.full((16, 16), 151, np.uint8))
    with pytest.raises(SctnetError, match=r"0001\.png: the value 151 is unknown: .* 0-150"):
        dataset.labels(0)


def test_ade20k_names_and_colours() -> None:
    assert len(set(ade20k.CLASSES)) == len(ade20k.COLOURS) == 150
    assert len(set(ade20k.COLOURS)) == 149, "the table gives road's colour to skyscraper too"
    table = dict(zip(ade20k.CLASSES, ade20k.COLOURS, strict=True))
    assert table["road"] == table["skyscraper"] == (140, 140, 140)
    assert table["wall"] == (120, 120, 120)
    assert table["person"] == (150, 5, 61)
    assert table["coffee table"] == (0, 255, 112)
    assert table["flag"] == (92, 0, 255)


def test_ade20k_without_labels_or_pairs(tmp_path: Path) -> None:
    ade_picture(tmp_path)
    with pytest.raises(SctnetError, match=r"0001\.jpg has no mask: expected .*0001\.png"):
        open_dataset(tmp_path, ["val"])
    with pytest.raises(SctnetError, match=r"training: no picture \*\.jpg is there"):
        open_dataset(tmp_path, ["train"])
    ade_picture(tmp_path, "testing", "ADE_test_00000001")
    test = open_dataset(tmp_path, ["test"])
    assert not test.labelled
    assert test.item_name(0) == "testing/ADE_test_00000001.jpg"


# Pascal VOC


def write_voc(base: Path, names: Sequence[str], mask: np.ndarray, split: str = "train") -> Path:
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    for name in names:
        write(base / "JPEGImages" / f"{name}.jpg", PICTURE)
        write(base / "SegmentationClass" / f"{name}.png", mask)
    return base


def voc_values() -> np.ndarray:
    values = bytes_up_to(20)
    values[-1, -1] = 255
    return values


@pytest.mark.parametrize("inner", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc_maps_every_value_of_grey_and_palette(tmp_path: Path, inner: str) -> None:
    base, values = tmp_path / inner, voc_values()
    write_voc(base, ["a", "b"], values)
    paletted = Image.fromarray(values)
    paletted.putpalette(bytes(range(256)) * 3)
    paletted.save(base / "SegmentationClass" / "b.png")
    with Image.open(base / "SegmentationClass" / "b.png") as stored:
        assert stored.mode == "P"
    dataset = open_dataset(tmp_path, ["train"])
    assert [dataset.item_name(index) for index in range(2)] == ["a.jpg", "b.jpg"]
    for index in range(2):
        assert label_by_value(dataset.pair(index)[1], values) == [*range(21), 255]


def test_voc_names_and_colours() -> None:
    assert voc.CLASSES[0] == "background"
    assert list(voc.CLASSES[1:]) == sorted(voc.CLASSES[1:])
    published = {1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128), 7: (128,) * 3}
    published |= {8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {number: voc.voc_colour(number) for number in published} == published
    assert len({voc.voc_colour(number) for number in range(256)}) == 256


def test_voc_joins_overlapping_lists_once(tmp_path: Path) -> None:
    write_voc(tmp_path, ["a"], EVERY_BYTE * 0)
    write_voc(tmp_path, ["b", "a"], EVERY_BYTE * 0, "trainval")
    assert len(open_dataset(tmp_path, ["train", "trainval"])) == 2
    with pytest.raises(SctnetError, match="no split 'val': choose from train, trainval"):
        open_dataset(tmp_path, ["val"])


def test_voc_takes_further_masks_from_the_augmented_folder(tmp_path: Path) -> None:
    write_voc(tmp_path, ["a", "b"], EVERY_BYTE * 0, "trainaug")
    augmented = tmp_path / "SegmentationClassAug"
    augmented.mkdir()
    for name in ("a", "b"):  # "a" is in both, as in the archive that circulates
        Image.fromarray(EVERY_BYTE * 0 + 5).save(augmented / f"{name}.png")
    (tmp_path / "SegmentationClass" / "b.png").unlink()
    data = voc.open_voc(tmp_path, ["trainaug"])
    assert [int(data.labels(index).max()) for index in (0, 1)] == [0, 5]
    (augmented / "b.png").unlink()
    with pytest.raises(SctnetError, match=r"SegmentationClass/b\.png"):
        voc.open_voc(tmp_path, ["trainaug"])


def test_voc_with_names_of_ones_own(tmp_path: Path) -> None:
    write_voc(tmp_path, ["a"], bytes_up_to(2))
    names = tmp_path / "class_names.txt"
    names.write_text("__ignore__\n_background_\ncat\ndog\n")
    dataset = open_dataset(tmp_path, ["train"])
    assert dataset.classes == ("background", "cat", "dog")
    assert dataset.colours == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    assert label_by_value(dataset.labels(0), bytes_up_to(2)) == [0, 1, 2]
    write(tmp_path / "SegmentationClass" / "a.png", bytes_up_to(3))
    with pytest.raises(SctnetError, match=r"a\.png: the value 3 is unknown: .* 0-2 and 255"):
        dataset.labels(0)
    for text, sentence in (
        ("cat\ncat\n", "1 different names on 2 lines"),
        ("cat\n", "1 different names on 1 lines"),
        ("\n", "the list is empty"),
    ):
        names.write_text(text)
        with pytest.raises(SctnetError, match=rf"class_names\.txt: {sentence}"):
            open_dataset(tmp_path, ["train"])


def test_voc_without_masks_pictures_or_lists(tmp_path: Path) -> None:
    write_voc(tmp_path, ["a"], EVERY_BYTE * 0)
    write_voc(tmp_path, ["t"], EVERY_BYTE * 0, "test")
    (tmp_path / "SegmentationClass" / "t.png").unlink()
    assert not open_dataset(tmp_path, ["test"]).labelled
    assert open_dataset(tmp_path, ["train"]).labelled
    with pytest.raises(SctnetError, match=r"t\.jpg has no mask"):
        open_dataset(tmp_path, ["train", "test"])
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(SctnetError, match=r"a\.jpg: the picture is missing"):
        open_dataset(tmp_path, ["train"])
    for path in (tmp_path / "ImageSets" / "Segmentation").iterdir():
        path.unlink()
    with pytest.raises(SctnetError, match=r"Segmentation: no list is there: write train\.txt"):
        open_dataset(tmp_path, ["train"])


# Where real pieces lie


def test_real_pieces(real_data: Path) -> None:
    pieces = real_data / "data" / "pieces"
    expected = {
        "pseudo_cityscapes_dataset": (1, {"road", "car", "sky", "person"}),
        "ADEChallengeData2016": (3, {"wall", "building", "sky", "tree"}),
        "VOCdevkit": (1, {"background", "bus", "car"}),
    }
    for folder, (count, names) in expected.items():
        dataset = open_dataset(pieces / folder, ["val"])
        assert len(dataset) == count
        assert names <= _names_in(dataset)


def _names_in(dataset: SegmentationDataset) -> set[str]:
    values = {int(v) for i in range(len(dataset)) for v in np.unique(dataset.pair(i)[1])}
    return {dataset.classes[value] for value in values - {IGNORE}}


def test_real_train_ids_are_the_mapped_ids(real_data: Path) -> None:
    """All but the few pixels in which the piece's two masks were made smaller differently."""
    root = real_data / "data" / "pieces" / "pseudo_cityscapes_dataset"
    labels = open_dataset(root, ["val"]).labels(0)
    (path,) = root.glob("gtFine/val/*/*_labelTrainIds.png")
    train_ids = np.array(Image.open(path))
    assert (labels == train_ids).mean() > 0.997
    for label in np.unique(labels):
        assert np.bincount(train_ids[labels == label]).argmax() == label


def test_real_lists_have_our_names(real_data: Path) -> None:
    pieces = real_data / "data" / "pieces"
    lines = (pieces / "ADEChallengeData2016" / "objectInfo150.txt").read_text().splitlines()
    for name, line in zip(ade20k.CLASSES, lines[1:], strict=True):
        assert name in [synonym.strip() for synonym in line.split("\t")[-1].split(",")]
    lines = (pieces / "cocostuff10k" / "dataset" / "cocostuff-labels.txt").read_text().splitlines()
    names = dict(line.split(": ") for line in lines if line)
    assert tuple(names[str(value)] for value in cocostuff.RAW_VALUES) == cocostuff.CLASSES
    assert {names[str(value)] for value in cocostuff.ABSENT} == {
        *["street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "window", "desk"],
        *["door", "blender", "hair brush"],
    }
