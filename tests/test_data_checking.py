"""The check of data sets: one broken set a cause, what mends it, and no alarm on healthy ones."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sctnet.checking.check import Report, check_dataset, open_splits
from sctnet.cli import main
from sctnet.data.class_frequencies import count_class_pixels, refuse_unlearnable
from sctnet.data.dataset import IGNORE
from sctnet.data.registry import open_dataset
from sctnet.errors import SctnetError
from sctnet.training.auto_recipe import choose_recipe

CLASSES = ["sky", "road", "car"]
COLOURS = np.array([[70, 130, 180], [128, 64, 128], [0, 0, 142]], np.uint8)
SPLITS = {"train": 4, "val": 2}
SIZE = (20, 28)


def truth(seed: int, classes: int = 3, ignored: bool = True) -> np.ndarray:
    """Return a label map with every class and, if wanted, some ignored pixels."""
    labels = np.random.default_rng(seed).integers(0, classes, SIZE).astype(np.uint8)
    labels[0, :classes] = range(classes)
    labels[1:3] = IGNORE if ignored else labels[1:3]
    return labels


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def seeds() -> list[tuple[str, int, int]]:
    """Return split, number in it and a seed for every picture."""
    return [(s, i, 10 * len(s) + i) for s, count in SPLITS.items() for i in range(count)]


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def describe(root: Path, **changes: object) -> Path:
    fields: dict[str, object] = {
        "images": {split: f"images/{split}" for split in SPLITS},
        "masks": {split: f"masks/{split}" for split in SPLITS},
        "classes": CLASSES,
        **changes,
    }
    (root / "own.yaml").write_text(yaml.safe_dump(fields))
    return root / "own.yaml"


def build(
    root: Path, store: Callable[[Path, np.ndarray], None] = write, ignored: bool = True, **fields
) -> Path:
    """Write pictures, and masks as ``store`` writes true labels; return the YAML."""
    classes = len(fields.get("classes", CLASSES))
    for split, number, seed in seeds():
        write(root / "images" / split / f"{number}.png", picture(seed))
        path = root / "masks" / split / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        store(path, truth(seed, classes, ignored))
    return describe(root, **fields)


def check(source: Path | str, *splits: str) -> Report:
    return check_dataset(source, open_splits(source, splits))


def causes(report: Report) -> list[str]:
    return [finding.cause for finding in report.findings]


@dataclass
class Run:
    status: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*arguments: object) -> Run:
        monkeypatch.setattr(sys, "argv", ["sctnet", "data", "check", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Run(int(ended.value.code or 0), *capsys.readouterr())

    return run


# Masks that do not hold the classes


@dataclass
class Case:
    """How masks are stored, what the YAML says, and what the check has to answer."""

    cause: str
    store: Callable[[np.ndarray], np.ndarray | Image.Image]
    sentence: str
    fields: dict[str, object] = field(default_factory=dict)
    ignored: bool = True
    is_mended: bool = True
    is_guessed: bool = False


def _binary(labels: np.ndarray) -> np.ndarray:
    return (labels * 255).astype(np.uint8)


def _palette(order: list[int]) -> Callable[[np.ndarray], Image.Image]:
    """Store class c at index order[c] of a palette of the classes' colours; 0 is black."""

    def store(labels: np.ndarray) -> Image.Image:
        image = Image.fromarray(_mapped({**dict(enumerate(order)), IGNORE: 0})(labels))
        palette = np.zeros((256, 3), np.uint8)
        palette[order] = COLOURS
        image.putpalette(palette.tobytes())
        return image

    return store


def _mapped(values: dict[int, int], kind: type = np.uint8) -> Callable[[np.ndarray], np.ndarray]:
    def store(labels: np.ndarray) -> np.ndarray:
        table = np.arange(256).astype(kind)
        table[list(values)] = list(values.values())
        return table[labels]

    return store


def _rgb(void: tuple[int, int, int]) -> Callable[[np.ndarray], np.ndarray]:
    def store(labels: np.ndarray) -> np.ndarray:
        return np.where(labels[..., None] == IGNORE, void, COLOURS[labels % 3]).astype(np.uint8)

    return store


def _thrice(labels: np.ndarray) -> np.ndarray:
    return np.repeat(labels[..., None], 3, axis=2)


def _smooth(labels: np.ndarray) -> np.ndarray:
    height, width = SIZE
    small = cv2.resize(_rgb((0, 0, 0))(labels), (width - 6, height - 6))
    return np.asarray(cv2.resize(small, (width, height)))


TWO = {"classes": ["rest", "crack"]}
COLOURED = {"colours": COLOURS.tolist()}
CASES = {
    "0 and 255": Case("binary-0-255", _binary, "255 is the second class", TWO, ignored=False),
    "0 and 255, another ignore": Case(
        "binary-0-255", _binary, "255 is the second class", {**TWO, "ignore": 9}, ignored=False
    ),
    "0 and 255 of three classes": Case(
        "binary-0-255",
        lambda labels: np.where(labels > 0, 255, 0).astype(np.uint8),
        "two classes apart",
        is_mended=False,
    ),
    "from 1": Case("off-by-one", _mapped({0: 1, 1: 2, 2: 3}), "counted from 1"),
    "from 1 in 16 bits": Case("off-by-one", _mapped({0: 1, 1: 2, 2: 3}, np.uint16), "from 1"),
    "times 100": Case(
        "stretched-ids", _mapped({1: 100, 2: 200}), "multiplied by 100", is_guessed=True
    ),
    "0, 127, 254": Case(
        "stretched-ids", _mapped({1: 127, 2: 254}), "by 127", ignored=False, is_guessed=True
    ),
    "others": Case("other-ids", _mapped({0: 7, 1: 26, 2: 40}), "other numbers", is_guessed=True),
    "another ignore": Case("other-ignore", _mapped({IGNORE: 99}), "99 is not a class", {}, True),
    "another ignore given": Case(
        "other-ignore", _mapped({}), "255 is not a class", {"ignore": 254}, is_guessed=True
    ),
    "one more": Case("one-value-more", _mapped({IGNORE: 3}), "ignore: 3", is_mended=False),
    "many": Case(
        "unknown-values",
        lambda labels: picture(int(labels.sum()))[..., 0],
        "photo",
        {},
        False,
        False,
    ),
    "colours": Case("rgb-masks", _rgb((0, 0, 0)), "rgb_masks is false", COLOURED),
    "colours that nobody named": Case(
        "rgb-masks", _rgb((0, 0, 0)), "no colours are given", is_guessed=True
    ),
    "an unknown colour": Case(
        "unknown-colours",
        _rgb((9, 9, 9)),
        "[9, 9, 9]",
        {**COLOURED, "rgb_masks": True},
        is_mended=False,
    ),
    "black that nobody ignored": Case(
        "unknown-colours",
        _rgb((0, 0, 0)),
        "black",
        {**COLOURED, "rgb_masks": True},
        is_guessed=True,
    ),
    "smooth colours": Case(
        "blended-colours",
        _smooth,
        "resized smoothly",
        {**COLOURED, "rgb_masks": True},
        is_mended=False,
    ),
    "numbers thrice": Case("grey-as-rgb", _thrice, "three times"),
    "0 and 255 thrice": Case(
        "grey-as-rgb", lambda labels: _thrice(_binary(labels)), "second class", TWO, ignored=False
    ),
    "numbers for colours": Case(
        "number-masks", lambda labels: labels, "numbers", {**COLOURED, "rgb_masks": True}
    ),
    "a palette for colours": Case(
        "palette-masks", _palette([1, 2, 3]), "indices", {**COLOURED, "rgb_masks": True}
    ),
    "a palette in another order": Case("palette-masks", _palette([3, 1, 2]), "palettes", COLOURED),
}


@pytest.mark.parametrize("name", CASES)
def test_masks_of_other_values_are_diagnosed_and_mended(run, tmp_path: Path, name: str) -> None:
    case = CASES[name]

    def store(path: Path, labels: np.ndarray) -> None:
        stored = case.store(labels)
        (stored if isinstance(stored, Image.Image) else Image.fromarray(stored)).save(path)

    source = build(tmp_path / "own", store, case.ignored, **case.fields)
    before = {path: path.read_bytes() for path in source.parent.rglob("*") if path.is_file()}
    for target in (tmp_path / "mended.yaml", tmp_path / "mended"):
        program = run(source, "--fix", target)
        assert program.status == 1
        assert f"error {case.cause} in train, val" in program.out or not case.is_mended
        assert case.cause in program.out
        assert case.sentence in " ".join(program.out.split())
        if not case.is_mended:
            assert "Nothing written" in program.out
            assert not target.exists()
            continue
        assert ("Confirm that" in program.out) >= case.is_guessed
        fixed = target / "own.yaml" if target.is_dir() else target
        assert run(fixed).status == 0
        assert causes(check(fixed)) == []
        _is_true(fixed, case.ignored, len(case.fields.get("classes", CLASSES)), name)
    assert before == {path: path.read_bytes() for path in before}, "originals are never changed"


def _is_true(source: Path, ignored: bool, classes: int, name: str) -> None:
    """Compare with what was to be stored; colours that nobody named are in their own order."""
    for split in SPLITS:
        dataset = open_dataset(source, [split])
        refuse_unlearnable(dataset)
        for index, (_, _, seed) in enumerate(item for item in seeds() if item[0] == split):
            image, labels = dataset.pair(index)
            wanted = truth(seed, classes, ignored)
            if name == "colours that nobody named":
                order = sorted(range(3), key=lambda label: COLOURS[label].tolist())
                wanted = _mapped({label: place for place, label in enumerate(order)})(wanted)
            assert (image == picture(seed)).all()
            assert (labels == wanted).all()


def test_splits_of_different_kinds_are_mended_by_masks(run, tmp_path: Path) -> None:
    def store(path: Path, labels: np.ndarray) -> None:
        write(path, labels if path.parent.name == "train" else _mapped({0: 1, 1: 2, 2: 3})(labels))

    source = build(tmp_path / "own", store)
    program = run(source, "--fix", tmp_path / "mended.yaml")
    assert "error off-by-one in val" in program.out
    assert "different fixes: give a folder" in program.out
    assert run(source, "--fix", tmp_path / "mended").status == 1
    _is_true(tmp_path / "mended" / "own.yaml", True, 3, "")
    assert causes(check(tmp_path / "mended" / "own.yaml")) == []


def test_a_split_of_background_alone_is_not_taken_for_0_255(tmp_path: Path) -> None:
    """255 is ignored in train, so it is in val too, whose pictures happen to lack class 1."""

    def store(path: Path, labels: np.ndarray) -> None:
        write(path, labels if path.parent.name == "train" else np.where(labels == 1, 0, labels))

    report = check(build(tmp_path, store, classes=["rest", "crack"]))
    assert causes(report) == ["absent-class"]
    assert not report.has_errors


def test_a_fix_is_refused_where_it_would_hurt(run, tmp_path: Path) -> None:
    source = build(tmp_path / "own", lambda path, labels: write(path, labels % 3 + 1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    for target, sentence in (
        (source, "exists already"),
        (tmp_path / "full", "an empty or a new folder"),
        (tmp_path / "gone" / "a.yaml", "no such folder"),
    ):
        program = run(source, "--fix", target)
        assert program.status == 2
        assert sentence in program.err
    program = run("synthetic", "--fix", tmp_path / "a.yaml")
    assert program.status == 2
    assert "only a data set that a YAML file describes" in program.err
    assert run(source, "--fix", tmp_path / "new.yaml").status == 1
    beside = build(tmp_path / "beside", lambda *_: None, mask_suffix="_m")
    for split, number, seed in seeds():
        write(beside.parent / "images" / split / f"{number}_m.png", truth(seed) % 3 + 1)
    describe(beside.parent, mask_suffix="_m", masks={split: f"images/{split}" for split in SPLITS})
    assert "among their images" in run(beside, "--fix", tmp_path / "apart").err


def test_masks_of_two_kinds_in_one_split_need_a_person(run, tmp_path: Path) -> None:
    source = build(tmp_path / "own")
    write(tmp_path / "own/masks/train/1.png", _rgb((0, 0, 0))(truth(1)))
    program = run(source, "--fix", tmp_path / "mended")
    assert "error mixed-masks in train (1): 3 masks hold numbers and 1 RGB" in program.out
    assert "mixed-masks in train needs a decision" in program.out
    assert not (tmp_path / "mended").exists()


def test_what_cannot_be_mended_is_left_out_and_named(run, tmp_path: Path) -> None:
    source = build(tmp_path / "own", lambda path, labels: write(path, labels + 1), ignored=False)
    _cut(tmp_path / "own/masks/train/1.png")
    program = run(source, "--fix", tmp_path / "mended")
    assert program.status == 1
    assert re.search(r"Left out: .*masks/train/1\.png: the image is damaged", program.out)
    assert len(list((tmp_path / "mended/masks").rglob("*.png"))) == 5
    assert causes(check(tmp_path / "mended/own.yaml")) == ["missing-mask"]


# Files


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _as_jpeg(path: Path) -> None:
    Image.open(path).save(path.with_suffix(".jpg"))
    path.unlink()


def _hidden_jpeg(path: Path) -> None:
    Image.open(path).save(path, format="JPEG", quality=100)


FILES = {
    "no mask": (lambda r: (r / "masks/train/1.png").unlink(), "missing-mask", "images/train/1.png"),
    "a jpeg": (lambda r: _as_jpeg(r / "masks/train/1.png"), "jpeg-mask", "masks/train/1.jpg"),
    "a hidden jpeg": (lambda r: _hidden_jpeg(r / "masks/val/1.png"), "jpeg-mask", "val/1.png"),
    "a cut picture": (lambda r: _cut(r / "images/val/0.png"), "unreadable-image", "val/0.png"),
    "a cut mask": (lambda r: _cut(r / "masks/val/0.png"), "unreadable-mask", "masks/val/0.png"),
    "a text": (
        lambda r: (r / "images/val/0.png").write_text("no"),
        "unreadable-image",
        "not an image",
    ),
    "a smaller mask": (
        lambda r: write(r / "masks/train/2.png", truth(5)[:, :20]),
        "sizes-differ",
        "train/2.png is 28 x 20, its mask 20 x 20",
    ),
    "a turned mask": (
        lambda r: write(r / "masks/train/2.png", truth(5).T.copy()),
        "sizes-differ",
        "EXIF",
    ),
    "two images of one stem": (
        lambda r: write(r / "images/train/0.bmp", picture(77)),
        "shared-stem",
        "0.bmp",
    ),
    "no folder": (
        lambda r: (r / "masks/val").rename(r / "masks/v"),
        "missing-folder",
        "masks.val",
    ),
    "no pictures": (
        lambda r: [p.unlink() for p in (r / "images/val").iterdir()],
        "no-pictures",
        "images.val",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_broken_files_are_found_and_the_rest_is_read(run, tmp_path: Path, name: str) -> None:
    break_it, cause, sentence = FILES[name]
    source = build(tmp_path)
    break_it(tmp_path)
    program = run(source, "--json", tmp_path / "findings.json")
    assert program.status == 1
    assert f"error {cause} in " in program.out
    assert "Traceback" not in program.err
    findings = json.loads((tmp_path / "findings.json").read_text())
    found = {finding["cause"]: finding for finding in findings["findings"]}
    assert any(sentence in detail for detail in found[cause]["details"])
    assert set(found) <= {cause, "unknown-values", "unlabelled-picture"}
    assert findings["splits"]["train"]["pictures"] >= 3, "the others are read all the same"


# Labels and pictures


def test_shared_and_repeated_pictures_are_found_by_their_pixels(tmp_path: Path) -> None:
    source = build(tmp_path)
    Image.open(tmp_path / "images/train/0.png").save(tmp_path / "images/val/0.bmp")
    (tmp_path / "images/val/0.png").unlink()
    write(tmp_path / "images/train/3.png", np.array(Image.open(tmp_path / "images/train/2.png")))
    report = check(source)
    shared, repeated = report.findings
    assert (shared.cause, shared.is_error, shared.count) == ("shared-picture", True, 1)
    assert shared.details == ("train/0.png = val/0.bmp",)
    assert (repeated.cause, repeated.is_error) == ("repeated-picture", False)
    assert repeated.details == ("train/2.png = train/3.png",)


def test_absent_classes_are_errors_where_only_training_lacks_them(tmp_path: Path) -> None:
    def store(path: Path, labels: np.ndarray) -> None:
        write(path, np.where((labels == 2) & (path.parent.name == "train"), 0, labels))

    (finding,) = check(build(tmp_path, store)).findings
    assert (finding.cause, finding.is_error, finding.split) == ("absent-class", True, "train")
    assert "car" in finding.sentence
    declared = check(build(tmp_path, classes=[*CLASSES, "never"], ids={0: 0, 1: 1, 2: 2}))
    assert {f.cause for f in declared.findings} == {"absent-class"}
    assert not declared.has_errors


@pytest.mark.parametrize(
    ("value", "cause", "sentence"),
    [
        pytest.param(IGNORE, "no-labels", "no pixel is labelled", id="nothing"),
        pytest.param(1, "one-class", "every labelled pixel is 'road'", id="one-class"),
    ],
)
def test_training_refuses_what_teaches_nothing(
    run, tmp_path: Path, value: int, cause: str, sentence: str
) -> None:
    source = build(tmp_path, lambda path, labels: write(path, np.full_like(labels, value)))
    report = check(source)
    assert cause in causes(report)
    assert report.has_errors
    assert run(source).status == 1
    with pytest.raises(SctnetError, match=sentence):
        refuse_unlearnable(open_dataset(source, ["train"]))


def test_pictures_without_labels_are_a_warning(run, tmp_path: Path) -> None:
    source = build(tmp_path)
    write(tmp_path / "masks/train/1.png", np.full(SIZE, IGNORE, np.uint8))
    (finding,) = check(source).findings
    assert (finding.cause, finding.details) == ("unlabelled-picture", ("train/1.png",))
    assert run(source).status == 0


def test_counts_weights_and_crop_are_those_of_training(tmp_path: Path) -> None:
    report = check(build(tmp_path))
    counted = count_class_pixels(open_dataset(tmp_path / "own.yaml", ["train"]))
    assert (report.tallies["train"].pixels[:3] == counted).all()
    shares = counted / counted.sum()
    by_hand = shares**-0.5 / (shares**0.5).sum()
    assert report.class_weights() == pytest.approx(by_hand, abs=6e-4)
    chosen, _ = choose_recipe(str(tmp_path / "own.yaml"))
    size = chosen.preparation.working_size.pixels, chosen.augmentation.crop
    assert report.training_size() == size == (20, (32, 32))
    report.tallies["train"].looked_at[:] = [(100, 70), *[(333, 2000)] * 99]
    assert report.training_size() == (
        333,
        (333, 512) if not torch.cuda.is_available() else (333, 1024),
    )


# Healthy data


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    classes=st.integers(2, 9),
    ignore=st.sampled_from([255, 254, 100, 9]),
    kind=st.sampled_from(["grey", "16 bits", "palette", "rgb", "ids"]),
    ignored=st.booleans(),
)
def test_healthy_masks_raise_no_alarm(classes: int, ignore: int, kind: str, ignored: bool) -> None:
    colours = np.random.default_rng(classes).permutation(200)[:classes]
    colours = np.stack([colours, colours, colours[::-1]], axis=1).astype(np.uint8)
    fields: dict[str, object] = {"classes": [f"c{i}" for i in range(classes)], "ignore": ignore}
    if kind == "rgb":
        fields |= {"colours": colours.tolist(), "rgb_masks": True, "ignored_colours": [[250, 0, 0]]}
    if kind == "ids":
        fields["ids"] = {10 + 2 * label: label for label in range(classes)}
        del fields["ignore"]

    def store(path: Path, labels: np.ndarray) -> None:
        void = labels == IGNORE
        if kind == "rgb":
            write(
                path,
                np.where(void[..., None], (250, 0, 0), colours[labels % classes]).astype(np.uint8),
            )
            return
        values = 10 + 2 * labels.astype(int) if kind == "ids" else labels.astype(int)
        values = np.where(void, ignore, values)
        image = Image.fromarray(values.astype(np.uint16 if kind == "16 bits" else np.uint8))
        if kind == "palette":
            image.putpalette(list(range(255, -1, -1)) * 3)
        image.save(path)

    with TemporaryDirectory() as folder:
        report = check(build(Path(folder), store, ignored, **fields))
    assert report.findings == ()
    assert {name: tally.pictures for name, tally in report.tallies.items()} == SPLITS


def test_a_clean_set_says_so(run, tmp_path: Path) -> None:
    program = run(build(tmp_path), "--html", tmp_path / "a.html")
    assert program.status == 0
    assert "Nothing is wrong." in program.out
    assert "train: 4 pictures of 28 x 20" in program.out
    assert "augmentation.crop=[32,32]" in program.out


# Other sources, splits and the page


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        lines = []
        for number in range(2):
            name = f"{number}.png"
            write(tmp_path / split / name, picture(len(split) + number))
            labels = np.arange(20 * 28).reshape(20, 28) % 12
            write(tmp_path / f"{split}annot" / name, labels.astype(np.uint8))
            lines.append(f"{split}/{name} {split}annot/{name}")
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
    return tmp_path


def test_any_data_set_is_checked(run, camvid: Path) -> None:
    assert causes(check(camvid)) == []
    assert list(check(camvid).tallies) == ["train", "val"], "test does not exist"
    write(camvid / "valannot" / "1.png", np.full((20, 28), 12, np.uint8))
    (camvid / "train/0.png").unlink()
    program = run(camvid)
    assert program.status == 1
    assert "error split in train" in program.out
    assert "train.txt, line 1: the file" in program.out
    assert "error unreadable-mask in val" in program.out
    assert "the value 12 is" in program.out


def test_a_data_set_of_which_nothing_opens_is_told_of(run, camvid: Path) -> None:
    for split in ("train", "val"):
        (camvid / f"{split}.txt").write_text("nothing\n")
    program = run(camvid, "--html", camvid / "page.html", "--json", camvid / "all.json")
    assert program.status == 1
    assert program.out.count("error split in") == 2
    assert "expected a picture and its mask" in (camvid / "page.html").read_text()
    assert json.loads((camvid / "all.json").read_text())["suggested"]["crop"] is None


def test_splits_are_chosen(run, tmp_path: Path) -> None:
    source = build(tmp_path)
    folders = {**{split: f"{{}}/{split}" for split in SPLITS}, "both": "{}"}
    describe(
        tmp_path,
        images={split: folder.format("images") for split, folder in folders.items()},
        masks={split: folder.format("masks") for split, folder in folders.items()},
    )
    assert list(check(source).tallies) == ["train", "val"], "both holds nothing else"
    assert [split.name for split in open_splits(source, ["both"])] == ["both"]
    folders = {"train": "train", "coarse": "train"}
    relabelled = {"train": "masks/train", "coarse": "masks/coarse"}
    shutil.copytree(tmp_path / "masks/train", tmp_path / "masks/coarse")
    images = {split: f"images/{folder}" for split, folder in folders.items()}
    describe(tmp_path, images=images, masks=relabelled)
    assert len(check(source).tallies) == 1, "the same pictures with other labels"
    describe(tmp_path, images=images, masks={"train": "masks/train", "coarse": "masks/train"})
    assert causes(check(source)) == ["shared-picture"], "one folder given twice"
    build(tmp_path)
    assert run(source, "--splits", "val").out.count("train: ") == 0
    for arguments, sentence in (
        ([source, "--splits", "dev"], "no split 'dev'"),
        ([tmp_path / "gone"], "does not exist"),
        ([tmp_path / "gone.yaml"], "cannot be read"),
        ([tmp_path / "images"], "is not a known data set"),
    ):
        program = run(*arguments)
        assert program.status == 2
        assert sentence in program.err
        assert "Traceback" not in program.err


def test_the_page_shows_findings_and_escapes_names(run, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    source = build(tmp_path, classes=["a", hostile, "[/b]"])
    write(tmp_path / "images/train/<img onerror=x>.png", picture(99))
    write(tmp_path / "masks/train/<img onerror=x>.png", np.full(SIZE, IGNORE, np.uint8))
    _cut(tmp_path / "images/val/0.png")
    program = run(source, "--html", tmp_path / "page.html")
    assert program.status == 1
    assert hostile in program.out.replace("\n", "")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "<img onerror" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not re.search(r'(src|href)="(?!data:image/jpeg;base64,)', page)
    findings = page[: page.index("Samples of")]
    assert findings.count("data:image/jpeg;base64,") == 2, "picture and mask of the one unlabelled"
    assert "val/0.png: cannot be read" in page
    assert run(source, "--html", tmp_path / "gone" / "page.html").status == 2


@pytest.mark.slow
def test_camvid_is_clean(tmp_path: Path, real_data: Path) -> None:
    import subprocess

    unpack = real_data / "data" / "unpack.py"
    command = [sys.executable, str(unpack), str(tmp_path), "--only", "test"]
    subprocess.run(command, check=True, capture_output=True)
    report = check(tmp_path / "camvid", "test")
    assert report.findings == ()
    assert report.tallies["test"].pictures == 233
    assert 100 * report.ignored_share("test") == pytest.approx(3.83, abs=0.006)
