"""Prediction on files: which pictures are meant, and where their label maps go."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sctnet.data.images import read_image
from sctnet.errors import SctnetError
from sctnet.inference.segmentation import Segmentation
from sctnet.inference.segmenter import Segmenter
from sctnet.pictures.writing import write_picture

ENDINGS = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""What counts as a picture in a folder; a file that is named outright may end in anything."""

KINDS = ("labels", "overlay")


class PictureFile(NamedTuple):
    """A picture to label, and the name of its results: a path without ending, below the output."""

    path: Path
    name: Path


def find_pictures(inputs: Sequence[str], out: Path) -> tuple[list[PictureFile], list[str]]:
    """Return the pictures that files, folders (recursive) and globs name, and what failed.

    Of folders, earlier results below ``out`` are left out. Results keep the place of their picture
    below a named folder; where two would have one name, the later one takes its ending into the
    name, then a number. An input that gives no picture is a sentence among the failures; raises
    :class:`SctnetError` where there is no picture at all.
    """
    found: list[tuple[Path, Path]] = []
    failures: list[str] = []
    for item in inputs:
        try:
            paths = _paths(item)
            pictures = [picture for path in paths for picture in _pictures_at(path, out)]
        except OSError as error:
            failures.append(f"{item}: cannot be looked up ({error.strerror})")
            continue
        if not pictures:
            missing = not paths and not has_magic(item)
            reason = "there is no such file or folder" if missing else "no pictures there"
            failures.append(f"{item}: {reason}")
        found += pictures
    if not found:
        raise SctnetError(f"{failures[0]}; give pictures ({', '.join(sorted(ENDINGS))}) or folders")
    return _named(found), failures


def check_output(out: Path, kinds: Sequence[str]) -> None:
    """Raise :class:`SctnetError` for an unknown kind, and where ``out`` cannot be written.

    Nothing is created, so that a mistake elsewhere leaves no empty folders.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise SctnetError(
            f"{', '.join(unknown) or 'nothing'} to save: choose of {', '.join(KINDS)}"
        )
    for kind in kinds:
        folder = out / kind
        try:
            nearest = next(path for path in (folder, *folder.parents) if path.exists())
        except OSError as error:
            raise SctnetError(f"{out}: cannot be written ({error.strerror})") from error
        if not nearest.is_dir():
            raise SctnetError(f"{out}: cannot be written ({nearest} is not a folder)")
        if not os.access(nearest, os.W_OK):
            raise SctnetError(f"{out}: cannot be written (permission denied in {nearest})")


def predict_files(
    segmenter: Segmenter,
    pictures: Sequence[PictureFile],
    out: Path,
    kinds: Sequence[str] = KINDS,
    alpha: float = 0.5,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Label pictures one by one into ``out/labels`` and ``out/overlay``; return what failed.

    Each file appears whole or not at all. A picture that cannot be read or labelled is one
    sentence in the result; the others are done all the same. Raises :class:`SctnetError` as
    :func:`check_output` does, and where writing fails.
    """
    check_output(out, kinds)
    failures = []
    for done, (picture, image) in enumerate(_read_ahead(pictures), start=1):
        try:
            if isinstance(image, SctnetError):
                raise image
            result = segmenter(image)
        except SctnetError as error:
            failures.append(str(error))
        else:
            _save(result, picture.name, out, kinds, alpha)
        if progress is not None:
            progress(done)
    return failures


def _save(result: Segmentation, name: Path, out: Path, kinds: Sequence[str], alpha: float) -> None:
    files = {kind: out / kind / name.with_name(f"{name.name}.png") for kind in kinds}
    try:
        for file in files.values():
            file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SctnetError(f"{out}: cannot be written ({error.strerror})") from error
    if "labels" in files:
        result.save(files["labels"])
    if "overlay" in files:
        write_picture(np.asarray(result.overlay(alpha)), files["overlay"])


def _read_ahead(
    pictures: Sequence[PictureFile],
) -> Iterator[tuple[PictureFile, np.ndarray | SctnetError]]:
    """Yield pictures decoded, or why not, while the next one is read in a thread."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(_read, pictures[0].path)
        for picture, after in zip(pictures, [*pictures[1:], None], strict=True):
            image = following.result()
            if after is not None:
                following = pool.submit(_read, after.path)
            yield picture, image


def _read(path: Path) -> np.ndarray | SctnetError:
    try:
        return read_image(path)
    except SctnetError as error:
        return error


def _paths(item: str) -> list[Path]:
    """Return what an input names; a file that really has a * in its name is not a glob."""
    path = Path(item)
    if path.exists():
        return [path]
    if has_magic(item):
        return [Path(match) for match in sorted(glob(item, recursive=True))]  # noqa: PTH207 - absolute too
    return []


def _pictures_at(path: Path, out: Path) -> list[tuple[Path, Path]]:
    """Return a file as it is, and of a folder the pictures below it, each with its place there."""
    if not path.is_dir():
        return [(path, Path(path.name))]
    results = [os.path.realpath(out / kind) for kind in KINDS]
    return [
        (file, file.relative_to(path))
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in ENDINGS
        and not file.is_dir()
        and not any(Path(os.path.realpath(file)).is_relative_to(result) for result in results)
    ]


def _named(found: Sequence[tuple[Path, Path]]) -> list[PictureFile]:
    taken: set[Path] = set()
    pictures = []
    for path, place in dict(found).items():
        name = place.with_suffix("")
        if name in taken:
            name = place.with_name(place.name.replace(".", "_"))
        number = 2
        while name in taken:
            name = place.with_name(f"{place.stem}_{number}")
            number += 1
        taken.add(name)
        pictures.append(PictureFile(path, name))
    return pictures
