"""Copies of pictures are found; pictures are divided into folds that keep copies together."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from sctnet.checking.check import Report, check_dataset, open_splits
from sctnet.checking.page import save_check_page
from sctnet.cli.data import app
from sctnet.data.dataset import FileDataset, Files
from sctnet.data.folds import divide, fold_of, folds_of
from sctnet.data.likeness import (
    COPY,
    copies_between,
    copies_within,
    likeness,
    thumbnail,
)
from sctnet.data.registry import known_splits, open_dataset
from sctnet.errors import SctnetError

CLASSES = ["ground", "plant", "stone"]


def scene(seed: int, height: int = 180, width: int = 240) -> np.ndarray:
    """Draw noise with the spectrum of photos: the finer, the weaker."""
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (4, 8, 16, 32, 64):
        noise = generator.normal(0, 1 / cells, (cells * 3 // 4, cells, 3))
        total += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = total.min(), total.max()
    return ((total - low) / (high - low) * 255).astype(np.uint8)


def encoded(picture: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


def resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA))


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "re-encoded": lambda it: encoded(it, 60),
    "half the size": lambda it: resized(it, 120, 90),
    "squeezed": lambda it: resized(it, 128, 128),
    "cropped all around": lambda it: it[14:-14, 20:-20],
    "cropped on one side": lambda it: it[:, 40:],
    "cropped, resized and re-encoded": lambda it: encoded(resized(it[5:-10, 3:-20], 120, 90), 75),
    "brightened": lambda it: (255 * (it / 255) ** 0.7).astype(np.uint8),
}


class TestLikeness:
    @pytest.mark.parametrize("change", CHANGES)
    def test_copies_are_found_among_others(self, change: str) -> None:
        originals = [thumbnail(scene(seed)) for seed in range(12)]
        changed = [thumbnail(np.ascontiguousarray(CHANGES[change](scene(seed)))) for seed in (7, 3)]
        pairs = copies_between(originals, changed)
        assert [pair[:2] for pair in pairs] == [(3, 1), (7, 0)]
        turned = copies_between(changed, originals)
        assert [pair[:2] for pair in turned] == [(0, 7), (1, 3)], "whichever was changed"
        assert all(pair.likeness >= COPY for pair in pairs)

    def test_copies_within_a_set_are_found_once(self) -> None:
        pictures = [scene(0), scene(1), encoded(scene(0), 60), scene(2)]
        pairs = copies_within([thumbnail(each) for each in pictures])
        assert [pair[:2] for pair in pairs] == [(0, 2)]

    def test_other_pictures_are_not_alike(self) -> None:
        pictures = [thumbnail(scene(seed)) for seed in range(8)]
        assert all(each is not None for each in pictures)
        values = [likeness(a, b) for n, a in enumerate(pictures) for b in pictures[:n]]  # type: ignore[arg-type]
        assert max(values) < 0.5

    def test_what_has_no_details_is_like_nothing(self) -> None:
        black = thumbnail(np.zeros((60, 80, 3), np.uint8))
        assert black is not None
        assert copies_within([black, black, thumbnail(scene(0)), None]) == []
        assert thumbnail(np.zeros((20, 80, 3), np.uint8)) is None
        assert likeness(black, black) < COPY


def write(folder: Path, pictures: Sequence[np.ndarray], names: Sequence[str] = ()) -> Path:
    """Write pictures whose masks show, by turns, one class or another, and describe them."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    for number, picture in enumerate(pictures):
        name = names[number] if names else f"{chr(97 + number)}"
        cv2.imwrite(str(folder / "images" / f"{name}.png"), picture)
        labels = np.zeros(picture.shape[:2], np.uint8)
        labels[:9] = 1 if number % 2 else 0
        labels[9:12] = 2 if number % 5 == 0 else 0
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), labels)
    fields = {"images": "images", "masks": "masks", "classes": CLASSES}
    (folder / "own.yaml").write_text(yaml.safe_dump(fields))
    return folder / "own.yaml"


def names(data: object) -> set[str]:
    assert isinstance(data, FileDataset)
    return {Path(item.name).stem for item in data.files}


def report(source: Path) -> Report:
    return check_dataset(source, open_splits(source))


class TestFolds:
    def test_undivided_pictures_are_divided_and_stay_so(self, tmp_path: Path) -> None:
        source = write(tmp_path, [scene(seed) for seed in range(15)])
        assert known_splits(source) == ("train", "val", "all")
        train, val = (open_dataset(source, [split]) for split in ("train", "val"))
        assert (len(train), len(val)) == (12, 3)
        assert names(train) | names(val) == names(open_dataset(source, ["all"]))
        assert names(open_dataset(source, ["train", "val"])) == names(train) | names(val)
        kept = json.loads((tmp_path / "own.folds-5.json").read_text())
        assert [len(each) for each in kept["folds"]] == [3] * 5
        assert {Path(name).stem for name in kept["folds"][0]} == names(val)
        write(tmp_path, [scene(seed) for seed in range(20)])
        assert names(val) <= names(open_dataset(source, ["val"])), "none changes its fold"
        assert names(train) <= names(open_dataset(source, ["train"]))
        assert len(open_dataset(source, ["val"])) == 4

    def test_every_class_comes_into_every_fold(self, tmp_path: Path) -> None:
        source = write(tmp_path, [scene(seed) for seed in range(25)])
        for number in range(1, 6):
            fold = open_dataset(source, [f"fold-{number}-of-5"])
            shown = [np.unique(fold.labels(index)) for index in range(len(fold))]
            assert len(fold) == 5
            assert sum(2 in each for each in shown) == 1, "of five pictures with stone"
            assert 2 <= sum(1 in each for each in shown) <= 3

    def test_the_seed_decides(self, tmp_path: Path) -> None:
        parts = []
        for seed in (0, 0, 1):
            source = write(tmp_path / f"{len(parts)}", [scene(seed) for seed in range(15)])
            source.write_text(f"{source.read_text()}split_seed: {seed}\n")
            parts.append(names(open_dataset(source, ["val"])))
        assert parts[0] == parts[1] != parts[2]
        source.write_text(source.read_text().replace("split_seed: 1", "split_seed: 2"))
        with pytest.raises(SctnetError, match=r"folds-5\.json: was made with split_seed: 1"):
            open_dataset(source, ["val"])

    def test_copies_stay_together(self, tmp_path: Path) -> None:
        pictures = [scene(seed) for seed in range(8)]
        copied = [np.ascontiguousarray(each[4:-6, 8:]) for each in pictures]
        source = write(tmp_path, [*pictures, *copied])
        for split in ("val", "train", "fold-2-of-4"):
            stems = sorted(names(open_dataset(source, [split])))
            assert {chr(ord(s) + 8) for s in stems if s < "i"} == {s for s in stems if s >= "i"}

    def test_frames_of_a_sequence_stay_together(self, tmp_path: Path) -> None:
        films = [scene(seed, 180, 400) for seed in range(5)]
        frames = [film[:, 24 * step : 24 * step + 240] for film in films for step in range(4)]
        labels = [f"film{film}_{step:03}" for film in range(5) for step in range(4)]
        source = write(tmp_path, [np.ascontiguousarray(each) for each in frames], labels)
        for number in range(1, 6):
            fold = names(open_dataset(source, [f"fold-{number}-of-5"]))
            assert len({stem.split("_")[0] for stem in fold}) == 1
            assert len(fold) == 4

    def test_a_film_longer_than_a_fold_is_cut_into_successive_parts(self, tmp_path: Path) -> None:
        film = scene(0, 180, 600)
        frames = [np.ascontiguousarray(film[:, 24 * n : 24 * n + 240]) for n in range(15)]
        source = write(tmp_path, frames, [f"f{n:02}" for n in range(15)])
        val = sorted(int(stem[1:]) for stem in names(open_dataset(source, ["val"])))
        assert val == list(range(val[0], val[0] + 3))

    def test_named_splits_have_folds_of_train_too(self, tmp_path: Path) -> None:
        source = write(tmp_path, [scene(seed) for seed in range(6)])
        fields = yaml.safe_load(source.read_text())
        fields |= {"images": {"train": "images"}, "masks": {"train": "masks"}}
        source.write_text(yaml.safe_dump(fields))
        assert known_splits(source) == ("train",)
        one = names(open_dataset(source, ["fold-1-of-3"]))
        rest = names(open_dataset(source, ["all-but-fold-1-of-3"]))
        assert len(one) == 2
        assert one | rest == names(open_dataset(source, ["train"]))
        assert not one & rest

    @pytest.mark.parametrize(
        ("splits", "sentence"),
        [
            (["fold-6-of-5"], "no such fold: name one of 1 to 5"),
            (["fold-1-of-7"], "6 pictures cannot be divided into 7 folds"),
            (["fold-1-of-2", "fold-1-of-3"], "folds of different divisions overlap"),
            (["fold-1-of-2", "all"], "folds and other splits overlap"),
            (["test"], "there is no split 'test': choose from train, val, all"),
        ],
    )
    def test_wrong_folds_are_told(self, splits: list[str], sentence: str, tmp_path: Path) -> None:
        source = write(tmp_path, [scene(seed) for seed in range(6)])
        with pytest.raises(SctnetError, match=sentence):
            open_dataset(source, splits)

    def test_a_file_that_holds_no_folds_is_told(self, tmp_path: Path) -> None:
        source = write(tmp_path, [scene(seed) for seed in range(6)])
        for content in ("no", "[]", '{"seed": 0, "folds": [["a"]]}', '{"folds": 5}'):
            (tmp_path / "own.folds-5.json").write_text(content)
            with pytest.raises(SctnetError, match="does not hold 5 lists of pictures: delete it"):
                open_dataset(source, ["val"])

    def test_nothing_is_kept_where_a_mask_cannot_be_read(self, tmp_path: Path) -> None:
        source = write(tmp_path, [scene(seed) for seed in range(6)])
        (tmp_path / "masks" / "c.png").write_bytes(b"no mask")
        assert len(open_dataset(source, ["val"])) == 1
        assert not (tmp_path / "own.folds-5.json").exists()

    def test_drawn_pictures_have_no_folds(self) -> None:
        with pytest.raises(SctnetError, match="only pictures in files"):
            open_dataset("synthetic", ["fold-1-of-5"])
        assert fold_of("train") is None

    def test_groups_never_part_and_folds_are_even(self) -> None:
        generator = np.random.default_rng(0)
        shown = generator.random((60, 4)) < [0.9, 0.5, 0.2, 0.1]
        groups = [list(range(start, start + 3)) for start in range(0, 60, 3)]
        folds = np.array(divide(groups, shown, 5, 0, [0] * 60))
        assert all(len(set(folds[group])) == 1 for group in groups)
        assert set(np.bincount(folds)[1:]) <= {9, 12, 15}
        for column in range(4):
            counts = np.bincount(folds[shown[:, column]], minlength=6)[1:]
            assert np.ptp(counts) <= 4, "a group has up to three of a class"

    def test_known_folds_remain_and_their_like_join_them(self) -> None:
        known = [1, 2, 0, 0, 2, 0]
        folds = divide([[0, 2], [1], [3], [4, 5]], np.ones((6, 1), bool), 2, 0, known)
        assert folds[:3] == [1, 2, 1]
        assert folds[4:] == [2, 2]

    def test_ten_thousand_pictures_are_divided_in_time(self) -> None:
        generator = np.random.default_rng(0)
        shown = generator.random((10_000, 20)) < 0.1
        folds = divide([[number] for number in range(10_000)], shown, 5, 0, [0] * 10_000)
        assert set(np.bincount(folds)[1:]) == {2000}


class TestTheCheck:
    def test_it_shows_both_parts(self, tmp_path: Path) -> None:
        source = write(tmp_path, [scene(seed) for seed in range(15)])
        out = CliRunner().invoke(app, ["check", str(source)]).output
        assert "train: 12 pictures of 240 x 180" in out
        assert "val: 3 pictures of 240 x 180" in out
        assert "Nothing is wrong." in out

    def test_copies_across_splits_are_found_in_pairs_with_pictures(self, tmp_path: Path) -> None:
        source = write(tmp_path, [scene(seed) for seed in range(6)])
        (tmp_path / "val").mkdir()
        small = encoded(resized(np.ascontiguousarray(scene(2)[8:, 6:-6]), 120, 90), 75)
        cv2.imwrite(str(tmp_path / "val/a.jpg"), small)
        cv2.imwrite(str(tmp_path / "val/a.png"), np.zeros(small.shape[:2], np.uint8) + 1)
        fields = {
            "images": {"train": "images", "val": [["val/a.jpg", "val/a.png"]]},
            "masks": {"train": "masks"},
            "classes": CLASSES,
        }
        source.write_text(yaml.safe_dump(fields))
        found = report(source)
        (finding,) = [each for each in found.findings if each.cause == "near-duplicate"]
        assert not finding.is_error
        assert finding.count == 1
        assert finding.details[0].startswith("train/c.png ~ val/val/a.jpg (0.9")
        assert finding.pictures == (("train", 2), ("val", 0))
        save_check_page(found, tmp_path / "page.html")
        section = (tmp_path / "page.html").read_text().split("near-duplicate")[1]
        assert section.split("</section>")[0].count("<img") == 4, "two pictures, two masks"

    def test_mending_undivided_pictures_keeps_their_folds(self, tmp_path: Path) -> None:
        source = write(tmp_path, [scene(seed) for seed in range(10)])
        for mask in (tmp_path / "masks").iterdir():
            cv2.imwrite(str(mask), cv2.imread(str(mask), cv2.IMREAD_UNCHANGED) + 1)
        for target in (tmp_path / "mended.yaml", tmp_path / "mended"):
            program = CliRunner().invoke(app, ["check", str(source), "--fix", str(target)])
            assert program.exit_code == 1
            assert "error off-by-one" in program.output
            fixed = target / "own.yaml" if target.is_dir() else target
            again = CliRunner().invoke(app, ["check", str(fixed)])
            assert again.exit_code == 0
            assert "train: 8 pictures" in again.output
            assert "val: 2 pictures" in again.output


def test_folds_of_files_are_numbers_from_one(tmp_path: Path) -> None:
    files = [Files(f"{n}.png", tmp_path / f"{n}.png", tmp_path / f"{n}_m.png") for n in range(4)]
    for seed, item in enumerate(files):
        cv2.imwrite(str(item.image), scene(seed))
    data = FileDataset(
        "four", tuple(CLASSES), None, files, lambda _: np.zeros((180, 240), np.uint8)
    )
    folds = folds_of(data, 2, tmp_path / "kept.json", 0)
    assert sorted(folds) == [1, 1, 2, 2]
    assert folds_of(data, 2, tmp_path / "kept.json", 0) == folds
