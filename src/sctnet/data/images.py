"""Reads image files: all pictures and masks are decoded here.

Whatever the bytes are, they give pixels or one sentence that names the file: decoders raise many
kinds of errors for damaged ones, none of which is documented.
"""

import io
import logging
import os
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float64, Integer, UInt8, UInt16
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from sctnet.errors import SctnetError

MAX_PIXELS = 400_000_000

# Pillow refuses twice its limit when it reads the header, before anything is decoded.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2

_LARGE = 50_000_000  # pixels
_LARGE_FILE = 50_000_000  # bytes
_ENDING = 2  # bytes: of a JPEG, what says that it is whole
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its orientation in EXIF."""
_GDAL_NODATA = 42113
_LYING = (5, 6, 7, 8)
"""The orientations of pictures that are stored on their side."""
_FROM_BELOW, _FROM_THE_RIGHT = (3, 4, 7, 8), (2, 3, 6, 7)
"""Those whose rows and columns, once they stand, run the other way."""
_REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_ANIMATED = {"GIF", "PNG", "WEBP", "TIFF", "AVIF"}
_SUBFILE_TYPE = 254
_LARGEST_VALUE = 281
_YCBCR, _YCBCR_SUBSAMPLING = 6, 530
_OF_JPEG = (6, 7)
"""TIFF's compressions that are JPEG's."""
_USUAL_BITS = (1, 2, 4, 8, 12, 16, 32)
_MOST_PAGES = 1000  # that are looked at
_MOST_BANDS = 6  # of 8 bits; of 16 bits Pillow takes four
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_KNOWN = {
    b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"BM": "BMP", b"RIFF": "WEBP",
    b"\0\0\0\x0cjP": "JPEG2000", **dict.fromkeys(_TIFF, "TIFF"),
}  # fmt: skip
"""How files begin, and Pillow's names of their formats."""
_OTHERS = {
    b"ftyphei": "HEIC", b"ftyphev": "HEIC", b"ftypmif1": "HEIF", b"ftypmsf1": "HEIF",
    b"8BPS": "Photoshop's PSD", b"JXL ": "JPEG XL", b"\xff\x0a": "JPEG XL", b"<svg": "SVG",
    b"%PDF": "PDF", b"v/1\x01": "OpenEXR", b"#?RADIANCE": "Radiance's HDR", b"FUJIFILMCCD": "RAF",
    b"version https://git-lfs": "a pointer of Git LFS",
}  # fmt: skip
"""Signs in the beginning of other pictures, and their formats' names."""
_PLAIN_FORMATS = {"PNG", "JPEG", "BMP", "WEBP"}
_PLAIN_MODES = {"L", "RGB"}
# Pillow stretches 2- and 4-bit grey to 0-255, which is right for pictures and wrong for masks.
_STRETCHED_BY = {"L;2": 85, "L;4": 17}


class _Ranges(NamedTuple):
    """The two ranges that a kind of values may have: their largest value, and the overshoot's."""

    name: str
    near: tuple[int, float]
    far: tuple[int, float]


_FLOATS = _Ranges("floating-point values", (1, 1.5), (255, 512))
_WHOLE = _Ranges("whole numbers", (255, 255), (65535, 65535))


class MaskEncoding(NamedTuple):
    """How a mask's file stores its values."""

    is_jpeg: bool
    """Whether the content is JPEG, which changes the values it stores."""
    palette: tuple[tuple[int, int, int], ...]
    """The RGB colours by index; empty where the image has no palette."""


def read_image(path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """Read an image file as RGB; see :func:`decode_image`."""
    return read_first(path).pixels


class FirstFrame(NamedTuple):
    """The first picture of a file, and how many it holds."""

    pixels: UInt8[np.ndarray, "h w 3"]
    frames: int


def read_first(path: str | Path) -> FirstFrame:
    """Read an image file as RGB, and count its frames or pages; see :func:`decode_image`."""
    pixels = _read_large(Path(path))
    if pixels is not None:
        return FirstFrame(pixels, frame_count(path))
    return decode_first(read_bytes(path), str(path))


def decode_first(data: bytes, name: str) -> FirstFrame:
    """Decode an encoded image as RGB, and count its frames or pages; see :func:`decode_image`."""
    image = EncodedImage(data, name)
    return FirstFrame(image.decode(), image.frames())


def holds_more(data: bytes, name: str, formats: Collection[str] | None = None) -> bool:
    """Say whether an encoded image has a second frame or page; no others are looked for.

    Raises :class:`SctnetError` as :func:`decode_image` does.
    """
    image = _open_bytes(data, name, formats=formats)
    if image.format not in _ANIMATED:
        return False
    with _decoding(name):
        try:
            image.seek(1)
        except EOFError:
            return False
        return not isinstance(image, _BandedTiff) or _is_page(image, 1)


def image_size(data: bytes, name: str, formats: Collection[str] | None = None) -> tuple[int, int]:
    """Return an encoded image's height and width from its header; nothing is decoded.

    They are the stored ones, before a rotation noted in EXIF. Raises as :func:`decode_image` does.
    """
    header = _open_bytes(data, name, formats=formats)
    return header.height, header.width


def decode_image(
    data: bytes,
    name: str,
    most_pixels: int = MAX_PIXELS,
    formats: Collection[str] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an encoded image to 8-bit RGB, as it is meant to be displayed.

    Grey and palette images become RGB, CMYK is converted, 16-bit values are scaled to 8 bits, a
    rotation noted in EXIF is applied, and alpha is dropped (the stored colours are what a
    network should see; there is no background to put behind them). Of an animation the first
    frame counts.

    ``name`` stands for the image in errors. Of ``formats``, Pillow's names, nothing else is tried.
    Raises :class:`SctnetError` for anything that is not a whole image, or has more than
    ``most_pixels`` pixels, which the header tells.
    """
    return EncodedImage(data, name, most_pixels, formats).decode()


class EncodedImage:
    """An image whose header has been read, and whose pixels have not.

    ``height`` and ``width`` are those of the upright picture. Raises as :func:`decode_image` does.
    """

    def __init__(
        self,
        data: bytes,
        name: str,
        most_pixels: int = MAX_PIXELS,
        formats: Collection[str] | None = None,
    ) -> None:
        self._data, self._name = data, name
        self._header = _open_bytes(data, name, most_pixels, formats)
        self._is_plain = _is_plain(self._header, data)
        self.width, self.height = self._header.size
        # Of a TIFF, Pillow tells the upright size.
        is_tiff = isinstance(self._header, _BandedTiff)
        if not (self._is_plain or is_tiff) and _orientation(self._header) in _LYING:
            self.width, self.height = self.height, self.width

    def decode(self, reduction: int = 1) -> UInt8[np.ndarray, "h w 3"]:
        """Return the picture as :func:`decode_image` does.

        With a ``reduction`` of 2, 4 or 8, a JPEG's blocks are decoded at that part of their size,
        which takes a fraction of the time; a picture of another kind comes whole.
        """
        if self._is_plain:
            reduced = reduction if self._header.format == "JPEG" else 1
            pixels = _decode_quickly(self._data, reduced)
            if pixels is not None:
                return pixels
        with _decoding(self._name):
            pixels = np.array(_to_eight_bits(upright(self._header), self._name).convert("RGB"))
        return pixels

    def frames(self) -> int:
        """Return how many pictures there are, as :func:`frame_count` does."""
        try:
            return _frames(self._header, self._name)
        except (OSError, SctnetError):
            return 1


def read_mask(
    path: str | Path, *, reduce: bool = False
) -> Integer[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]:
    """Read a mask's raw values: H x W numbers, or H x W x 3 colours where it is an RGB image.

    A rotation noted in EXIF is applied, as to its picture. A palette image gives its indices, 1- to
    32-bit grey its values; alpha is dropped. Colours of 16 bits that are 8-bit ones, stretched
    (multiples of 257) or not, become those; with ``reduce`` others become their upper 8 bits, where
    no two of them become one. Raises :class:`SctnetError` as :func:`decode_image` does, and for a
    file whose values could only be had changed: other colours of 16 bits
    (:class:`DeepColoursError`), and a PGM or PPM of another range than 0-255 or 0-65535.
    """
    data = read_bytes(path)
    image = _open_bytes(data, str(path))
    is_plain = _is_plain(image, data)
    values = _stored_values(image, data, path, reduce)
    # TIFFs are turned as they are decoded.
    are_upright = is_plain or isinstance(image, _BandedTiff)
    return values if are_upright else _turned(values, _orientation(image))


def _turned(
    values: Integer[np.ndarray, "h w *c"], orientation: int
) -> Integer[np.ndarray, "turned_h turned_w *c"]:
    """Return pixels turned as an orientation in EXIF says."""
    if orientation in _LYING:
        values = values.swapaxes(0, 1)
    if orientation in _FROM_BELOW:
        values = values[::-1]
    if orientation in _FROM_THE_RIGHT:
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


def _stored_values(
    image: ImageFile.ImageFile, data: bytes, path: str | Path, reduce: bool
) -> Integer[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]:
    divisor = _STRETCHED_BY.get(_stored_mode(image), 1)
    if _is_rescaled(image):
        if _stored_mode(image).startswith("LA;16"):
            return _deep_colours(data, str(path))[..., 0]
        if ";16" in _stored_mode(image) and image.mode in {"RGB", "RGBA"}:
            return _eight_bit_colours(_deep_colours(data, str(path)), str(path), reduce)
        raise SctnetError(
            f"{path}: this file does not give a mask's values unchanged: "
            "save it as a PNG with 8 bits a channel, or as grey with 16"
        )
    with _decoding(str(path)):
        if image.mode in {"1", "L", "P"} or image.mode.startswith("I"):
            values = np.array(image)
            return values.astype(np.uint8) if image.mode == "1" else values // divisor
        if image.mode in {"LA", "PA"}:
            return np.array(image)[..., 0]
        if image.mode in {"RGB", "RGBA"}:
            return np.array(image)[..., :3]
    raise SctnetError(
        f"{path}: a mask cannot be of kind {image.mode!r}: save it as a grey, palette or RGB PNG"
    )


def read_mask_encoding(path: str | Path) -> MaskEncoding:
    """Return how a mask's file holds its values; raises as :func:`decode_image` does."""
    image = _open_bytes(read_bytes(path), str(path))
    with _decoding(str(path)):
        colours = (image.getpalette("RGB") or []) if image.mode == "P" else []
    rows = zip(colours[::3], colours[1::3], colours[2::3], strict=True)
    return MaskEncoding(image.format in {"JPEG", "MPO"}, tuple(rows))


def frame_count(path: str | Path) -> int:
    """Return how many pictures a file holds, such as frames of an animation or pages; 1 if unclear.

    Smaller copies, masks and a camera's previews do not count.
    """
    try:
        with Path(path).open("rb") as file:
            return _frames(_open(file, str(path)), str(path))
    except (OSError, SctnetError):
        return 1


def _frames(image: ImageFile.ImageFile, name: str) -> int:
    if image.format not in _ANIMATED:
        return 1
    with _decoding(name):
        frames: int = getattr(image, "n_frames", 1)
        if not isinstance(image, _BandedTiff):
            return frames
        return sum(_is_page(image, number) for number in range(min(frames, _MOST_PAGES)))


def _is_page(image: "_BandedTiff", number: int) -> bool:
    image.seek(number)
    return not int(image.tag_v2.get(_SUBFILE_TYPE, 0)) & 0b101  # a smaller copy, or a mask


def read_bytes(path: str | Path) -> bytes:
    """Return a file's content; :class:`SctnetError` where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise SctnetError(f"{path}: no such file: check the path") from error
    except OSError as error:
        raise SctnetError(
            f"{path}: cannot be read ({error.strerror}): give a readable image file"
        ) from error


def _open_bytes(
    data: bytes,
    name: str,
    most_pixels: int = MAX_PIXELS,
    formats: Collection[str] | None = None,
) -> ImageFile.ImageFile:
    if not data:
        raise SctnetError(f"{name}: the file is empty: copy it again from its source")
    return _open(io.BytesIO(data), name, most_pixels, formats)


def _open(
    file: BinaryIO,
    name: str,
    most_pixels: int = MAX_PIXELS,
    formats: Collection[str] | None = None,
) -> ImageFile.ImageFile:
    """Read the header; the pixels stay encoded."""
    too_large = (
        f"{name}: more than {most_pixels // 1_000_000} million pixels: cut the image into tiles"
    )
    beginning = file.read(32)
    file.seek(0)
    with _decoding(name):
        try:
            if beginning.startswith(_TIFF) and (formats is None or "TIFF" in formats):
                image: ImageFile.ImageFile = _BandedTiff(file)
            else:
                image = Image.open(file, formats=None if formats is None else [*formats])
        except Image.DecompressionBombError as error:
            raise SctnetError(too_large) from error
        except UnidentifiedImageError as error:
            raise _unidentified(name, beginning, formats) from error
        except _BandsError as error:
            raise SctnetError(
                f"{name}: a TIFF with {error}, which cannot be read: save its red, green and blue "
                "as an RGB TIFF or PNG of 8 or 16 bits a channel"
            ) from error
    if image.width * image.height > most_pixels:
        raise SctnetError(too_large)
    return image


class _BandsError(SyntaxError):
    """A TIFF whose bands no decoder here takes; says which they are."""


class _BandedTiff(TiffImagePlugin.TiffImageFile):
    """A TIFF whose first three bands are red, green and blue, also where its tag says grey.

    Satellites', drones' and microscopes' software writes so.
    """

    is_relabelled = False
    most = 65535
    """The largest value of 16 bits, of which grey of 12 bits uses less."""

    def _setup(self) -> None:
        tags, bands = self.tag_v2, self.tag_v2.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
        grey = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) in (0, 1)
        if grey and isinstance(bands, int) and 3 <= bands <= _MOST_BANDS:
            self.is_relabelled = True
            tags[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 2
            # Grey's first extra band is green. What is left of them is not looked at.
            tags[TiffImagePlugin.EXTRASAMPLES] = (0,) * (bands - 3)
        if self._are_apart_and_deep():
            raise _BandsError(f"{bands} bands of 16 bits that lie one after the other")
        compression = tags.get(TiffImagePlugin.COMPRESSION, 1)
        if compression not in TiffImagePlugin.COMPRESSION_INFO:
            raise _BandsError(f"the compression {compression}")
        if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == _YCBCR and (
            compression == 1
            or (compression not in _OF_JPEG and tags.get(_YCBCR_SUBSAMPLING, (2, 2)) != (1, 1))
        ):
            raise _BandsError("luminance and chrominance (YCbCr) that are not JPEG")
        if compression == 1 and tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,):
            self.most = 4095
        try:
            with _quiet_log():
                super()._setup()
        except SyntaxError as error:
            of_each = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
            bits, number = of_each[0], tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0]
            kinds = {1: "whole numbers", 2: "signed numbers", 3: "floating-point numbers"}
            usual = bands == 1 and number == 1 and bits in _USUAL_BITS
            is_meant = len(of_each) == bands and 0 < bits <= 64 and number in kinds
            if usual or not is_meant:  # another tag is damaged, or one of these
                raise
            one = "1 band" if bands == 1 else f"{bands} bands"
            raise _BandsError(f"{one} of {kinds[number]} of {bits} bits") from error

    def _are_apart_and_deep(self) -> bool:
        """Say whether Pillow would read each byte of 16 bits as a pixel, without a word."""
        bits = self.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        apart = self.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2
        return apart and len(bits) > 1 and max(bits) > 8


def _unidentified(name: str, beginning: bytes, formats: Collection[str] | None) -> SctnetError:
    """Return the error for a file that no decoder knows, by what its beginning says it is."""
    known = [kind for sign, kind in _KNOWN.items() if beginning.startswith(sign)]
    known += ["AVIF"] if b"ftypavif" in beginning else []
    if any(formats is None or kind in formats for kind in known):
        return _damaged(name)
    kind = next((kind for sign, kind in _OTHERS.items() if sign in beginning), None)
    if kind is not None:
        return SctnetError(f"{name}: {kind} cannot be read here: save it as PNG or JPEG")
    return SctnetError(f"{name}: not an image: give a PNG, JPEG, TIFF or WebP file")


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into one sentence."""
    try:
        with _quiet_pillow():
            yield
    except (SctnetError, MemoryError):
        raise
    except Exception as error:
        raise _damaged(name) from error


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Keep Pillow's TIFF reader from logging what its error tells."""
    log = logging.getLogger(TiffImagePlugin.__name__)
    log.addFilter(_nothing)
    try:
        yield
    finally:
        log.removeFilter(_nothing)


def _nothing(_: logging.LogRecord) -> bool:
    return False


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Keep Pillow from warning of what an error tells, or what does not matter."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def upright(image: Image.Image) -> Image.Image:
    """Return a Pillow image turned as its EXIF notes; EXIF that cannot be read counts as none."""
    image.load()  # which turns TIFFs
    method = _UPRIGHT.get(_orientation(image))
    return image if method is None else image.transpose(method)


def _orientation(image: Image.Image) -> int:
    try:
        with _quiet_pillow():
            value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _deep_colours(data: bytes, name: str) -> UInt16[np.ndarray, "h w 3"]:
    """Decode an image of 16 bits a channel as it is stored, which Pillow does not."""
    with _decoding(name), _quiet_opencv():
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise _damaged(name)
    return np.ascontiguousarray(values[..., 2::-1])


class DeepColoursError(SctnetError):
    """A mask of colours of 16 bits that are not 8-bit ones."""


def _eight_bit_colours(
    values: UInt16[np.ndarray, "h w 3"], name: str, reduce: bool
) -> UInt8[np.ndarray, "h w 3"]:
    if not (values % 257).any():
        return (values // 257).astype(np.uint8)
    if values.max() <= 255:
        return values.astype(np.uint8)
    upper = (values >> 8).astype(np.uint8)
    is_reducible = _number_of_colours(upper) == _number_of_colours(values)
    if reduce and is_reducible:
        return upper
    mended = (
        ", or describe the data set by a YAML file and let sctnet data check --fix FOLDER write "
        "label maps"
    )
    outside = values[(values % 257 != 0).any(axis=-1)][0]
    raise DeepColoursError(
        f"{name}: the mask's colours have 16 bits a channel and are not stretched 8-bit ones, such "
        f"as {outside.tolist()}: save it as a PNG with 8 bits a channel"
        f"{mended if is_reducible else ''}"
    )


def _number_of_colours(colours: Integer[np.ndarray, "h w 3"]) -> int:
    red, green, blue = (colours[..., channel].astype(np.int64) for channel in range(3))
    return len(np.unique(red << 32 | green << 16 | blue))


def _read_large(path: Path) -> UInt8[np.ndarray, "h w 3"] | None:
    """Decode a file of many megabytes without holding it beside its pixels.

    None for every other file, and where the usual way is to be taken or to say what is wrong.
    """
    try:
        if path.stat().st_size < _LARGE_FILE:
            return None
        with path.open("rb") as file:
            header = _open(file, str(path))
            plain = _is_plain(header, _last_bytes(file))
    except OSError:
        return None
    return _quickly(lambda flags: cv2.imread(str(path), flags)) if plain else None


def _last_bytes(file: BinaryIO) -> bytes:
    file.seek(-_ENDING, os.SEEK_END)
    return file.read()


def _decode_quickly(data: bytes, reduction: int = 1) -> UInt8[np.ndarray, "h w 3"] | None:
    """Decode with OpenCV; None where it cannot, and Pillow is to say why."""
    encoded = np.frombuffer(data, np.uint8)
    pixels = _quickly(lambda flags: cv2.imdecode(encoded, flags), reduction)
    if pixels is not None and reduction > 1:  # OpenCV reduces in its own order of colours alone
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    return pixels


def _quickly(
    read: Callable[[int], np.ndarray | None], reduction: int = 1
) -> UInt8[np.ndarray, "h w 3"] | None:
    try:
        with _quiet_opencv():
            return read(_REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Keep OpenCV from logging what Pillow is asked next, and an error then tells in a sentence."""
    log = getattr(getattr(cv2, "utils", None), "logging", None)
    if log is None:
        yield
        return
    before = log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        # The level is the process's. Of threads that overlap, only the one that found it loud
        # restores it: no lock, which a forked worker could inherit locked, and it ends as it was.
        if before != log.LOG_LEVEL_SILENT:
            log.setLogLevel(before)


def _is_plain(header: ImageFile.ImageFile, end: bytes) -> bool:
    """Say whether OpenCV, which is faster, reads this image exactly as Pillow does."""
    if isinstance(header, _BandedTiff) and header.width * header.height >= _LARGE:
        # Pillow would hold it three times over, with four bytes a pixel.
        is_usual = _orientation(header) == 1 and not header.is_relabelled
        return is_usual and header.mode in _PLAIN_MODES and _stored_mode(header) == header.mode
    if header.format not in _PLAIN_FORMATS or header.mode not in _PLAIN_MODES:
        return False
    if header.format == "PNG" and len(end) > _ENDING and not _is_whole_png(end):
        return False  # libpng would write of it to the terminal
    if header.format == "JPEG" and not end.endswith(b"\xff\xd9"):
        return False  # possibly truncated: some versions of OpenCV fill the rest with grey
    return "exif" not in header.info or _orientation(header) == 1


def _is_whole_png(data: bytes) -> bool:
    """Say whether all parts of a PNG are there, and have the checksums that they state."""
    place = 8
    while place + 12 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        end = place + 8 + length
        stated = int.from_bytes(data[end : end + 4], "big")
        if end + 4 > len(data) or zlib.crc32(memoryview(data)[place + 4 : end]) != stated:
            return False
        if kind == b"IEND":
            return True
        place = end + 4
    return False


def _stored_mode(image: ImageFile.ImageFile) -> str:
    """Return Pillow's name of how the file holds the pixels, such as L;4 or RGB;16B."""
    args = image.tile[0].args if image.tile else ""
    mode = args[0] if isinstance(args, tuple) else args
    return str(mode)


def _is_rescaled(image: ImageFile.ImageFile) -> bool:
    """Say whether Pillow changes values on reading, which is wrong for masks."""
    if not image.tile:
        return False
    tile = image.tile[0]
    if tile.codec_name.startswith("ppm") and isinstance(tile.args, tuple):
        return bool(tile.args[1] != (65535 if image.mode.startswith("I") else 255))
    return ";16" in _stored_mode(image) and not image.mode.startswith("I")


def _to_eight_bits(image: Image.Image, name: str) -> Image.Image:
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        values = _scaled(values, _FLOATS, _nodata(image), name)
    elif image.mode == "I" and isinstance(image, _BandedTiff):  # signed, or of 32 bits
        values = _scaled(values, _WHOLE, _nodata(image), name)
    else:
        values = values * (255 / _largest(image, values))
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def _largest(image: Image.Image, values: Float64[np.ndarray, "h w"]) -> float:
    """Return what is white among 16 bits: a TIFF may have 12, or declare its largest value."""
    if not isinstance(image, _BandedTiff):
        return 65535
    declared = image.tag_v2.get(_LARGEST_VALUE, image.most)
    number = declared[0] if isinstance(declared, tuple) else declared
    is_range = isinstance(number, int) and 255 < number < image.most and values.max() <= number
    return number if is_range else image.most


def _scaled(
    values: Float64[np.ndarray, "h w"], kind: _Ranges, nodata: float | None, name: str
) -> Float64[np.ndarray, "h w"]:
    """Scale to 0-255, with black where there is no value.

    No range is declared: 0-1 and 0-255 are the customs of floating-point values, which filters
    overshoot a little, and 0-255 and 0-65535 those of whole numbers. What is declared to be no
    value, NaN, infinities, and one number far beyond or below zero stand for none.
    """
    (near, to_near), (far, to_far) = kind.near, kind.far
    is_value = np.isfinite(values)
    if nodata is not None:
        is_value &= values != nodata
    for outside in (values > to_far, values < far - to_far, values < 0):
        found = values[is_value & outside]
        if found.size and found.min() == found.max():
            is_value &= ~outside
    found = values[is_value]
    if not found.size:
        raise SctnetError(
            f"{name}: none of its values counts: all are NaN, infinite, declared to be no data, or "
            "one number out of range: save it again with values"
        )
    low, high = found.min(), found.max()
    top, most = (near, to_near) if high <= to_near else (far, to_far)
    is_within = top - most <= low and high <= most
    if not is_within or (found > 1.01 * top).mean() > 0.5 or (found < 0).mean() > 0.1:
        raise SctnetError(
            f"{name}: its {kind.name} lie between {low:.6g} and {high:.6g}, and 0 to {near} or 0 "
            f"to {far} can be read: scale them, or save it with 8 or 16 bits"
        )
    return np.where(is_value, values, 0) * (255 / top)


def _nodata(image: Image.Image) -> float | None:
    """Return the value that a TIFF of GDAL declares to mean none."""
    try:
        return float(np.float32(getattr(image, "tag_v2", {}).get(_GDAL_NODATA, "nan").strip("\0 ")))
    except (AttributeError, ValueError):
        return None


def _damaged(name: str) -> SctnetError:
    return SctnetError(f"{name}: the image is damaged or cut short: copy it again from its source")
