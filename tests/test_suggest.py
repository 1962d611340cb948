"""Which pictures are suggested, and the files in which their labels are corrected."""

import json

import cv2
import numpy as np
import pytest
from test_unlabelled import STREETS, pictures, teacher  # noqa: F401
from typer.testing import CliRunner

from sctnet.cli import app
from sctnet.data.registry import open_dataset
from sctnet.errors import SctnetError
from sctnet.inference.segmenter import Segmenter
from sctnet.unlabelled.frames import _Chosen
from sctnet.unlabelled.suggest import choose, outlines, suggest


def test_the_next_choice_is_uncertain_and_unlike_the_others():
    described = np.array([[0, 0], [0, 0.01], [5, 5], [1, 0], [9, 0]], np.float32)
    uncertain = np.array([0.9, 0.89, 0.5, 0.6, 0.1])
    first, second, *_ = choose(uncertain, described, 3)
    assert (first, second) == (0, 2)  # not 1, which is as 0
    assert sorted(choose(uncertain, described, 10)) == [0, 1, 2, 3, 4]


def test_outlines_draw_the_label_map_again():
    labels = cv2.resize(STREETS.labels(0), (480, 360), interpolation=cv2.INTER_NEAREST)
    drawn = np.full(labels.shape, 254, np.uint8)
    for label, points in outlines(labels):
        cv2.fillPoly(drawn, [np.array(points, np.int32)], label)
    known = labels != 255
    assert (drawn == labels)[known].mean() > 0.98


def test_suggestions_are_data_to_be_corrected(teacher, pictures, tmp_path):  # noqa: F811
    out = tmp_path / "next"
    command = ["data", "suggest", str(teacher), "--pictures", str(pictures), "--out", str(out)]
    result = CliRunner().invoke(app, [*command, "--number", "3"])
    assert result.exit_code == 0, result.output
    assert "3 of 8 pictures" in result.output
    listed = (out / "suggested.txt").read_text().split()
    assert len(listed) == 3
    data = open_dataset(out / "data.yaml", ["train"])
    assert (len(data), data.classes) == (3, STREETS.classes)
    segmenter = Segmenter(teacher)
    for number in range(3):
        image, labels = data.pair(number)
        told = segmenter(image).labels
        drawn = labels != 255
        assert (labels == told)[drawn].mean() > 0.8
    coco = json.loads((out / "coco.json").read_text())
    assert [each["file_name"] for each in coco["images"]] == sorted(
        each.name for each in (out / "pictures").glob("*.png")
    )
    assert {each["image_id"] for each in coco["annotations"]} == {1, 2, 3}
    assert (out / "sheet.jpg").exists()
    with pytest.raises(SctnetError, match="is not empty"):
        suggest(teacher, pictures, 3, out)


def test_frames_that_differ_are_kept_and_never_too_many():
    chosen = _Chosen(most=10)
    blank = np.zeros((36, 64), np.uint8)
    assert chosen.take(1, blank) == []
    assert chosen.take(2, blank + 10) is None  # noise, or another exposure
    kept = {1}
    for number in range(3, 120):
        frame = blank.copy()
        frame[:, : number // 2] = 200  # something that comes in slowly
        gone = chosen.take(number, frame)
        if gone is not None:
            kept = (kept | {number}) - set(gone)
            assert len(kept) <= 10
    assert kept == set(chosen.numbers)
    assert max(kept) > 100
