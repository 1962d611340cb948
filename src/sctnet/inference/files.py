"""Prediction on files: finds the pictures and names their results."""

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple, TypeVar

from sctnet.data.images import read_first
from sctnet.data.picture_files import (
    PICTURE_ENDINGS,
    VIDEO_ENDINGS,
    left_out_sentence,
    pictures_below,
    tell_left_out,
)
from sctnet.errors import SctnetError
from sctnet.inference.batch_prediction import PicturePredictor
from sctnet.inference.results import KINDS, Origins, Results, check_output
from sctnet.inference.segmentation_result import class_indices
from sctnet.inference.segmenter import Segmenter
from sctnet.inference.sources import Picture, refuse_address

__all__ = ["check_output", "find_pictures", "predict_files"]

Given = TypeVar("Given", bound=Hashable)


class PictureFile(NamedTuple):
    """A picture to label, and the name of its results: a path without ending, below the output."""

    path: Path
    name: Path


def find_pictures(
    inputs: Sequence[str], out: Path, *, may_be_none: bool = False
) -> tuple[list[PictureFile], list[str]]:
    """Return the pictures that files, folders (recursive) and globs name, and what failed.

    Earlier results below ``out`` are not taken from folders and globs. Results keep the path of
    their picture below a named folder. If two results would have the same name, the later one gets
    its suffix into the name, then a number. An input without a picture gives a sentence among the
    failures; files of other endings, but videos, are counted in the log. Raises
    :class:`SctnetError` if there is no picture at all, unless ``may_be_none``.
    """
    found, failures = find_places(inputs, out)
    if not found and not may_be_none:
        raise SctnetError(
            f"{failures[0]}; give pictures ({', '.join(sorted(PICTURE_ENDINGS))}) or folders"
        )
    return [PictureFile(*pair) for pair in distinct_names(found)], failures


def find_places(inputs: Sequence[str], out: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Return pictures, each with its path below the named folder, and the failures.

    The first step of :func:`find_pictures`, before results get their names.
    """
    found: list[tuple[Path, Path]] = []
    failures: list[str] = []
    for item in inputs:
        left_out: Counter[str] = Counter()
        unlisted: list[SctnetError] = []
        try:
            paths = _paths(item)
            refuse_address(item if not paths else "")
            pictures = [
                picture
                for path in paths
                for picture in _pictures_at(path, out, str(path) == item, left_out, unlisted)
            ]
        except SctnetError as error:
            failures.append(str(error))
            continue
        except OSError as error:
            failures.append(f"{item}: cannot be looked up ({error.strerror})")
            continue
        failures += map(str, unlisted)
        if not pictures and not unlisted:
            missing = not paths and not has_magic(item)
            reason = "there is no such file or folder" if missing else "no pictures there"
            others = left_out_sentence(left_out)
            failures.append(f"{item}: {reason}" + (f" ({others})" if others else ""))
        elif pictures:
            tell_left_out(item, left_out)
        found += pictures
    return found, failures


@dataclass
class PredictionSummary:
    """The result of labelling many pictures."""

    classes: Sequence[str]
    labelled: int = 0
    skipped: int = 0
    """Pictures whose results were there already."""
    failures: list[str] = field(default_factory=list)
    """One sentence for each picture that could not be read or labelled."""
    seconds: float = 0.0
    areas: dict[str, int] = field(default_factory=dict)
    """Pixels of each class, over all pictures labelled."""
    animated: list[str] = field(default_factory=list)
    """Pictures of several frames, of which the first is labelled."""

    @property
    def done(self) -> int:
        """Return the number of pictures that are labelled."""
        return self.labelled + self.skipped + len(self.failures)


def predict_files(
    segmenter: Segmenter,
    pictures: Sequence[PictureFile],
    out: Path,
    kinds: Sequence[str] = ("labels", "overlay"),
    alpha: float = 0.5,
    progress: Callable[[int], None] | None = None,
    *,
    classes: Sequence[str] | None = None,
    skip_existing: bool = False,
) -> PredictionSummary:
    """Label pictures into ``out``, a folder for each kind, and return how it went.

    Neighbours that are processed at one size go through the network in batches of the segmenter's
    ``batch_size``. Each file appears whole or not at all, so a run may be stopped at any time and
    ``skip_existing`` continues it. A picture that cannot be read or labelled gives a sentence among
    the failures and does not stop the others. Raises :class:`SctnetError` as :func:`check_output`
    does, for ``classes`` that the model does not have, and if writing fails.
    """
    check_output(out, kinds)
    class_indices(classes or [], segmenter.classes)
    results = Results(out, kinds, alpha, classes)
    origins = Origins(out)
    waiting = [
        item
        for item in pictures
        if not (skip_existing and results.exist(item.name) and origins.is_of(item.name, item.path))
    ]
    summary = PredictionSummary(segmenter.classes, skipped=len(pictures) - len(waiting))
    summary.areas = dict.fromkeys(segmenter.classes, 0)
    began = time.perf_counter()
    likely = "probabilities" in kinds

    def read(item: PictureFile) -> Picture:
        first = read_first(item.path)
        if first.frames > 1:
            summary.animated.append(str(item.path))
        return first.pixels

    predictor = PicturePredictor[PictureFile](segmenter, read, lambda item: str(item.path), likely)
    for item, result in predictor(waiting):
        if isinstance(result, SctnetError):
            summary.failures.append(str(result))
        else:
            results.write(result, item.name, item.path, str(segmenter))
            origins.add(item.name, item.path)
            summary.labelled += 1
            for name, area in result.area().items():
                summary.areas[name] += int(area["pixels"])
        if progress is not None:
            progress(summary.done)
    summary.seconds = time.perf_counter() - began
    return summary


def _paths(item: str) -> list[Path]:
    """Return the paths of an input; an existing file with a * in its name is not a glob."""
    if not item.strip():
        raise SctnetError("an input is empty, as of a variable without a value: name a file")
    path = Path(item)
    if path.exists():
        return [path]
    if has_magic(item):
        matches = [Path(match) for match in sorted(glob(item, recursive=True))]  # noqa: PTH207 - absolute too
        return [match for match in matches if "**" not in item or not _is_in_loop(match)]
    return []


def _is_in_loop(path: Path) -> bool:
    """Say whether a path leads through one folder twice, by a link."""
    places = [os.path.realpath(folder) for folder in path.parents]
    return len(set(places)) < len(places)


def _pictures_at(
    path: Path,
    out: Path,
    named: bool,
    left_out: Counter[str],
    unlisted: list[SctnetError],
) -> list[tuple[Path, Path]]:
    """Return a file itself, or the pictures below a folder with their paths there.

    Earlier results are left out, unless the user ``named`` the file. Other files of a folder are
    counted in ``left_out``, and folders that cannot be listed told in ``unlisted``.
    """
    if not path.is_dir():
        return [(path, Path(path.name))] if named or not is_result(path, out) else []
    below = pictures_below(path, unlisted.append)
    left_out.update({e: n for e, n in below.left_out.items() if e not in VIDEO_ENDINGS})
    return [(file, file.relative_to(path)) for file in below.taken if not is_result(file, out)]


def is_result(file: Path, out: Path) -> bool:
    """Say whether a file is one of the results below ``out``."""
    place = Path(os.path.realpath(file))
    return any(place.is_relative_to(os.path.realpath(out / kind)) for kind in KINDS)


def distinct_names(
    found: Iterable[tuple[Given, Path]],
    endings: Collection[str] | None = None,
    taken: Iterable[Path] = (),
) -> list[tuple[Given, Path]]:
    """Return each input once, with the name of its results: its path without the suffix.

    Only a suffix of ``endings`` is removed, by default any. If a name is used already, by an
    earlier input or among ``taken``, the input gets its suffix into the name, then a number.
    """
    taken = set(taken)
    named = []
    for given, place in dict(found).items():
        bare = endings is None or place.suffix.lower() in endings
        name = place.with_suffix("") if bare else place
        if name in taken:
            name = place.with_name(place.name.replace(".", "_"))
        number = 2
        while name in taken:
            name = place.with_name(f"{place.stem}_{number}")
            number += 1
        taken.add(name)
        named.append((given, name))
    return named
