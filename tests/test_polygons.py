"""Labels as outlines: LabelMe's files and COCO's instances, in a described data set."""

import json
from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sctnet.data.dataset import IGNORE, SegmentationDataset
from sctnet.data.folder import open_folder
from sctnet.data.labelme import Canvas
from sctnet.data.rle import Runs, decode_counts, decode_runs, encode_counts
from sctnet.errors import SctnetError

HEIGHT, WIDTH = 20, 30
CLASSES = ["background", "car", "tree"]
SQUARE = [[2, 3], [8, 3], [8, 9], [2, 9]]

coordinates = st.floats(-5, 35, allow_nan=False)
points = st.tuples(coordinates, coordinates)


# Drawing


@given(st.lists(points, min_size=3, max_size=3))
@settings(deadline=None, max_examples=200)
def test_polygon_is_filled_where_opencv_says(outline: list[tuple[float, float]]) -> None:
    """Pixels more than two from the outline are in or out, whatever the rule for the edge."""
    canvas = Canvas(HEIGHT, WIDTH, 0)
    canvas.polygon(1, outline)
    drawn = canvas.labels()
    contour = np.array(outline, np.float32)[:, None]
    for row in range(HEIGHT):
        for column in range(WIDTH):
            distance = cv2.pointPolygonTest(contour, (column, row), True)
            if abs(distance) > 2:
                assert drawn[row, column] == (distance > 0)


@given(st.tuples(*[st.integers(0, side - 1) for side in (WIDTH, HEIGHT, WIDTH, HEIGHT)]))
@settings(deadline=None)
def test_rectangle_covers_both_corners(corners: tuple[int, int, int, int]) -> None:
    x0, y0, x1, y1 = corners
    left, right, top, bottom = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
    expected = np.full((HEIGHT, WIDTH), IGNORE, np.uint8)
    expected[top : bottom + 1, left : right + 1] = 3
    canvas = Canvas(HEIGHT, WIDTH, IGNORE)
    canvas.rectangle(3, (x0, y0), (x1, y1))
    assert (canvas.labels() == expected).all()
    canvas = Canvas(HEIGHT, WIDTH, IGNORE)
    canvas.polygon(3, [(left, top), (right, top), (right, bottom), (left, bottom)])
    assert (canvas.labels() == expected).all(), "a polygon of the same corners is the same"


def test_circle_covers_its_radius() -> None:
    canvas = Canvas(40, 40, 0)
    canvas.circle(1, (20, 18), (20, 28))
    rows, columns = np.mgrid[:40, :40]
    distance = np.hypot(rows - 18, columns - 20)
    drawn = canvas.labels()
    assert (drawn[distance < 9.4] == 1).all()
    assert (drawn[distance > 10.8] == 0).all()


# Run-length codes


@pytest.mark.parametrize(
    ("size", "counts", "expected"),
    [
        pytest.param((5, 5), "6320004", [6, 3, 2, 3, 2, 3, 6], id="a-square"),
        pytest.param((2, 3), "122O", [1, 2, 2, 1], id="negative-difference"),
        pytest.param((1, 43), "Z11", [42, 1], id="two-characters"),
    ],
)
def test_compressed_codes_of_other_programs(
    size: tuple[int, int], counts: str, expected: list[int]
) -> None:
    assert decode_counts(counts) == expected
    assert encode_counts(np.array(expected)) == counts
    compressed = decode_runs(Runs(size=size, counts=counts))
    assert compressed.shape == size
    assert (compressed == decode_runs(Runs(size=size, counts=expected))).all()


def test_runs_go_down_the_columns() -> None:
    covered = decode_runs(Runs(size=(5, 5), counts="6320004"))
    expected = np.zeros((5, 5), bool)
    expected[1:4, 1:4] = True
    assert (covered == expected).all()
    assert decode_runs(Runs(size=(2, 3), counts=[1, 1, 4])).tolist() == [
        [False, False, False],
        [True, False, False],
    ]


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=30))
def test_compressed_codes_decode_to_what_was_encoded(lengths: list[int]) -> None:
    assert decode_counts(encoded(lengths)) == lengths
    assert encode_counts(np.array(lengths)) == encoded(lengths)


def encoded(lengths: list[int]) -> str:
    """Write lengths as COCO's maskApi.c describes it."""
    text = ""
    for place, length in enumerate(lengths):
        rest, more = length - (lengths[place - 2] if place > 2 else 0), True
        while more:
            digit, rest = rest & 31, rest >> 5
            more = rest != -1 if digit & 16 else rest != 0
            text += chr(digit + (32 if more else 0) + 48)
    return text


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        pytest.param("3", "does not fill its 2 x 2 pixels", id="too-few"),
        pytest.param([3, 2], "does not fill", id="too-many"),
        pytest.param([], "does not fill", id="none"),
        pytest.param("O", "does not fill", id="negative"),
        pytest.param("P", "cut short", id="cut"),
        pytest.param("1 2", "holds ' ' where it cannot", id="character"),
        pytest.param("oooooooo0", "holds 'o' where it cannot", id="endless-number"),
    ],
)
def test_runs_that_cannot_be(counts: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        decode_runs(Runs(size=(2, 2), counts=counts))


# LabelMe


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(path)


def shape(label: str, outline: Any = SQUARE, kind: str = "polygon") -> dict[str, Any]:
    return {"label": label, "points": outline, "shape_type": kind, "group_id": None, "flags": {}}


def labelme(path: Path, *shapes: dict[str, Any], **changes: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {"version": "5.5.0", "imageHeight": HEIGHT, "imageWidth": WIDTH, "imageData": None}
    fields |= {"imagePath": "a.jpg", "shapes": list(shapes), **changes}
    path.write_text(json.dumps(fields))


def described(root: Path, **fields: Any) -> SegmentationDataset:
    fields = {"images": {"train": "images"}, "masks": {"train": "masks"}, **fields}
    (root / "own.yaml").write_text(yaml.safe_dump({"classes": CLASSES, **fields}))
    return open_folder(root / "own.yaml", ["train"])


def test_labelme_shapes_are_drawn_in_order(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "sub" / "a.png")
    labelme(
        tmp_path / "masks" / "sub" / "a.json",
        shape("car"),
        shape("tree", [[6, 6], [12, 12]], "rectangle"),
        shape("unsure", [[20, 10], [20, 13]], "circle"),
    )
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[3:10, 2:9] = 1
    expected[6:13, 6:13] = 2
    labels = described(tmp_path, ignored_labels=["unsure"]).pair(0)[1]
    assert labels.dtype == np.uint8
    circle = labels == IGNORE
    assert circle[10, 20]
    assert 25 <= circle.sum() <= 40
    assert (labels[~circle] == expected[~circle]).all()


def png(values: np.ndarray) -> str:
    content = BytesIO()
    Image.fromarray(values).save(content, format="PNG")
    return b64encode(content.getvalue()).decode()


def test_labelme_masks(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    ring = np.array([[1, 1, 1], [1, 0, 1]], np.uint8)
    first = shape("car", [[4, 2], [6, 3]], "mask") | {"mask": png(ring)}
    second = shape("tree", [[28, 19], [31, 21]], "mask") | {"mask": png(np.ones((3, 4), bool))}
    labelme(tmp_path / "masks" / "a.json", first, second)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[2:4, 4:7] = ring
    expected[19:, 28:] = 2
    assert (described(tmp_path).labels(0) == expected).all()


def test_what_no_shape_covers(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    labelme(tmp_path / "masks" / "a.json", shape("car"))
    assert described(tmp_path).labels(0)[0, 0] == 0
    labels = described(tmp_path, classes=["tree", "car"]).labels(0)
    assert (labels == 255).sum() == HEIGHT * WIDTH - 49
    assert (labels[3:10, 2:9] == 1).all()


def test_labelme_files_beside_their_pictures_and_beside_masks(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "images" / f"{name}.png")
        labelme(tmp_path / "images" / f"{name}.json", shape("car"))
    together = described(tmp_path, masks={"train": "images"})
    assert [together.item_name(i) for i in range(2)] == ["train/a.png", "train/b.png"]
    assert (together.labels(1) == 1).sum() == 49
    labelme(tmp_path / "masks" / "a.json", shape("car"))
    Image.fromarray(np.full((HEIGHT, WIDTH), 2, np.uint8)).save(tmp_path / "masks" / "b.png")
    mixed = described(tmp_path)
    assert [set(np.unique(mixed.labels(i))) for i in range(2)] == [{0, 1}, {2}]


@pytest.mark.parametrize(
    ("shapes", "changes", "sentence"),
    [
        pytest.param([shape("cat")], {}, "the label 'cat' is not a class: .*ignored_labels"),
        pytest.param(
            [shape("car", SQUARE, "line")], {}, "'car' is a line: draw one of polygon, rect"
        ),
        pytest.param([shape("car", SQUARE[:2])], {}, "a polygon of 'car' has 2 points"),
        pytest.param([shape("car", SQUARE[:2], "mask")], {}, "mask of a 'car': the file is empty"),
        pytest.param(
            [shape("car", SQUARE[:2], "mask") | {"mask": "?"}], {}, "mask of a 'car': not in base64"
        ),
        pytest.param(
            [shape("car", SQUARE[:2], "mask") | {"mask": "AAAA"}], {}, "of a 'car': not an image"
        ),
        pytest.param([shape("car", SQUARE, "circle")], {}, "a circle of 'car' has 4 points"),
        pytest.param([shape("car", [[1, 2, 3]] * 3)], {}, r"shapes\.0\.points\.0: Tuple"),
        pytest.param([shape("car", [[1e30, 0]] * 3)], {}, r"shapes\.0\.points\.0\.0: Input"),
        pytest.param([shape("car", [["x", 0]] * 3)], {}, r"shapes\.0\.points\.0\.0: Input"),
        pytest.param([], {"imageHeight": None}, "not a LabelMe file .imageHeight: Input"),
        pytest.param([], {"imageHeight": 10**6, "imageWidth": 10**6}, "is more than 400 million"),
        pytest.param([], {"imageWidth": WIDTH + 1}, "is 30 x 20 but its mask .* is 31 x 20"),
        pytest.param([], {"shapes": 3}, "not a LabelMe file .shapes: Input should be a valid a"),
    ],
)
def test_labelme_mistakes_name_the_file(
    tmp_path: Path, shapes: list[Any], changes: dict[str, Any], sentence: str
) -> None:
    picture(tmp_path / "images" / "a.png")
    labelme(tmp_path / "masks" / "a.json", *shapes, **changes)
    with pytest.raises(SctnetError, match=sentence) as raised:
        described(tmp_path).pair(0)
    assert "a.json" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_labelme_files_that_are_none(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    labelme(tmp_path / "masks" / "a.json")
    dataset = described(tmp_path)
    (tmp_path / "masks" / "a.json").write_bytes(b'{"shapes": [')
    with pytest.raises(SctnetError, match=r"a\.json: not a LabelMe file .Invalid JSON"):
        dataset.labels(0)
    (tmp_path / "masks" / "a.json").unlink()
    with pytest.raises(SctnetError, match=r"a\.json: cannot be read .No such file"):
        dataset.labels(0)


# COCO instances


def coco(root: Path, **changes: Any) -> None:
    fields: dict[str, Any] = {
        "images": [
            {"id": 7, "file_name": "sub/b.png", "height": HEIGHT, "width": WIDTH},
            {"id": 3, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
        ],
        "categories": [
            {"id": 10, "name": "car", "supercategory": ""},
            {"id": 4, "name": "tree"},
            {"id": 1, "name": "nobody draws this"},
        ],
        "annotations": [
            annotation(3, 10, [[2, 3, 8, 3, 8, 9, 2, 9], [20, 0, 22, 0, 22, 2]]),
            annotation(3, 4, {"size": [HEIGHT, WIDTH], "counts": [0, 25, 575]}, iscrowd=1),
        ],
    }
    (root / "train.json").write_text(json.dumps(fields | changes))


def annotation(image: int, category: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "segmentation": segmentation, **more}


@pytest.fixture
def instances(tmp_path: Path) -> Path:
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "sub" / "b.png")
    picture(tmp_path / "images" / "of-another-split.png")
    coco(tmp_path)
    return tmp_path


def with_polygons(root: Path, **fields: Any) -> SegmentationDataset:
    return described(root, masks={}, polygons={"train": "train.json"}, **fields)


def test_coco_instances(instances: Path) -> None:
    dataset = with_polygons(instances)
    assert [dataset.item_name(i) for i in range(2)] == ["train/sub/b.png", "train/a.png"]
    assert (dataset.pair(0)[1] == 0).all()
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[3:10, 2:9] = 1
    for row in range(3):  # the triangle's rows, its edges included
        expected[row, 20 + row : 23] = 1
    expected[:, 0] = 2  # 25 pixels down the columns
    expected[:5, 1] = 2
    assert (dataset.pair(1)[1] == expected).all()


def test_compressed_code_in_a_file(instances: Path) -> None:
    runs = {"size": [HEIGHT, WIDTH], "counts": encoded([45, 5, 550])}
    coco(instances, annotations=[annotation(7, 4, runs)])
    labels = with_polygons(instances).labels(0)
    assert (np.argwhere(labels == 2) == [[row, 2] for row in range(5, 10)]).all()


def test_splits_of_masks_and_of_polygons_join(instances: Path) -> None:
    picture(instances / "more" / "c.png")
    labelme(instances / "masks" / "c.json", shape("tree"))
    description = {
        "images": {"train": "images", "val": "more"},
        "masks": {"val": "masks"},
        "polygons": {"train": "train.json"},
        "classes": CLASSES,
    }
    (instances / "own.yaml").write_text(yaml.safe_dump(description))
    dataset = open_folder(instances / "own.yaml", ["train", "val"])
    assert [set(np.unique(dataset.labels(i))) for i in range(3)] == [{0}, {0, 1, 2}, {0, 2}]


BIG = {"size": [HEIGHT, WIDTH + 1], "counts": [0, 620]}
SHORT = {"size": [HEIGHT, WIDTH], "counts": [0, 620]}
SAME_STEM = [{"id": number, "file_name": "a.png", "height": 9, "width": 9} for number in (1, 2)]
SAME_NUMBER = [
    {"id": 1, "file_name": name, "height": 9, "width": 9} for name in ("a.png", "sub/b.png")
]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param({"images": []}, "images: List should have at least 1", id="no-images"),
        pytest.param({"annotations": [annotation(3, 1, [])]}, "label 'nobody draws", id="label"),
        pytest.param({"annotations": [annotation(3, 2, [])]}, "no category 2", id="category"),
        pytest.param({"annotations": [annotation(8, 4, [[1.0] * 6])]}, "no picture of", id="id"),
        pytest.param({"annotations": [annotation(3, 4, [[1.0] * 7])]}, "x without a y", id="odd"),
        pytest.param({"annotations": [annotation(3, 4, [[1.0] * 4])]}, "has 2 points", id="short"),
        pytest.param({"annotations": [annotation(3, 4, None)]}, "neither an area", id="none"),
        pytest.param({"annotations": [annotation(3, 4, BIG)]}, "code of 31 x 20", id="size"),
        pytest.param({"annotations": [annotation(3, 4, SHORT)]}, "does not fill", id="runs"),
        pytest.param({"images": SAME_STEM}, "two pictures have the stem a:", id="stem"),
        pytest.param({"images": SAME_NUMBER}, "two pictures have the number 1:", id="number"),
        pytest.param(
            {"images": [{"id": 1, "file_name": "../z.png", "height": 9, "width": 9}]},
            "is not below",
            id="outside",
        ),
        pytest.param(
            {"images": [{"id": 1, "file_name": "c.png", "height": 9, "width": 9}]},
            r"the picture 'c\.png' is not below",
            id="missing",
        ),
        pytest.param(
            {"images": [{"id": 1, "file_name": "a.png", "height": 10**5, "width": 10**5}]},
            "is more than 400 million",
            id="huge",
        ),
        pytest.param({"categories": {}}, "categories: Input should be a valid array", id="kind"),
    ],
)
def test_coco_mistakes_name_the_file(
    instances: Path, changes: dict[str, Any], sentence: str
) -> None:
    coco(instances, **changes)
    with pytest.raises(SctnetError, match=sentence) as raised:
        with_polygons(instances).pair(1)
    assert "train.json" in str(raised.value)


def test_coco_size_is_compared_with_the_picture(instances: Path) -> None:
    coco(
        instances,
        images=[{"id": 3, "file_name": "a.png", "height": HEIGHT, "width": 29}],
        annotations=[],
    )
    with pytest.raises(SctnetError, match=r"a\.png is 30 x 20 but its mask .*json/a\.png is 29"):
        with_polygons(instances).pair(0)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"polygons": {"val": "train.json"}}, "must name the same splits"),
        ({"polygons": {"train": "train.json"}}, "must name the same splits"),
        ({"masks": {}}, "must name the same splits"),
        ({"ignored_labels": ["car"]}, "ignored_labels must not name a class"),
    ],
)
def test_description_of_polygons_is_checked(
    tmp_path: Path, fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SctnetError, match=sentence):
        described(tmp_path, **fields)
