"""Files of pictures appear whole or not at all."""

import os
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from sctnet.errors import SctnetError

_SETTINGS = {
    ".png": [cv2.IMWRITE_PNG_COMPRESSION, 4],
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 92],
}


def write_whole(path: str | Path, content: bytes) -> None:
    """Write the bytes beside ``path`` and rename; raises :class:`SctnetError` where it cannot."""
    target = Path(path)
    # Shortened, so that the longest name a system takes stays possible.
    beside = target.with_name(f".{target.name[:40]}.{os.getpid()}.part")
    try:
        try:
            beside.write_bytes(content)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or "it cannot be written"
        raise SctnetError(f"{target}: {reason}; give a file in an existing folder") from error


def write_picture(picture: UInt8[np.ndarray, "h w 3"], path: str | Path) -> None:
    """Write an RGB picture in the format of the path's ending, .png or .jpg."""
    ending = Path(path).suffix.lower()
    if ending not in _SETTINGS:
        raise SctnetError(f"{path}: pictures are written as {' or '.join(_SETTINGS)}")
    _, content = cv2.imencode(ending, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), _SETTINGS[ending])
    write_whole(path, content.tobytes())
