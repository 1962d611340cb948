"""Label maps in the publishers' codes: their own evaluation, and their readers, understand them."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_cli import Program

import sctnet
from sctnet.data import ade20k, cityscapes, cocostuff
from sctnet.data.dataset import FileDataset, Files, SegmentationDataset
from sctnet.data.registry import open_dataset
from sctnet.data.synthetic.streets import open_synthetic
from sctnet.errors import SctnetError
from sctnet.inference.scoring import score
from sctnet.inference.segmenter import Segmenter
from sctnet.inference.submission import save_prediction
from sctnet.pictures.palette import default_palette

SIZE = (24, 40)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> type[Program]:
    Program.monkeypatch, Program.capsys = monkeypatch, capsys
    return Program


class RedChannel(Segmenter):
    """Takes the red channel of a picture for its label map."""

    def __init__(self) -> None:
        self.classes, self.colours = cityscapes.CLASSES, cityscapes.COLOURS
        self.scales, self.flip, self.mirrors = (1.0,), False, False
        self.config = SimpleNamespace(calibration=None)

    def __str__(self) -> str:
        return "the red channel"

    def predict_labels(self, images):
        return [image[..., 0] for image in images]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write a Cityscapes whose masks hold ids of all kinds and whose red is often right."""
    random = np.random.default_rng(3)
    for city, number in (("bonn", 1), ("bonn", 2), ("ulm", 1)):
        ids = random.integers(0, 34, SIZE, np.uint8)
        ids[ids == 31] = 0  # trains are only predicted
        train_ids = np.array([*cityscapes.IDS], np.uint8)
        order = np.searchsorted(train_ids, ids).clip(0, 18)
        guess = random.integers(0, 18, SIZE)  # and bicycles never: only in the truth
        red = np.where(random.random(SIZE) < 0.6, np.minimum(order, 17), guess)
        picture = np.stack([red, red, red], axis=-1).astype(np.uint8)
        name = f"{city}_{number:06d}_000019"
        for split in ("val", "test"):
            for values, kind, ending in (
                (picture, "leftImg8bit", "leftImg8bit"),
                (ids if split == "val" else ids * 0, "gtFine", "gtFine_labelIds"),
            ):
                path = tmp_path / kind / split / city / f"{name}_{ending}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)
    return tmp_path


def test_miou_is_that_of_the_authors_evaluation(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    out = tmp_path / "out"
    ours = score(RedChannel(), open_dataset(root, ["val"]), out, save_predictions=True)
    truths = sorted(map(str, (root / "gtFine" / "val").glob("*/*_labelIds.png")))
    monkeypatch.setenv("CITYSCAPES_RESULTS", str(out / "predictions"))
    arguments = script.args
    # Its scores of instances need NumPy's in1d, which is no more.
    for name, value in {"quiet": True, "JSONOutput": False, "evalInstLevelScore": False}.items():
        monkeypatch.setattr(arguments, name, value)
    predictions = [script.getPrediction(arguments, truth) for truth in truths]
    assert len(set(predictions)) == 3
    theirs = script.evaluateImgLists(predictions, truths, arguments)
    assert ours.scores.miou == pytest.approx(theirs["averageScoreClasses"], abs=1e-9)
    assert 0.2 < ours.scores.miou < 0.9
    for name in cityscapes.CLASSES:
        value = ours.scores.iou[name]
        assert value == pytest.approx(theirs["classScores"][name], abs=1e-9)
    assert ours.scores.iou["train"] == ours.scores.iou["bicycle"] == 0


def as_read_back(dataset: SegmentationDataset, labels: np.ndarray, folder: Path) -> np.ndarray:
    """Return the values of the file that a label map is saved as."""
    save_prediction(dataset, 0, labels, default_palette(len(dataset.classes)), folder)
    (path,) = folder.rglob("*.png")
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.array(image)


@pytest.mark.parametrize(
    ("classes", "raw_values", "table"),
    [
        pytest.param(19, cityscapes.IDS, cityscapes._LABEL_OF_ID, id="cityscapes"),
        pytest.param(150, ade20k.RAW_VALUES, ade20k._LABEL_OF_VALUE, id="ade20k"),
        pytest.param(171, cocostuff.RAW_VALUES, cocostuff.LABEL_OF_RAW_VALUE, id="cocostuff"),
    ],
)
def test_readers_map_saved_values_back(
    tmp_path: Path, classes: int, raw_values: tuple[int, ...], table: np.ndarray
) -> None:
    names = tuple(map(str, range(classes)))
    files = [Files("split/city/a.b_leftImg8bit.png", tmp_path, tmp_path)]
    data = FileDataset("data", names, None, files, lambda _: None, raw_values=raw_values)
    labels = np.arange(classes, dtype=np.uint8).reshape(1, classes)
    values = as_read_back(data, labels, tmp_path)
    assert (table[values] == labels).all()
    assert (tmp_path / "split" / "city" / "a.b_leftImg8bit.png").is_file()


def test_ade20k_is_saved_from_one_and_other_data_as_it_is(tmp_path: Path) -> None:
    assert tuple(range(1, 151)) == ade20k.RAW_VALUES
    streets = open_synthetic(["val"])
    labels = np.arange(11, dtype=np.uint8).reshape(1, 11)
    assert (as_read_back(streets, labels, tmp_path) == labels).all()


def model_of_cityscapes(folder: Path) -> Path:
    return sctnet.save_model(
        sctnet.create_model("tiny", 19), folder, cityscapes.CLASSES, colours=cityscapes.COLOURS
    )


def test_eval_of_a_split_without_labels(root: Path, tmp_path: Path, run: type[Program]) -> None:
    model, out = model_of_cityscapes(tmp_path / "model"), tmp_path / "out"
    arguments = ["eval", model, "--data", root, "--split", "test", "--out", out]
    program = run(*arguments)
    assert program.status == 2
    assert "Cityscapes test has no published labels: train and score" in program.err
    assert "--save-predictions" in program.err
    assert not out.exists()
    program = run(*arguments, "--save-predictions")
    assert program.status == 0, program.err
    assert "nothing to score" in program.out
    assert [path.name for path in out.iterdir()] == ["predictions"]
    saved = sorted((out / "predictions").rglob("*.*"))
    assert [path.name for path in saved] == [
        f"{name}_000019_leftImg8bit.png" for name in ("bonn_000001", "bonn_000002", "ulm_000001")
    ]
    for path in saved:
        with Image.open(path) as image:
            assert image.size == (40, 24)
            assert set(np.unique(np.array(image))) <= set(cityscapes.IDS)


def test_eval_saves_beside_its_scores(root: Path, tmp_path: Path, run: type[Program]) -> None:
    model, out = model_of_cityscapes(tmp_path / "model"), tmp_path / "out"
    program = run("eval", model, "--data", root, "--out", out, "--save-predictions")
    assert program.status == 0, program.err
    assert (
        f"Written to {out}: scores.json, confusion.png, classes.png, predictions\n" in program.out
    )
    assert len(list((out / "predictions" / "val").rglob("*.png"))) == 3


def test_predictions_that_cannot_be_written_are_told(root: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions").write_text("a file")
    with pytest.raises(SctnetError, match=r"predictions.*: cannot be written"):
        score(RedChannel(), open_dataset(root, ["val"]), tmp_path / "out", save_predictions=True)
