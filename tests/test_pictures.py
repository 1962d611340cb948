"""Pictures: what a viewer relies on, read back from pixels and files."""

import cv2
import numpy as np
import pytest
from PIL import Image

from sctnet.errors import SctnetError
from sctnet.pictures.contact_sheet import contact_sheet
from sctnet.pictures.overlay import overlay
from sctnet.pictures.palette import default_palette, save_label_map
from sctnet.pictures.plots import class_scores_picture, confusion_picture, training_curves

CLASSES = ("road", "car", "sky")
COLOURS = ((128, 64, 128), (0, 0, 142), (70, 130, 180))


def street(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def bands(height, width, count):
    """``count`` horizontal bands of classes 0, 1, 2 ..."""
    return np.repeat((np.arange(height) * count // height)[:, None], width, 1).astype(np.uint8)


def test_palettes_are_separated_and_begin_alike():
    twenty = default_palette(20)
    assert default_palette(7) == twenty[:7]
    lab = cv2.cvtColor(np.array([twenty], np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1e3 * np.eye(20)
    assert distances.min() > 20, "a CIELAB distance of 2.3 is just noticeable"


def test_the_longest_palette_has_no_colour_twice():
    colours = default_palette(65535)
    assert len(set(colours)) == 65535
    assert colours[:256] == default_palette(256)


@pytest.mark.parametrize("count", [0, 65536])
def test_impossible_palettes_are_refused(count):
    with pytest.raises(SctnetError, match="1 to 65535"):
        default_palette(count)


def test_label_maps_keep_their_values_and_show_their_colours(tmp_path):
    labels = np.array([[0, 1, 2], [2, 255, 0]], np.uint8)
    save_label_map(labels, COLOURS, tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), labels)
        shown = np.asarray(image.convert("RGB"))
    assert tuple(shown[0, 1]) == COLOURS[1]
    assert tuple(shown[1, 1]) == (0, 0, 0)
    assert [file.name for file in tmp_path.iterdir()] == ["labels.png"]


def test_many_classes_take_sixteen_bits(tmp_path):
    labels = np.array([[0, 255, 256, 65534]], np.uint16)
    save_label_map(labels, default_palette(65535), tmp_path / "labels.png")
    read = cv2.imread(str(tmp_path / "labels.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read, labels)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("labels.jpg", "exact only as a PNG", id="JPEG would change the classes"),
        pytest.param("nowhere/labels.png", "existing folder", id="no such folder"),
    ],
)
def test_label_maps_that_cannot_be_saved(tmp_path, name, message):
    with pytest.raises(SctnetError, match=message):
        save_label_map(np.zeros((2, 2), np.uint8), COLOURS, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_overlays_blend_by_alpha_and_leave_ignored_pixels(alpha):
    image, labels = street(60, 80), bands(60, 80, 3)
    labels[5:10, 5:10] = 255
    result = overlay(image, labels, COLOURS, CLASSES, alpha, legend=False)
    np.testing.assert_array_equal(result[labels == 255], image[labels == 255])
    colour = np.array(COLOURS)[labels[30:38, :]]
    expected = (1 - alpha) * image[30:38].astype(float) + alpha * colour
    assert np.abs(result[30:38] - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int64])
def test_every_label_takes_its_colour_whatever_its_type(kind):
    colours = [tuple(colour) for colour in np.random.default_rng(1).integers(0, 256, (200, 3))]
    labels = np.random.default_rng(2).integers(0, 200, (31, 47)).astype(kind)
    names = [str(index) for index in range(200)]
    for shown in (labels, labels[::-1, ::2]):
        image = street(*shown.shape)
        drawn = overlay(image, shown, colours, names, alpha=1, legend=False, boundaries=False)
        np.testing.assert_array_equal(drawn, np.array(colours, np.uint8)[shown])


def test_a_boundary_is_half_the_value_and_120():
    image, labels = street(20, 30), np.zeros((20, 30), np.uint8)
    labels[:, 15:] = 1
    drawn = overlay(image, labels, COLOURS, CLASSES, alpha=0, legend=False)
    np.testing.assert_array_equal(drawn[:, 15], image[:, 15] // 2 + 120)


def test_classes_are_parted_by_a_light_line():
    dark = np.zeros((60, 80, 3), np.uint8)
    result = overlay(dark, bands(60, 80, 3), COLOURS, CLASSES, legend=False)
    brightest_rows = np.flatnonzero(result.min(axis=(1, 2)) >= 120)
    np.testing.assert_array_equal(brightest_rows, [20, 40])


@pytest.mark.parametrize(
    ("height", "width", "count"),
    [
        pytest.param(360, 480, 11, id="CamVid"),
        pytest.param(2160, 3840, 11, id="4K"),
        pytest.param(480, 200, 11, id="upright"),
        pytest.param(360, 480, 60, id="more classes than there is room for"),
    ],
)
def test_legends_stay_in_their_strip_and_are_whole(height, width, count):
    classes = [f"traffic class {index}" for index in range(count)]
    labels, black = bands(height, width, count), np.zeros((height, width, 3), np.uint8)
    colours = [(60, 60, 60)] * count
    plain = overlay(black, labels, colours, classes, legend=False)
    result = overlay(black, labels, colours, classes)
    changed = np.flatnonzero((result != plain).any(axis=(1, 2)))
    assert changed[0] >= 0.75 * height
    letters = result[changed[0] :].min(axis=2) > 200
    assert letters.any()
    margin = 9
    assert not letters[:, :margin].any(), "cut off at the left"
    assert not letters[:, -margin + 1 :].any(), "cut off at the right"
    assert not letters[:2].any(), "cut off at the top"
    assert not letters[-2:].any(), "cut off at the bottom"


@pytest.mark.parametrize(
    ("height", "width", "classes"),
    [
        pytest.param(1, 1, CLASSES, id="one pixel"),
        pytest.param(60, 900, CLASSES, id="too low"),
        pytest.param(130, 130, ["x" * 99] * 3, id="names wider than the picture"),
    ],
)
def test_unreadable_legends_are_not_drawn(height, width, classes):
    image, labels = street(height, width), bands(height, width, 3)
    with_legend = overlay(image, labels, COLOURS, classes)
    np.testing.assert_array_equal(
        with_legend, overlay(image, labels, COLOURS, classes, legend=False)
    )


def test_labels_of_another_size_are_refused():
    with pytest.raises(SctnetError, match="labels of the image's size"):
        overlay(street(4, 6), bands(6, 4, 3), COLOURS, CLASSES)


def test_contact_sheets_hold_every_picture():
    rows = [[np.full((120, 160, 3), 40 * row + 10 * column, np.uint8) for column in range(3)]
            for row in range(2)]  # fmt: skip
    sheet = contact_sheet(rows, ["image", "truth", "a title that is far too long for its column"])
    for row in range(2):
        for column in range(3):
            value = 40 * row + 10 * column
            if value:
                assert (sheet == value).all(axis=2).sum() >= 120 * 160
    assert sheet.shape[1] == 3 * 160 + 4 * 5
    for left in (0, 165, 330, 495):
        assert (sheet[:, left : left + 5] == 255).all(), "margins are white"


def test_contact_sheets_scale_to_one_width():
    rows = [[street(100, 2000), street(100, 2000)], [street(50, 100), street(10, 10)]]
    sheet = contact_sheet(rows, ["a", "b"])
    assert sheet.shape[1] == 2 * 640 + 3 * 20


def test_contact_sheets_need_a_title_for_every_column():
    with pytest.raises(ValueError, match="zip"):
        contact_sheet([[street(4, 4)]], ["image", "truth"])


def test_confusion_pictures_print_percents_of_the_truth(tmp_path):
    counts = np.array([[30, 10, 0], [0, 0, 0], [1, 0, 999]])
    confusion_picture(counts, CLASSES, tmp_path / "confusion.svg")
    drawing = (tmp_path / "confusion.svg").read_text()
    for text in ("<!-- 75 -->", "<!-- 25 -->", "<!-- car -->", "<!-- predicted -->"):
        assert text in drawing
    assert drawing.count("<!-- road -->") == 2
    assert drawing.count("<!-- 100 -->") == 2, "sky's cell, and the scale's end"


def test_confusion_pictures_show_names_as_they_are(tmp_path):
    names = ["$x", "a $x_1$ b", "$\\nonsense$"]
    confusion_picture(np.eye(3, dtype=np.int64), names, tmp_path / "confusion.svg")
    drawing = (tmp_path / "confusion.svg").read_text()
    for name in names:
        assert drawing.count(f"<!-- {name} -->") == 2
    # No font at hand has these; a warning would be an error here.
    confusion_picture(np.eye(3, dtype=np.int64), ["\u8def", "b", "c"], tmp_path / "boxes.png")
    assert (tmp_path / "boxes.png").is_file()


def test_scores_by_class_are_drawn_from_the_lowest_iou_up(tmp_path):
    iou = {"$road$": 0.9, "car": 0.0, "sky": None}
    precision = {"$road$": 0.95, "car": None, "sky": None}
    recall = {"$road$": 0.92, "car": 0.0, "sky": None}
    class_scores_picture(iou, precision, recall, tmp_path / "classes.svg")
    text = (tmp_path / "classes.svg").read_text()
    places = [text.index(f"<!-- {name} -->") for name in ("car", "sky", "$road$")]
    assert places == sorted(places)
    for name in ("IoU", "precision", "recall"):
        assert f"<!-- {name} -->" in text


def test_confusion_pictures_of_many_classes_have_names_but_no_numbers(tmp_path):
    names = [f"class {index}" for index in range(40)]
    confusion_picture(np.full((40, 40), 7), names, tmp_path / "confusion.svg")
    drawing = (tmp_path / "confusion.svg").read_text()
    assert drawing.count("<!-- class 39 -->") == 2
    assert "<!-- 2 -->" not in drawing


def test_training_curves_show_what_was_recorded(tmp_path):
    records = [{"step": step, "loss": 3 / (1 + step), "learning_rate": 1e-4} for step in range(90)]
    records += [{"step": 50, "miou": 0.5}, {"step": 80, "miou": 0.4567}]
    training_curves(records, tmp_path / "curves.svg")
    drawing = (tmp_path / "curves.svg").read_text()
    for text in ("loss", "learning rate", "step", "best 50.0 %, at step 50; last 45.7 %"):
        assert f"<!-- {text} -->" in drawing
    training_curves(records[:1], tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert min(image.size) > 300


@pytest.mark.parametrize(
    ("records", "name", "message"),
    [
        pytest.param([], "curves.png", "train first", id="nothing was recorded"),
        pytest.param([{"step": 1}], "curves.png", "train first", id="only steps"),
        pytest.param([{"step": 1, "loss": 2.0}], "curves", "end its name", id="no ending"),
    ],
)
def test_curves_that_cannot_be_drawn(tmp_path, records, name, message):
    with pytest.raises(SctnetError, match=message):
        training_curves(records, tmp_path / name)
