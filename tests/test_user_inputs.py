"""What users bring: files as other programs write them, copies that broke off, odd names."""

import io
import json
import multiprocessing
import os
import re
import signal
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
from mutated import READERS, RGB, copies, mutated, pictures, told, with_checksums
from PIL import Image, TiffImagePlugin
from shared import CLASSES, decided_network

from sctnet.checking.check import Report, check_dataset, open_splits
from sctnet.checking.fixes import write_fix
from sctnet.checking.page import save_check_page
from sctnet.checkpoints.model_folder import ModelConfig, find_model, load_config
from sctnet.cli import main
from sctnet.cli.tables import check_summary
from sctnet.data.augmentation import AugmentationConfig
from sctnet.data.classification.registry import open_classified
from sctnet.data.dataset import FileDataset
from sctnet.data.images import (
    EncodedImage,
    decode_image,
    frame_count,
    image_size,
    read_first,
    read_image,
    read_mask,
)
from sctnet.data.labelme import LabelNames, read_labelme
from sctnet.data.loading import StepSampler, TrainingStream, training_loader
from sctnet.data.picture_files import JPEG_ENDINGS, left_out_sentence, pictures_below
from sctnet.data.registry import open_dataset
from sctnet.data.streams import read_pairs
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.errors import SctnetError
from sctnet.inference.batch_prediction import PicturePredictor
from sctnet.inference.files import find_pictures
from sctnet.inference.segmenter import Segmenter
from sctnet.inference.sources import read_source
from sctnet.inference.video.files import find_videos
from sctnet.inference.video.source import open_video
from sctnet.training.auto_recipe import choose_recipe
from sctnet.training.recipe import load_recipe
from sctnet.training.segmentation_task import open_segmentation
from sctnet.training.trainer import train
from sctnet.writing import cache_folder

GREY = RGB[..., 0]
LABELS = np.zeros(GREY.shape, np.uint8)
LABELS[8:16], LABELS[16:] = 1, 2
SAMPLES = pictures()


def jpeg(exif: bytes = b"") -> bytes:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "JPEG", quality=95, subsampling=0, exif=exif)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return decode_image(data, "it")


def tiff(
    samples: np.ndarray, extra: tuple[int, ...] | None, order: str = "<", planar: int = 1
) -> bytes:
    """Write bands to a TIFF whose tag says grey; ``extra`` are its ExtraSamples."""
    height, width, bands = samples.shape
    pixels = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    tags = {
        256: [width], 257: [height], 258: [8 * samples.itemsize] * bands, 259: [1], 262: [1],
        277: [bands], 278: [height], 284: [planar], 338: extra or [],
        339: [3 if samples.dtype.kind == "f" else 1] * bands,
    }  # fmt: skip
    tags = {tag: values for tag, values in sorted(tags.items()) if values}
    lists = 8 + 2 + 12 * (len(tags) + 2) + 4
    entries, tail = b"", b""
    for tag, values in tags.items():
        content = struct.pack(f"{order}{len(values)}H", *values)
        if len(content) > 4:
            place = struct.pack(f"{order}I", lists + len(tail))
            tail += content
        else:
            place = content.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, 3, len(values)) + place
    for tag, value in ((273, lists + len(tail)), (279, len(pixels))):
        entries += struct.pack(f"{order}HHII", tag, 4, 1, value)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return head + struct.pack(f"{order}H", len(tags) + 2) + entries + bytes(4) + tail + pixels


class TestDamagedPictures:
    @pytest.mark.parametrize(
        "exif", [b"Exif\0\0not what it says", b"text", b"Exif\0\0II*\0\xff\xff\xff\xff"]
    )
    def test_exif_that_cannot_be_read_counts_as_none(self, exif: bytes) -> None:
        segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
        whole = jpeg()
        data = whole[:2] + segment + whole[2:]
        assert (read_source(data) == read_source(whole)).all()
        with warnings.catch_warnings(action="ignore"):  # Pillow's, of a caller's own opening
            opened = Image.open(io.BytesIO(data))
        assert (read_source(opened) == read_source(whole)).all()

    def test_exif_that_cannot_be_written_again_still_turns_the_picture(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        data = jpeg(exif.tobytes())

        def fail(*_: object) -> bytes:
            raise struct.error("a value that its type cannot hold")

        monkeypatch.setattr(Image.Exif, "tobytes", fail)
        assert (read_source(data) == np.rot90(read_source(jpeg()), -1)).all()

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
    def test_all_orientations_are_applied_in_all_formats(self, kind: str, orientation: int) -> None:
        file, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = orientation
        options = {"lossless": True} if kind == "WEBP" else {}
        Image.fromarray(RGB).save(file, kind, exif=exif, **options)
        turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}[orientation]
        expected = np.rot90(RGB, turns)
        expected = expected[:, ::-1] if orientation in {2, 4, 5, 7} else expected
        image = EncodedImage(file.getvalue(), "x")
        assert (image.height, image.width) == expected.shape[:2]
        assert (image.decode() == expected).all()

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["PNG", "deep PNG", "palette PNG", "TIFF", "WEBP"])
    def test_masks_are_turned_as_pictures_are(
        self, kind: str, orientation: int, tmp_path: Path
    ) -> None:
        path, exif = tmp_path / "mask", Image.Exif()
        exif[0x0112] = orientation
        options = {"lossless": True} if kind == "WEBP" else {}
        Image.fromarray(RGB).save(path, kind.split()[-1], exif=exif, **options)
        expected = read_image(path)
        if kind == "palette PNG":
            paletted(GREY, [(level, level, level) for level in range(256)]).save(
                path, "PNG", exif=exif
            )
            expected = expected[..., 0]
        if kind == "deep PNG":
            deep = cv2.imencode(".png", RGB[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
            note = exif.tobytes().removeprefix(b"Exif\0\0")
            chunk = struct.pack(">I", len(note)) + b"eXIf" + note + bytes(4)
            path.write_bytes(with_checksums(deep[:33] + chunk + deep[33:]))
        assert (read_mask(path) == expected).all()

    @pytest.mark.parametrize("name", list(SAMPLES))
    def test_half_a_file_is_a_sentence(self, name: str, tmp_path: Path) -> None:
        path = tmp_path / "half"
        whole = SAMPLES[name]
        path.write_bytes(whole[: len(whole) * 3 // 10])
        for read in (read_image, read_mask):
            with pytest.raises(SctnetError, match=r"half: .*(damaged|cannot be of kind)"):
                read(path)

    def test_broken_pngs_write_nothing_to_the_terminal(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        encoded = cv2.imencode(".png", RGB)[1].tobytes()
        for place in range(10, len(encoded), len(encoded) // 40):
            flipped = bytearray(encoded)
            flipped[place] ^= 0x55
            for broken in (encoded[:place], bytes(flipped)):
                (tmp_path / "a.png").write_bytes(broken)
                told(read_image, tmp_path / "a.png")
        (tmp_path / "a.png").write_bytes(encoded)
        assert (read_image(tmp_path / "a.png") == RGB[..., ::-1]).all()
        assert "libpng" not in capfd.readouterr().err

    @pytest.mark.parametrize("what", READERS)
    def test_damaged_files_are_read_or_told_in_a_sentence(self, what: str, tmp_path: Path) -> None:
        """``tools/fuzz_readers.py`` does the same for minutes."""
        samples, read = READERS[what]
        path = tmp_path / "file.yaml"  # which the readers of YAML ask for
        sentences = []
        for name, data in copies(samples(), range(30 if what == "video" else 222)):
            path.write_bytes(data)
            sentence = told(read, path)
            sentences += [] if sentence is None else [f"{name}: {sentence}"]
        assert [each for each in sentences if "\n" in each or str(tmp_path) not in each] == []
        path.write_bytes(next(iter(samples().values())))
        assert told(read, path) is None

    def test_mutation_is_repeatable_and_reaches_behind_checksums(self) -> None:
        png = SAMPLES["PNG RGB"]
        assert mutated(png, 3) == mutated(png, 3) != png
        assert with_checksums(png) == png
        assert with_checksums(png[:40] + b"?" + png[41:]) != png


class TestTiffs:
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize(
        ("bands", "extra"),
        [(3, (0, 0)), (3, None), (4, (0, 0, 0)), (4, (0, 0, 2)), (4, None), (5, (0, 0, 0, 0))],
    )
    def test_three_bands_are_colours_whatever_the_tag_says(
        self, bands: int, extra: tuple[int, ...] | None, order: str, tmp_path: Path
    ) -> None:
        more = np.full((*GREY.shape, bands - 3), 9, np.uint8)
        path = tmp_path / "bands.tif"
        path.write_bytes(tiff(np.dstack([RGB, more]), extra, order))
        assert (read_image(path) == RGB).all()
        if bands < 5:
            path.write_bytes(tiff(np.dstack([RGB, more]).astype(np.uint16) * 257, extra, order))
            assert (read_image(path) == RGB).all()

    def test_other_bands_are_told(self, tmp_path: Path) -> None:
        path = tmp_path / "bands.tif"
        path.write_bytes(tiff(np.ones((4, 4, 9), np.uint16), (0,) * 8))
        with pytest.raises(SctnetError, match="TIFF with 9 bands of whole numbers of 16 bits"):
            read_image(path)
        path.write_bytes(tiff(np.ones((4, 4, 3), np.float32), (0,) * 2))
        with pytest.raises(SctnetError, match="3 bands of floating-point numbers of 32 bits"):
            read_image(path)
        path.write_bytes(tiff(np.ones((4, 4, 1), np.float16), None))
        with pytest.raises(SctnetError, match="1 band of floating-point numbers of 16 bits"):
            read_image(path)
        path.write_bytes(tiff(RGB.astype(np.uint16), (0, 0), planar=2))
        with pytest.raises(SctnetError, match="3 bands of 16 bits that lie one after the other"):
            read_image(path)

    @pytest.mark.parametrize("largest", [1, 255])
    @pytest.mark.parametrize(
        "missing", [np.nan, np.inf, -np.inf, -9999, 9999, 1e20, -3.4028235e38, 3.4028235e38]
    )
    def test_values_that_stand_for_none_leave_the_others_as_they_are(
        self, missing: float, largest: int, tmp_path: Path
    ) -> None:
        values = GREY.astype(np.float32) * largest / 255
        cv2.imwrite(str(tmp_path / "whole.tif"), values)
        values[:10, :10] = missing
        cv2.imwrite(str(tmp_path / "holes.tif"), values)
        whole, holes = read_image(tmp_path / "whole.tif"), read_image(tmp_path / "holes.tif")
        assert (whole[..., 0] == GREY).all()
        assert not holes[:10, :10].any()
        holes[:10, :10] = whole[:10, :10]
        assert (holes == whole).all()

    def test_a_declared_value_for_none_does_not_tell_the_range(self, tmp_path: Path) -> None:
        values = GREY.astype(np.float32) / 255
        values[:10, :10] = 100
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[42113] = "100\0"
        Image.fromarray(values).save(tmp_path / "holes.tif", tiffinfo=tags)
        assert (read_image(tmp_path / "holes.tif")[10:, 10:, 0] == GREY[10:, 10:]).all()

    def test_grey_of_twelve_bits_is_as_bright_as_it_was(self, tmp_path: Path) -> None:
        values = np.arange(32, dtype=np.uint16).reshape(4, 8) * 132
        left, right = values.ravel()[::2], values.ravel()[1::2]
        packed = np.stack([left >> 4, (left & 15) << 4 | right >> 8, right & 255], 1)
        samples = packed.astype(np.uint8).reshape(4, 12, 1)
        data = bytearray(tiff(samples, None))
        for tag, value in ((256, 8), (258, 12)):  # the width, and the bits
            place = data.index(struct.pack("<HHI", tag, 3, 1)) + 8
            data[place : place + 2] = struct.pack("<H", value)
        path = tmp_path / "a.tif"
        path.write_bytes(data)
        expected = np.round(values * (255 / 4095)).astype(np.uint8)
        np.testing.assert_array_equal(read_image(path)[..., 0], expected)
        np.testing.assert_array_equal(read_mask(path), values)
        file = io.BytesIO()
        Image.fromarray(values).save(file, "TIFF", tiffinfo={281: 4095})
        np.testing.assert_array_equal(decoded(file.getvalue())[..., 0], expected)
        file = io.BytesIO()
        Image.fromarray(values).save(file, "TIFF", tiffinfo={281: 4000})
        assert decoded(file.getvalue()).max() == 16, "a range that its values leave is none"

    @pytest.mark.parametrize(
        ("tag", "value", "sentence"),
        [
            (259, 9999, "a TIFF with the compression 9999, which cannot be read"),
            (262, 6, "luminance and chrominance .YCbCr. that are not JPEG, which cannot"),
            (277, 300, "damaged or cut short"),
            (277, 0, "damaged or cut short"),
            (339, 9, "damaged or cut short"),
            (258, 0, "damaged or cut short"),
            (258, 10, "1 band of whole numbers of 10 bits, which cannot be read"),
        ],
    )
    def test_a_tag_is_blamed_for_what_it_says(
        self, tag: int, value: int, sentence: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        data = bytearray(tiff(np.zeros((8, 8, 1), np.uint8), None))
        place = data.index(struct.pack("<HHI", tag, 3, 1)) + 8
        data[place : place + 2] = struct.pack("<H", value)
        with pytest.raises(SctnetError, match=sentence):
            decoded(bytes(data))
        assert capfd.readouterr() == ("", "")

    def test_values_of_another_range_are_told(self, tmp_path: Path) -> None:
        cv2.imwrite(str(tmp_path / "a.tif"), GREY.astype(np.float32) * 40)
        with pytest.raises(
            SctnetError, match=r"a\.tif: its floating-point values lie .* 8800, and 0"
        ):
            read_image(tmp_path / "a.tif")

    @pytest.mark.parametrize(
        ("low", "high", "told"),
        [
            (280, 310, "lie between 280 and 310, and 0 to 1 or 0 to 255"),
            (-1, 1, "lie between -1 and 1"),
            (-20, 40, "lie between -20 and 40"),
            (np.nan, np.nan, "none of its values counts"),
            (-9999, -9999, "none of its values counts"),
        ],
    )
    def test_floats_that_would_be_white_or_black_are_told(
        self, low: float, high: float, told: str, tmp_path: Path
    ) -> None:
        values = np.linspace(low, high, GREY.size, dtype=np.float32).reshape(GREY.shape)
        cv2.imwrite(str(tmp_path / "a.tif"), values)
        with pytest.raises(SctnetError, match=rf"a\.tif: .*{told}"):
            read_image(tmp_path / "a.tif")

    def test_floats_may_overshoot_a_little(self, tmp_path: Path) -> None:
        for largest in (1, 255):
            values = GREY.astype(np.float32) * largest / 255
            values[0, :2] = -0.1 * largest, -0.05 * largest
            values[1, :2] = 1.1 * largest, 1.2 * largest
            cv2.imwrite(str(tmp_path / "a.tif"), values)
            seen = read_image(tmp_path / "a.tif")[..., 0]
            assert (seen[2:] == GREY[2:]).all()
            assert (seen[0, :2].tolist(), seen[1, :2].tolist()) == ([0, 0], [255, 255])

    @pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint32])
    def test_signed_and_long_whole_numbers_are_scaled_by_their_range(
        self, kind: type[np.generic], tmp_path: Path
    ) -> None:
        path = tmp_path / "a.tif"

        def write(values: np.ndarray) -> None:
            samples = {np.int16: 2, np.int32: 2, np.uint32: 1}[kind]
            data = tiff(values.astype(kind)[..., None], None)
            path.write_bytes(
                data.replace(
                    struct.pack("<HHIH", 339, 3, 1, 1), struct.pack("<HHIH", 339, 3, 1, samples)
                )
            )

        write(GREY)
        assert (read_image(path)[..., 0] == GREY).all()
        deep = GREY.astype(np.int64) * (100 if kind is np.int16 else 257)
        write(deep)
        assert (read_image(path)[..., 0] == (deep / 257).round()).all()
        if kind is np.uint32:
            return
        write(np.where(LABELS == 0, -9999, GREY.astype(np.int64)))
        assert (read_image(path)[..., 0] == np.where(LABELS == 0, 0, GREY)).all()
        write(GREY.astype(np.int64) - 100)
        with pytest.raises(
            SctnetError, match=r"whole numbers lie between -\d+ and \d+, and 0 to 255 or"
        ):
            read_image(path)


class TestOtherFiles:
    @pytest.mark.parametrize(
        ("beginning", "told"),
        [
            (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC cannot be read here: save it as PNG or JPEG"),
            (b"\xff\x0a\x7f", "JPEG XL cannot be read"),
            (b'<?xml version="1.0"?><svg/>', "SVG cannot be read"),
            (b"8BPS\0\1", "Photoshop's PSD|damaged"),
            (b"\x89PNG\r\n\x1a\n", "damaged or cut short"),
            (b"\0\0\0\x1cftypavif", "damaged or cut short"),
            (b"hello", "not an image"),
        ],
    )
    def test_what_no_decoder_takes_is_called_by_its_name(
        self, beginning: bytes, told: str, tmp_path: Path
    ) -> None:
        (tmp_path / "file.jpg").write_bytes(beginning)
        with pytest.raises(SctnetError, match=rf"file\.jpg: .*({told})"):
            read_image(tmp_path / "file.jpg")


class TestDeepColourMasks:
    @pytest.mark.parametrize("ending", [".png", ".tif"])
    @pytest.mark.parametrize("factor", [1, 257])
    def test_stretched_or_plain_eight_bit_colours_are_read(
        self, factor: int, ending: str, tmp_path: Path
    ) -> None:
        path = tmp_path / f"mask{ending}"
        alpha = np.full(GREY.shape, 40000, np.uint16)
        cv2.imwrite(str(path), np.dstack([RGB[..., ::-1].astype(np.uint16) * factor, alpha]))
        assert (read_mask(path) == RGB).all()

    def test_deep_numbers_beside_alpha_are_read(self, tmp_path: Path) -> None:
        """Pillow reads 16-bit grey with alpha as 8 bits, and writes none."""
        rows = b"".join(
            b"\0" + b"".join(struct.pack(">HH", 300 + column, 65535) for column in range(6))
            for _ in range(2)
        )
        header = struct.pack(">IIBBBBB", 6, 2, 16, 4, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n"
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
            data += struct.pack(">I", len(body)) + kind + body + bytes(4)
        (tmp_path / "mask.png").write_bytes(with_checksums(data))
        assert read_mask(tmp_path / "mask.png").tolist() == [list(range(300, 306))] * 2

    def test_others_are_told_with_their_depth_and_a_value(self, tmp_path: Path) -> None:
        values = np.full((4, 4, 3), [3, 2, 1000], np.uint16)
        cv2.imwrite(str(tmp_path / "mask.png"), values)
        with pytest.raises(SctnetError, match=r"mask\.png: .*16 bits a channel.*\[1000, 2, 3\]"):
            read_mask(tmp_path / "mask.png")

    COLOURS = np.array([(128, 0, 0), (0, 128, 0), (0, 0, 255)], np.uint16)

    def source(self, folder: Path, low: int) -> Path:
        """Write a set whose masks are the classes' colours in the upper bytes, and ``low``."""
        source = write_set(folder, ["a.png", "b.png"])
        for name in ("a", "b"):
            deep = (self.COLOURS[LABELS] << 8) + np.uint16(low)
            cv2.imwrite(str(folder / f"masks/train/{name}.png"), deep[..., ::-1])
        source.write_text(
            "images: {train: images/train}\nmasks: {train: masks/train}\nrgb_masks: true\n"
            f"classes: [wall, plant, sky]\ncolours: {self.COLOURS.tolist()}\n"
        )
        return source

    def test_the_checker_writes_label_maps_where_nothing_is_lost(self, tmp_path: Path) -> None:
        source = self.source(tmp_path / "set", 3)
        report = checked(source)
        assert [(each.cause, each.count) for each in report.findings] == [("deep-mask", 2)]
        assert "[32771, 3, 3]" in report.findings[0].details[0]
        assert "give a folder" in write_fix(report, tmp_path / "fixed.yaml")[0]
        write_fix(report, tmp_path / "fixed")
        fixed = open_dataset(tmp_path / "fixed" / "data.yaml", ["train"])
        assert (fixed.labels(1) == LABELS).all()
        assert checked(tmp_path / "fixed" / "data.yaml").findings == ()

    def test_it_leaves_out_masks_whose_colours_would_become_one(self, tmp_path: Path) -> None:
        source = self.source(tmp_path / "set", 3)
        path = tmp_path / "set" / "masks" / "train" / "a.png"
        deep = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        deep[0, 0] += 1
        cv2.imwrite(str(path), deep)
        report = checked(source)
        told = {finding.cause: finding.details for finding in report.findings}
        assert "--fix FOLDER" in told["deep-mask"][-1]
        assert "a.png" in told["unreadable-mask"][0]
        assert "--fix" not in told["unreadable-mask"][0]
        lines = write_fix(report, tmp_path / "fixed")
        assert "1 masks" in lines[0]
        assert "a.png: the mask's colours have 16 bits" in lines[-1]
        assert "--fix" not in lines[-1]


class TestWrongColours:
    def source(self, folder: Path, held: Sequence[tuple[int, ...]], **fields: object) -> Path:
        """Write a set whose masks hold three colours, and its description."""
        source = write_set(folder, ["a.png", "b.png"])
        for name in ("a", "b"):
            mask = np.array(held, np.uint8)[LABELS]
            Image.fromarray(mask).save(folder / "masks" / "train" / f"{name}.png")
        described = {"images": {"train": "images/train"}, "masks": {"train": "masks/train"}}
        source.write_text(json.dumps({**described, **fields}))  # which is YAML
        return source

    NAMES: ClassVar = {"classes": ["road", "car", "tree"], "rgb_masks": True}

    def test_red_and_blue_swapped_are_known_and_mended(self, tmp_path: Path) -> None:
        held = [(128, 64, 128), (0, 0, 142), (107, 142, 35)]
        swapped = [colour[::-1] for colour in held]
        source = self.source(tmp_path, held, colours=swapped, **self.NAMES)
        report = checked(source)
        (finding,) = report.findings
        assert finding.cause == "swapped-channels"
        write_fix(report, tmp_path / "fixed.yaml")
        assert checked(tmp_path / "fixed.yaml").findings == ()

    def test_a_colour_that_is_a_level_off_names_its_nearest(self, tmp_path: Path) -> None:
        held = [(128, 64, 128), (0, 0, 141), (107, 142, 35)]
        meant = [(128, 64, 128), (0, 0, 142), (107, 142, 35)]
        (finding,) = checked(self.source(tmp_path, held, colours=meant, **self.NAMES)).findings
        assert "[0, 0, 141] is 1 level off car's [0, 0, 142]" in finding.sentence

    def test_a_colour_that_never_occurs_is_said_with_what_occurs_instead(
        self, tmp_path: Path
    ) -> None:
        held = [(128, 64, 128), (9, 9, 9), (107, 142, 35)]
        meant = [(128, 64, 128), (0, 0, 142), (107, 142, 35)]
        source = self.source(
            tmp_path, held, colours=meant, ignored_colours=[(9, 9, 9)], **self.NAMES
        )
        (finding,) = checked(source).findings
        assert finding.sentence == (
            "classes that never occur: car; what the masks hold instead is ignored: "
            "[9, 9, 9] (33.3 %)"
        )

    def test_so_is_a_number(self, tmp_path: Path) -> None:
        source = write_set(tmp_path, ["a.png", "b.png"])
        for name in ("a", "b"):
            mask = np.array([7, 8, 26], np.uint8)[LABELS]
            cv2.imwrite(str(tmp_path / "masks" / "train" / f"{name}.png"), mask)
        text = source.read_text().replace("[road, car]", "[road, car, tree]")
        source.write_text(f"{text}ids: {{7: 0, 11: 1, 26: 2}}\n")
        (finding,) = checked(source).findings
        assert "never occur: car; what the masks hold instead is ignored: 8 (33" in finding.sentence


class Unreadable(SyntheticStreets):
    """Streets of which one does to its reader what ``kind`` says."""

    def __init__(self, kind: str) -> None:
        super().__init__(0, 8, (48, 64))
        self.kind = kind

    def pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index == 5:
            if self.kind == "ends":
                os.kill(os.getpid(), signal.SIGKILL)
            raise {"error": KeyError("not ours"), "memory": MemoryError()}[self.kind]
        return super().pair(index)


class TestReaders:
    @pytest.mark.parametrize(
        ("kind", "told"),
        [
            ("error", "KeyError: 'not ours'"),
            ("memory", "the memory did not suffice"),
            ("ends", "/dev/shm"),
        ],
    )
    def test_whatever_happens_to_a_worker_ends_training_in_one_sentence(
        self, kind: str, told: str
    ) -> None:
        stream = TrainingStream(Unreadable(kind), AugmentationConfig(crop=(32, 32)), 0)
        batches = iter(training_loader(stream, StepSampler(4, 4), workers=2))
        with pytest.raises(SctnetError, match=told) as caught:
            list(batches)
        assert "\n" not in str(caught.value)
        assert multiprocessing.active_children() == []

    def test_a_picture_is_not_skipped_for_want_of_memory(self) -> None:
        def skipped(kind: str) -> int:
            data, crops = Unreadable(kind), AugmentationConfig(crop=(32, 32))
            stream = TrainingStream(data, crops, 0, skip_broken=True)
            return sum(len(stream.load(number)[1]) for number in range(8))

        assert skipped("error") == 1
        with pytest.raises(SctnetError, match=r"00005\.png: the memory did not suffice"):
            skipped("memory")

    def test_what_a_worker_cannot_send_ends_training(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = TrainingStream(Unreadable(""), AugmentationConfig(crop=(32, 32)), 0)
        monkeypatch.setattr(
            "sctnet.data.loading.default_collate", lambda _: lambda: "is not picklable"
        )
        with pytest.raises(SctnetError, match="ended before its time"):
            list(training_loader(stream, StepSampler(4, 2), workers=1))
        assert multiprocessing.active_children() == []

    @pytest.mark.parametrize("workers", [1, 2])
    def test_evaluation_names_the_picture(self, workers: int) -> None:
        with pytest.raises(SctnetError, match=r"00005\.png: cannot be read \(KeyError"):
            list(read_pairs(Unreadable("error"), range(8), workers))

    def test_prediction_goes_on_with_the_next(self) -> None:
        def read(number: int) -> np.ndarray:
            if number == 1:
                raise RuntimeError("of a library")
            return np.zeros((32, 32, 3), np.uint8)

        model = decided_network()
        config = ModelConfig(network=model.config, classes=CLASSES)
        predictor = PicturePredictor[int](Segmenter.from_model(model, config), read, str)
        results = dict(predictor(range(3)))
        assert [number for number in results if isinstance(results[number], SctnetError)] == [1]
        assert "1: cannot be read (RuntimeError: of a library)" in str(results[1])


class TestCheckPage:
    def test_healthy_data_are_shown_too(self, tmp_path: Path) -> None:
        write_set(tmp_path, [f"{number}.png" for number in range(9)])
        report = checked(write_set(tmp_path, ["v.png"], "val"))
        assert {finding.cause for finding in report.findings} <= {"shared-picture"}
        save_check_page(report, tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text()
        train = page[page.index("Samples of train") : page.index("Samples of val")]
        assert re.findall(r"<figcaption>(.*)</figcaption>", train) == [
            text for number in (0, 2, 5, 8) for text in (f"train/{number}.png", "labels")
        ]
        assert train.count("data:image/jpeg;base64,") == 8

    def test_samples_show_masks_as_they_are_where_they_are_wrong(self, tmp_path: Path) -> None:
        source = write_set(tmp_path, ["a.png", "b.png"])
        source.write_text(source.read_text().replace("classes: [road, car]", "classes: [road, x]"))
        for name in ("a", "b"):
            cv2.imwrite(str(tmp_path / "masks" / "train" / f"{name}.png"), LABELS + 1)
        report = checked(source)
        assert report.diagnoses
        save_check_page(report, tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text()
        assert "in colours: 1, 2, 3" in page[page.index("Samples of train") :]


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")


def write_set(folder: Path, names: Iterable[str], split: str = "train") -> Path:
    """Write pictures with masks of two classes, and the YAML that describes them."""
    mask = np.zeros(GREY.shape, np.uint8)
    mask[:9] = 1
    for number, name in enumerate(names):
        picture = folder / "images" / split / name
        picture.parent.mkdir(parents=True, exist_ok=True)
        content = np.roll(RGB, number, axis=1)
        kind = "JPEG" if picture.suffix.lower() in JPEG_ENDINGS else None
        Image.fromarray(content).save(picture, kind)
        stored = folder / "masks" / split / Path(name).with_suffix(".png")
        stored.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(stored), mask)
    splits = sorted(path.name for path in (folder / "images").iterdir())
    (folder / "data.yaml").write_text(
        f"images: {{{', '.join(f'{each}: images/{each}' for each in splits)}}}\n"
        f"masks: {{{', '.join(f'{each}: masks/{each}' for each in splits)}}}\n"
        "classes: [road, car]\n"
    )
    return folder / "data.yaml"


def checked(source: Path) -> Report:
    return check_dataset(source, open_splits(source))


class TestFoldersAreWalkedInOneWay:
    def test_linked_folders_are_followed_and_loops_are_not(self, tmp_path: Path) -> None:
        touch(tmp_path / "far" / "a.png", tmp_path / "near" / "b.png", tmp_path / "far/sub/c.png")
        (tmp_path / "near" / "linked").symlink_to("../far")
        (tmp_path / "far" / "itself").symlink_to(".")
        (tmp_path / "far" / "sub" / "up").symlink_to("../..")
        (tmp_path / "far" / "sub" / "back").symlink_to("../../near")
        found = pictures_below(tmp_path / "near").taken
        below = [path.relative_to(tmp_path / "near").as_posix() for path in found]
        assert below == ["b.png", "linked/a.png", "linked/sub/c.png"]

    def test_a_link_to_itself_is_one_failure(self, tmp_path: Path) -> None:
        for part in ("train/car", "train/road"):
            touch(tmp_path / part / "a.png")
            (tmp_path / part / "me").symlink_to("me")
            (tmp_path / part / "me.png").symlink_to("me.png")
        (tmp_path / "train" / "me").symlink_to("me")
        below = pictures_below(tmp_path / "train" / "car")
        assert [path.name for path in below.taken] == ["a.png", "me.png"]
        assert below.left_out == {"no ending": 1}
        with pytest.raises(SctnetError, match=r"me\.png: cannot be read \(Too many levels"):
            read_image(below.taken[1])
        assert open_classified(tmp_path, ["train"]).classes == ("car", "road")

    def test_names_with_a_dot_in_front_are_not_looked_at(self, tmp_path: Path) -> None:
        touch(
            tmp_path / "a.png", tmp_path / "._a.png", tmp_path / ".cache" / "b.png",
            tmp_path / "c" / ".ipynb_checkpoints" / "d.png", tmp_path / ".DS_Store",
        )  # fmt: skip
        assert pictures_below(tmp_path) == ([tmp_path / "a.png"], {})

    def test_what_is_left_out_is_counted_by_ending(self, tmp_path: Path) -> None:
        touch(*(tmp_path / name for name in ("a.JPG", "b.tga", "c.tga", "d.txt", "e", "f.jfif")))
        below = pictures_below(tmp_path)
        assert [path.name for path in below.taken] == ["a.JPG", "f.jfif"]
        sentence = "4 files of other endings left out: .tga 2, .txt 1, no ending 1"
        assert left_out_sentence(below.left_out) == sentence
        assert left_out_sentence({}) == ""

    def test_a_folder_that_cannot_be_listed_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(SctnetError, match=r"cannot be listed \(Permission denied\)"):
            pictures_below(tmp_path)

    def test_prediction_goes_on_beside_a_folder_that_cannot_be_listed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        touch(
            *(tmp_path / name for name in ("in/a.png", "in/sub/b.png", "in/z/c.png", "v/w/d.mp4"))
        )
        closed = {str(tmp_path / "in" / "sub"), str(tmp_path / "v" / "closed")}
        (tmp_path / "v" / "closed").mkdir()
        scan = os.scandir

        def refuse(folder: str) -> object:
            if str(folder) in closed:
                raise PermissionError(13, "Permission denied")
            return scan(folder)

        monkeypatch.setattr(os, "scandir", refuse)
        inputs, out = [str(tmp_path / "in"), str(tmp_path / "v")], tmp_path / "out"
        videos, others = find_videos(inputs, out)
        assert ([video.name.name for video in videos], others) == (["d"], inputs)
        found, failures = find_pictures(others, out)
        assert [item.path.name for item in found] == ["a.png", "c.png"]
        told = "cannot be listed (Permission denied): allow it"
        assert failures == [f"{tmp_path}/in/sub: {told}", f"{tmp_path}/v/closed: {told}"]

    def test_prediction_takes_every_ending_and_counts_the_rest(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        touch(*(tmp_path / name for name in ("a.jfif", "b.jpe", "c.mp4", "d.tga", "._e.jpg")))
        with caplog.at_level("WARNING"):
            found, failures = find_pictures([str(tmp_path)], tmp_path / "out")
        assert [item.path.name for item in found] == ["a.jfif", "b.jpe"]
        assert failures == []
        assert caplog.messages == [f"{tmp_path}: 1 file of another ending left out: .tga 1"]

    def test_a_glob_through_a_loop_takes_each_picture_once(self, tmp_path: Path) -> None:
        touch(tmp_path / "a.png", tmp_path / "sub" / "b.png")
        (tmp_path / "sub" / "loop").symlink_to("..")
        found, _ = find_pictures([f"{tmp_path}/**/*.png"], tmp_path / "out")
        assert [item.path for item in found] == [tmp_path / "a.png", tmp_path / "sub" / "b.png"]

    def test_training_reads_linked_folders_and_all_endings(self, tmp_path: Path) -> None:
        write_set(tmp_path / "far", ["a.jpg", "b.jfif", "c.jpe", "d.gif", "e.ppm"])
        source = write_set(tmp_path / "near", ["f.png"])
        for kind in ("images", "masks"):
            (tmp_path / "near" / kind / "train" / "far").symlink_to(tmp_path / f"far/{kind}/train")
        data = open_dataset(source, ["train"])
        assert len(data) == 6
        assert {data.labels(index).shape for index in range(6)} == {GREY.shape}
        assert checked(source).findings == ()

    def test_the_checker_counts_what_is_left_out(self, tmp_path: Path) -> None:
        source = write_set(tmp_path, ["a.png", "b.png"])
        touch(tmp_path / "images" / "train" / "c.heic", tmp_path / "images" / "train" / "._a.png")
        report = checked(source)
        assert report.findings == ()
        assert report.splits[0].left_out == {".heic": 1}
        assert json.loads(report.to_json())["splits"]["train"]["left_out"] == {".heic": 1}
        lines = [str(line) for line in check_summary(report)]
        assert "  train: 1 file of another ending left out: .heic 1" in lines

    def test_masks_without_a_picture_are_a_finding(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        source = write_set(tmp_path, ["a.png", "b.png"])
        (tmp_path / "images" / "train" / "a.png").unlink()
        (finding,) = checked(source).findings
        assert (finding.cause, finding.is_error, finding.count) == ("missing-picture", False, 1)
        assert "masks/train/a.png has no picture" in finding.details[0]
        with caplog.at_level("WARNING"):
            assert len(open_dataset(source, ["train"])) == 1
        assert "masks without a picture are left out (1): " in caplog.text

    @pytest.mark.parametrize("beside", [False, True])
    def test_files_without_the_suffix_are_a_finding(
        self, beside: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        masks = tmp_path if beside else tmp_path / "masks"
        images = tmp_path if beside else tmp_path / "images"
        for name in ("a_img", "b_img", "c_IMG"):
            touch(images / f"{name}.png")
        for name in ("a_mask", "b_mask", "a_colours", "c_MASK"):
            masks.mkdir(exist_ok=True)
            Image.fromarray(LABELS).save(masks / f"{name}.png")
        source = tmp_path / "data.yaml"
        source.write_text(
            f"images: {{train: {images}}}\nmasks: {{train: {masks}}}\nclasses: [sky, road, car]\n"
            "image_suffix: _img\nmask_suffix: _mask\n"
        )
        (finding,) = [each for each in checked(source).findings if each.cause == "other-suffix"]
        expected = {"c_IMG.png", "c_MASK.png"} | ({"a_colours.png"} if beside else set())
        named = {Path(detail.split(" does not end in ")[0]).name for detail in finding.details}
        assert (finding.is_error, finding.count, named) == (False, len(expected), expected)
        with caplog.at_level("WARNING"):
            assert len(open_dataset(source, ["train"])) == 2
        assert f"files without the suffix of the YAML file are left out ({len(expected)})" in (
            caplog.text
        )

    def test_so_are_shapes_without_a_picture(self, tmp_path: Path) -> None:
        shapes = {"shapes": [], "imageHeight": HEIGHT, "imageWidth": WIDTH}
        for name in ("a", "b"):
            # LabelMe may write the picture itself first, which takes megabytes.
            whole = {"imageData": "A" * 3_000_000, **shapes} if name == "b" else shapes
            (tmp_path / f"{name}.json").write_text(json.dumps(whole))
        (tmp_path / "classes.json").write_text("{}")
        Image.fromarray(RGB).save(tmp_path / "a.png")
        source = tmp_path / "data.yaml"
        source.write_text("images: {train: .}\nmasks: {train: .}\nclasses: [background, car]\n")
        found = {finding.cause: finding.count for finding in checked(source).findings}
        assert found["missing-picture"] == 1

    def test_splits_may_share_a_folder_of_masks(self, tmp_path: Path) -> None:
        write_set(tmp_path, ["a.png"])
        write_set(tmp_path, ["b.png"], "val")
        source = tmp_path / "data.yaml"
        for mask in (tmp_path / "masks" / "val").iterdir():
            mask.rename(tmp_path / "masks" / "train" / mask.name)
        source.write_text(source.read_text().replace("masks/val", "masks/train"))
        causes = {finding.cause for finding in checked(source).findings}
        assert "missing-picture" not in causes

    def test_further_frames_are_told(self, tmp_path: Path) -> None:
        source = write_set(tmp_path, ["a.gif", "b.gif"])
        path = tmp_path / "images" / "train" / "a.gif"
        path.write_bytes(SAMPLES["animated GIF"])
        (finding,) = checked(source).findings
        assert (finding.cause, finding.is_error, finding.count) == ("several-frames", False, 1)
        assert read_first(path).frames == 2
        assert (read_first(path).pixels == read_image(path)).all()
        counts = {name: frames(SAMPLES[name], tmp_path) for name in SAMPLES}
        assert {name for name in counts if counts[name] == 2} == {
            f"animated {kind}" for kind in ("GIF", "PNG", "WEBP", "TIFF")
        }
        assert set(counts.values()) == {1, 2}

    def test_smaller_copies_and_masks_within_a_tiff_are_no_frames(self, tmp_path: Path) -> None:
        small = Image.fromarray(RGB[::2, ::2].copy())
        small.encoderinfo = {"tiffinfo": {254: 1}}
        path = tmp_path / "overviews.tif"
        Image.fromarray(RGB).save(path, save_all=True, append_images=[small])
        assert frame_count(path) == 1


def frames(data: bytes, folder: Path) -> int:
    (folder / "frames").write_bytes(data)
    return frame_count(folder / "frames")


HEIGHT, WIDTH = GREY.shape
OUTLINE = [[4, 4, 12, 4, 12, 10, 4, 10]]
"""Of the same rectangle as ``BOX``: 9 x 7 pixels."""
BOX = [4, 4, 8, 6]


def write_coco(
    folder: Path, file_names: Sequence[str], annotations: Iterable[dict[str, object]]
) -> Path:
    images = [
        {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH}
        for number, name in enumerate(file_names)
    ]
    content = {
        "images": images,
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [{"category_id": 1, **each} for each in annotations],
    }
    (folder / "labels.json").write_text(json.dumps(content))
    (folder / "data.yaml").write_text(
        "images: {train: images}\npolygons: {train: labels.json}\nclasses: [background, car]\n"
    )
    return folder / "data.yaml"


class TestCoco:
    @pytest.mark.parametrize(
        "nothing", [{}, {"segmentation": None}, {"segmentation": []}, {"segmentation": [[]]}]
    )
    def test_a_box_without_an_area_is_filled_and_told(
        self, nothing: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        touch(tmp_path / "images" / "a.png", tmp_path / "images" / "b.png")
        source = write_coco(
            tmp_path,
            ["a.png", "b.png"],
            [
                {"id": 7, "image_id": 0, "segmentation": OUTLINE},
                {"id": 8, "image_id": 1, "bbox": BOX, **nothing},
            ],
        )
        with caplog.at_level("WARNING"):
            data = open_dataset(source, ["train"])
        assert data.labels(0).sum() == 63
        assert (data.labels(1) == data.labels(0)).all()
        assert "1 annotations have a box and no area" in caplog.text

    @pytest.mark.parametrize("box", [None, [], [4, 4, 0, 6], [4, 4, 8]])
    def test_an_annotation_without_both_is_named(self, box: object, tmp_path: Path) -> None:
        touch(tmp_path / "images" / "a.png")
        source = write_coco(tmp_path, ["a.png"], [{"id": 31, "image_id": 0, "bbox": box}])
        with pytest.raises(SctnetError, match="annotation 31 has neither an area nor a box"):
            open_dataset(source, ["train"])

    @pytest.mark.parametrize(
        "area",
        [
            {"bbox": [WIDTH + 5, 1, 8, 6]},
            {"segmentation": [[-9, -9, -2, -9, -2, -4]]},
            {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}},
            {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [9, 0, HEIGHT * WIDTH - 9]}},
            {"segmentation": {"size": [HEIGHT, WIDTH], "counts": "Ph0"}},
        ],
    )
    def test_an_annotation_that_covers_no_pixel_is_a_finding(
        self, area: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        touch(tmp_path / "images" / "a.png")
        kept = {"id": 30, "image_id": 0, "bbox": BOX}
        source = write_coco(tmp_path, ["a.png"], [kept, {"id": 31, "image_id": 0, **area}])
        (finding,) = [each for each in checked(source).findings if each.cause == "empty-area"]
        assert (finding.is_error, finding.count) == (False, 1)
        assert "the annotation 31 covers no pixel of a.png" in finding.details[0]
        with caplog.at_level("WARNING"):
            assert open_dataset(source, ["train"]).labels(0).sum() == 63
        assert "the annotation 31 covers no pixel" in caplog.text

    def test_pictures_that_are_not_listed_are_counted(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        touch(*(tmp_path / "images" / name for name in ("a.png", "b.png", "c.png", "d.heic")))
        source = write_coco(tmp_path, ["a.png"], [{"image_id": 0, "bbox": BOX}])
        with caplog.at_level("WARNING"):
            assert len(open_dataset(source, ["train"])) == 1
        assert "pictures that are not listed are left out (2): " in caplog.text
        report = checked(source)
        found = {finding.cause: finding.count for finding in report.findings}
        assert found["unlisted-picture"] == 2
        assert report.splits[0].left_out == {".heic": 1}

    def test_splits_may_share_a_folder_of_pictures(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        touch(tmp_path / "images" / "a.png", tmp_path / "images" / "b.png")
        source = write_coco(tmp_path, ["a.png"], [{"image_id": 0, "bbox": BOX}])
        source.write_text(
            "images: {train: images, val: images}\nclasses: [background, car]\n"
            "polygons: {train: labels.json, val: labels.json}\n"
        )
        with caplog.at_level("WARNING"):
            open_dataset(source, ["train"])
        assert "not listed" not in caplog.text

    def test_two_categories_of_one_id_are_told(self, tmp_path: Path) -> None:
        touch(tmp_path / "images" / "a.png")
        source = write_coco(tmp_path, ["a.png"], [{"image_id": 0, "bbox": BOX}])
        path = tmp_path / "labels.json"
        content = json.loads(path.read_text())
        content["categories"].append({"id": 1, "name": "background"})
        path.write_text(json.dumps(content))
        with pytest.raises(SctnetError, match="'car' and 'background' have one id, 1"):
            open_dataset(source, ["train"])

    def test_a_polygon_of_two_points_names_its_annotation(self, tmp_path: Path) -> None:
        touch(tmp_path / "images" / "a.png")
        line = {"id": 31, "image_id": 0, "segmentation": [[1, 1, 5, 5]]}
        source = write_coco(tmp_path, ["a.png"], [line])
        with pytest.raises(SctnetError, match="a polygon of the annotation 31 has 2 points"):
            open_dataset(source, ["train"])

    @pytest.mark.parametrize(
        "file_name",
        [
            r"..\..\label-studio\media\upload\4\my photo.png",
            "/label-studio/data/media/upload/4/my photo.png",
            "../../../data/local/my photo.png",
            "images/sub/my photo.png",
            r"images\sub\my photo.png",
            "/data/local-files/?d=my%20photo.png",
            "http://localhost:8080/data/upload/4/my%20photo.png",
            "sub/my photo.png",
        ],
    )
    def test_paths_of_other_programs_lead_to_the_picture(
        self, file_name: str, tmp_path: Path
    ) -> None:
        picture = tmp_path / "images" / "sub" / "my photo.png"
        touch(picture, tmp_path / "images" / "other.png")
        data = open_dataset(
            write_coco(tmp_path, [file_name], [{"image_id": 0, "bbox": BOX}]), ["train"]
        )
        assert isinstance(data, FileDataset)
        assert [item.image for item in data.files] == [picture]
        assert data.labels(0).sum() == 63

    def test_a_name_of_thousands_of_letters_is_told_shortened(self, tmp_path: Path) -> None:
        touch(tmp_path / "images" / "a.png")
        source = write_coco(tmp_path, ["a" * 5000], [])
        told = r"the picture 'a{60}\.\.\. \(5000 characters\)' is not below"
        with pytest.raises(SctnetError, match=told):
            open_dataset(source, ["train"])

    def test_a_name_that_two_files_have_is_told(self, tmp_path: Path) -> None:
        touch(tmp_path / "images" / "a" / "p.png", tmp_path / "images" / "b" / "p.png")
        source = write_coco(tmp_path, ["../p.png"], [])
        with pytest.raises(SctnetError, match=r"could be a/p\.png or b/p\.png"):
            open_dataset(source, ["train"])


def write_layout(
    folder: Path, lines: Sequence[str], pictures: Sequence[str], mask: Image.Image, **files: str
) -> Path:
    """Write a data set in VOC's layout with one mask for all pictures; ``files`` are texts."""
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    for name in pictures:
        Image.fromarray(RGB).save(folder / "JPEGImages" / name)
        mask.save(folder / "SegmentationClass" / Path(name).with_suffix(".png"))
    (folder / "ImageSets" / "Segmentation" / "train.txt").write_text(
        "\n".join(lines), encoding="utf-8"
    )
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def paletted(labels: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(labels)
    image.putpalette([value for colour in colours for value in colour])
    return image


class TestLayoutsOfOtherPrograms:
    def test_a_byte_order_mark_is_no_part_of_a_text(self, tmp_path: Path) -> None:
        folder = write_layout(
            tmp_path, ["\ufeffa", "b"], ["a.jpg", "b.jpg"], Image.fromarray(LABELS),
            class_names="\ufeff__ignore__\n_background_\ncar\ntree\n",
        )  # fmt: skip
        data = open_dataset(folder, ["train"])
        assert (len(data), data.classes) == (2, ("background", "car", "tree"))
        source = write_set(tmp_path / "own", ["a.png"])
        source.write_text("\ufeff" + source.read_text(), encoding="utf-8")
        assert len(open_dataset(source, ["train"])) == 1

    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    def test_shapes_and_instances_may_begin_with_one(self, mark: str, tmp_path: Path) -> None:
        shape = {"label": "车", "points": [[0, 0], [9, 9]], "shape_type": "rectangle"}
        content = {"shapes": [shape], "imageHeight": HEIGHT, "imageWidth": WIDTH}
        path = tmp_path / "a.json"
        path.write_text(mark + json.dumps(content, ensure_ascii=False), encoding="utf-8")
        names = LabelNames(("background", "车"), ())
        assert read_labelme(names, path).sum() == 100
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="gb18030")
        with pytest.raises(SctnetError, match=r"a\.json: not UTF-8 text: save it as UTF-8"):
            read_labelme(names, path)

    def test_so_may_the_configuration_of_a_model(self, tmp_path: Path) -> None:
        text = (find_model("sctnet-s-camvid") / "config.json").read_text()
        path = tmp_path / "config.json"
        (tmp_path / "model.safetensors").touch()
        path.write_text("\ufeff" + text, encoding="utf-8")
        assert load_config(tmp_path) == load_config("sctnet-s-camvid")
        path.write_text(text, encoding="utf-16")
        with pytest.raises(SctnetError, match=r"config\.json: not UTF-8 text: save it as UTF-8$"):
            load_config(tmp_path)

    @pytest.mark.parametrize(
        ("line", "picture"),
        [
            ("my photo 1", "my photo 1.jpg"),
            ("a", "a.png"),
            ("a", "a.JPEG"),
            ("a.jpg", "a.jpg"),
            ("a  1", "a.jpg"),
            ("2024.05.01", "2024.05.01.jpg"),
        ],
    )
    def test_names_and_endings_of_ones_own(self, line: str, picture: str, tmp_path: Path) -> None:
        folder = write_layout(
            tmp_path, [line], [picture], Image.fromarray(LABELS), class_names="sky\nroad\ncar\n"
        )
        data = open_dataset(folder, ["train"])
        assert data.item_name(0) == picture
        assert (data.labels(0) == LABELS).all()

    def test_a_line_of_thousands_of_letters_is_told_shortened(self, tmp_path: Path) -> None:
        folder = write_layout(tmp_path, ["a" * 5000], ["a.jpg"], Image.fromarray(LABELS))
        with pytest.raises(SctnetError, match=r"a{60}\.\.\. \(5000 characters\)\.jpg: the picture"):
            open_dataset(folder, ["train"])

    COLOURS = ((250, 50, 83), (0, 0, 0), (61, 61, 245))
    LABELMAP = "# label:color_rgb:parts:actions\nsky:250,50,83::\nbackground:0,0,0::\ncar:61,61,245"

    @pytest.mark.parametrize(
        "line",
        [
            "JPEGImages/a.jpg",
            "VOC2012/JPEGImages/a.jpg VOC2012/SegmentationClass/a.png",
            "/JPEGImages/a.jpg\t/SegmentationClassAug/a.png",
            "C:\\data\\JPEGImages\\a.jpg",
        ],
    )
    def test_lines_may_be_paths(self, line: str, tmp_path: Path) -> None:
        folder = write_layout(
            tmp_path, [line], ["a.jpg"], Image.fromarray(LABELS), class_names="sky\nroad\ncar\n"
        )
        (folder / "SegmentationClassAug").mkdir()
        Image.fromarray(2 - LABELS).save(folder / "SegmentationClassAug" / "a.png")
        data = open_dataset(folder, ["train"])
        assert data.item_name(0) == "a.jpg"
        named = 2 - LABELS if "Aug" in line else LABELS
        assert (data.labels(0) == named).all(), "the mask that the line names counts"

    def test_a_labelmap_that_lacks_a_class_is_to_be_completed(self, tmp_path: Path) -> None:
        mask = Image.fromarray(np.array(self.COLOURS, np.uint8)[LABELS])
        shortened = "\n".join(self.LABELMAP.split("\n")[:-1])
        folder = write_layout(tmp_path, ["a"], ["a.jpg"], mask, labelmap=shortened)
        with pytest.raises(SctnetError, match=r"add a line such as name:61,61,245:: to the label"):
            open_dataset(folder, ["train"]).labels(0)

    @pytest.mark.parametrize("kind", ["colours", "palette", "shuffled palette", "numbers"])
    def test_labelmap_names_classes_and_colours(self, kind: str, tmp_path: Path) -> None:
        mask = {
            "colours": Image.fromarray(np.array(self.COLOURS, np.uint8)[LABELS]),
            "palette": paletted(LABELS, self.COLOURS),
            "shuffled palette": paletted(2 - LABELS, self.COLOURS[::-1]),
            "numbers": Image.fromarray(LABELS),
        }[kind]
        folder = write_layout(tmp_path, ["a"], ["a.jpg"], mask, labelmap=self.LABELMAP)
        data = open_dataset(folder, ["train"])
        assert (data.classes, data.colours) == (("sky", "background", "car"), self.COLOURS)
        assert (data.labels(0) == LABELS).all()

    def test_ade20k_takes_endings_in_capitals_and_counts_the_rest(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        images, masks = tmp_path / "images" / "training", tmp_path / "annotations" / "training"
        touch(*(images / name for name in ("a.jpg", "b.JPG", "c.txt", "._d.jpg")))
        touch(*(masks / name for name in ("a.PNG", "b.png", "e.png", "f.PNG")))
        with caplog.at_level("WARNING"):
            data = open_dataset(tmp_path, ["train"])
        assert isinstance(data, FileDataset)
        assert [item.image.name for item in data.files] == ["a.jpg", "b.JPG"]
        assert [item.mask.name for item in data.files] == ["a.PNG", "b.png"]
        assert "1 file of another ending left out: .txt 1" in caplog.text
        assert f"masks without a picture are left out (2): {masks / 'e.png'}" in caplog.text

    @pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
    def test_so_does_cityscapes(
        self, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        images, masks = tmp_path / "leftImg8bit/train/bonn", tmp_path / "gtFine/train/bonn"
        touch(*(images / f"{name}_leftImg8bit.{e}" for name, e in (("a", "png"), ("b", "PNG"))))
        touch(*(masks / f"{name}_gtFine_{kind}.{e}" for name, e in (("a", "PNG"), ("b", "png"))))
        touch(masks / "c_gtFine_labelIds.png", images / "d_leftImg8bit.jpg")
        cv2.imwrite(str(masks / f"b_gtFine_{kind}.png"), np.full((4, 4), 7, np.uint8))
        with caplog.at_level("WARNING"):
            data = open_dataset(tmp_path, ["train"])
        assert isinstance(data, FileDataset)
        assert [item.image.suffix for item in data.files] == [".png", ".PNG"]
        assert [item.mask.suffix for item in data.files] == [".PNG", ".png"]
        assert data.labels(1)[0, 0] == (0 if kind == "labelIds" else 7)
        assert "1 file of another ending left out: .jpg 1" in caplog.text
        assert "masks without a picture are left out (1): " in caplog.text

    def test_colours_without_a_labelmap_are_voc_s(self, tmp_path: Path) -> None:
        colours = np.array([(0, 0, 0), (128, 0, 0), (224, 224, 192), (1, 2, 3)], np.uint8)
        folder = write_layout(tmp_path, ["a"], ["a.jpg"], Image.fromarray(colours[LABELS]))
        data = open_dataset(folder, ["train"])
        assert (data.labels(0) == np.array([0, 1, 255])[LABELS]).all()
        Image.fromarray(colours[LABELS + 1]).save(tmp_path / "SegmentationClass" / "a.png")
        with pytest.raises(SctnetError, match=r"a\.png: the mask's colour \[1, 2, 3\] is none"):
            data.labels(0)

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("a:1,2,3\nb:1,2,3", "two classes have one colour"),
            ("a:1,2\nb:1,2,3", "'a:1,2' is not name:red,green,blue"),
            ("a:1,2,300\nb:1,2,3", "numbers to 255"),
            ("a:1,2,3", "1 different names"),
        ],
    )
    def test_mistakes_in_a_labelmap_are_told(self, text: str, told: str, tmp_path: Path) -> None:
        folder = write_layout(tmp_path, ["a"], ["a.jpg"], Image.fromarray(LABELS), labelmap=text)
        with pytest.raises(SctnetError, match=rf"labelmap\.txt: .*{told}"):
            open_dataset(folder, ["train"])

    def test_a_labelmap_without_colours_has_voc_s(self, tmp_path: Path) -> None:
        folder = write_layout(
            tmp_path, ["a"], ["a.jpg"], Image.fromarray(LABELS), labelmap="a:::\nb:::\nc:::\n"
        )
        assert open_dataset(folder, ["train"]).colours == ((0, 0, 0), (128, 0, 0), (0, 128, 0))


_FORK = """
import os, sys
import cv2, numpy, sctnet, torch
torch.set_num_threads(2); cv2.setNumThreads(2)
a, b = torch.rand(600, 600), numpy.zeros((2000, 2000, 3), numpy.uint8)
def compute():
    return (a @ a).relu().sum(), cv2.resize(b, (3000, 3000), interpolation=cv2.INTER_CUBIC)
compute()
child = os.fork()
if not child:
    compute()
    os._exit(7 if (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1) else 8)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(status, torch.get_num_threads(), cv2.getNumThreads())
"""


class TestSurroundings:
    def test_a_forked_process_computes_and_its_parent_keeps_its_threads(self) -> None:
        done = subprocess.run(
            [sys.executable, "-c", _FORK], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.split() == ["7", "2", "2"]

    def test_names_of_damaged_files_do_not_rule_the_terminal(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        name = "\x1b[31mred\nline.png"
        touch(tmp_path / "in" / "a.png")
        (tmp_path / "in" / name).write_bytes(b"?")
        words = ["predict", "sctnet-s-camvid", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["sctnet", *words])
        with pytest.raises(SystemExit, match="1"):
            main()
        assert r"in/\x1b[31mred\nline.png: not an image" in capfd.readouterr().err

    def test_caches_have_a_place_or_a_sentence(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache_folder() == tmp_path
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: tmp_path)
        assert cache_folder() == tmp_path / ".cache"

        def unknown() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", unknown)
        with pytest.raises(SctnetError, match="name a folder in XDG_CACHE_HOME"):
            cache_folder()
        for name in ("HF_HOME", "HF_HUB_CACHE"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(SctnetError, match="name a folder in XDG_CACHE_HOME"):
            Segmenter("owner/name")


class TestBeforeARun:
    @pytest.mark.parametrize("init", ["nowhere", "nowhere.pth"])
    def test_a_start_that_is_not_there_is_told_before_the_data_are_read(self, init: str) -> None:
        recipe = load_recipe(
            "synthetic/sctnet-tiny", [f"model.init={init}", "data.source=/no/such/data"]
        )
        with pytest.raises(SctnetError, match=f"^{init}: "):
            train(recipe, "run")

    def test_a_place_for_the_run_is_sought_before_the_data_are_read(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("no folder")
        recipe = load_recipe("synthetic/sctnet-tiny", ["data.source=/no/such/data"])
        with pytest.raises(SctnetError, match=r"file/run: cannot be written, because of .*file:"):
            train(recipe, tmp_path / "file" / "run")

    def test_one_picture_chooses_no_offsets(self, tmp_path: Path) -> None:
        write_set(tmp_path, ["a.png", "b.png"])
        source = write_set(tmp_path, ["c.png"], "val")
        chosen = choose_recipe(str(source), ["model.variant=sctnet-tiny"])[0]
        assert not chosen.data.calibrate
        asked = choose_recipe(str(source), ["model.variant=sctnet-tiny", "data.calibrate=true"])[0]
        with pytest.raises(SctnetError, match="one picture to validate on is not enough"):
            open_segmentation(asked)

    def test_pictures_to_validate_on_are_read_before_the_run(self, tmp_path: Path) -> None:
        write_set(tmp_path, ["a.png", "b.png"])
        source = write_set(tmp_path, ["c.png", "d.png", "e.png"], "val")
        recipe = choose_recipe(str(source), ["model.variant=sctnet-tiny"])[0]
        open_segmentation(recipe)
        for name in ("d", "e"):
            broken = tmp_path / "images" / "val" / f"{name}.png"
            broken.write_bytes(broken.read_bytes()[:60])
        with pytest.raises(SctnetError, match=r"^2 of 3 pictures to validate on .*d\.png: "):
            open_segmentation(recipe)

    @pytest.mark.parametrize(
        ("setting", "meant"),
        [
            ("iterations=5", "schedule.iterations"),
            ("schedule.iteration=5", "schedule.iterations"),
            ("run.batchsize=4", "run.batch_size"),
            ("augmentation.crops=[32,32]", "augmentation.crop"),
        ],
    )
    def test_an_unknown_field_names_what_was_meant(self, setting: str, meant: str) -> None:
        key = setting.partition("=")[0]
        told = rf"{key}: there is no such field; did you mean {meant}\?$"
        with pytest.raises(SctnetError, match=told):
            load_recipe("synthetic/sctnet-tiny", [setting])

    def test_nothing_alike_is_not_guessed(self) -> None:
        with pytest.raises(SctnetError, match=r"lr: there is no such field$"):
            load_recipe("synthetic/sctnet-tiny", ["lr=1"])

    def test_so_do_recipes_and_the_keys_of_data(self, tmp_path: Path) -> None:
        with pytest.raises(SctnetError, match=r"did you mean camvid/sctnet-s_360x480\?$"):
            load_recipe("camvid/sctnet-s_360x48")
        source = write_set(tmp_path, ["a.png"])
        source.write_text(source.read_text().replace("classes:", "class:"))
        with pytest.raises(SctnetError, match=r"did you mean classes\?$"):
            open_dataset(source, ["train"])

    def test_data_in_the_place_of_a_recipe_are_told(self, tmp_path: Path) -> None:
        source = write_set(tmp_path, ["a.png"])
        for given in (source, tmp_path):
            with pytest.raises(SctnetError, match=f"--data {given}$"):
                load_recipe(str(given))


class TestTheCases:
    """The inputs of public bug reports, drawn again: each with its right value."""

    @pytest.mark.parametrize(
        ("name", "pictures", "shares"),
        [
            ("03_rectangles/empty.yaml", {"train": 3}, None),
            ("05_endings/data/data.yaml", {"train": 9, "val": 2}, (40, 53.75, 6.25)),
            ("09_bom/class_names", {"train": 2, "val": 1}, (0, 40, 53.75, 6.25)),
            ("09_bom/list", {"train": 2}, None),
            ("09_bom/voc_spaces", {"train": 2, "val": 1}, (40, 53.75, 6.25)),
            ("09_bom/voc_png", {"train": 2, "val": 1}, (40, 53.75, 6.25)),
            ("11_cvat", {"train": 3, "val": 1}, (0, 40, 53.75, 6.25)),
            ("12_labelstudio/win.yaml", {"train": 2}, None),
            ("12_labelstudio/q.yaml", {"train": 2}, None),
            ("12_labelstudio/abs.yaml", {"train": 2}, None),
            ("12_labelstudio/rel.yaml", {"train": 2}, None),
            ("12_labelstudio/winimages.yaml", {"train": 2}, None),
            ("13_hidden/data.yaml", {"train": 6, "val": 2}, (40, 53.75, 6.25)),
            ("13_hidden/jupyter/data.yaml", {"train": 6, "val": 2}, (40, 53.75, 6.25)),
            ("17_deep_colour_masks/data.yaml", {"train": 3, "val": 2}, None),
        ],
    )
    def test_the_checker_reads_all(
        self,
        name: str,
        pictures: dict[str, int],
        shares: Sequence[float] | None,
        real_data: Path,
    ) -> None:
        report = checked(real_data / "cases" / name)
        assert {
            split: report.tallies[split].pictures for split in report.tallies if split in pictures
        } == pictures
        causes = {finding.cause for finding in report.findings}
        assert causes <= {"absent-class"}, "the first class of two cases shows nowhere"
        if shares is not None:
            counts = report.tallies["train"].pixels[: len(report.classes)]
            np.testing.assert_allclose(100 * counts / counts.sum(), shares)

    def test_boxes_without_an_area_are_filled(self, real_data: Path) -> None:
        tally = checked(real_data / "cases/03_rectangles/empty.yaml").tallies["train"]
        assert tally.occurrences[1] == 3
        assert tally.pixels[1] == 3 * 1271

    def test_shapes_of_another_encoding_are_told(self, real_data: Path) -> None:
        report = checked(real_data / "cases/09_bom/labelme/data.yaml")
        (finding,) = report.findings
        assert finding.details[0].endswith("i0.json: not UTF-8 text: save it as UTF-8")
        assert report.tallies["train"].occurrences[1] == 2

    def test_a_mask_without_a_picture_is_found(self, real_data: Path) -> None:
        (finding,) = checked(real_data / "cases/06_orphan/data.yaml").findings
        assert finding.cause == "missing-picture"
        assert "masks/train/p0.png has no picture" in finding.details[0]

    def test_values_that_are_none_leave_the_others(self, real_data: Path) -> None:
        folder = real_data / "cases/07_nan"
        whole = read_image(folder / "h_grey32f_01.tif")
        for name in ("i_grey32f_01_nan.tif", "k_grey32f_01_inf.tif"):
            differ = np.argwhere((read_image(folder / name) != whole).any(-1))
            assert differ.max() < 10
            assert whole.max() == 197

    def test_three_bands_are_colours(self, real_data: Path) -> None:
        first, *others = (
            read_image(path) for path in sorted((real_data / "cases/10_tiff").iterdir())
        )
        assert len(others) == 2
        assert all((other == first).all() for other in others)

    def test_folders_are_labelled_whole(self, real_data: Path, tmp_path: Path) -> None:
        for name, count in (("05_endings", 9), ("13_hidden/images", 8)):
            found, failures = find_pictures([str(real_data / "cases" / name)], tmp_path)
            own = [each for each in found if name != "05_endings" or "data" not in each.path.parts]
            assert failures == []
            assert len([each for each in own if each.path.parent.name != "masks"]) >= count

    def test_damaged_pictures_are_one_sentence_each(self, real_data: Path) -> None:
        folder = real_data / "cases/01_damaged_picture"
        for path in folder.iterdir():
            sentence = told(read_image, path)
            assert (sentence is not None) == ("_cut_" in path.name)
            assert sentence is None or path.name in sentence
        assert read_image(folder / "i_exif_doubled.jpg").shape[:2] != (
            image_size((folder / "i_exif_doubled.jpg").read_bytes(), "it")
        ), "its orientation is applied"

    def test_videos_that_state_no_count_are_whole(self, real_data: Path) -> None:
        for path in sorted((real_data / "cases/08_video").iterdir()):
            with open_video(path) as source:
                assert sum(1 for _ in source.frames()) > 1
