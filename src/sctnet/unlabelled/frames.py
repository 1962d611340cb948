"""Chooses frames of a video that are unlike each other."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from sctnet.data.dataset import Picture
from sctnet.errors import SctnetError
from sctnet.writing import write_whole

MOST = 1000
"""Frames of one video that are kept at most."""

_GRID = (64, 36)  # width and height of the thumbnails that are compared
_STEP = 24  # levels of 255 that a cell of a thumbnail has to differ by, beyond noise
_LEAST = 0.02  # share of the cells that differ; a car of 1/50 of the picture is something new
_STRICTER = 1.3  # by so much the share grows when there are too many

Thumbnail = UInt8[np.ndarray, "36 64"]


class Frames(NamedTuple):
    """The chosen frames of a video."""

    files: list[Path]
    seen: int
    """How many frames the video has."""
    damage: str | None
    """A sentence on what could not be read."""


class _Chosen:
    """Thumbnails of kept frames, in the order of their numbers; never more than ``most``."""

    def __init__(self, most: int) -> None:
        self._most, self._share = most, _LEAST
        self._thumbnails = np.empty((0, _GRID[1] * _GRID[0]), np.int16)
        self.numbers: list[int] = []

    def take(self, number: int, thumbnail: Thumbnail) -> list[int] | None:
        """Keep a frame that is unlike all kept ones; return the numbers that had to go for it.

        None for a frame that is not kept.
        """
        row = thumbnail.reshape(1, -1).astype(np.int16)
        if not self._is_new(row, self._thumbnails):
            return None
        self._thumbnails = np.concatenate([self._thumbnails, row])
        self.numbers.append(number)
        gone: list[int] = []
        while len(self.numbers) > self._most:
            gone += self._thin()
        return gone

    def _thin(self) -> list[int]:
        """Ask for more difference, and drop the frames that no longer have it."""
        self._share *= _STRICTER
        kept: list[int] = []
        for place in range(len(self.numbers)):
            if self._is_new(self._thumbnails[place : place + 1], self._thumbnails[kept]):
                kept.append(place)
        gone = [self.numbers[place] for place in set(range(len(self.numbers))) - set(kept)]
        self._thumbnails = self._thumbnails[kept]
        self.numbers = [self.numbers[place] for place in kept]
        return gone

    def _is_new(self, row: np.ndarray, others: np.ndarray) -> bool:
        if not len(others):
            return True
        differing = (np.abs(others - row) > _STEP).mean(axis=1)
        return bool(differing.min() >= self._share)


def extract_frames(
    video: str, folder: Path, most: int = MOST, progress: Callable[[int], None] = lambda _: None
) -> Frames:
    """Write the frames of a video that are unlike each other into ``folder``, as JPEG files.

    Of 64 x 36 grey cells, two per cent at least differ clearly from those of every other chosen
    frame. Where that leaves more than ``most``, more difference is asked for: memory and disk stay
    bounded, and the whole video is covered. Raises :class:`SctnetError` for a video that cannot be
    read and for one without a frame.
    """
    from sctnet.inference.video.source import open_video  # needs PyAV

    chosen, seen = _Chosen(most), 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SctnetError(f"{folder}: cannot be written ({error.strerror})") from error
    with open_video(video) as source:
        if source.is_live:
            raise SctnetError(f"{source.name}: a stream has no end: record it, and give the file")
        for seen, frame in enumerate(source.frames(), start=1):
            gone = chosen.take(seen, _thumbnail(frame.picture))
            if gone is not None:
                _write(frame.picture, _file(folder, seen))
                for number in gone:
                    _file(folder, number).unlink(missing_ok=True)
            progress(seen)
        damage = source.damage
    if not chosen.numbers:
        raise SctnetError(damage or f"{video}: not one frame can be read: give a video that plays")
    return Frames([_file(folder, number) for number in chosen.numbers], seen, damage)


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.jpg"


def _thumbnail(picture: Picture) -> Thumbnail:
    # Made smaller first: of a large frame the colours of all pixels would take longer.
    small = cv2.resize(picture, _GRID, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))


def _write(picture: Picture, file: Path) -> None:
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])
    write_whole(file, content.tobytes())
