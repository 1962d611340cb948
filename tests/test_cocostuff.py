"""COCO-Stuff-10K: .mat files with the fields its authors describe, prepared once."""

from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from sctnet.cli.data import prepare
from sctnet.data import cocostuff
from sctnet.data.prepared_labels import PreparedLabels, prepare_cocostuff
from sctnet.data.registry import open_dataset
from sctnet.errors import SctnetError

scipy_io = pytest.importorskip("scipy.io")

VALUES = np.minimum(np.arange(196).reshape(14, 14), 182).astype(np.uint8)
PICTURE = np.random.default_rng(0).integers(0, 256, (14, 14, 3), np.uint8)
TRAIN, TEST = ["COCO_train2014_000000000001", "COCO_train2014_000000000002"], ["COCO_000003"]


def write_mat(root: Path, name: str, values: np.ndarray, field: str = "S") -> Path:
    path = root / "annotations" / f"{name}.mat"
    path.parent.mkdir(exist_ok=True)
    fields = {field: values, "captions": np.array(["a street"], object), "names": ["unlabeled"]}
    scipy_io.savemat(path, fields, do_compression=True)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write a COCO-Stuff-10K of two training pictures and one test picture."""
    (tmp_path / "images").mkdir()
    (tmp_path / "imageLists").mkdir()
    for split, names in (("train", TRAIN), ("test", TEST)):
        (tmp_path / "imageLists" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            Image.fromarray(PICTURE).save(tmp_path / "images" / f"{name}.jpg")
            write_mat(tmp_path, name, VALUES)
    return tmp_path


def test_every_value_is_mapped(root: Path) -> None:
    steps: list[tuple[int, int]] = []
    prepared = prepare_cocostuff(root, lambda done, total: steps.append((done, total)))
    assert prepared == PreparedLabels(3, 0, ())
    assert steps == [(1, 3), (2, 3), (3, 3)]
    dataset = open_dataset(root, ["train", "test"])
    assert [dataset.item_name(i) for i in range(3)] == [f"{name}.jpg" for name in [*TRAIN, *TEST]]
    image, labels = dataset.pair(2)
    assert image.shape == (14, 14, 3)
    label_of = dict(zip(VALUES.ravel().tolist(), labels.ravel().tolist(), strict=True))
    missing = [12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91]
    assert [value for value, label in label_of.items() if label == 255] == [0, *missing]
    kept = [label for label in label_of.values() if label != 255]
    assert kept == list(range(171))
    named = {value: dataset.classes[label] for value, label in label_of.items() if label < 255}
    for value, name in ((1, "person"), (13, "stop sign"), (90, "toothbrush"), (92, "banner")):
        assert named[value] == name
    assert named[182] == "wood"
    assert len(set(cocostuff.CLASSES)) == 171


def test_unprepared_data_says_what_to_run(root: Path) -> None:
    with pytest.raises(SctnetError, match=f"still .mat files.*: run sctnet data prepare {root}"):
        open_dataset(root, ["train"])
    with pytest.raises(SctnetError, match="no split 'val': choose from train, test"):
        open_dataset(root, ["val"])


def test_preparation_goes_on_where_it_was(root: Path) -> None:
    def stop(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_cocostuff(root, stop)
    first, second = (root / "labels" / f"{name}.png" for name in TRAIN)
    second.write_bytes(second.read_bytes()[:-3])  # as another program might leave it
    before = first.stat().st_mtime_ns
    assert prepare_cocostuff(root) == PreparedLabels(2, 1, ())
    assert first.stat().st_mtime_ns == before
    assert (np.array(Image.open(second)) == np.array(Image.open(first))).all()
    assert not list((root / "labels").glob(".*"))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        pytest.param("cut", r"1\.mat: not a whole COCO-Stuff annotation", id="cut"),
        pytest.param("text", r"1\.mat: not a whole COCO-Stuff annotation", id="text"),
        pytest.param("hdf5", r"1\.mat: not a whole COCO-Stuff annotation", id="version-7.3"),
        pytest.param("field", r"1\.mat: not a whole COCO-Stuff annotation", id="no-field-S"),
        pytest.param("cube", r"1\.mat: not a whole COCO-Stuff annotation", id="not-a-map"),
        pytest.param("float", r"1\.mat: not a whole COCO-Stuff annotation", id="no-integers"),
        pytest.param("value", r"1\.mat: the value 183 is not a label", id="unknown-value"),
        pytest.param("large", r"1\.mat: the value 65535 is not a label", id="large-value"),
        pytest.param("negative", r"1\.mat: the value -1 is not a label", id="negative-value"),
        pytest.param("gone", r"1\.mat: no such file", id="missing"),
    ],
)
def test_broken_annotations_are_named_and_the_rest_done(
    root: Path, damage: str, sentence: str
) -> None:
    path = root / "annotations" / f"{TRAIN[0]}.mat"
    whole = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(whole[: len(whole) // 2])
        case "text":
            path.write_text("not a .mat")
        case "hdf5":
            path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
        case "field":
            write_mat(root, TRAIN[0], VALUES, "T")
        case "cube":
            write_mat(root, TRAIN[0], VALUES.reshape(14, 7, 2))
        case "float":
            write_mat(root, TRAIN[0], VALUES / 2)
        case "value":
            write_mat(root, TRAIN[0], np.full((14, 14), 183, np.uint8))
        case "large":
            write_mat(root, TRAIN[0], np.full((14, 14), 65535, np.uint16))
        case "negative":
            write_mat(root, TRAIN[0], np.full((14, 14), -1, np.int16))
        case "gone":
            path.unlink()
    prepared = prepare_cocostuff(root)
    assert (prepared.written, prepared.present, len(prepared.failures)) == (2, 0, 1)
    with pytest.raises(SctnetError, match=sentence):
        raise SctnetError(prepared.failures[0])
    assert len(list((root / "labels").iterdir())) == 2


def test_preparation_without_scipy_or_lists(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "scipy.io", None)
        with pytest.raises(SctnetError, match=r"needs SciPy: pip install .sctnet\[cocostuff\]"):
            prepare_cocostuff(root)
    for path in (root / "imageLists").iterdir():
        path.unlink()
    with pytest.raises(SctnetError, match=r"imageLists/train\.txt and test\.txt are missing"):
        prepare_cocostuff(root)


def test_missing_files_are_told(root: Path) -> None:
    prepare_cocostuff(root)
    (root / "labels" / f"{TEST[0]}.png").unlink()
    (root / "annotations" / f"{TEST[0]}.mat").unlink()
    with pytest.raises(SctnetError, match=r"3\.jpg has no mask: expected .*labels/COCO_000003"):
        open_dataset(root, ["test"])
    (root / "images" / f"{TEST[0]}.jpg").unlink()
    with pytest.raises(SctnetError, match=r"3\.jpg: the picture is missing"):
        open_dataset(root, ["test"])
    Image.fromarray(np.full((14, 14), 171, np.uint8)).save(root / "labels" / f"{TRAIN[0]}.png")
    with pytest.raises(SctnetError, match=r"1\.png: the value 171 is unknown"):
        open_dataset(root, ["train"]).labels(0)


def test_command_prepares_and_names_what_failed(root: Path) -> None:
    app = typer.Typer()
    app.command()(prepare)
    (root / "annotations" / f"{TRAIN[0]}.mat").write_text("not a .mat")
    result = CliRunner().invoke(app, [str(root)])
    assert result.exit_code == 1
    assert "2 label maps written, 0 were there, 1 failed" in result.output
    assert "1.mat: not a whole COCO-Stuff annotation" in result.stderr
    write_mat(root, TRAIN[0], VALUES)
    result = CliRunner().invoke(app, [str(root)])
    assert (result.exit_code, "1 label maps written, 2 were there" in result.output) == (0, True)
    assert len(open_dataset(root, ["train", "test"])) == 3
