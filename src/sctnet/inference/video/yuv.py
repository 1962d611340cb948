"""Conversions between PyAV's frames, YUV planes and RGB pictures."""

from typing import Any

import av
import cv2
import numpy as np
from jaxtyping import UInt8

from sctnet.pictures.yuv_overlay import Planes, Standard

# FFmpeg's numbers of the standards: the one we write, and those that we read.
CODES: dict[Standard, int] = {"BT.709": 1, "BT.601": 6}
_STANDARDS: dict[int, Standard] = {1: "BT.709", 5: "BT.601", 6: "BT.601"}
_SCALER: dict[Standard, str] = {"BT.709": "ITU709", "BT.601": "ITU601"}
_UNSPECIFIED, _FULL_RANGE = 2, 2


def assumed_standard(height: int) -> Standard:
    """Return the standard that players assume if a file does not name one."""
    return "BT.709" if height >= 720 else "BT.601"


def standard_of(frame: av.VideoFrame) -> Standard | None:
    """Return the standard of a frame, or None if its planes cannot be drawn in."""
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
    """Return a picture in planes; the last row or column of an odd side is repeated."""
    height, width = picture.shape[:2]
    if height % 2 or width % 2:
        picture = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
    return rgb.reformat(format="yuv420p", dst_colorspace=_SCALER[standard], threads=1)


def planes_of(frame: av.VideoFrame) -> Planes:
    """Return views of the planes of a yuv420p frame, to read and write."""
    return Planes(*map(_view, frame.planes))


def _view(plane: Any) -> UInt8[np.ndarray, "h w"]:
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width]
