"""A strip that names the classes of a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8, UInt16
from PIL import Image, ImageDraw

from sctnet.pictures.fonts import font
from sctnet.pictures.palette import Colour

_SMALLEST_LETTERS = 9  # pixels; below this, DejaVu Sans is guessed rather than read
_SMALLEST_PICTURE = 120  # pixels of the shorter side; below it a legend hides what it explains
_LETTERS = (245, 245, 245)
_RIM = (150, 150, 150)  # around the chips: dark classes would vanish in the strip
_GROUND = (8, 8, 8)
_SHARE = 0.25  # of the picture's height, at most

KEPT = 256
"""The whole of what lies below, in :attr:`Layer.kept`."""


class Layer(NamedTuple):
    """What is laid over the lowest rows of a picture: value * kept / 256 + ink."""

    kept: UInt16[np.ndarray, "rows w"]
    ink: UInt8[np.ndarray, "rows w *_"]

    def lay_over(self, picture: UInt8[np.ndarray, "h w *_"]) -> None:
        """Change a picture, or one plane of it, in place."""
        kept = self.kept.reshape(self.kept.shape + (1,) * (picture.ndim - 2))
        part = picture[-len(kept) :]
        part[:] = (part * kept >> 8).astype(np.uint8) + self.ink


@dataclass(frozen=True)
class _Entry:
    name: str
    colour: Colour | None  # None: the count of the classes that found no room


@dataclass(frozen=True)
class Legend:
    """The entries of a strip, row by row, and the size of its letters."""

    rows: tuple[tuple[_Entry, ...], ...]
    letters: int
    width: int

    @property
    def height(self) -> int:
        """The strip's rows of pixels."""
        return _height(len(self.rows), self.letters)

    def layer(self) -> Layer:
        """Return the strip, ready to be laid over an RGB picture."""
        return _drawn(self)


def find_legend(
    size: tuple[int, int],
    pixels: Integer[np.ndarray, "k"],
    colours: Sequence[Colour],
    classes: Sequence[str],
) -> Legend | None:
    """Return a strip that names the classes with pixels, or the largest that fit.

    None where a picture of this (height, width) is too small for readable letters. ``pixels``
    counts those of each class: in the picture or, so that the strip of a video keeps still, in
    all its frames so far.
    """
    height, width = size
    by_size = [int(index) for index in np.argsort(-pixels, kind="stable") if pixels[index]]
    if min(height, width) < _SMALLEST_PICTURE or not by_size:
        return None
    largest = max(11, round(min(height, width) / 40))
    smallest = max(_SMALLEST_LETTERS, round(0.7 * largest))
    # First ever smaller letters, then ever fewer classes.
    attempts = [(len(by_size), letters) for letters in range(largest, smallest, -1)]
    attempts += [(shown, smallest) for shown in range(len(by_size), 0, -1)]
    for shown, letters in attempts:
        entries = [_Entry(classes[index], colours[index]) for index in sorted(by_size[:shown])]
        if shown < len(by_size):
            entries.append(_Entry(f"+ {len(by_size) - shown} more", None))
        rows = _rows(entries, letters, width)
        if rows and _height(len(rows), letters) <= height * _SHARE:
            return Legend(tuple(map(tuple, rows)), letters, width)
    return None


def _rows(entries: list[_Entry], letters: int, width: int) -> list[list[_Entry]]:
    """Break the entries into rows of the picture's width; empty where one alone is too wide."""
    room, gap = width - 2 * letters, round(1.3 * letters)
    rows: list[list[_Entry]] = []
    used = room + 1
    for entry in entries:
        needed = _entry_width(entry, letters)
        if needed > room:
            return []
        if used + gap + needed > room:
            rows.append([])
            used = -gap
        rows[-1].append(entry)
        used += gap + needed
    return rows


def _entry_width(entry: _Entry, letters: int) -> int:
    """Return the pixels of chip, gap and name."""
    chip = 0 if entry.colour is None else letters + letters // 2
    return chip + _name_width(entry.name, letters)


@lru_cache(maxsize=4096)
def _name_width(name: str, letters: int) -> int:
    return round(font(letters).getlength(name))


def _height(rows: int, letters: int) -> int:
    return round(1.6 * letters * rows + 0.8 * letters)


@lru_cache(maxsize=16)
def _drawn(legend: Legend) -> Layer:
    """Draw a strip; kept, since a video shows the same one in frame after frame."""
    size = legend.width, legend.height
    ink, kept = Image.new("RGB", size, _GROUND), Image.new("L", size, KEPT // 4)
    letters = legend.letters
    for number, row in enumerate(legend.rows):
        left, middle = letters, round(letters * (1.2 + 1.6 * number))
        for entry in row:
            text = left
            if entry.colour is not None:
                top = middle - letters // 2
                chip = (left, top, left + letters - 1, top + letters - 1)
                for image, fill, rim in ((ink, entry.colour, _RIM), (kept, 0, 0)):
                    ImageDraw.Draw(image).rounded_rectangle(chip, letters // 4, fill, rim)
                text += letters + letters // 2
            for image, fill in ((ink, _LETTERS), (kept, 0)):
                draw = ImageDraw.Draw(image)
                draw.text((text, middle), entry.name, fill, font(letters), anchor="lm")
            left += _entry_width(entry, letters) + round(1.3 * letters)
    return Layer(np.asarray(kept).astype(np.uint16), np.asarray(ink))
