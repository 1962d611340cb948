"""The files of a labelled picture: a folder for each kind of result."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from math import sqrt
from pathlib import Path

import cv2
import numpy as np

from sctnet.errors import SctnetError
from sctnet.inference.segmentation_result import Segmentation
from sctnet.pictures.encoding import write_picture
from sctnet.writing import write_whole

KINDS = {
    "labels": ".png",
    "overlay": ".png",
    "comparison": ".png",
    "probabilities": ".npy",
    "json": ".json",
    "polygons": ".geojson",
}
"""The suffix of the files of each kind of result; the kind is also the folder's name."""

_LARGEST_OVERLAY = 40_000_000  # pixels; few viewers open larger ones, and drawing needs five copies


@dataclass(frozen=True)
class Results:
    """Which results are written, and where: ``folder/kind/name.ending``."""

    folder: Path
    kinds: Sequence[str]
    alpha: float = 0.5
    classes: Sequence[str] | None = None
    """Those that overlays show; None: all."""

    def file(self, kind: str, name: Path) -> Path:
        """Return the file of a result; ``name`` is a path without ending."""
        return self.folder / kind / name.with_name(f"{name.name}{KINDS[kind]}")

    def exist(self, name: Path) -> bool:
        """Say whether all results of this name are there."""
        return all(self.file(kind, name).is_file() for kind in self.kinds)

    def write(self, result: Segmentation, name: Path, image: Path, model: str) -> None:
        """Write a picture's results; ``image`` and ``model`` are what the JSON says of them.

        Each file appears whole or not at all. Raises :class:`SctnetError` where one cannot be
        written.
        """
        for kind in self.kinds:
            file = self.file(kind, name)
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SctnetError(f"{self.folder}: cannot be written ({error.strerror})") from error
            if kind == "overlay":
                shown = _shrunk(result).overlay(self.alpha, classes=self.classes)
                write_picture(np.asarray(shown), file)
            elif kind == "comparison":
                write_picture(np.asarray(result.comparison(self.alpha, self.classes)), file)
            elif kind == "json":
                origin = {"image": str(image), "model": model, "sctnet": version("sctnet")}
                write_whole(file, json.dumps({**origin, **result.summary()}).encode())
            else:
                result.save(file)


class Origins:
    """Which picture the results of a name are of, kept in a file beside their folders.

    Two pictures may have results of one name in turn: ``a.jpg``, and later ``a.png``.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / ".pictures.jsonl"
        self._picture_of: dict[str, str] = {}
        try:
            lines = self._file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return
        for line in lines:
            try:
                name, picture = json.loads(line)
            except (ValueError, TypeError):  # the last one of a run that was killed
                continue
            self._picture_of[str(name)] = str(picture)

    def is_of(self, name: Path, picture: Path) -> bool:
        """Say whether the last results of this name are known to be of the picture."""
        return self._picture_of.get(name.as_posix()) == os.path.realpath(picture)

    def add(self, name: Path, picture: Path) -> None:
        """Note whose results were written; :class:`SctnetError` where that fails."""
        row = name.as_posix(), os.path.realpath(picture)
        if self._picture_of.get(row[0]) == row[1]:
            return
        self._picture_of[row[0]] = row[1]
        try:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise SctnetError(f"{self._file}: cannot be written ({error.strerror})") from error


def check_output(out: Path, kinds: Sequence[str]) -> None:
    """Raise :class:`SctnetError` for an unknown kind, and where ``out`` cannot be written.

    Nothing is created, so that a mistake elsewhere leaves no empty folders.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise SctnetError(
            f"{', '.join(unknown) or 'nothing'} to save: choose from {', '.join(KINDS)}"
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


def _shrunk(result: Segmentation) -> Segmentation:
    """Return a segmentation that is small enough for a viewer."""
    height, width = result.labels.shape
    scale = sqrt(_LARGEST_OVERLAY / (height * width))
    if scale >= 1:
        return result
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    return replace(
        result,
        image=cv2.resize(result.image, size, interpolation=cv2.INTER_AREA),
        labels=cv2.resize(result.labels, size, interpolation=cv2.INTER_NEAREST_EXACT),
        probabilities=None,
    )
