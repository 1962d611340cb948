"""Prediction beyond one picture: lists and streams, windows, outlines and run lengths."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from drawn import street
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from matplotlib.path import Path as DrawnPath
from PIL import Image
from shared import CLASSES, saved
from torch.nn import functional as F

import sctnet
from sctnet.data import images as image_files
from sctnet.data import rle as run_lengths
from sctnet.data.rle import Runs, decode_runs
from sctnet.data.streams import batches
from sctnet.inference import picture_plan
from sctnet.inference.polygons import mask_polygons
from sctnet.inference.runtimes import runtime
from sctnet.inference.segmentation_result import Segmentation
from sctnet.inference.tiling import (
    ComposedLogits,
    blending_weights,
    composed_labels,
    composed_probabilities,
    window_grid,
)
from sctnet.pictures.overlay import overlay
from sctnet.pipeline.argmax_torch import resize_region
from sctnet.pipeline.label_map import label_map
from sctnet.pipeline.preprocessing import Preprocessing, PreprocessingConfig, WorkingSize

COLOURS = ((128, 64, 128), (0, 0, 142), (107, 142, 35), (153, 153, 153), (70, 130, 180))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def segmenter(folder):
    return sctnet.Segmenter(folder, device="cpu")


# Lists, streams, anything


def test_lists_and_streams_give_what_single_pictures_give(tmp_path, segmenter):
    images = [street(32, 48, 1), street(32, 48, 2), street(40, 24, 3)]
    Image.fromarray(images[1]).save(tmp_path / "a.png")
    sources = [images[0], tmp_path / "a.png", Image.fromarray(images[2])]
    alone = [segmenter(image).labels for image in images]
    listed = segmenter(sources)
    assert isinstance(listed, list)
    streamed = segmenter(source for source in sources)
    assert iter(streamed) is streamed
    for expected, one, other in zip(alone, listed, streamed, strict=True):
        assert (one.labels == expected).mean() > 0.999  # a batch may round otherwise
        assert (other.labels == expected).mean() > 0.999
    assert segmenter([]) == []


def test_streams_hold_one_batch(folder):
    asked = []

    def pictures():
        for number in range(10):
            asked.append(number)
            yield street(24, 24, number)

    stream = sctnet.Segmenter(folder, "cpu", batch_size=3)(pictures())
    assert asked == []
    next(stream)
    assert asked == [0, 1, 2]
    assert len(list(stream)) == 9


def test_pictures_of_one_working_size_pass_together(tmp_path, monkeypatch):
    model = saved(tmp_path, WorkingSize(rule="fixed", height=48, width=64))
    monkeypatch.setattr(runtime, "has_cpu_kernels", lambda *_, **__: False)
    together = sctnet.Segmenter(model, "cpu")  # in PyTorch
    images = [street(30, 40, 1), street(60, 80, 2), street(90, 70, 3)]
    passed = []
    logits = together.runtime._logits

    def counted(prepared):
        passed.append(len(prepared))
        return logits(prepared)

    monkeypatch.setattr(together.runtime, "_logits", counted)
    results = together(images)
    assert passed == [3]
    for image, result in zip(images, results, strict=True):
        assert (result.labels == together(image).labels).mean() > 0.999


@given(st.lists(st.integers(0, 2)), st.integers(1, 4))
def test_batches_keep_order_and_bounds(keys, most):
    groups = list(batches(keys, lambda key: key, lambda _: most))
    assert [key for group in groups for key in group] == keys
    assert all(1 <= len(group) <= most and len(set(group)) == 1 for group in groups)
    for before, after in pairwise(groups):
        assert before[0] != after[0] or len(before) == most, "cut for no reason"


DTYPES = [np.uint8, np.uint16, np.int32, np.float32, np.float64, bool]


@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 200), st.integers(1, 200), st.integers(1, 4)),
        array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9),
    ),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 9),
)
@settings(deadline=None, max_examples=40)
def test_any_array_is_labelled_or_refused_in_a_sentence(segmenter, shape, dtype, seed):
    array = np.random.default_rng(seed).integers(0, 2, shape).astype(dtype)
    good = dtype is np.uint8 and 0 not in shape
    good = good and (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3))
    if good:
        assert segmenter(array).labels.shape == shape[:2]
    else:
        with pytest.raises(sctnet.SctnetError, match="give"):
            segmenter(array)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param("https://example.org/a.jpg", "not fetched from the network", id="address"),
        pytest.param(None, "of type NoneType", id="nothing"),
        pytest.param(7, "of type int", id="number"),
        pytest.param([np.zeros((2, 2, 3))], "give uint8", id="floats in a list"),
    ],
)
def test_what_shows_no_picture_is_refused(segmenter, source, message):
    with pytest.raises(sctnet.SctnetError, match=message):
        segmenter(source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 8}, "tile 8"),
        ({"tile": 64, "overlap": 40}, "overlap 40"),
        ({"batch_size": 0}, "batch_size 0"),
    ],
)
def test_options_that_cannot_be_are_refused(folder, options, message):
    with pytest.raises(sctnet.SctnetError, match=message):
        sctnet.Segmenter(folder, "cpu", **options)


# Probabilities


def test_probabilities_are_the_softmax_of_the_resized_logits(folder, segmenter):
    image = street(50, 70)
    result = segmenter(image, probabilities=True)
    model = sctnet.load_model(folder).fuse()
    with torch.no_grad():
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
        prepared = Preprocessing(PreprocessingConfig())(pixels)
        in_pytorch = model(prepared).softmax(dim=1)[0].numpy()
        exact = model.double()(prepared.double()).softmax(dim=1)[0].numpy()
    # What float32 loses over the depth of this network on this processor: PyTorch shows it.
    tolerance = 1e-6 + 5 * np.abs(in_pytorch - exact).max()
    np.testing.assert_allclose(result.probabilities, exact, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(result.probabilities.argmax(0), result.labels)
    assert (result.labels == segmenter(image).labels).mean() > 0.999
    assert segmenter(image).probabilities is None
    assert sctnet.Segmenter(folder, "cpu", probabilities=True)(image).probabilities is not None


# Windows


@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    side=st.integers(32, 120),
    share=st.floats(0, 0.5),
)
@settings(deadline=None)
def test_windows_cover_a_picture_and_their_weights_sum_to_one(size, side, share):
    overlap = int(side * share)
    grid = window_grid(size, side, overlap)
    for length, part, starts in zip(size, grid.window, (grid.tops, grid.lefts), strict=True):
        assert part == min(length, side)
        assert starts[0] == 0
        assert starts[-1] == length - part
        weights = blending_weights(starts, part, length)
        total = torch.zeros(length)
        for start, weight in zip(starts, weights, strict=True):
            assert (weight > 0).all()
            total[start : start + part] += weight
        torch.testing.assert_close(total, torch.ones(length))
        for before, after in pairwise(starts):
            assert before + part - after >= overlap


@given(
    source=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=2),
    rows=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
@settings(deadline=None)
def test_a_part_of_a_resize_is_that_of_the_whole(source, sizes, rows):
    maps = torch.rand(2, *source, generator=torch.Generator().manual_seed(0))
    whole = maps[None]
    for size in sizes:
        whole = F.interpolate(whole, size, mode="bilinear", align_corners=False)
    height = sizes[-1][0]
    first, last = sorted(int(share * height) for share in rows)
    last = max(last, first + 1) if first < height else height
    first = min(first, last - 1)
    columns = slice(sizes[-1][1] // 3, sizes[-1][1])
    part = resize_region(maps[0], tuple(sizes), slice(first, last), columns)
    torch.testing.assert_close(part, whole[0, 0, first:last, columns], atol=1e-5, rtol=1e-5)


def test_one_window_is_the_whole_picture(folder, segmenter):
    image = street(90, 121)
    tiled = sctnet.Segmenter(folder, "cpu", tile=128)
    np.testing.assert_array_equal(tiled(image).labels, segmenter(image).labels)


@pytest.mark.parametrize(
    "rule", [WorkingSize(), WorkingSize(rule="shorter-side", pixels=48)], ids=str
)
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_large_pictures_are_labelled_as_small_ones_are(tmp_path, monkeypatch, rule, kind):
    """The path in bands, forced upon a small picture, against the plain one."""
    model, image = saved(tmp_path, rule), street(150, 131)
    plain = sctnet.Segmenter(model, "cpu")(image, probabilities=kind == "probabilities")
    monkeypatch.setattr(picture_plan, "LARGE_PICTURE", 5000)
    monkeypatch.setattr("sctnet.inference.tiling._BAND_PIXELS", 2000)
    for name, value in {
        "LARGE_PICTURE": 5000,
        "_BAND_PIXELS": 1250,
        "instruction_set": lambda: None,
    }.items():
        monkeypatch.setattr(f"sctnet.pipeline.preprocessing.{name}", value)
    banded = sctnet.Segmenter(model, "cpu")(image, probabilities=kind == "probabilities")
    assert (banded.labels == plain.labels).mean() > 0.9995  # ties may turn by rounding
    if kind == "probabilities":
        np.testing.assert_allclose(banded.probabilities, plain.probabilities, atol=1e-4)


def test_pictures_beyond_one_pass_are_taken_in_windows(folder, monkeypatch):
    monkeypatch.setattr(picture_plan, "_WHOLE_PIXELS", 10_000)
    monkeypatch.setattr(picture_plan, "TILE", 96)
    image = street(200, 170)
    automatic, chosen = (sctnet.Segmenter(folder, "cpu", tile=tile) for tile in (None, 96))
    np.testing.assert_array_equal(automatic(image).labels, chosen(image).labels)


def composed_of(field, grid):
    """Logits of a fake network that answers with what the window shows, and shifts each window."""
    shifts = iter(range(100))

    def window_logits(windows):
        shown = windows[:, 0].float() / 255
        shift = 0.2 * (next(shifts) % 2)
        return torch.stack([shown + shift, 1 - shown - shift], dim=1)

    image = (field * 255).round().to(torch.uint8).expand(3, -1, -1)
    return ComposedLogits(image, 2, grid, grid.window, window_logits)


def test_seams_are_blended():
    """A network that disagrees with itself from window to window changes gradually, not at once."""
    grid = window_grid((64, 300), 64, 24)
    composed = composed_of(torch.full((64, 300), 0.3), grid)
    line = composed_probabilities(composed)[0, 30]
    assert np.ptp(line) > 0.09, "the windows do disagree"
    assert np.abs(np.diff(line)).max() < 0.01, "no step at a window's edge"


def test_composed_labels_follow_a_network_of_positions():
    """A fake network that reads the place out of the pixels gives one seamless map."""
    rows, columns = torch.meshgrid(torch.arange(150), torch.arange(130), indexing="ij")
    field = ((rows + columns) % 97) / 96
    image = (field * 255).round().to(torch.uint8).expand(3, -1, -1)

    def window_logits(windows):
        shown = windows[:, 0].float()
        return torch.stack([-(shown - centre).abs() for centre in range(0, 256, 51)], dim=1)

    for side in (32, 50, 149):
        grid = window_grid((150, 130), side, side // 8)
        labels = composed_labels(ComposedLogits(image, 6, grid, grid.window, window_logits))
        whole = label_map(window_logits(image[None]), (150, 130))[0].numpy()
        np.testing.assert_array_equal(labels, whole)


def test_large_tiffs_are_read_as_small_ones_are(tmp_path, monkeypatch):
    for mode in ("RGB", "L", "CMYK", "RGBA"):
        Image.fromarray(street(60, 80)).convert(mode).save(
            tmp_path / f"{mode}.tif", compression="tiff_lzw"
        )
    expected = [image_files.read_image(file) for file in sorted(tmp_path.iterdir())]
    monkeypatch.setattr(image_files, "_LARGE", 1)
    for file, pixels in zip(sorted(tmp_path.iterdir()), expected, strict=True):
        np.testing.assert_array_equal(image_files.read_image(file), pixels)


# Outlines and run lengths

MASKS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=14),
               elements=st.integers(0, 3))  # fmt: skip


def filled(geometry, height, width):
    """Which pixels' centres lie in a MultiPolygon, by matplotlib."""
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    centres = np.stack([columns.ravel(), rows.ravel()], axis=1)
    covered = np.zeros(height * width, int)
    for outer, *holes in geometry:
        inside = DrawnPath(outer).contains_points(centres)
        for hole in holes:
            cut = DrawnPath(hole).contains_points(centres)
            assert not (cut & ~inside).any(), "a hole lies in its polygon"
            inside &= ~cut
        covered += inside
    assert covered.max(initial=0) <= 1, "polygons do not overlap"
    return covered.reshape(height, width).astype(bool)


@given(MASKS)
@settings(deadline=None, max_examples=150)
def test_filled_outlines_are_the_mask(labels):
    mask = labels > 1
    geometry = mask_polygons(mask)
    np.testing.assert_array_equal(filled(geometry, *mask.shape), mask)
    for ring in (ring for polygon in geometry for ring in polygon):
        assert ring[0] == ring[-1]
        assert len({tuple(point) for point in ring[:-1]}) == len(ring) - 1 >= 4
        for (x, y), (to_x, to_y) in pairwise(ring):
            assert (x == to_x) != (y == to_y), "edges follow the pixels"


def test_outlines_of_a_frame_with_an_island():
    mask = np.ones((5, 5), bool)
    mask[1:4, 1:4] = False
    mask[2, 2] = True
    frame, island = sorted(mask_polygons(mask), key=len, reverse=True)
    assert {tuple(point) for point in frame[0]} == {(0, 0), (5, 0), (5, 5), (0, 5)}
    assert {tuple(point) for point in frame[1]} == {(1, 1), (4, 1), (4, 4), (1, 4)}
    assert {tuple(point) for point in island[0]} == {(2, 2), (3, 2), (3, 3), (2, 3)}


def segmentation(labels):
    image = np.zeros((*labels.shape, 3), np.uint8)
    return Segmentation(labels, image, CLASSES[:3], COLOURS[:3])


@given(MASKS)
@settings(deadline=None, max_examples=60)
def test_run_lengths_and_polygons_hold_every_class(labels):
    labels = np.where(labels == 3, 255, labels).astype(np.uint8)
    result = segmentation(labels)
    present = {CLASSES[index] for index in np.unique(labels) if index != 255}
    compressed, plain = result.rle(), result.rle(compressed=False)
    assert set(compressed) == set(plain) == present
    for name in present:
        for code in (compressed[name], plain[name]):
            expected = labels == CLASSES.index(name)
            np.testing.assert_array_equal(decode_runs(Runs(**code)), expected)
        assert all(length > 0 for length in plain[name]["counts"][1:])
    features = json.loads(json.dumps(result.polygons()))["features"]
    assert {feature["properties"]["class"] for feature in features} == present
    for feature in features:
        mask = filled(feature["geometry"]["coordinates"], *labels.shape)
        np.testing.assert_array_equal(mask, labels == feature["properties"]["index"])


@pytest.mark.parametrize("columns", [1, 3])
def test_run_lengths_do_not_depend_on_how_many_columns_are_read_together(monkeypatch, columns):
    labels = np.random.default_rng(0).integers(0, 3, (4, 10)).astype(np.uint8)
    labels[:, 4:8] = 1  # a run over whole columns
    whole = segmentation(labels).rle()
    monkeypatch.setattr(run_lengths, "_COLUMNS", columns)
    assert segmentation(labels).rle() == whole


# What is shown and saved


def test_overlays_show_the_classes_asked_for():
    labels = np.repeat(np.array([[0, 1, 2]], np.uint8), 4, axis=1).repeat(6, axis=0)
    image = np.full((6, 12, 3), 90, np.uint8)
    result = Segmentation(labels, image, CLASSES[:3], COLOURS[:3])
    shown = np.asarray(result.overlay(1.0, legend=False, boundaries=False, classes=["CAR"]))
    np.testing.assert_array_equal(shown[labels == 1], np.broadcast_to(COLOURS[1], (24, 3)))
    np.testing.assert_array_equal(shown[labels != 1], image[labels != 1])
    with pytest.raises(sctnet.SctnetError, match="no class 'cat': choose from road, car, tree"):
        result.overlay(classes=["cat"])
    with pytest.raises(sctnet.SctnetError, match="alpha 2"):
        result.overlay(alpha=2.0)
    np.testing.assert_array_equal(image, 90)


def test_tall_overlays_have_no_seams():
    image, labels = street(1300, 20), np.zeros((1300, 20), np.uint8)
    result = overlay(image, labels, COLOURS, CLASSES, alpha=0.4, legend=False)
    expected = 0.6 * image + 0.4 * np.array(COLOURS[0])
    assert np.abs(result - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("ending", [".png", ".jpg", ".json", ".geojson", ".npy"])
def test_results_are_saved_by_their_ending(segmenter, tmp_path, ending):
    result = segmenter(street(40, 56), probabilities=True)
    file = tmp_path / f"result{ending}"
    result.save(file)
    if ending == ".png":
        np.testing.assert_array_equal(np.asarray(Image.open(file)), result.labels)
    elif ending == ".jpg":
        shown = np.asarray(Image.open(file)).astype(int)
        assert np.abs(shown - np.asarray(result.overlay())).mean() < 12
    elif ending == ".json":
        content = json.loads(file.read_text())
        assert (content["width"], content["height"]) == (56, 40)
        assert sum(each["pixels"] for each in content["classes"]) == 40 * 56
        for each in content["classes"]:
            runs = each["rle"] and decode_runs(Runs(**each["rle"])).sum()
            assert (runs or 0) == each["pixels"]
    elif ending == ".geojson":
        assert json.loads(file.read_text()) == result.polygons()
    else:
        np.testing.assert_array_equal(np.load(file), result.probabilities)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("name", "message"), [("a.gif", "end its name in"), ("a.npy", "there are no probabilities")]
)
def test_results_that_cannot_be_saved(segmenter, tmp_path, name, message):
    with pytest.raises(sctnet.SctnetError, match=message):
        segmenter(street(8, 8)).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_comparisons_lie_side_by_side():
    labels = np.zeros((300, 2000), np.uint8)
    image = np.full((300, 2000, 3), 77, np.uint8)
    shown = np.asarray(Segmentation(labels, image, CLASSES, COLOURS).comparison(alpha=1.0))
    assert (shown == 77).all(axis=2).sum() == 144 * 960
    assert (shown == COLOURS[0]).all(axis=2).sum() > 0.7 * 144 * 960  # the rest is legend


def test_supervision_takes_the_masks(segmenter):
    pytest.importorskip("supervision")
    result = segmenter(street(40, 56))
    detections = result.to_supervision()
    names = detections.data["class_name"].tolist()
    assert [CLASSES[index] for index in detections.class_id] == names
    for mask, index in zip(detections.mask, detections.class_id, strict=True):
        np.testing.assert_array_equal(mask, result.labels == index)


def test_supervision_missing_is_one_sentence(segmenter, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(sctnet.SctnetError, match="pip install supervision"):
        segmenter(street(8, 8)).to_supervision()
