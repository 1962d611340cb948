"""RGB arrays from paths, encoded pictures, PIL images and arrays."""

import re
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sctnet.data.images import decode_image, read_image, upright
from sctnet.errors import SctnetError

# Heights and widths: the pictures of one list may differ in size.
Picture = UInt8[np.ndarray, "_ _ 3"]
PictureSource = str | Path | bytes | bytearray | Image.Image | np.ndarray
"""A path, an encoded picture, a PIL image, or a uint8 array, H x W x 3 (RGB) or H x W (grey)."""

_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


def refuse_address(text: str) -> None:
    """Raise :class:`SctnetError` for a URL: nothing is downloaded."""
    if _ADDRESS.match(text):
        raise SctnetError(
            f"{text}: pictures are not fetched from the network: download it and give the file"
        )


def read_source(source: object) -> Picture:
    """Return the RGB picture that ``source`` names or holds.

    Raises :class:`SctnetError` for a damaged picture and for anything that is not one.
    """
    if isinstance(source, str | Path):
        refuse_address(str(source))
        return read_image(source)
    if isinstance(source, bytes | bytearray):
        return decode_image(bytes(source), "the encoded picture")
    if isinstance(source, Image.Image):
        return _from_pillow(source)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    raise SctnetError(
        f"a picture cannot be of type {type(source).__name__}: give a path, bytes, a PIL image "
        "or an RGB uint8 array"
    )


def _from_pillow(image: Image.Image) -> Picture:
    if image.mode.startswith(("I", "F")):
        raise SctnetError(f"a PIL image of mode {image.mode}: convert it to 8 bits a channel")
    try:
        pixels = np.array(upright(image).convert("RGB"))
    except Exception as error:  # it was opened, but not yet decoded, which fails in many ways
        raise SctnetError(
            f"the PIL image cannot be read as RGB ({error}): give a whole picture"
        ) from error
    return _from_array(pixels)


def _from_array(array: np.ndarray) -> Picture:
    if array.dtype != np.uint8:
        raise SctnetError(f"a picture of {array.dtype}: give uint8, from 0 to 255")
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise SctnetError(
            f"a picture of shape {array.shape}: give H x W x 3 (RGB) or H x W (grey), not empty"
        )
    return array
