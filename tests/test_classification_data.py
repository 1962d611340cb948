"""Pictures with classes: every layout, every crop, and what is broken among them."""

import io
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import webdataset
from classified import KINDS, image_folder, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from sctnet.data.classification.dataset import ClassificationDataset
from sctnet.data.classification.loading import ClassificationStream, ClassifiedSample
from sctnet.data.classification.random_crops import (
    CropConfig,
    centre_crop,
    random_resized_crop,
    resized_side,
)
from sctnet.data.classification.registry import open_classified
from sctnet.data.images import EncodedImage, decode_image
from sctnet.data.loading import StepSampler, training_loader
from sctnet.errors import SctnetError

CONFIG = CropConfig(crop=32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("pictures"), {"train": 5, "val": 2})


def encoded(image: np.ndarray, ending: str = ".jpg", **options: object) -> EncodedImage:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, {".jpg": "JPEG", ".png": "PNG"}[ending], **options)
    return EncodedImage(stream.getvalue(), f"drawn{ending}")


def smooth(height: int, width: int) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (3, 4, 3)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


# Crops


def test_a_reduced_jpeg_is_the_picture_at_a_part_of_its_size() -> None:
    image = smooth(301, 397)
    jpeg = encoded(image, quality=95)
    assert (jpeg.height, jpeg.width) == (301, 397)
    for factor in (2, 4, 8):
        reduced = jpeg.decode(factor)
        assert reduced.shape == (-(-301 // factor), -(-397 // factor), 3)
        expected = cv2.resize(image, reduced.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(reduced.astype(int) - expected).mean() < 3
    assert np.array_equal(encoded(image, ".png").decode(4), image), "a PNG comes whole"


def test_a_picture_on_its_side_has_its_upright_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg = encoded(smooth(40, 60), exif=exif)
    assert (jpeg.height, jpeg.width) == (60, 40)
    assert jpeg.decode(2).shape == (60, 40, 3)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 9), st.sampled_from((32, 48)))
def test_any_size_gives_crops_of_the_side(height: int, width: int, seed: int, side: int) -> None:
    image = encoded(np.full((height, width, 3), 90, np.uint8))
    config = CropConfig(crop=side)
    crop = random_resized_crop(image, config, np.random.default_rng(seed))
    assert crop.shape == centre_crop(image, side).shape == (side, side, 3)
    assert np.abs(crop.astype(int) - 90).max() <= 2


def test_a_crop_decoded_smaller_is_the_crop_of_the_whole() -> None:
    image = smooth(512, 640)
    jpeg, png = encoded(image, quality=97), encoded(image, ".png")
    for seed in range(12):
        one, other = (
            random_resized_crop(kind, CONFIG, np.random.default_rng(seed)).astype(int)
            for kind in (jpeg, png)
        )
        assert np.abs(one - other).mean() < 4


def test_crops_keep_to_their_area_and_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture whose red is its row and whose green is its column shows what was cut."""
    rows, columns = np.indices((250, 250)).astype(np.uint8)
    image = encoded(np.stack([rows, columns, np.zeros_like(rows)], axis=2), ".png")
    config = CropConfig(crop=250, scale=(0.2, 0.4), ratio=(0.5, 2.0), flip=0.0)
    areas, ratios = [], []
    for seed in range(60):
        crop = random_resized_crop(image, config, np.random.default_rng(seed)).astype(int)
        height, width = (int(np.ptp(crop[..., part])) + 1 for part in (0, 1))
        areas.append(height * width / 250**2)
        ratios.append(width / height)
    assert 0.17 < min(areas) < 0.25
    assert 0.35 < max(areas) < 0.44
    assert 0.45 < min(ratios) < 0.65
    assert 1.5 < max(ratios) < 2.2


def test_the_centre_crop_is_that_of_the_resized_picture() -> None:
    assert [resized_side(side) for side in (224, 112, 128)] == [256, 128, 146]
    image = smooth(256, 320)
    crop = centre_crop(encoded(image, ".png"), 224)
    assert np.array_equal(crop, image[16:240, 48:272])
    larger = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    twice = centre_crop(encoded(larger, ".png"), 224)
    assert np.abs(twice.astype(int) - crop).mean() < 2


# The stream


def stream(data: ClassificationDataset, **options: object) -> ClassificationStream:
    return ClassificationStream(data, CropConfig(crop=32, **options), 3)


def test_a_sample_depends_on_its_number_alone(root: Path) -> None:
    data = open_classified(root, ["train"])
    forward = [stream(data)[k] for k in range(45)]
    backward = stream(data)
    for number in reversed(range(45)):
        for one, other in zip(backward[number], forward[number], strict=True):
            assert torch.equal(one, other)
    for epoch in range(2):
        order = [stream(data).picture_number(20 * epoch + k) for k in range(20)]
        assert sorted(order) == list(range(20))
    assert all(sample.view == -1 for sample in forward)
    pictures = [stream(data).picture_number(k) for k in range(45)]
    labels = [int(sample.label) for sample in forward]
    assert labels == [data.label(number) for number in pictures]


def test_fixed_crops_return(root: Path) -> None:
    data = open_classified(root, ["train"])
    fixed = stream(data, fixed_crops=2)
    by_view: dict[int, list[ClassifiedSample]] = {}
    for number in range(80):
        sample = fixed[number]
        by_view.setdefault(int(sample.view), []).append(sample)
    assert sorted(by_view) == list(range(40)), "each of two crops of twenty pictures"
    for first, second in by_view.values():
        assert torch.equal(first.image, second.image)
    assert not torch.equal(by_view[0][0].image, by_view[1][0].image)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_picture_is_reported_and_another_takes_its_place(
    tmp_path: Path, workers: int
) -> None:
    root = image_folder(tmp_path, {"train": 3})
    broken = root / "train" / "disc" / "1.png"
    broken.write_bytes(broken.read_bytes()[:80])
    data = open_classified(root, ["train"])
    told: list[str] = []
    kept = ClassificationStream(data, CONFIG, 0, skip_broken=True)
    loader = training_loader(
        kept, StepSampler(4, 3), workers, on_skip=lambda _number, why: told.append(why)
    )
    assert sum(len(batch.label) for batch in loader) == 12
    assert len(told) == 1
    assert str(broken) in told[0]
    with pytest.raises(SctnetError, match=r"disc/1\.png"):
        list(training_loader(ClassificationStream(data, CONFIG, 0), StepSampler(4, 3), workers))


# Layouts


def labels_by_name(data: ClassificationDataset) -> dict[str, int]:
    return {data.item_name(k): data.label(k) for k in range(len(data))}


def test_a_folder_for_each_class(root: Path) -> None:
    data = open_classified(root, ["train", "val"])
    assert data.classes == KINDS
    found = labels_by_name(data)
    assert len(found) == len(data) == 28
    assert found["train/disc/0.png"] == found["val/disc/1.png"] == 1
    assert np.array_equal(data.encoded(0).decode(), picture("bars", 0))


@pytest.mark.parametrize(
    ("change", "splits", "named"),
    [
        (lambda _: None, ["dusk"], "there is no split 'dusk': choose from train, val"),
        (lambda root: (root / "val" / "cats").mkdir(), ["val"], "train has no class"),
        (lambda _: None, [], "no split was named"),
    ],
)
def test_mistakes_in_a_folder_are_named(tmp_path: Path, change, splits, named: str) -> None:
    root = image_folder(tmp_path, {"train": 1, "val": 1})
    change(root)
    with pytest.raises(SctnetError, match=named):
        open_classified(root, splits)


def test_what_is_no_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(SctnetError, match="is no known classification data set"):
        open_classified(tmp_path, ["train"])
    with pytest.raises(SctnetError, match="nowhere does not exist"):
        open_classified("nowhere", ["train"])
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "loose.png").touch()
    with pytest.raises(SctnetError, match="is no known classification data set"):
        open_classified(tmp_path, ["train"])


# ImageNet: the devkit's IDs are not the order of the WNIDs.
IDS = {1: "tiles", 2: "bars", 3: "plain", 4: "disc"}
TRUTH = [3, 1, 4, 4, 2, 1]


def imagenet(root: Path, kaggle: bool = False) -> Path:
    pictures = root / "Data" / "CLS-LOC" if kaggle else root
    image_folder(pictures, {"train": 1})
    (pictures / "val").mkdir()
    for number, identity in enumerate(TRUTH, start=1):
        name = f"ILSVRC2012_val_{number:08d}"
        cv2.imwrite(str(pictures / "val" / f"{name}.JPEG"), picture(IDS[identity], number))
    if kaggle:
        lines = (
            f"ILSVRC2012_val_{number:08d},{IDS[identity]} 1 2 3 4 {IDS[identity]} 5 6 7 8"
            for number, identity in enumerate(TRUTH, start=1)
        )
        (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *lines]))
        return root
    devkit = root / "ILSVRC2012_devkit_t12" / "data"
    devkit.mkdir(parents=True)
    (devkit / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, TRUTH)))
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O")]
    rows = np.array([[row] for row in {**IDS, 5: "all of them"}.items()], dtype=kind)
    savemat(devkit / "meta.mat", {"synsets": rows})
    return root


@pytest.mark.parametrize("kaggle", [False, True])
def test_imagenet_as_published(tmp_path: Path, kaggle: bool) -> None:
    data = open_classified(imagenet(tmp_path, kaggle), ["val"])
    assert data.classes == KINDS
    assert [KINDS[data.label(k)] for k in range(len(data))] == [IDS[k] for k in TRUTH]
    assert data.item_name(2) == "val/ILSVRC2012_val_00000003.JPEG"
    assert data.encoded(2).decode().shape == (48, 56, 3)
    assert len(open_classified(tmp_path, ["train", "val"])) == 10


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("ILSVRC2012_validation_ground_truth.txt", b"1\n2\n", "does not fit the pictures"),
        ("ILSVRC2012_validation_ground_truth.txt", b"one", "does not fit the pictures"),
        ("ILSVRC2012_validation_ground_truth.txt", b"9\n" * 6, "does not fit the pictures"),
        ("ILSVRC2012_validation_ground_truth.txt", b"5\n" * 6, "all of them has no folder"),
        ("meta.mat", b"no matrix", "not the devkit's file of synsets"),
    ],
)
def test_a_devkit_that_does_not_fit_is_named(
    tmp_path: Path, file: str, content: bytes, named: str
) -> None:
    root = imagenet(tmp_path)
    (root / "ILSVRC2012_devkit_t12" / "data" / file).write_bytes(content)
    with pytest.raises(SctnetError, match=named):
        open_classified(root, ["val"])


# Shards


def shards(folder: Path, per_shard: int = 3) -> Path:
    """Write ten pictures as WebDataset's own writer does, and their description."""
    folder.mkdir(exist_ok=True)
    pattern = str(folder / "train-%02d.tar")
    with webdataset.ShardWriter(pattern, maxcount=per_shard, verbose=0) as writer:
        for number in range(10):
            kind = KINDS[number % 4]
            writer.write(
                {"__key__": f"{number:04d}", "jpg": picture(kind, number), "cls": number % 4}
            )
    (folder / "classes.txt").write_text("\n".join(KINDS))
    description = {"shards": {"train": "train-{00..03}.tar"}, "classes": "classes.txt"}
    (folder / "shards.yaml").write_text(json.dumps(description))
    return folder / "shards.yaml"


def assert_the_ten_pictures(data: ClassificationDataset) -> None:
    assert data.classes == KINDS
    assert [data.label(k) for k in range(len(data))] == [k % 4 for k in range(10)]
    for number in (9, 0, 4):
        pixels = data.encoded(number).decode().astype(int)
        assert np.abs(pixels - picture(KINDS[number % 4], number)).mean() < 8
    assert data.item_name(3) == "train-01.tar/0003.jpg"


def test_webdatasets_shards(tmp_path: Path) -> None:
    data = open_classified(shards(tmp_path), ["train"])
    assert_the_ten_pictures(data)
    batches = list(training_loader(ClassificationStream(data, CONFIG, 0), StepSampler(5, 2), 2))
    assert sorted(torch.cat([batch.label for batch in batches]).tolist()) == sorted(
        k % 4 for k in range(10)
    )


class _Quiet(SimpleHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        super().do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    shards(tmp_path / "served")
    _Quiet.asked = 0

    def handler(*arguments: object) -> _Quiet:
        return _Quiet(*arguments, directory=str(tmp_path / "served"))  # type: ignore[arg-type]

    with HTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def test_shards_by_url_are_downloaded_once(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCTNET_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "remote.yaml"
    file.write_text(
        json.dumps({"shards": {"train": f"{server}/train-{{00..03}}.tar"}, "classes": KINDS})
    )
    data = open_classified(file, ["train"])
    assert [data.label(k) for k in range(10)] == [k % 4 for k in range(10)]
    open_classified(file, ["train"])
    assert _Quiet.asked == 4
    assert len(list((tmp_path / "cache" / "shards").iterdir())) == 4, "and no part of one"
    file.write_text(json.dumps({"shards": {"train": f"{server}/other.tar"}, "classes": KINDS}))
    with pytest.raises(SctnetError, match=r"other\.tar: cannot be downloaded.*404"):
        open_classified(file, ["train"])


def _tar(file: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"a.jpg": b"x", "a.cls": b"7"}, r"a\.cls is 7, the classes have the numbers 0 to 3"),
        ({"a.jpg": b"x", "a.cls": b"cat"}, r"a\.cls holds no number"),
        ({"a.jpg": b"x", "b.cls": b"1"}, r"a\.jpg has no a\.cls"),
        ({"a.jpg": b"x", "a.cls": b"-1"}, r"a\.cls holds no number"),
    ],
)
def test_a_shard_that_is_wrong_is_named(
    tmp_path: Path, members: dict[str, bytes], named: str
) -> None:
    file = shards(tmp_path)
    _tar(tmp_path / "train-02.tar", members)
    with pytest.raises(SctnetError, match=f"train-02.tar.*{named}"):
        open_classified(file, ["train"])


def test_a_shard_cut_short_and_a_broken_picture_are_named(tmp_path: Path) -> None:
    file = shards(tmp_path)
    whole = (tmp_path / "train-01.tar").read_bytes()
    (tmp_path / "train-01.tar").write_bytes(whole[:700])
    with pytest.raises(SctnetError, match=r"train-01\.tar: not a whole tar file"):
        open_classified(file, ["train"])
    _tar(tmp_path / "train-01.tar", {"a.jpg": b"no picture", "a.cls": b"2"})
    data = open_classified(file, ["train"])
    with pytest.raises(SctnetError, match=r"train-01\.tar/a\.jpg: not an image"):
        data.encoded(3)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[1]", "shards.yaml: the file"),
        ("{shards: {}, classes: [a, b]}", "shards.yaml: shards"),
        ("{shards: {train: a.tar}, classes: [a]}", "name two or more"),
        ("{shards: {train: a.tar}, classes: [a, a]}", "name two or more"),
        ("{shards: {train: a.tar}, classes: none.txt}", "none.txt cannot be read"),
        ("{shards: {train: 'a-{5..1}.tar'}, classes: [a, b]}", "stands for no row"),
        ("{shards: {train: 'a-{0..9999999}.tar'}, classes: [a, b]}", "stands for no row"),
        ("{shards: {train: a.tar}, classes: [a, b], more: 1}", "shards.yaml: more"),
        ("{shards: {train: nowhere.tar}, classes: [a, b]}", "nowhere.tar: not a whole tar"),
        ("{shards: {train: 'ftp://a/b.tar'}, classes: [a, b]}", "b.tar: not a whole tar"),
    ],
)
def test_a_description_that_is_wrong_is_named(tmp_path: Path, content: str, named: str) -> None:
    (tmp_path / "shards.yaml").write_text(content)
    with pytest.raises(SctnetError) as caught:
        open_classified(tmp_path / "shards.yaml", ["train"])
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_decode_image_still_decodes_whole() -> None:
    image = smooth(64, 96)
    stream_ = io.BytesIO()
    Image.fromarray(image).save(stream_, "PNG")
    assert np.array_equal(decode_image(stream_.getvalue(), "a.png"), image)
