"""Every kind of image file, good and bad, against Pillow's and OpenCV's writers."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sctnet.data import images
from sctnet.data.images import decode_image, read_image, read_mask
from sctnet.errors import SctnetError

RANDOM = np.random.default_rng(0)
# Large flat patches survive JPEG.
RGB = np.kron(RANDOM.integers(0, 256, (3, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8)
GREY = RGB[..., 0]


def encoded(array: np.ndarray, mode: str, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(array)
    (image if image.mode == mode else image.convert(mode)).save(file, kind, **options)
    return file.getvalue()


def jpeg(**options: object) -> bytes:
    return encoded(RGB, "RGB", "JPEG", quality=95, subsampling=0, **options)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(values: np.ndarray, depth: int, colour_type: int = 0) -> bytes:
    """Write a PNG by hand, for depths that Pillow does not write; a row fills whole bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    height, width = values.shape
    per_byte = 8 // depth
    rows = b""
    for row in values:
        bits = [int(value) << (8 - depth * (1 + i % per_byte)) for i, value in enumerate(row)]
        rows += b"\0" + bytes(sum(bits[i : i + per_byte]) for i in range(0, width, per_byte))
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


DEEP_GREY = cv2.imencode(".png", GREY.astype(np.uint16) * 257)[1].tobytes()
DEEP_RGB = cv2.imencode(".png", RGB[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
THREE_GREYS = np.repeat(GREY[..., None], 3, axis=2)
ALPHA = np.dstack([RGB, np.full(GREY.shape, 77, np.uint8)])
PALETTE = Image.fromarray(RGB).quantize(64)


@pytest.mark.parametrize(
    ("data", "expected", "tolerance"),
    [
        pytest.param(encoded(RGB, "RGB", "PNG"), RGB, 0, id="png"),
        pytest.param(jpeg(), RGB, 12, id="jpeg"),
        pytest.param(encoded(RGB, "RGB", "BMP"), RGB, 0, id="bmp"),
        pytest.param(encoded(RGB, "RGB", "TIFF"), RGB, 0, id="tiff"),
        pytest.param(encoded(RGB, "RGB", "WEBP", lossless=True), RGB, 0, id="webp"),
        pytest.param(encoded(GREY, "L", "PNG"), THREE_GREYS, 0, id="grey-becomes-three-channels"),
        pytest.param(encoded(GREY, "L", "JPEG"), THREE_GREYS, 6, id="grey-jpeg"),
        pytest.param(encoded(ALPHA, "RGBA", "PNG"), RGB, 0, id="alpha-is-dropped"),
        pytest.param(
            encoded(np.asarray(PALETTE.convert("RGB")), "RGB", "PNG"),
            np.asarray(PALETTE.convert("RGB")),
            0,
            id="many-colours",
        ),
        pytest.param(DEEP_GREY, THREE_GREYS, 0, id="16-bit-grey-is-scaled"),
        pytest.param(DEEP_RGB, RGB, 1, id="16-bit-rgb-is-scaled"),
        pytest.param(encoded(RGB, "CMYK", "JPEG", quality=95), RGB, 12, id="cmyk-jpeg"),
        pytest.param(
            jpeg(exif=exif(6)),
            np.rot90(RGB, -1),
            12,
            id="exif-rotation-is-applied",
        ),
        pytest.param(
            encoded(RGB, "RGB", "PNG", exif=exif(3)), RGB[::-1, ::-1], 0, id="rotated-png"
        ),
        pytest.param(
            jpeg(exif=exif(1)),
            RGB,
            12,
            id="exif-upright",
        ),
        pytest.param(
            jpeg() + b"\0\0",
            RGB,
            12,
            id="bytes-after-the-end",
        ),
        pytest.param(encoded(RGB[:1, :1], "RGB", "PNG"), RGB[:1, :1], 0, id="one-pixel"),
        pytest.param(
            encoded(GREY > 99, "1", "PNG"), np.where(THREE_GREYS > 99, 255, 0), 0, id="bilevel"
        ),
    ],
)
def test_decodes_every_kind(
    data: bytes,
    expected: np.ndarray,
    tolerance: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = decode_image(data, "x")
    assert image.dtype == np.uint8
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= tolerance

    (tmp_path / "x").write_bytes(data)
    monkeypatch.setattr(images, "_LARGE_FILE", 0)  # as if it were too large to be held encoded
    assert (read_image(tmp_path / "x") == image).all()


def test_a_large_file_is_not_held_beside_its_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(PNG)
    monkeypatch.setattr(images, "_LARGE_FILE", len(PNG))
    monkeypatch.setattr(images, "read_bytes", None)
    assert (read_image(path) == RGB).all()


def test_decodes_palette_colours() -> None:
    file = io.BytesIO()
    PALETTE.save(file, "PNG")
    assert (decode_image(file.getvalue(), "x") == np.asarray(PALETTE.convert("RGB"))).all()


PNG, JPEG = encoded(RGB, "RGB", "PNG"), encoded(RGB, "RGB", "JPEG")
NOISE = RANDOM.integers(0, 256, (64, 64, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"just a text file, named .jpg", "not an image", id="text"),
        pytest.param(encoded(NOISE, "RGB", "PNG")[:5000], "cut short", id="png-cut"),
        pytest.param(encoded(NOISE, "RGB", "JPEG")[:2000], "cut short", id="jpeg-cut"),
        pytest.param(PNG[:20], "not an image|cut short", id="header-cut"),
        pytest.param(JPEG[:20], "not an image|cut short", id="jpeg-header-cut"),
        pytest.param(
            PNG[:8] + chunk(b"IHDR", struct.pack(">II", 30000, 30000) + PNG[24:29]) + PNG[33:],
            "400 million pixels",
            id="a-bomb",
        ),
    ],
)
@pytest.mark.parametrize("large", [1, 50_000_000])
def test_refuses_in_one_sentence(
    data: bytes, reason: str, large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    monkeypatch.setattr(images, "_LARGE_FILE", large)
    for read in (read_image, read_mask):
        with pytest.raises(SctnetError, match=reason) as caught:
            read(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_what_opencv_fails_at_is_left_to_pillow(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A PNG that ends early makes OpenCV log; of some damage it makes exceptions of its own."""
    level = cv2.utils.logging.getLogLevel()
    with pytest.raises(SctnetError, match="cut short"):
        decode_image(encoded(NOISE, "RGB", "PNG")[:5000], "x")
    assert "WARN" not in capfd.readouterr().err
    assert cv2.utils.logging.getLogLevel() == level

    def fail(*arguments: object) -> None:
        raise cv2.error("of OpenCV's own kind")

    monkeypatch.setattr(cv2, "imdecode", fail)
    assert (decode_image(PNG, "x") == RGB).all()
    monkeypatch.delattr(cv2.utils, "logging")
    assert (decode_image(PNG, "x") == RGB).all(), "the level cannot be set everywhere"


def test_a_damaged_bitmap_is_a_sentence() -> None:
    damaged = bytearray(encoded(NOISE[:8], "RGB", "BMP"))
    damaged[20] = 17  # a width of a million, more than OpenCV takes, and than there are pixels
    with pytest.raises(SctnetError, match="damaged"):
        decode_image(bytes(damaged), "x")


@pytest.mark.parametrize(
    ("ending", "data"),
    [
        pytest.param("ppm", cv2.imencode(".ppm", RGB.astype(np.uint16))[1].tobytes(), id="ppm"),
        pytest.param("pgm", b"P5 2 1 11 \x07\x0b", id="grey-of-0-to-11"),
        pytest.param("pgm", b"P2 2 1 11 7 11", id="grey-of-0-to-11-in-text"),
    ],
)
def test_masks_whose_values_would_change_are_refused(
    ending: str, data: bytes, tmp_path: Path
) -> None:
    path = tmp_path / f"mask.{ending}"
    path.write_bytes(data)
    with pytest.raises(
        SctnetError, match=r"mask\.\w+: this file does not give a mask's values unchanged"
    ):
        read_mask(path)


@pytest.mark.parametrize("largest", [255, 65535])
def test_grey_bitmaps_of_whole_bytes_are_masks(largest: int, tmp_path: Path) -> None:
    values = RANDOM.integers(0, largest + 1, (4, 6)).astype(
        np.uint8 if largest == 255 else np.uint16
    )
    cv2.imwrite(str(tmp_path / "mask.pgm"), values)
    assert (read_mask(tmp_path / "mask.pgm") == values).all()
    rows = " ".join(map(str, values.ravel()))
    (tmp_path / "text.pgm").write_text(f"P2 6 4 {largest} {rows}")
    assert (read_mask(tmp_path / "text.pgm") == values).all()


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(SctnetError, match=r"gone\.png: no such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(SctnetError, match="cannot be read"):
        read_image(tmp_path)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_mask_values_are_raw_at_any_depth(depth: int, tmp_path: Path) -> None:
    values = RANDOM.integers(0, 2**depth, (5, 16))
    (tmp_path / "mask.png").write_bytes(png(values, depth))
    assert (read_mask(tmp_path / "mask.png") == values).all()


def test_mask_kinds(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    PALETTE.save(path)
    assert (read_mask(path) == np.asarray(PALETTE)).all(), "a palette gives its indices"
    deep = RANDOM.integers(0, 65536, (4, 6)).astype(np.uint16)
    cv2.imwrite(str(path), deep)
    assert (read_mask(path) == deep).all(), "16-bit values stay what they are"
    for data in (encoded(RGB, "RGB", "PNG"), encoded(ALPHA, "RGBA", "PNG")):
        path.write_bytes(data)
        assert (read_mask(path) == RGB).all(), "colours stay, alpha goes"
    path.write_bytes(encoded(RGB, "CMYK", "TIFF"))
    with pytest.raises(SctnetError, match="CMYK"):
        read_mask(path)
