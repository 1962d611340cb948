"""Finds the videos among the inputs, and names their results."""

import os
import re
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from sctnet.data.picture_files import (
    PICTURE_ENDINGS,
    VIDEO_ENDINGS,
    files_below,
    is_file,
    is_picture,
    walk,
)
from sctnet.errors import SctnetError
from sctnet.inference.files import check_output, distinct_names, is_result

_STREAMS = ("http", "https", "rtmp", "rtmps", "rtsp", "rtsps", "srt", "tcp", "udp")

KINDS = ("overlay", "labels", "json")


class VideoInput(NamedTuple):
    """A file, a URL or a camera's number, and the name of its results below the output."""

    source: str
    name: Path


def find_videos(inputs: Sequence[str], out: Path) -> tuple[list[VideoInput], list[str]]:
    """Separate videos from pictures: return the videos, and all other inputs.

    Videos are files with a known suffix, also in globs and (recursively) in folders, URLs of
    streams and numbers of cameras. Earlier results below ``out`` are not taken from folders and
    globs.
    """
    found: list[tuple[str, Path]] = []
    others: list[str] = []
    for item in (match for given in inputs for match in _matches(given, out)):
        if is_camera(item):
            found.append((item, Path(f"camera{item}")))
        elif is_stream(item) and Path(urlsplit(item).path).suffix.lower() not in PICTURE_ENDINGS:
            found.append((item, Path(_stream_name(item))))
        elif os.path.isdir(item):  # noqa: PTH112 - false for a name too long, too
            below = _videos_below(Path(item), out)
            found += below
            others += [] if below and not _may_have_pictures(Path(item)) else [item]
        elif Path(item).suffix.lower() in VIDEO_ENDINGS:
            found.append((item, Path(Path(item).name)))
        else:
            others.append(item)
    return [VideoInput(*pair) for pair in distinct_names(found, VIDEO_ENDINGS)], others


def _matches(item: str, out: Path) -> list[str]:
    """Return the files of a glob without results; an input that is not a glob itself."""
    if is_stream(item) or not has_magic(item) or os.path.exists(item):  # noqa: PTH110
        return [item]
    found = sorted(glob(item, recursive=True))  # noqa: PTH207 - absolute too
    return [match for match in found if not is_result(Path(match), out)] or [item]


def is_stream(source: str) -> bool:
    """Say whether this is the URL of a network stream."""
    scheme, separator, _ = source.partition("://")
    return bool(separator) and scheme.lower() in _STREAMS


def is_camera(source: str) -> bool:
    """Say whether this is a camera's number and not a file."""
    return source.isascii() and source.isdecimal() and not os.path.exists(source)  # noqa: PTH110


def _stream_name(address: str) -> str:
    """Return the name of a stream's results: the last part of its path, or its host."""
    parts = urlsplit(address)
    return re.sub(r"[^\w.-]", "_", Path(parts.path).stem or parts.hostname or "stream")


def check_video_output(out: Path, kinds: Sequence[str]) -> None:
    """Raise :class:`SctnetError` for an unknown kind, and where ``out`` cannot be written."""
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise SctnetError(
            f"{', '.join(unknown) or 'nothing'} to save of a video: choose from {', '.join(KINDS)}"
        )
    check_output(out, ("overlay",))


def clear_folder(folder: Path) -> None:
    """Create the folder of a video's label maps, and remove those of an earlier, longer run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("[0-9]*.png"):
            if file.stem.isdecimal():
                file.unlink()
    except OSError as error:
        raise SctnetError(f"{folder}: cannot be written ({error.strerror})") from error


def _videos_below(folder: Path, out: Path) -> list[tuple[str, Path]]:
    results = [os.path.realpath(out / kind) for kind in KINDS]
    return [
        (str(file), file.relative_to(folder))
        for file in files_below(folder, _is_video, lambda _: None).taken
        if is_file(file)
        and not any(Path(os.path.realpath(file)).is_relative_to(result) for result in results)
    ]


def _may_have_pictures(folder: Path) -> bool:
    """Say whether there are pictures, or a folder that cannot be listed: both are told of later."""
    unlisted: list[SctnetError] = []
    return any(is_picture(path) for path in walk(folder, unlisted.append)) or bool(unlisted)


def _is_video(name: str) -> bool:
    return Path(name).suffix.lower() in VIDEO_ENDINGS
