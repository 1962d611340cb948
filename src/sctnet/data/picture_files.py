"""Which files are pictures, and how folders are walked: the one rule for all of the package."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from sctnet.errors import SctnetError

JPEG_ENDINGS = frozenset({".jfif", ".jpe", ".jpeg", ".jpg"})

# A file whose values are the classes' numbers is kept without loss; AVIF and JPEG 2000 rarely are.
MASK_ENDINGS = (
    ".png", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pbm", ".pnm", ".gif",
)  # fmt: skip

PICTURE_ENDINGS = frozenset({*JPEG_ENDINGS, *MASK_ENDINGS, ".avif", ".jp2"})
"""What is taken from a folder, in lower case; a file that the user names may end in anything."""

VIDEO_ENDINGS = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
    | {".ts", ".webm", ".wmv"}
)

_SHOWN = 8

_LOG = logging.getLogger(__name__)


class FilesBelow(NamedTuple):
    """The files below a folder that were wanted, and the number of others by their ending."""

    taken: list[Path]
    left_out: Counter[str]


def is_picture(name: str) -> bool:
    """Say whether a file of this name or path is a picture, as far as its name tells."""
    path = PurePosixPath(name)
    return path.suffix.lower() in PICTURE_ENDINGS and not path.name.startswith(".")


def is_hidden(path: Path, folder: Path) -> bool:
    """Say whether a file, or a folder on the way to it from ``folder``, begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _raise(error: SctnetError) -> None:
    raise error


def pictures_below(folder: Path, complain: Callable[[SctnetError], None] = _raise) -> FilesBelow:
    """Return the pictures below a folder; see :func:`files_below`."""
    return files_below(folder, is_picture, complain)


def files_below(
    folder: Path,
    wanted: Callable[[str], bool],
    complain: Callable[[SctnetError], None] = _raise,
) -> FilesBelow:
    """Return the files below a folder whose names are ``wanted``, in the order of their paths.

    Folders that are links are followed, but not into a loop. What has a name that begins with a
    dot is not looked at: thumbnails, what systems and editors keep beside files, caches.
    ``complain`` is told of a folder that cannot be listed; where it returns, the others are walked.
    """
    taken: list[Path] = []
    left_out: Counter[str] = Counter()
    for path in walk(folder, complain):
        if wanted(os.path.basename(path)):  # noqa: PTH119 - of a million names
            taken.append(folder / path)
        else:
            left_out[PurePosixPath(path).suffix.lower() or "no ending"] += 1
    return FilesBelow(sorted(taken), left_out)


def walk(folder: Path, complain: Callable[[SctnetError], None] = _raise) -> Iterator[str]:
    """Yield the path below ``folder`` of every file there, as :func:`files_below` walks."""
    return _walk(str(folder), "", (os.path.realpath(folder),), complain)


def _walk(
    folder: str, below: str, real: tuple[str, ...], complain: Callable[[SctnetError], None]
) -> Iterator[str]:
    """Walk a folder; ``real`` are the places of the folders on the way to it, and its own."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        told = SctnetError(f"{folder}: cannot be listed ({error.strerror}): allow it")
        told.__cause__ = error
        complain(told)
        return
    for entry in visible:
        path = f"{below}{entry.name}"
        if not is_folder(entry):
            # A broken link is taken, so that reading it says so; a pipe would be waited for.
            if entry.is_symlink() or entry.is_file():
                yield path
            continue
        place = os.path.realpath(entry.path) if entry.is_symlink() else f"{real[-1]}/{entry.name}"
        if not any(f"{way}/".startswith(f"{place}/") for way in real):
            yield from _walk(entry.path, f"{path}/", (*real, place), complain)


def is_file(path: str | Path) -> bool:
    """Say whether there is a file; under a name that no system allows, there is none."""
    return os.path.isfile(path)  # noqa: PTH113 - which raises for names too long


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Say whether an entry is a folder; a link that leads nowhere, or to itself, is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def left_out_sentence(left_out: Mapping[str, int]) -> str:
    """Return how many files of which endings were left out; an empty text for none."""
    total = sum(left_out.values())
    if not total:
        return ""
    commonest = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{ending} {count}" for ending, count in commonest[:_SHOWN])
    more = f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
    files = "1 file of another ending" if total == 1 else f"{total} files of other endings"
    return f"{files} left out: {shown}{more}"


def tell_left_out(folder: str | Path, left_out: Mapping[str, int]) -> None:
    """Log what was left out of a folder, once for each folder and count."""
    sentence = left_out_sentence(left_out)
    if sentence:
        tell_once(f"{folder}: {sentence}")


@lru_cache(maxsize=1024)  # a data set is opened several times before it is trained on
def tell_once(sentence: str) -> None:
    """Log a sentence, unless it was logged before."""
    _LOG.warning("%s", sentence)
