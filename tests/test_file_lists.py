"""Lists of files in the place of folders, pictures without a mask, masks of two kinds."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from sctnet.checking.check import check_dataset, open_splits
from sctnet.cli.data import app
from sctnet.data.dataset import FileDataset
from sctnet.data.registry import open_dataset
from sctnet.errors import SctnetError

CLASSES = ["sky", "road", "car"]
COLOURS = [[70, 130, 180], [128, 64, 128], [0, 0, 142]]
LABELS = np.repeat(np.array([0, 1, 2], np.uint8), 8)[:, None].repeat(24, 1)
PAIRS = {
    "in/b 1/1.jpg": "out/b 1/1.png",
    "in/b 1/2.jpg": "out/b 1/2.png",
    "in/c/1.jpg": "out/c/1.png",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, (image, mask) in enumerate(PAIRS.items()):
        for name in (image, mask):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / image)
        Image.fromarray(np.roll(LABELS, number, 0)).save(tmp_path / mask)
    return tmp_path


def described(root: Path, images: object, masks: object = None, **fields: object) -> Path:
    content = {"images": images, "masks": masks, "classes": CLASSES, **fields}
    text = yaml.safe_dump({key: value for key, value in content.items() if value is not None})
    (root / "own.yaml").write_text(text)
    return root / "own.yaml"


def opened(source: Path, split: str = "train") -> FileDataset:
    data = open_dataset(source, [split])
    assert isinstance(data, FileDataset)
    return data


def found(data: FileDataset, root: Path) -> dict[str, str]:
    return {
        item.image.relative_to(root).as_posix(): item.mask.relative_to(root).as_posix()
        for item in data.files
    }


class TestLists:
    @pytest.mark.parametrize("between", ["\t", ",", " ", ", ", ";", "   "])
    def test_a_text_has_a_picture_and_its_mask_on_a_line(self, between: str, root: Path) -> None:
        lines = [f"{image}{between}{mask}" for image, mask in PAIRS.items()]
        (root / "train.txt").write_text("\ufeff" + "\n\n".join(lines) + "\n", encoding="utf-8")
        data = opened(described(root, {"train": "train.txt"}))
        assert found(data, root) == PAIRS
        assert [item.name for item in data.files] == [f"train/{image}" for image in PAIRS]
        np.testing.assert_array_equal(data.labels(1), np.roll(LABELS, 1, 0))

    def test_masks_may_be_listed_apart_or_lie_in_a_folder(self, root: Path) -> None:
        (root / "images.lst").write_text("\n".join(PAIRS))
        (root / "masks.lst").write_text("\n".join(PAIRS.values()))
        for masks in ("masks.lst", "out", list(PAIRS.values())):
            data = opened(described(root, {"train": "images.lst"}, {"train": masks}))
            assert found(data, root) == PAIRS

    def test_a_list_may_stand_in_the_yaml(self, root: Path) -> None:
        pairs = [list(pair) for pair in PAIRS.items()]
        assert found(opened(described(root, {"train": pairs})), root) == PAIRS
        images = [*PAIRS]
        assert found(opened(described(root, {"train": images}, {"train": "out"})), root) == PAIRS

    def test_paths_may_be_relative_to_the_list_or_absolute(self, root: Path) -> None:
        (root / "in/train.csv").write_text(
            f"b 1\\1.jpg,{root}/out/b 1/1.png\n{root}/in/c/1.jpg,../out/c/1.png\n"
        )
        data = opened(described(root, {"train": "in/train.csv"}))
        assert [item.image.name for item in data.files] == ["1.jpg", "1.jpg"]
        assert [data.labels(0)[0, 0], data.labels(1)[1, 0]] == [0, 2]

    def test_shapes_beside_listed_pictures_are_their_masks(self, root: Path) -> None:
        shape = '{"label": "car", "points": [[0, 0], [23, 0], [23, 23]], "shape_type": "polygon"}'
        (root / "in/c/1.json").write_text(
            f'{{"shapes": [{shape}], "imageHeight": 24, "imageWidth": 24}}'
        )
        data = opened(described(root, {"train": ["in/c/1.jpg"]}, {"train": "in"}))
        assert data.files[0].mask.name == "1.json"

    def test_names_of_results_stay_in_their_folder(self, root: Path) -> None:
        below = root / "yaml"
        below.mkdir()
        (below / "list.txt").write_text("../in/c/1.jpg ../out/c/1.png\n")
        name = opened(described(below, {"train": "list.txt"})).item_name(0)
        assert name.startswith("train/")
        assert name.endswith("in/c/1.jpg")
        assert ".." not in name

    @pytest.mark.parametrize(
        ("lines", "masks", "sentence"),
        [
            ("in/c/1.jpg out/c/2.png", None, r"out/c/2\.png is listed and not there"),
            ("in/c/3.jpg", {"train": "out"}, r"in/c/3\.jpg is listed and not there"),
            ("in/c/1.jpg", None, r"in/c/1\.jpg has no mask: list it on the same line"),
            ("in/c/1.jpg", {"train": "in"}, r"in/c/1\.jpg has no mask: .* correct masks\.train"),
            ("in/c/1.jpg", {"train": "away"}, r"away: no such folder: correct masks\.train"),
            ("", None, r"train\.txt: the list is empty: write a picture on each line"),
            (
                "in/c/1.jpg\tout/c/1.png\nin/b 1/1.jpg\tout/c/1.png",
                None,
                r"1\.jpg and .*1\.jpg share one mask, .*out/c/1\.png: give each its own",
            ),
            ("in/c/1.jpg", {"train": ["a.png", "b.png"]}, "2 masks are listed for 1 pictures"),
        ],
    )
    def test_what_is_wrong_with_a_list_is_told(
        self, lines: str, masks: object, sentence: str, root: Path
    ) -> None:
        (root / "train.txt").write_text(lines)
        source = described(root, {"train": "train.txt"}, masks)
        with pytest.raises(SctnetError, match=sentence):
            opened(source)
        program = CliRunner().invoke(app, ["check", str(source)])
        assert program.exit_code == 1
        assert "error" in program.output

    def test_a_list_that_cannot_be_read_is_told(self, root: Path) -> None:
        (root / "bad.txt").write_bytes(b"\xff\xfe\x00")
        for name, sentence in (("bad.txt", "not UTF-8 text"), ("no.txt", r"correct images\.train")):
            with pytest.raises(SctnetError, match=sentence):
                opened(described(root, {"train": name}))

    def test_a_picture_that_is_listed_twice_counts_once(self, root: Path) -> None:
        pairs = [["in/c/1.jpg", "out/c/1.png"]] * 2
        source = described(root, {"train": pairs})
        assert len(opened(source)) == 1
        findings = check_dataset(source, open_splits(source)).findings
        assert "listed-twice" in [finding.cause for finding in findings]

    def test_lists_and_folders_do_not_mix_in_a_split(self, root: Path) -> None:
        with pytest.raises(SctnetError, match=r"images\.train must be one too"):
            opened(described(root, {"train": "in"}, {"train": "masks.txt"}))
        with pytest.raises(SctnetError, match="give their folder under images"):
            opened(described(root, {"train": ["in/c/1.jpg"]}, polygons={"train": "a.json"}))

    def test_listed_masks_are_mended(self, root: Path) -> None:
        for mask in PAIRS.values():
            Image.fromarray(np.array(Image.open(root / mask)) + 1).save(root / mask)
        source = described(root, {"train": [list(pair) for pair in PAIRS.items()]})
        for target in (root / "mended.yaml", root / "mended"):
            program = CliRunner().invoke(app, ["check", str(source), "--fix", str(target)])
            assert "error off-by-one in train" in program.output
            fixed = target / "own.yaml" if target.is_dir() else target
            assert opened(fixed).labels(0).max() == 2


class TestPicturesWithoutAMask:
    @pytest.mark.parametrize("listed", [False, True])
    def test_a_word_in_the_yaml_allows_them(
        self, listed: bool, root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (root / "out/c/1.png").unlink()
        images = [*PAIRS] if listed else "in"
        refused = described(root, {"train": images}, {"train": "out"})
        with pytest.raises(SctnetError, match="or set unlabelled: allowed"):
            opened(refused)
        allowed = described(root, {"train": images}, {"train": "out"}, unlabelled="allowed")
        assert len(opened(allowed)) == 2
        assert "1 pictures of train have no mask and are left out" in caplog.text
        program = CliRunner().invoke(app, ["check", str(allowed)])
        assert "train: 1 more without a mask, which are left out" in program.output
        assert "missing-mask" not in program.output


class TestMasksOfTwoKinds:
    def write_mixed(self, root: Path) -> list[np.ndarray]:
        """Write a mask of colours, one of a palette in another order, and one of numbers."""
        colours = np.array(COLOURS, np.uint8)
        labels = [np.roll(LABELS, number, 0) for number in range(3)]
        masks = [root / mask for mask in PAIRS.values()]
        Image.fromarray(colours[labels[0]]).save(masks[0])
        indexed = Image.fromarray(2 - labels[1])
        indexed.putpalette(colours[::-1].ravel().tolist())
        indexed.save(masks[1])
        Image.fromarray(np.where(labels[2] == 1, 255, labels[2]).astype(np.uint8)).save(masks[2])
        labels[2][labels[2] == 1] = 255
        return labels

    def test_they_are_read_as_they_are_meant(self, root: Path) -> None:
        labels = self.write_mixed(root)
        fields = {"colours": COLOURS, "rgb_masks": "mixed"}
        source = described(root, {"train": "in"}, {"train": "out"}, **fields)
        for number, expected in enumerate(labels):
            np.testing.assert_array_equal(opened(source).labels(number), expected)
        report = check_dataset(source, open_splits(source))
        assert report.findings == ()
        counted = np.sum([np.bincount(each.ravel(), minlength=256) for each in labels], 0)
        np.testing.assert_array_equal(report.tallies["train"].pixels[:3], counted[:3])

    def test_the_check_offers_the_word_where_all_are_described(self, root: Path) -> None:
        self.write_mixed(root)
        source = described(root, {"train": "in"}, {"train": "out"}, colours=COLOURS)
        for target in (root / "mended.yaml", root / "mended"):
            program = CliRunner().invoke(app, ["check", str(source), "--fix", str(target)])
            assert "error mixed-masks in train" in program.output
            assert "Written to" in program.output
        assert "mixed" in (root / "mended.yaml").read_text()
        assert (
            "Nothing is wrong." in CliRunner().invoke(app, ["check", f"{target}/own.yaml"]).output
        )

    def test_wrong_colours_and_numbers_are_told(self, root: Path) -> None:
        self.write_mixed(root)
        fields = {"colours": [*COLOURS[:2], [0, 0, 141]], "rgb_masks": "mixed"}
        source = described(root, {"train": "in"}, {"train": "out"}, **fields)
        with pytest.raises(SctnetError, match=r"colour \[0, 0, 142\] is in neither colours"):
            opened(source).labels(0)
        program = CliRunner().invoke(app, ["check", str(source)])
        assert "[0, 0, 142]" in program.output
        fields = {"colours": COLOURS, "ids": {0: 0, 2: 1}, "rgb_masks": "mixed"}
        source = described(root, {"train": "in"}, {"train": "out"}, **fields)
        assert opened(source).labels(2).max() == 255
        assert 1 in opened(source).labels(2)
