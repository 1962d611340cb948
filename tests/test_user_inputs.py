"""What users bring: files as other programs write them, copies that broke off, odd names."""

import io
import re
import struct
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from mutated import RGB, copies, mutated, pictures, with_checksums
from PIL import Image, TiffImagePlugin

from sctnet.data.images import EncodedImage, image_size, read_image, read_mask, read_mask_encoding
from sctnet.errors import SctnetError
from sctnet.inference.sources import read_source

GREY = RGB[..., 0]
SAMPLES = pictures()


def jpeg(exif: bytes = b"") -> bytes:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "JPEG", quality=95, subsampling=0, exif=exif)
    return file.getvalue()


def tiff(samples: np.ndarray, extra: tuple[int, ...] | None, order: str = "<") -> bytes:
    """Write bands to a TIFF whose tag says grey; ``extra`` are its ExtraSamples."""
    height, width, bands = samples.shape
    pixels = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    tags = {
        256: [width], 257: [height], 258: [8 * samples.itemsize] * bands, 259: [1], 262: [1],
        277: [bands], 278: [height], 284: [1], 338: extra or [],
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

    @pytest.mark.parametrize("name", list(SAMPLES))
    def test_half_a_file_is_a_sentence(self, name: str, tmp_path: Path) -> None:
        path = tmp_path / "half"
        whole = SAMPLES[name]
        path.write_bytes(whole[: len(whole) * 3 // 10])
        for read in (read_image, read_mask):
            with pytest.raises(SctnetError, match=r"half: .*(damaged|cannot be of kind)"):
                read(path)

    def test_mutated_files_give_pixels_or_a_sentence(self, tmp_path: Path) -> None:
        path, read_whole, told = tmp_path / "picture", 0, []
        for _, data in copies(SAMPLES, range(370)):
            path.write_bytes(data)
            for read in (read_image, read_mask, read_mask_encoding, smaller, size):
                try:
                    read(path)
                    read_whole += 1
                except SctnetError as error:
                    told.append(str(error))
        assert [each for each in told if not re.fullmatch(rf"{path}: [^\n]+", each)] == []
        assert min(read_whole, len(told)) > 300, "nothing was damaged, or all of it"

    def test_mutation_is_repeatable_and_reaches_behind_checksums(self) -> None:
        png = SAMPLES["PNG RGB"]
        assert mutated(png, 3) == mutated(png, 3) != png
        assert with_checksums(png) == png
        assert with_checksums(png[:40] + b"?" + png[41:]) != png


def smaller(path: Path) -> np.ndarray:
    return EncodedImage(path.read_bytes(), str(path)).decode(4)


def size(path: Path) -> tuple[int, int]:
    return image_size(path.read_bytes(), str(path))


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

    def test_values_of_another_range_are_told(self, tmp_path: Path) -> None:
        cv2.imwrite(str(tmp_path / "a.tif"), GREY.astype(np.float32) * 40)
        with pytest.raises(SctnetError, match=r"a\.tif: its floating-point values reach 8800"):
            read_image(tmp_path / "a.tif")


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

    def test_others_are_told_with_their_depth_and_a_value(self, tmp_path: Path) -> None:
        values = np.full((4, 4, 3), [3, 2, 1000], np.uint16)
        cv2.imwrite(str(tmp_path / "mask.png"), values)
        with pytest.raises(SctnetError, match=r"mask\.png: .*16 bits a channel.*\[1000, 2, 3\]"):
            read_mask(tmp_path / "mask.png")
