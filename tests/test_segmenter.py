"""Segmenter: equal to the plain computation, for every kind of input it promises to take."""

import io

import numpy as np
import pytest
import torch
from drawn import street
from PIL import Image
from shared import CLASSES, decided_network, saved
from torch.nn import functional as F

import sctnet
from sctnet.checkpoints.model_folder import load_config
from sctnet.pipeline.preprocessing import Preprocessing, WorkingSize


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"), WorkingSize())


@pytest.fixture
def segmenter(folder):
    return sctnet.Segmenter(folder, device="cpu")


def plain_labels(folder, image):
    """The protocol, step by step: working size, stride 8, working size, the picture's size."""
    model = sctnet.load_model(folder).fuse()
    preparation = Preprocessing(load_config(folder).preparation)
    with torch.no_grad():
        prepared = preparation(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])
        logits = model(prepared)
        if logits.shape[2:] != image.shape[:2]:
            logits = F.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)
    return logits.argmax(1)[0].numpy()


@pytest.mark.parametrize(
    "working_size",
    [
        pytest.param(WorkingSize(), id="as is: one resize"),
        pytest.param(WorkingSize(rule="shorter-side", pixels=48), id="smaller: two resizes"),
        pytest.param(WorkingSize(rule="longer-side", pixels=160), id="larger"),
        pytest.param(WorkingSize(rule="fixed", height=64, width=64), id="another ratio"),
    ],
)
def test_labels_are_those_of_the_protocol(tmp_path, working_size):
    model, image = saved(tmp_path, working_size), street(90, 121)
    labels = sctnet.Segmenter(model, device="cpu")(image).labels
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, plain_labels(model, image))
    assert len(np.unique(labels)) > 1, "a map of one class would prove nothing"


def encoded(image, kind="PNG"):
    content = io.BytesIO()
    Image.fromarray(image).save(content, format=kind)
    return content.getvalue()


def test_every_kind_of_source_gives_the_same_labels(segmenter, tmp_path):
    image = street(40, 56)
    path = tmp_path / "street.png"
    path.write_bytes(encoded(image))
    expected = segmenter(image)
    for source in (path, str(path), encoded(image), Image.fromarray(image)):
        result = segmenter(source)
        np.testing.assert_array_equal(result.labels, expected.labels)
        np.testing.assert_array_equal(result.image, image)


def test_grey_pictures_are_taken(segmenter):
    grey = street(24, 32)[..., 0]
    expected = segmenter(np.stack([grey] * 3, axis=-1)).labels
    np.testing.assert_array_equal(segmenter(grey).labels, expected)
    np.testing.assert_array_equal(segmenter(Image.fromarray(grey)).labels, expected)


def test_a_turned_photo_is_labelled_upright(segmenter):
    photo = Image.fromarray(street(24, 40))
    exif = photo.getexif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    content = io.BytesIO()
    photo.save(content, format="PNG", exif=exif)
    from_bytes = segmenter(content.getvalue())
    from_pillow = segmenter(Image.open(content))
    assert from_bytes.labels.shape == (40, 24)
    np.testing.assert_array_equal(from_bytes.labels, from_pillow.labels)


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (33, 1), (7, 9), (65, 31)])
def test_pictures_of_any_size_are_labelled(segmenter, size):
    assert segmenter(street(*size)).labels.shape == size


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param(np.zeros((0, 4, 3), np.uint8), "not empty", id="empty"),
        pytest.param(np.zeros((4, 4, 4), np.uint8), "H x W x 3", id="four channels"),
        pytest.param(np.zeros((4,), np.uint8), "H x W x 3", id="a row"),
        pytest.param(np.zeros((4, 4, 3)), "give uint8", id="float64"),
        pytest.param(Image.new("F", (4, 4)), "8 bits", id="a PIL image of floats"),
        pytest.param(b"hello", "not an image", id="bytes that are no picture"),
        pytest.param("nowhere.jpg", "nowhere.jpg: no such file", id="no such file"),
    ],
)
def test_what_is_no_picture_is_refused(segmenter, source, message):
    with pytest.raises(sctnet.SctnetError, match=message):
        segmenter(source)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_pil_image_cut_short_is_refused(segmenter, kind):
    content = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), kind)
    opened = Image.open(io.BytesIO(content[:2000]))  # reads the header alone
    with pytest.raises(sctnet.SctnetError, match="the PIL image cannot be read"):
        segmenter(opened)


def test_a_name_is_resolved_once(folder, monkeypatch):
    asked = []

    def find(name):
        asked.append(name)
        return folder

    monkeypatch.setattr("sctnet.inference.segmenter.find_model", find)
    sctnet.Segmenter("owner/name", device="cpu")
    assert asked == ["owner/name"]


def test_a_picture_that_would_grow_beyond_reason_is_refused(tmp_path):
    model = saved(tmp_path, WorkingSize(rule="shorter-side", pixels=480))
    with pytest.raises(sctnet.SctnetError, match="cut it into pieces"):
        sctnet.Segmenter(model, device="cpu")(np.zeros((1, 2000, 3), np.uint8))


def test_batches_keep_the_order_and_the_sizes(segmenter):
    images = [street(32, 48, 1), street(32, 48, 2), street(40, 24, 3), street(32, 48, 4)]
    for image, labels in zip(images, segmenter.predict_labels(images), strict=True):
        alone = segmenter(image).labels
        assert labels.shape == alone.shape
        # A convolution may round otherwise in a batch, which can turn a near tie.
        assert (labels == alone).mean() > 0.999


def test_a_model_in_memory_is_used_and_left_as_it_is(folder):
    model = decided_network().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    segmenter = sctnet.Segmenter.from_model(model, load_config(folder), device="cpu")
    labels = segmenter(street(40, 56)).labels
    np.testing.assert_array_equal(labels, sctnet.Segmenter(folder, "cpu")(street(40, 56)).labels)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_half_precision_finds_nearly_the_same(folder):
    image = street(64, 96)
    full = sctnet.Segmenter(folder, "cpu")(image).labels
    half = sctnet.Segmenter(folder, "cpu", precision="bf16")(image).labels
    assert (full == half).mean() > 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"device": "toaster"}, "'toaster' cannot be used", id="no such device"),
        pytest.param({"device": "cuda:99"}, "'cuda:99' cannot be used", id="no such GPU"),
        pytest.param({"device": "meta"}, "'meta' cannot be used", id="a device without memory"),
        pytest.param({"precision": "fp8"}, "choose one of auto, fp32, bf16, fp16", id="precision"),
    ],
)
def test_unusable_options_are_refused(folder, options, message):
    with pytest.raises(sctnet.SctnetError, match=message):
        sctnet.Segmenter(folder, **options)


def test_a_segmentation_is_saved_measured_and_shown(segmenter, tmp_path):
    image = street(180, 240)
    result = segmenter(image)
    result.save(tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as read:
        np.testing.assert_array_equal(np.asarray(read), result.labels)
    areas = result.area()
    assert tuple(areas) == CLASSES
    assert sum(area["pixels"] for area in areas.values()) == 180 * 240
    assert sum(area["percent"] for area in areas.values()) == pytest.approx(100)
    assert areas["car"]["pixels"] == (result.labels == 1).sum()
    result.overlay().save(tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as shown:
        assert shown.size == (240, 180)
    np.testing.assert_array_equal(np.asarray(result.overlay(alpha=1.0, legend=False))[0, 0],
                                  result.colours[result.labels[0, 0]])  # fmt: skip


def test_more_than_255_classes_are_labelled_in_sixteen_bits(tmp_path):
    names = [f"class {index}" for index in range(300)]
    model = sctnet.save_model(decided_network(300), tmp_path / "model", classes=names)
    result = sctnet.Segmenter(model, device="cpu")(street(64, 64))
    assert result.labels.dtype == np.uint16
    np.testing.assert_array_equal(result.labels, plain_labels(model, result.image))
    result.save(tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as read:
        np.testing.assert_array_equal(np.asarray(read), result.labels)
