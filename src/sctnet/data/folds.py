"""Divides pictures into folds: for validation where no split is named, and for cross-validation.

Copies of a picture and successive frames of a sequence stay in one fold, and every class comes into
all folds alike (iterative stratification: Sechidis, Tsoumakas and Vlahavas, 2011, of groups). The
folds are kept in a file beside the data, so that a picture never changes its fold when others are
added: a model that was trained on a picture is not scored on it.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from os import cpu_count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from sctnet.data.dataset import FileDataset, Files
from sctnet.data.dataset_yaml import FolderConfig
from sctnet.data.likeness import MOST, Thumbnail, copies_within, likeness, thumbnail
from sctnet.data.picture_files import tell_once
from sctnet.data.streams import in_threads
from sctnet.errors import SctnetError
from sctnet.writing import write_text

FOLDED = ("train", "val")
"""The splits of pictures that a YAML file leaves undivided: all folds but the first, and that."""

MOST_FOLDS = 100

SEQUENCE = 0.4
"""The likeness from which pictures of successive numbers are frames of one sequence."""

_SPLIT = re.compile(r"(all-but-)?fold-(\d+)-of-(\d+)")
_NUMBERED = re.compile(r"(.*?)(\d+)\D*")

_DIVIDED: dict[tuple[object, ...], list[int]] = {}
"""Folds that could not be kept in a file."""


class Fold(NamedTuple):
    """A split by its name: a fold by its number, from 1, ``of`` how many, or all the others."""

    number: int
    of: int
    is_rest: bool

    def __str__(self) -> str:
        return f"{'all-but-' if self.is_rest else ''}fold-{self.number}-of-{self.of}"


def fold_of(split: str, config: FolderConfig | None = None) -> Fold | None:
    """Return the fold that a split's name means, such as fold-1-of-5 and all-but-fold-1-of-5.

    Of pictures that the YAML leaves undivided, ``train`` and ``val`` are folds, too.
    """
    if config is not None and config.is_undivided and split in FOLDED:
        return Fold(1, config.folds, split == "train")
    match = _SPLIT.fullmatch(split)
    if match is None:
        return None
    fold = Fold(int(match[2]), int(match[3]), match[1] is not None)
    if not (1 <= fold.number <= fold.of and 2 <= fold.of <= MOST_FOLDS):
        raise SctnetError(
            f"{split}: there is no such fold: name one of 1 to {fold.of} of at most {MOST_FOLDS}"
        )
    return fold


def part_of_folds(
    whole: FileDataset,
    splits: Sequence[str],
    wanted: Sequence[Fold],
    source: Path,
    config: FolderConfig | None,
) -> FileDataset:
    """Return the pictures that are in one of the wanted folds, which the splits name.

    The folds are kept beside the YAML file of a ``config``, or else in the data set's root. Raises
    :class:`SctnetError` for fewer pictures than folds, and for a file that is no list of folds.
    """
    count = wanted[0].of
    if any(fold.of != count for fold in wanted):
        raise SctnetError(f"{source}: folds of different divisions overlap: name those of one")
    kept = (source if config is None else source.parent) / (
        f"{'sctnet' if config is None else source.stem}.folds-{count}.json"
    )
    seed = 0 if config is None else config.split_seed
    named = whole.part(source.stem, range(len(whole)))
    numbers = [
        number
        for number, fold in enumerate(folds_of(named, count, kept, seed))
        if any((fold == each.number) != each.is_rest for each in wanted)
    ]
    return whole.part(f"{source.stem} {'+'.join(splits)}", numbers)


def folds_of(data: FileDataset, count: int, file: Path, seed: int) -> list[int]:
    """Return the fold, from 1, of every picture; keep it in the file, which decides where it can.

    Pictures that are not in the file yet join the fold of their like, or the one that wants them.
    Nothing is kept where a picture or mask cannot be read: the folds would not be what they are
    meant to be.
    """
    if len(data) < count:
        raise SctnetError(
            f"{data.name}: {len(data)} pictures cannot be divided into {count} folds: add some, or "
            "name the splits yourself"
        )
    before = _read(file, count, seed)
    known = [before.get(item.name, 0) for item in data.files]
    if all(known):
        return known
    key = (str(file), data.files, count, seed, tuple(known))
    if key in _DIVIDED:
        return _DIVIDED[key]
    thumbnails, shown, are_whole = _look_at(data)
    groups = _cut(groups_of(data.files, thumbnails), -(-len(data) // count))
    folds = divide(groups, shown, count, seed, known)
    told = f"{data.name}: its {len(data)} pictures are divided into {count} folds"
    if any(known):
        told = f"{data.name}: {known.count(0)} new pictures join the {count} folds"
    try:
        if not are_whole:
            raise SctnetError("some picture or mask cannot be read")
        names = [item.name for item in data.files]
        _write(file, before | dict(zip(names, folds, strict=True)), count, seed)
        tell_once(f"{told}, kept in {file}")
    except SctnetError as error:
        tell_once(f"{told}, not kept in {file.name}: {error}")
        _DIVIDED[key] = folds
    return folds


def groups_of(files: Sequence[Files], thumbnails: Sequence[Thumbnail | None]) -> list[list[int]]:
    """Return which pictures belong together, by their numbers: copies, and frames of a sequence."""
    joined = list(range(len(files)))

    def first(number: int) -> int:
        while joined[number] != number:
            joined[number] = joined[joined[number]]
            number = joined[number]
        return number

    pairs: list[tuple[int, int]] = []
    if len(files) <= MOST:
        pairs = [(pair.first, pair.second) for pair in copies_within(thumbnails)]
    else:
        tell_once(
            f"copies among more than {MOST} pictures are not looked for: only successive frames "
            "are kept in one fold"
        )
    for one, other in [*pairs, *_sequences(files, thumbnails)]:
        low, high = sorted((first(one), first(other)))
        joined[high] = low
    groups: dict[int, list[int]] = defaultdict(list)
    for number in range(len(files)):
        groups[first(number)].append(number)
    return list(groups.values())


def _sequences(
    files: Sequence[Files], thumbnails: Sequence[Thumbnail | None]
) -> list[tuple[int, int]]:
    """Return the pairs of pictures with successive numbers in their names that look alike."""
    numbered: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for index, item in enumerate(files):
        match = _NUMBERED.fullmatch(item.image.stem)
        if match is not None:
            numbered[str(item.image.parent), match[1]].append((int(match[2]), index))
    neighbours = [
        (one, other)
        for members in numbered.values()
        for (_, one), (_, other) in zip(sorted(members), sorted(members)[1:], strict=False)
    ]

    def belong(pair: tuple[int, int]) -> bool:
        one, other = thumbnails[pair[0]], thumbnails[pair[1]]
        return one is not None and other is not None and likeness(one, other) >= SEQUENCE

    alike = in_threads(belong, neighbours, min(8, cpu_count() or 1))
    return [pair for pair, is_one in zip(neighbours, alike, strict=True) if is_one]


def _cut(groups: Iterable[Sequence[int]], most: int) -> list[list[int]]:
    """Cut groups that are larger than a fold, as of one long film, into successive parts."""
    parts: list[list[int]] = []
    for group in groups:
        pieces = -(-len(group) // most)
        parts += [part.tolist() for part in np.array_split(np.array(group), pieces)]
    return parts


def divide(
    groups: Sequence[Sequence[int]],
    shown: Bool[np.ndarray, "n k"],
    count: int,
    seed: int,
    known: Sequence[int],
) -> list[int]:
    """Return the fold of every picture; ``known`` are those given, 0 where there is none.

    ``shown`` says which classes a picture has. The rarest class that is left is shared out first,
    each group to the fold that lacks it most.
    """
    folds = np.array(known)
    sums = np.concatenate([shown, np.ones((len(shown), 1), bool)], 1)  # the last is any picture
    of_group = np.array([sums[list(group)].sum(0) for group in groups])
    lacking = np.tile(sums.sum(0) / count, (count, 1))
    for fold, row in zip(folds[folds > 0], sums[folds > 0], strict=True):
        lacking[fold - 1] -= row
    left: list[int] = []
    for number, group in enumerate(groups):
        given = Counter(int(folds[each]) for each in group if folds[each])
        new = [each for each in group if not folds[each]]
        if given and new:
            _place(new, given.most_common(1)[0][0], folds, lacking, sums)
        elif new:
            left.append(number)
    order = np.random.default_rng(seed).permutation(len(left))
    left = [left[place] for place in order]
    while left:
        totals = of_group[left].sum(0).astype(float)
        totals[totals == 0] = np.inf
        rarest = int(totals.argmin())
        having = [number for number in left if of_group[number][rarest]]
        for number in sorted(having, key=lambda each: -of_group[each][rarest]):
            fold = _wanting(lacking, rarest) + 1
            _place(groups[number], fold, folds, lacking, sums)
        left = [number for number in left if not of_group[number][rarest]]
    if not any(known):
        folds = _fairest_first(folds, count)
    return [int(fold) for fold in folds]


def _wanting(lacking: Float[np.ndarray, "folds k"], column: int) -> int:
    """Return the fold that lacks a class most, and of these the one that lacks most pictures."""
    return max(range(len(lacking)), key=lambda fold: (lacking[fold][column], lacking[fold][-1]))


def _place(
    pictures: Sequence[int],
    fold: int,
    folds: np.ndarray,
    lacking: Float[np.ndarray, "folds k"],
    sums: Bool[np.ndarray, "n k"],
) -> None:
    folds[list(pictures)] = fold
    lacking[fold - 1] -= sums[list(pictures)].sum(0)


def _fairest_first(folds: np.ndarray, count: int) -> np.ndarray:
    """Exchange the first fold, which validates, with the one whose size is nearest to its share."""
    sizes = np.bincount(folds, minlength=count + 1)[1:]
    best = int(np.abs(sizes - len(folds) / count).argmin()) + 1
    exchanged = folds.copy()
    exchanged[folds == 1], exchanged[folds == best] = best, 1
    return exchanged


def _look_at(data: FileDataset) -> tuple[list[Thumbnail | None], Bool[np.ndarray, "n k"], bool]:
    """Return a thumbnail of every picture, the classes in it, and whether all could be read."""

    def look(number: int) -> tuple[Thumbnail | None, np.ndarray | None]:
        try:
            small = thumbnail(data.image(number))
            counts = np.bincount(data.labels(number).ravel(), minlength=256)
        except SctnetError:
            return None, None
        return small, counts[: len(data.classes)] > 0

    found = list(in_threads(look, range(len(data)), min(8, cpu_count() or 1)))
    none = np.zeros(len(data.classes), bool)
    shown = np.array([none if classes is None else classes for _, classes in found])
    return [small for small, _ in found], shown, all(classes is not None for _, classes in found)


def _read(file: Path, count: int, seed: int) -> dict[str, int]:
    """Return the folds that are kept, by picture; none where there is no file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        lists = content["folds"]
        if len(lists) != count or not all(isinstance(n, str) for names in lists for n in names):
            raise ValueError
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SctnetError(
            f"{file}: does not hold {count} lists of pictures: delete it, and it is made anew"
        ) from error
    if content.get("seed") != seed:
        raise SctnetError(
            f"{file}: was made with split_seed: {content.get('seed')}: delete it for another "
            "division, or set that"
        )
    return {name: number for number, names in enumerate(lists, 1) for name in names}


def _write(file: Path, fold_of_name: dict[str, int], count: int, seed: int) -> None:
    lists: list[list[str]] = [[] for _ in range(count)]
    for name, fold in sorted(fold_of_name.items()):
        lists[fold - 1].append(name)
    write_text(file, json.dumps({"seed": seed, "folds": lists}, indent=1) + "\n")
