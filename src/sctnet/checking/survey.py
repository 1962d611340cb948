"""The survey of a split: reads every picture and mask once, and keeps counts and a few names."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from os import cpu_count
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Integer, UInt8

from sctnet.data.dataset import IGNORE, FileDataset, Labels, SegmentationDataset
from sctnet.data.dataset_yaml import FolderConfig
from sctnet.data.images import DeepColoursError, frame_count, read_mask, read_mask_encoding
from sctnet.data.likeness import MOST, Thumbnail, thumbnail
from sctnet.data.mask_to_labels import as_meant, colour_code, value_table
from sctnet.data.pairing import Mismatch
from sctnet.data.picture_files import MASK_ENDINGS
from sctnet.data.published_layouts import UNKNOWN
from sctnet.data.streams import in_threads
from sctnet.data.training_size import surveyed_numbers
from sctnet.errors import SctnetError

EXAMPLES = 6
"""The number of pictures that a finding names."""

_MAX_VALUES = 4096  # different raw values that are kept; a mask of labels has a few dozen


@dataclass
class OpenedSplit:
    """A split, as far as it could be opened."""

    name: str
    data: SegmentationDataset
    config: FolderConfig | None = None
    """The YAML, if there is one; masks are then also read as stored."""
    mismatches: Sequence[Mismatch] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    """The number of files among the pictures that are not taken for some, by their endings."""
    unlabelled: int = 0
    """The number of pictures without a mask, where the YAML allows them."""


@dataclass
class Examples:
    """A count and its first examples."""

    count: int = 0
    indices: list[int | None] = field(default_factory=list)
    details: list[str] = field(default_factory=list)

    def add(self, index: int | None, detail: str) -> None:
        """Count one, and keep it if it is one of the first; some have no picture to show."""
        self.count += 1
        if len(self.indices) < EXAMPLES:
            self.indices.append(index)
            self.details.append(detail)


class RawValues(NamedTuple):
    """The different values of one mask; a colour is 65536 red + 256 green + blue."""

    codes: Integer[np.ndarray, " n"]
    pixels: Int[np.ndarray, " n"]
    are_colours: bool
    size: tuple[int, int]


@dataclass(frozen=True)
class Survey:
    """The survey of one picture."""

    index: int
    size: tuple[int, int] | None = None
    digest: bytes = b""
    thumbnail: Thumbnail | None = None
    counts: Int[np.ndarray, " 256"] | None = None
    """Pixels by label; :data:`UNKNOWN` counts those of no label."""
    raw: RawValues | None = None
    palette: tuple[tuple[int, int, int], ...] = ()
    problems: tuple[Mismatch, ...] = ()


@dataclass
class Tally:
    """The survey of one split."""

    pictures: int = 0
    pixels: Int[np.ndarray, " 256"] = field(default_factory=lambda: np.zeros(256, np.int64))
    occurrences: Int[np.ndarray, " 256"] = field(default_factory=lambda: np.zeros(256, np.int64))
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    looked_at: list[tuple[int, int]] = field(default_factory=list)
    """The sizes of the pictures by which training chooses its own."""
    values: Counter[int] = field(default_factory=Counter)
    colours: Counter[int] = field(default_factory=Counter)
    palette: set[tuple[int, tuple[int, int, int]]] = field(default_factory=set)
    """The pairs of index and colour that occur in palette masks."""
    without_palette: int = 0
    masks_of_values: int = 0
    masks_of_colours: int = 0
    digests: dict[bytes, int] = field(default_factory=dict)
    """The first picture of every content: some 150 bytes a picture."""
    thumbnails: dict[int, Thumbnail | None] = field(default_factory=dict)
    """By the picture's number, of the first :data:`~sctnet.data.likeness.MOST` pictures."""
    repeated: Examples = field(default_factory=Examples)
    unlabelled: Examples = field(default_factory=Examples)
    unknown: Examples = field(default_factory=Examples)
    problems: dict[str, Examples] = field(default_factory=lambda: defaultdict(Examples))

    def add(self, survey: Survey, split: OpenedSplit) -> None:
        """Count one picture in."""
        self.pictures += 1
        for problem in survey.problems:
            self.problems[problem.cause].add(survey.index, problem.sentence)
        if survey.size is not None:
            self.sizes[survey.size] += 1
            if survey.index in _surveyed(len(split.data)):
                self.looked_at.append(survey.size)
            self._add_digest(survey, split)
            if len(self.thumbnails) < MOST:
                self.thumbnails[survey.index] = survey.thumbnail
        if survey.raw is not None:
            self._add_raw(survey.raw, survey.palette)
        if survey.counts is not None:
            self.pixels += survey.counts
            self.occurrences += survey.counts > 0
            name = split.data.item_name(survey.index)
            if survey.counts[UNKNOWN]:
                self.unknown.add(survey.index, name)
            elif survey.counts.sum() == survey.counts[IGNORE]:
                self.unlabelled.add(survey.index, name)

    def _add_digest(self, survey: Survey, split: OpenedSplit) -> None:
        first = self.digests.setdefault(survey.digest, survey.index)
        if first != survey.index:
            names = split.data.item_name(first), split.data.item_name(survey.index)
            self.repeated.add(survey.index, " = ".join(names))

    def _add_raw(self, raw: RawValues, palette: Sequence[tuple[int, int, int]]) -> None:
        kept = self.colours if raw.are_colours else self.values
        self.masks_of_colours += raw.are_colours
        self.masks_of_values += not raw.are_colours
        self.without_palette += not palette
        for code, pixels in zip(raw.codes.tolist(), raw.pixels.tolist(), strict=True):
            if code in kept or len(kept) < _MAX_VALUES:
                kept[code] += pixels
            if code < len(palette):
                self.palette.add((code, palette[code]))


@lru_cache(maxsize=16)
def _surveyed(pictures: int) -> frozenset[int]:
    return frozenset(surveyed_numbers(pictures))


def joined_values(tallies: Iterable[Tally]) -> Tally:
    """Return the tally of the raw values in the masks of several splits."""
    joined = Tally()
    for tally in tallies:
        joined.values.update(tally.values)
        joined.colours.update(tally.colours)
        joined.palette |= tally.palette
        joined.without_palette += tally.without_palette
        joined.masks_of_values += tally.masks_of_values
        joined.masks_of_colours += tally.masks_of_colours
    return joined


def survey_split(split: OpenedSplit) -> Iterator[Survey]:
    """Yield the survey of every picture of a split, in order, read in threads."""
    tables = None if split.config is None else _tables(split.config)

    def survey(index: int) -> Survey:
        seen = _of_picture(split.data, index)
        return _with_mask(seen, split, tables) if split.data.labelled else seen

    return in_threads(survey, range(len(split.data)), min(8, cpu_count() or 1))


class _Tables(NamedTuple):
    """The labels of what masks store, where the description has them store such."""

    of_values: UInt8[np.ndarray, " codes"] | None
    of_colours: UInt8[np.ndarray, " codes"] | None


def _tables(config: FolderConfig) -> _Tables:
    return _Tables(
        value_table(config) if config.holds_numbers else None,
        value_table(config, of_colours=True) if config.holds_colours else None,
    )


def raw_values(mask: Integer[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]) -> RawValues:
    """Count the different values of a mask, by its runs: there are far fewer than pixels."""
    are_colours = mask.ndim == 3
    codes = (colour_code(mask) if are_colours else mask).ravel()
    starts = np.concatenate([[0], np.flatnonzero(codes[1:] != codes[:-1]) + 1])
    lengths = np.diff(starts, append=codes.size)
    unique, inverse = np.unique(codes[starts], return_inverse=True)
    pixels = np.zeros(len(unique), np.int64)
    np.add.at(pixels, inverse, lengths)
    return RawValues(unique, pixels, are_colours, (mask.shape[0], mask.shape[1]))


def _of_picture(data: SegmentationDataset, index: int) -> Survey:
    try:
        image = data.image(index)
    except SctnetError as error:
        return Survey(index, problems=(Mismatch("unreadable-image", str(error)),))
    digest = blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    size = (image.shape[0], image.shape[1])
    survey = Survey(index, size, digest.digest(), thumbnail(image))
    frames = frame_count(data.files[index].image) if isinstance(data, FileDataset) else 1
    if frames == 1:
        return survey
    return _and(survey, "several-frames", f"{data.item_name(index)} holds {frames}")


def _with_mask(survey: Survey, split: OpenedSplit, tables: _Tables | None) -> Survey:
    """Add what the mask holds; the tables lead from its stored values to labels."""
    try:
        if tables is None or _is_drawn(split.data, survey.index):
            labels = split.data.labels(survey.index)
            size = labels.shape
            survey = replace(survey, counts=_label_counts(labels, len(split.data.classes)))
        else:
            survey, size = _with_raw_mask(survey, split, tables)
    except SctnetError as error:
        return _and(survey, "unreadable-mask", str(error))
    return (
        survey if survey.size in (None, size) else _and(survey, *_sizes_differ(survey, size, split))
    )


def _is_drawn(data: SegmentationDataset, index: int) -> bool:
    """Say whether labels are named shapes, which have no raw values."""
    return isinstance(data, FileDataset) and (
        data.files[index].mask.suffix.lower() not in MASK_ENDINGS
    )


def _label_counts(labels: Labels, classes: int) -> Int[np.ndarray, " 256"]:
    counts = np.bincount(labels.ravel(), minlength=256)
    outside = counts[classes:IGNORE].sum()
    counts[classes:IGNORE] = 0
    counts[UNKNOWN] = outside
    return counts


def _with_raw_mask(
    survey: Survey, split: OpenedSplit, tables: _Tables
) -> tuple[Survey, tuple[int, int]]:
    assert isinstance(split.data, FileDataset)
    path = split.data.files[survey.index].mask
    try:
        mask = read_mask(path)
    except DeepColoursError as error:
        mask = read_mask(path, reduce=True)
        survey = _and(survey, "deep-mask", str(error))
    if all(each is not None for each in tables):  # of either kind
        assert tables.of_colours is not None
        mask = as_meant(mask, tables.of_colours, path)
    raw = raw_values(mask)
    encoding = read_mask_encoding(path)
    if encoding.is_jpeg:
        sentence = f"{path} is a JPEG, whatever its name says, and a JPEG changes what it stores"
        survey = _and(survey, "jpeg-mask", sentence)
    table = tables.of_colours if raw.are_colours else tables.of_values
    if table is None:
        labels = np.full(len(raw.codes), UNKNOWN, np.uint8)
    elif raw.codes[0] < 0 or raw.codes[-1] >= len(table):
        raise SctnetError(f"{path}: the mask's values must lie between 0 and {len(table) - 1}")
    else:
        labels = table[raw.codes]
    counts: np.ndarray = np.zeros(256, np.int64)
    np.add.at(counts, labels, raw.pixels)
    return replace(survey, counts=counts, raw=raw, palette=encoding.palette), raw.size


def _sizes_differ(
    survey: Survey, mask_size: tuple[int, ...], split: OpenedSplit
) -> tuple[str, str]:
    assert survey.size is not None
    (height, width), (mask_height, mask_width) = survey.size, mask_size
    name = split.data.item_name(survey.index)
    sentence = f"{name} is {width} x {height}, its mask {mask_width} x {mask_height}"
    if survey.size == mask_size[::-1]:
        return "sizes-differ", f"{sentence}: one of them was turned (EXIF turns pictures)"
    return "sizes-differ", sentence


def _and(survey: Survey, cause: str, sentence: str) -> Survey:
    return replace(survey, problems=(*survey.problems, Mismatch(cause, sentence)))
