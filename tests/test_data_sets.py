"""Readers of data sets on disk, and the drawn streets."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from sctnet.data.camvid import open_camvid
from sctnet.data.dataset import IGNORE, JoinedDataset
from sctnet.data.folder import open_folder
from sctnet.data.registry import open_dataset
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.errors import SctnetError

RANDOM = np.random.default_rng(0)
COUNTING = np.arange(48, dtype=np.uint8).reshape(6, 8)
PICTURE = RANDOM.integers(0, 256, (6, 8, 3)).astype(np.uint8)
NAMES = "Sky Building Pole Road Pavement Tree SignSymbol Fence Car Pedestrian Bicyclist"


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), values if values.ndim == 2 else values[..., ::-1])


# CamVid


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """Write a CamVid of two training pictures and one test picture."""
    root = tmp_path / "CamVid"
    for split, names, prefix in (
        ("train", ["b", "a"], "/SegNet/CamVid/"),
        ("val", ["c"], ""),
        ("test", ["d"], "/SegNet/CamVid/"),
    ):
        lines = [f"{prefix}{split}/{n}.png {prefix}{split}annot/{n}.png" for n in names]
        for name in names:
            write(root / split / f"{name}.png", PICTURE)
            write(
                root / f"{split}annot" / f"{name}.png",
                COUNTING % 12,
            )
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root


def test_camvid_reads_lists_classes_and_void(camvid: Path) -> None:
    dataset = open_dataset(camvid, ["train", "val"])
    assert [dataset.item_name(i) for i in range(len(dataset))] == [
        "train/b.png",
        "train/a.png",
        "val/c.png",
    ]
    assert " ".join(dataset.classes) == NAMES
    assert dataset.colours is not None
    assert len(set(dataset.colours)) == 11
    image, labels = dataset.pair(2)
    assert (image == PICTURE).all()
    assert labels.dtype == np.uint8
    assert (labels.ravel()[:13] == [*range(11), IGNORE, 0]).all()


@pytest.mark.parametrize(
    ("splits", "sentence"),
    [
        pytest.param([], "no split was named: choose from train, val, test", id="none"),
        pytest.param(["dev"], "no split 'dev': choose from train, val, test", id="unknown"),
        pytest.param(["val", "val"], "named twice in val\\+val", id="twice"),
    ],
)
def test_camvid_splits_are_checked(camvid: Path, splits: list[str], sentence: str) -> None:
    with pytest.raises(SctnetError, match=sentence):
        open_camvid(camvid, splits)


def test_camvid_broken_in_every_way(camvid: Path) -> None:
    write(camvid / "trainannot" / "b.png", np.full((6, 8), 12, np.uint8))
    with pytest.raises(SctnetError, match=r"b\.png: the value 12 is unknown"):
        open_camvid(camvid, ["train"]).labels(0)
    write(camvid / "trainannot" / "b.png", PICTURE)
    with pytest.raises(SctnetError, match=r"b\.png: the mask holds colours, not one number"):
        open_camvid(camvid, ["train"]).labels(0)
    write(camvid / "trainannot" / "b.png", np.zeros((3, 8), np.uint8))
    with pytest.raises(SctnetError, match=r"n/b\.png is 8 x 6 but .*trainannot/b\.png is 8 x 3"):
        open_camvid(camvid, ["train"]).pair(0)
    (camvid / "trainannot" / "a.png").unlink()
    with pytest.raises(SctnetError, match=r"train\.txt, line 2: the file .*a\.png is missing"):
        open_camvid(camvid, ["train"])
    (camvid / "val.txt").write_text("only-one-name.png\n")
    with pytest.raises(SctnetError, match=r"val\.txt, line 1: expected a picture and its mask"):
        open_camvid(camvid, ["val"])
    (camvid / "val.txt").write_bytes("caf\xe9.png caf\xe9.png\n".encode("latin-1"))
    with pytest.raises(SctnetError, match=r"val\.txt: the list is not UTF-8"):
        open_camvid(camvid, ["val"])
    (camvid / "val.txt").write_text("\n")
    with pytest.raises(SctnetError, match=r"val\.txt: the list is empty"):
        open_camvid(camvid, ["val"])
    (camvid / "test.txt").unlink()
    with pytest.raises(SctnetError, match=r"test\.txt: the list of the split cannot be read"):
        open_camvid(camvid, ["test"])


@pytest.mark.slow
def test_camvid_as_published(tmp_path: Path, real_data: Path) -> None:
    """Counts, names and class shares are those the data's own description states."""
    import subprocess
    import sys

    unpack = real_data / "data" / "unpack.py"
    command = [sys.executable, str(unpack), str(tmp_path), "--only", "test"]
    subprocess.run(command, check=True, capture_output=True)
    dataset = open_camvid(tmp_path / "camvid", ["test"])
    assert len(dataset) == 233
    counts = sum(np.bincount(dataset.labels(i).ravel(), minlength=256) for i in range(233))
    shares = counts[[*range(11), IGNORE]] / 40_262_400 * 100
    published = [17.07, 24.61, 1.18, 25.81, 9.27, 11.25, 1.01, 1.18, 3.97, 0.63, 0.19, 3.83]
    assert shares == pytest.approx(published, abs=0.006)


# Folders described by a YAML file

LABELS = RANDOM.integers(0, 3, (6, 8)).astype(np.uint8)
COLOURS = [[128, 64, 128], [0, 0, 142], [70, 70, 70]]
BASIC = {
    "images": {"train": "images/train", "val": "images/val"},
    "masks": {"train": "masks/train", "val": "masks/val"},
    "classes": ["road", "car", "rest"],
}


def described(root: Path, **changes: object) -> Path:
    """Write the YAML, BASIC with changes; None takes a key away."""
    fields = {key: value for key, value in {**BASIC, **changes}.items() if value is not None}
    (root / "own.yaml").write_text(yaml.safe_dump(fields))
    return root / "own.yaml"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Write two training pictures, one in a folder of its own, and one for validation."""
    for name in ("train/b.jpg", "train/city/a.png", "val/c.bmp"):
        write(tmp_path / "images" / name, PICTURE)
        write((tmp_path / "masks" / name).with_suffix(".png"), LABELS)
    (tmp_path / "images/train/notes.txt").write_text("not a picture")
    return tmp_path


def test_folder_of_class_numbers(own: Path) -> None:
    dataset = open_dataset(described(own, colours=COLOURS), ["train", "val"])
    names = [dataset.item_name(i) for i in range(len(dataset))]
    assert names == ["train/b.jpg", "train/city/a.png", "val/c.bmp"]
    assert dataset.classes == ("road", "car", "rest")
    assert dataset.colours == tuple(map(tuple, COLOURS))
    assert (dataset.image(1) == PICTURE).all()
    assert all((dataset.labels(i) == LABELS).all() for i in range(3))


def test_folder_ignore(own: Path) -> None:
    mask = LABELS.copy()
    mask[0] = 99
    write(own / "masks/val/c.png", mask)
    labels = open_folder(described(own, ignore=99), ["val"]).labels(0)
    assert (labels[0] == IGNORE).all()
    assert (labels[1:] == LABELS[1:]).all()


def test_folder_ids_may_use_the_usual_ignored_value(own: Path) -> None:
    write(own / "masks/val/c.png", np.where(LABELS > 0, 255, 0).astype(np.uint8))
    labels = open_folder(described(own, ids={0: 0, 255: 1}), ["val"]).labels(0)
    assert (labels == (LABELS > 0)).all()


def test_folder_yaml_may_share_fields(own: Path) -> None:
    """A merged mapping's keys may be overridden: that is what merging is for."""
    path = described(own)
    text = "base: &base\n  train: gone\n  val: images/val\n".replace("base:", "images:", 1)
    text += "masks:\n  <<: *base\n  train: masks/train\n  val: masks/val\nclasses: [a, b, c]\n"
    path.write_text(text)
    assert len(open_folder(path, ["val"])) == 1


def test_folder_ids_reach_16_bits_and_ignore_the_rest(own: Path) -> None:
    raw = np.array([7, 26, 40000, 8], np.uint16)[RANDOM.integers(0, 4, (6, 8))]
    write(own / "masks/val/c.png", raw)
    labels = open_folder(described(own, ids={7: 0, 26: 1, 40000: 1}), ["val"]).labels(0)
    expected = [[{7: 0, 26: 1, 40000: 1}.get(int(value), 255) for value in row] for row in raw]
    assert (labels == expected).all()


def test_folder_rgb_masks(own: Path) -> None:
    mask = np.array(COLOURS, np.uint8)[LABELS]
    mask[0] = [1, 2, 3]
    write(own / "masks/val/c.png", mask)
    path = described(own, colours=COLOURS, rgb_masks=True, ignored_colours=[[0, 0, 0], [1, 2, 3]])
    labels = open_folder(path, ["val"]).labels(0)
    assert (labels[0] == IGNORE).all()
    assert (labels[1:] == LABELS[1:]).all()


def test_folder_palette_masks_are_numbers(own: Path) -> None:
    image = Image.fromarray(LABELS)
    image.putpalette([channel for colour in COLOURS for channel in colour])
    image.save(own / "masks/val/c.png")
    assert (open_folder(described(own), ["val"]).labels(0) == LABELS).all()


@pytest.mark.parametrize("masks", ["cities", "gt"], ids=["side-by-side", "apart"])
def test_folder_suffixes(tmp_path: Path, masks: str) -> None:
    for name in ("x/one", "two.point"):
        write(tmp_path / "cities" / f"{name}_photo.png", PICTURE)
        write(tmp_path / masks / f"{name}_label.tif", LABELS)
    path = described(
        tmp_path,
        images={"all": "cities"},
        masks={"all": masks},
        image_suffix="_photo",
        mask_suffix="_label",
    )
    dataset = open_folder(path, ["all"])
    assert [dataset.item_name(i) for i in range(2)] == [
        "all/two.point_photo.png",
        "all/x/one_photo.png",
    ]
    assert (dataset.labels(1) == LABELS).all()


def test_folder_masks_among_and_below_the_images(tmp_path: Path) -> None:
    write(tmp_path / "all/a.png", PICTURE)
    write(tmp_path / "all/a_mask.png", LABELS)
    path = described(tmp_path, images={"x": "all"}, masks={"x": "all"}, mask_suffix="_mask")
    assert len(open_folder(path, ["x"])) == 1
    write(tmp_path / "nest/a.png", PICTURE)
    write(tmp_path / "nest/masks/a.png", LABELS)
    path = described(tmp_path, images={"x": "nest"}, masks={"x": "nest/masks"})
    assert len(open_folder(path, ["x"])) == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param({"classes": None}, "classes: Field required", id="no-classes"),
        pytest.param({"classes": ["road"]}, "classes: .*at least 2", id="one-class"),
        pytest.param({"classes": ["a"] * 3}, "not name a class twice", id="one-name-twice"),
        pytest.param({"classes": [str(i) for i in range(255)]}, "at most 254", id="too-many"),
        pytest.param({"palette": []}, "unknown key 'palette': the keys are images", id="unknown"),
        pytest.param({"images": "images"}, "must name the same splits", id="not-by-split"),
        pytest.param({"images": 5}, "images: .*dictionary", id="no-place"),
        pytest.param({"masks": {"train": "m"}}, "must name the same splits", id="splits-differ"),
        pytest.param({"colours": COLOURS[:2]}, "2 entries for 3 classes", id="few-colours"),
        pytest.param({"colours": [[0, 0, 256]] * 3}, "less than or equal to 255", id="no-colour"),
        pytest.param({"ids": {7: 3}}, "ids must lead to class numbers, 0 to 2", id="ids"),
        pytest.param({"ids": {-7: 1}}, "ids", id="negative-id"),
        pytest.param({"ignore": 2}, "ignore is 2, which is the class number", id="ignored-class"),
        pytest.param({"ids": {9: 0}, "ignore": 9}, "ignore is 9, which ids", id="ignored-id"),
        pytest.param({"mask_suffix": "gt/x"}, "mask_suffix is the end of a", id="mask-folder"),
        pytest.param({"image_suffix": "/x"}, "image_suffix is the end of a", id="image-folder"),
        pytest.param(
            {"classes": [True, False]}, r"classes\.0: True is not text: .* quotes", id="yes-no"
        ),
        pytest.param({"rgb_masks": True}, "rgb_masks needs colours", id="no-code"),
        pytest.param({"ignored_colours": [[0, 0, 0]]}, "needs rgb_masks", id="no-rgb-masks"),
        pytest.param(
            {"rgb_masks": True, "colours": COLOURS, "ids": {1: 1}}, "ids is for", id="rgb-and-ids"
        ),
        pytest.param(
            {"rgb_masks": True, "colours": COLOURS, "ignored_colours": COLOURS[:1]},
            "must not name a colour twice",
            id="one-colour-twice",
        ),
    ],
)
def test_folder_description_is_checked(own: Path, changes: dict, sentence: str) -> None:
    with pytest.raises(SctnetError, match=sentence) as caught:
        open_folder(described(own, **changes), ["train"])
    assert str(caught.value).startswith(str(own / "own.yaml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("images: {train: [\n", "line 2: not valid YAML", id="syntax"),
        pytest.param(
            "a: 1\nb: {c: 1,\n    'c': 2}", "line 3: the key 'c' stands twice", id="twice"
        ),
        pytest.param(
            "a: 1\nb: [2026-02-30]", "line 2: '2026-02-30' is not a possible", id="a-date"
        ),
        pytest.param("a: 1\n\nb: \x07", "line 3: a character YAML does not allow", id="bell"),
        pytest.param("a: !!python/name:os.system", "line 1: not valid YAML", id="a-python-name"),
        pytest.param("[" * 9999, "nested too deeply", id="deep"),
        pytest.param("- a\n- b\n", "expected the keys images", id="a-list"),
        pytest.param("", "expected the keys images", id="empty"),
    ],
)
def test_folder_yaml_is_checked(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(SctnetError, match=sentence):
        open_folder(tmp_path / "own.yaml", ["train"])
    with pytest.raises(SctnetError, match=r"gone\.yaml: cannot be read"):
        open_folder(tmp_path / "gone.yaml", ["train"])


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        pytest.param(
            lambda root: (root / "masks/train/b.png").unlink(),
            r"train/b\.jpg has no mask: expected .*masks/train/b with one of \.png",
            id="missing-mask",
        ),
        pytest.param(
            lambda root: [
                mask.rename(mask.with_stem(f"{mask.stem}_L"))
                for mask in (root / "masks/train").rglob("*.png")
            ],
            r"train/b\.jpg has no mask, but there is .*train/b_L\.png: set mask_suffix: _L$",
            id="masks-with-more-in-their-names",
        ),
        pytest.param(
            lambda root: (root / "masks/train/b.png").rename(root / "masks/train/b_L.png"),
            r"train/b\.jpg has no mask: expected .*masks/train/b with one of \.png",
            id="one-mask-with-more-in-its-name",
        ),
        pytest.param(
            lambda root: write(root / "images/train/b.png", PICTURE),
            r"train/b\.jpg and .*train/b\.png share one stem, and so one mask",
            id="two-images-of-one-stem",
        ),
        pytest.param(
            lambda root: write(root / "masks/train/b.tif", LABELS),
            r"train/b\.png and .*train/b\.tif share one stem",
            id="two-masks-of-one-stem",
        ),
        pytest.param(
            lambda root: (root / "masks/train").rename(root / "masks/training"),
            r"masks/train: no such folder: correct masks\.train",
            id="missing-folder",
        ),
        pytest.param(
            lambda root: [p.unlink() for p in root.glob("images/train/**/*.*g")],
            r"images/train: no image named",
            id="no-image",
        ),
    ],
)
def test_folder_files_are_checked_at_once(own: Path, break_it, sentence: str) -> None:
    break_it(own)
    with pytest.raises(SctnetError, match=sentence):
        open_folder(described(own), ["train"])


@pytest.mark.parametrize(
    ("mask", "changes", "sentence"),
    [
        pytest.param(np.full((6, 8), 3, np.uint8), {}, "value 3 is neither", id="value"),
        pytest.param(np.full((6, 8), 300, np.uint16), {}, "value 300 is neither", id="16-bit"),
        pytest.param(PICTURE, {}, "the mask holds colours", id="colours"),
        pytest.param(
            PICTURE[:, :, ::-1] | 1,
            {"rgb_masks": True, "colours": COLOURS},
            r"colour \[\d+, \d+, \d+\] is in neither colours",
            id="colour",
        ),
        pytest.param(
            LABELS, {"rgb_masks": True, "colours": COLOURS}, "one number per pixel", id="numbers"
        ),
        pytest.param(LABELS[:5], {}, r"c\.bmp is 8 x 6 but .*c\.png is 8 x 5", id="size"),
    ],
)
def test_folder_masks_are_checked(
    own: Path, mask: np.ndarray, changes: dict, sentence: str
) -> None:
    write(own / "masks/val/c.png", mask)
    dataset = open_folder(described(own, **changes), ["val"])
    with pytest.raises(SctnetError, match=sentence) as caught:
        dataset.pair(0)
    assert "masks/val/c.png" in str(caught.value)


# Drawn streets


def test_streets_are_functions_of_seed_and_number() -> None:
    one, other = SyntheticStreets(3, 20, (60, 80)), SyntheticStreets(3, 5, (60, 80))
    for index in (4, 0, 2):
        image, labels = one.pair(index)
        assert (image.shape, labels.shape) == ((60, 80, 3), (60, 80))
        assert image.dtype == labels.dtype == np.uint8
        assert (image == other.image(index)).all()
        assert (labels == other.labels(index)).all()
    assert (one.image(0) != one.image(1)).any()
    assert (one.image(0) != SyntheticStreets(4, 1, (60, 80)).image(0)).any()
    with pytest.raises(IndexError):
        one.pair(20)


def test_streets_show_every_class_often() -> None:
    dataset = SyntheticStreets(0, 40)
    counts = np.stack([np.bincount(dataset.labels(i).ravel(), minlength=256) for i in range(40)])
    assert ((counts[:, :11] > 10).mean(axis=0) > 0.4).all()
    assert not counts[:, 11:255].any()
    assert 0 < counts[:, 255].sum() < 0.05 * counts.sum()


def test_streets_cannot_be_told_by_colour_alone() -> None:
    """The best guess from 512 colours is far from right, so that a network has to look around."""
    pairs = [SyntheticStreets(0, 20).pair(i) for i in range(20)]
    table = np.zeros((512, 256))
    for image, labels in pairs:
        code = (image // 32).astype(int) @ [64, 8, 1]
        np.add.at(table, (code.ravel(), labels.ravel()), 1)
    right, total = table.argmax(axis=1), table.sum(axis=0)
    recall = [table[right == label, label].sum() / total[label] for label in range(11)]
    assert np.mean(recall) < 0.5


def test_synthetic_splits_differ_and_join() -> None:
    train, both = (open_dataset("synthetic", splits) for splits in (["train"], ["val", "test"]))
    assert (len(train), len(both)) == (240, 80)
    assert (both.labels(40) == open_dataset("synthetic", ["test"]).labels(0)).all()
    names = {both.item_name(i) for i in range(80)} | {train.item_name(i) for i in range(240)}
    assert len(names) == 320
    assert train.image(0).shape == (180, 240, 3)


def test_joined_ends_where_its_parts_end() -> None:
    joined = JoinedDataset(
        "x", [SyntheticStreets(0, 2, (20, 30)), SyntheticStreets(1, 1, (20, 30))]
    )
    assert (joined.image(2) == SyntheticStreets(1, 1, (20, 30)).image(0)).all()
    for index in (-1, 3):
        with pytest.raises(IndexError):
            joined.pair(index)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        pytest.param("nowhere", "nowhere does not exist: give", id="missing"),
        pytest.param("images", "is not a known data set: give", id="unknown-layout"),
        pytest.param("own.yaml", "no split 'dev': choose from train, val", id="unknown-split"),
    ],
)
def test_opening_says_what_is_known(own: Path, source: str, sentence: str) -> None:
    described(own)
    with pytest.raises(SctnetError, match=sentence):
        open_dataset(own / source, ["dev"])
    with pytest.raises(SctnetError, match="synthetic: there is no split 'dev'"):
        open_dataset("synthetic", ["dev"])
