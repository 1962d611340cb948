"""Pictures as files."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from sctnet.errors import SctnetError
from sctnet.writing import write_whole

_SETTINGS = {
    ".png": [cv2.IMWRITE_PNG_COMPRESSION, 4],
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 92],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 92],
}


def write_picture(picture: UInt8[np.ndarray, "h w 3"], path: str | Path) -> None:
    """Write an RGB picture in the format of the path's ending, .png or .jpg."""
    ending = Path(path).suffix.lower()
    if ending not in _SETTINGS:
        raise SctnetError(f"{path}: pictures are written as {' or '.join(_SETTINGS)}")
    write_whole(path, encode_picture(picture, ending))


def encode_picture(picture: UInt8[np.ndarray, "h w 3"], ending: str) -> bytes:
    """Return an RGB picture as the content of a file that ends in .png or .jpg."""
    _, content = cv2.imencode(ending, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), _SETTINGS[ending])
    return content.tobytes()
