"""Frames of PyAV as the planes that an overlay is drawn in, and pictures as such frames."""

from typing import Any

import av
import cv2
import numpy as np
from jaxtyping import UInt8

from sctnet.pictures.yuv_overlay import Planes, Standard

# FFmpeg's numbers of the standards, as a file that we write tells them, and as files come.
CODES: dict[Standard, int] = {"BT.709": 1, "BT.601": 6}
_STANDARDS: dict[int, Standard] = {1: "BT.709", 5: "BT.601", 6: "BT.601"}
_SCALER: dict[Standard, str] = {"BT.709": "ITU709", "BT.601": "ITU601"}
_UNSPECIFIED, _FULL_RANGE = 2, 2


def assumed_standard(height: int) -> Standard:
    """Return what players assume where a file does not say."""
    return "BT.709" if height >= 720 else "BT.601"


def standard_of(frame: av.VideoFrame) -> Standard | None:
    """Return the standard of a frame whose planes can be drawn in as they are; None of others."""
    if (
        frame.format.name != "yuv420p"
        or frame.color_range == _FULL_RANGE
        or frame.rotation % 360
        or frame.width % 2
        or frame.height % 2
    ):
        return None
    if frame.colorspace == _UNSPECIFIED:
        return assumed_standard(frame.height)
    return _STANDARDS.get(frame.colorspace)


def to_rgb(frame: av.VideoFrame, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return a frame as it is stored, at this size, in RGB."""
    assumed = _SCALER[assumed_standard(height)] if frame.colorspace == _UNSPECIFIED else None
    return frame.reformat(width, height, "rgb24", src_colorspace=assumed, threads=1).to_ndarray()


def from_rgb(picture: UInt8[np.ndarray, "h w 3"], standard: Standard) -> av.VideoFrame:
    """Return a picture in planes; an odd side is continued by its last row or column."""
    height, width = picture.shape[:2]
    if height % 2 or width % 2:
        picture = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
    return rgb.reformat(format="yuv420p", dst_colorspace=_SCALER[standard], threads=1)


def planes_of(frame: av.VideoFrame) -> Planes:
    """Return the planes of a yuv420p frame where they lie, to be read and written."""
    return Planes(*map(_view, frame.planes))


def _view(plane: Any) -> UInt8[np.ndarray, "h w"]:
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width]
