"""Results for the demonstration page, packed for the browser."""

import base64
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np

from sctnet.data.images import decode_image
from sctnet.errors import SctnetError
from sctnet.inference.segmentation_result import Segmentation
from sctnet.inference.segmenter import Segmenter
from sctnet.pictures.encoding import encode_picture
from sctnet.pictures.palette import Colour, encode_label_map

MAX_BYTES = 100 * 2**20
"""Of an uploaded file."""
MAX_PICTURE_PIXELS = 40_000_000
MAX_VIDEO_SECONDS = 60
MAX_FRAMES = 60 * MAX_VIDEO_SECONDS
MAX_FRAME_PIXELS = 4096 * 2304

_SHOWN = 1600  # pixels of the longer side in the page; downloads have the full size

Packed = dict[str, Any]
"""A JSON object; ``demo_viewer.js`` draws it."""


def decode_upload(data: bytes, name: str) -> np.ndarray:
    """Return an uploaded picture as RGB, H x W x 3; refuses too many pixels before decoding."""
    return decode_image(data, name, MAX_PICTURE_PIXELS)


def packed_error(sentence: str) -> Packed:
    """Return a message that shows a sentence instead of a result."""
    return {"kind": "error", "sentence": sentence}


def packed_picture(token: str, name: str, result: Segmentation) -> Packed:
    """Return a picture with its labels and areas; the page requests its overlay by ``token``.

    Picture and labels are scaled down for the screen. The mask for the download is the full label
    map, as ``sctnet predict`` writes it.
    """
    height, width = result.labels.shape
    scale = min(1.0, _SHOWN / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    shown = cv2.resize(result.image, size, interpolation=cv2.INTER_AREA)
    labels = cv2.resize(result.labels, size, interpolation=cv2.INTER_NEAREST)
    shares = [area["percent"] for area in result.area().values()]
    return {
        "kind": "picture",
        "name": name,
        "token": token,
        "size": [height, width],
        "shown": [size[1], size[0]],
        "picture": _base64(encode_picture(shown, ".jpg")),
        "labels": _base64(zlib.compress(np.ascontiguousarray(labels).tobytes())),
        "bytes": labels.itemsize,
        "classes": _occurring(result.classes, result.colours, shares),
        "mask": _base64(encode_label_map(result.labels, result.colours)),
    }


def packed_overlay(result: Segmentation, opacity: float) -> Packed:
    """Return the overlay at full size as a PNG, as ``sctnet predict`` writes it."""
    overlay = np.asarray(result.overlay(opacity))
    return {"png": _base64(encode_picture(overlay, ".png"))}


def packed_video(
    segmenter: Segmenter,
    file: Path,
    opacity: float,
    progress: Callable[[int, int | None], None],
) -> Packed:
    """Label a video and return it, tinted, with the areas in all its frames.

    Temporary files are removed afterwards. ``progress`` may raise an error to stop. Raises
    :class:`SctnetError` for a file that is not a video, or larger or longer than the page takes.
    """
    from sctnet.inference.video.prediction import VideoOptions, predict_video

    def counted(done: int, total: int | None) -> None:
        if done > MAX_FRAMES:  # the header may be wrong
            raise SctnetError(_too_long(file.name))
        progress(done, total)

    try:
        _check_video(file)
        with TemporaryDirectory(prefix="video-", dir=file.parent) as folder:
            out = Path(folder)
            options = VideoOptions(alpha=opacity)
            report = predict_video(segmenter, file, out, Path("video"), options, counted)
            content = (out / "overlay" / "video.mp4").read_bytes()
    except SctnetError as error:
        raise SctnetError(str(error).replace(str(file), file.name)) from error
    shares = [100 * share for share in report.share.values()]
    return {
        "kind": "video",
        "name": file.name,
        "video": _base64(content),
        "frames": report.frames,
        "seconds": round(report.seconds, 1),
        "damage": (report.damage or "").replace(str(file), file.name),
        "classes": _occurring(segmenter.classes, segmenter.colours, shares),
    }


def _check_video(file: Path) -> None:
    from sctnet.inference.video.source import open_video

    with open_video(file) as video:
        if video.total is not None and video.total / video.rate > MAX_VIDEO_SECONDS:
            raise SctnetError(_too_long(file.name))
        first = next(video.frames(), None)
        if first is not None and first.picture.size > 3 * MAX_FRAME_PIXELS:
            height, width = first.picture.shape[:2]
            raise SctnetError(
                f"{file.name}: frames of {width} x {height} are more than this page takes (4K): "
                "label it with sctnet predict"
            )


def _too_long(name: str) -> str:
    return (
        f"{name}: this page takes videos of up to {MAX_VIDEO_SECONDS} seconds: cut it, or label "
        "it with sctnet predict"
    )


def _occurring(
    classes: Sequence[str], colours: Sequence[Colour], shares: Sequence[float]
) -> list[Mapping[str, Any]]:
    """Return the classes that occur, the largest first; shares are percent."""
    rows = [
        {"index": index, "name": name, "colour": list(colour), "percent": share}
        for index, (name, colour, share) in enumerate(zip(classes, colours, shares, strict=True))
        if share > 0
    ]
    return sorted(rows, key=lambda row: -row["percent"])


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
