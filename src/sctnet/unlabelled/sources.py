"""Finds pictures without labels: in folders, globs, lists, and as frames of videos."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sctnet.data.unlabelled import list_text
from sctnet.errors import SctnetError
from sctnet.inference.files import find_pictures
from sctnet.inference.video.files import VideoInput, find_videos, is_camera, is_stream
from sctnet.writing import write_text

LIST_ENDINGS = {".txt", ".lst"}
FRAMES_FOLDER = "frames"
_RECORD = "frames.json"


@dataclass
class Found:
    """The pictures of all sources, each once, in a fixed order."""

    pictures: list[Path] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """Sentences for the user: how many frames of how many, and what was left out."""


def gather_pictures(
    sources: Sequence[str],
    out: Path,
    without: Sequence[Path] = (),
    progress: Callable[[int], None] = lambda _: None,
) -> Found:
    """Return the pictures that files, folders, globs, lists and videos name.

    A list is a text file (.txt) with one path a line, relative to its folder. Of videos, chosen
    frames are written below ``out``; those of an earlier call are taken again. ``without`` names
    pictures that are to be left out, such as those with labels. Raises :class:`SctnetError` for a
    source that is missing, holds no picture or cannot be read.
    """
    found = Found()
    named: list[str] = []
    for source in sources:
        if is_stream(source) or is_camera(source):
            raise SctnetError(f"{source}: has no end: record it, and give the file")
        is_list = Path(source).suffix.lower() in LIST_ENDINGS
        named += _listed(Path(source)) if is_list else [source]
    videos, others = find_videos(named, out)
    pictures: list[Path] = []
    if others:
        files, failures = find_pictures(others, out)
        if failures:
            raise SctnetError(failures[0])
        pictures += [item.path for item in files]
    for video in videos:
        pictures += _frames(video, out / FRAMES_FOLDER, found, progress)
    unwanted = {os.path.realpath(path) for path in without}
    seen: set[str] = set()
    left_out = 0
    for picture in pictures:
        place = os.path.realpath(picture)
        if place in seen:
            continue
        seen.add(place)
        if place in unwanted:
            left_out += 1
        else:
            found.pictures.append(picture)
    if left_out:
        found.remarks.append(f"{left_out} pictures have labels, and count with these")
    if not found.pictures:
        raise SctnetError(
            f"{', '.join(sources)}: no picture is left that has no labels: give others"
        )
    return found


def write_list(pictures: Sequence[Path], file: Path) -> None:
    """Write a list that :func:`gather_pictures` and ``data.unlabelled`` read."""
    write_text(file, list_text(pictures))


def _listed(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SctnetError(
            f"{file}: cannot be read as text; give a list of pictures, one path a line"
        ) from error
    paths = [str(file.parent / line.strip()) for line in lines if line.strip()]
    if not paths:
        raise SctnetError(f"{file}: names no picture: write one path a line")
    return paths


def _frames(
    video: VideoInput, folder: Path, found: Found, progress: Callable[[int], None]
) -> list[Path]:
    """Return the chosen frames of a video, and say how many of how many."""
    from sctnet.unlabelled.frames import extract_frames

    own = folder / video.name
    record = own / _RECORD
    stamp = [os.path.realpath(video.source), _stamp(video.source)]
    try:
        kept = json.loads(record.read_bytes())
        if kept["video"] != stamp:
            raise SctnetError(
                f"{own}: holds frames of another video, or {video.source} has changed: choose "
                "another --out"
            )
    except (OSError, KeyError, TypeError, json.JSONDecodeError):
        frames = extract_frames(video.source, own, progress=progress)
        names = [file.name for file in frames.files]
        kept = {"video": stamp, "frames": names, "of": frames.seen, "damage": frames.damage}
        write_text(record, json.dumps(kept))
    if kept["damage"]:
        found.remarks.append(kept["damage"])
    found.remarks.append(
        f"{video.source}: {len(kept['frames'])} of {kept['of']} frames are unlike each other, "
        "and are taken"
    )
    return [own / name for name in kept["frames"]]


def _stamp(video: str) -> list[int]:
    try:
        status = os.stat(video)  # noqa: PTH116 - of any name
    except OSError as error:
        raise SctnetError(f"{video}: there is no such file: check the path") from error
    return [status.st_size, status.st_mtime_ns]
