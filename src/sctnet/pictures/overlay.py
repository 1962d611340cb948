"""A label map laid over its picture."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw

from sctnet.errors import SctnetError
from sctnet.pictures.lettering import font
from sctnet.pictures.palette import Colour

Picture = UInt8[np.ndarray, "h w 3"]
LabelMap = Integer[np.ndarray, "h w"]

_SMALLEST_LETTERS = 9  # pixels; below this, DejaVu Sans is guessed rather than read
_SMALLEST_PICTURE = 120  # pixels of the shorter side; below it a legend hides what it explains
_LETTERS = (245, 245, 245)
_RIM = (150, 150, 150)  # around the chips: dark classes would vanish in the strip
_BAND = 512  # rows that are tinted at a time: a picture of gigabytes is held once
_LEGEND_SHARE = 0.25  # of the picture's height, at most
_LIGHT = np.uint8(120)  # what a boundary adds to half of a value


def overlay(
    image: Picture,
    labels: LabelMap,
    colours: Sequence[Colour],
    classes: Sequence[str],
    alpha: float = 0.5,
    legend: bool = True,
    boundaries: bool = True,
    shown: Collection[int] | None = None,
) -> Picture:
    """Tint every pixel of an RGB picture, H x W x 3, with its class's colour.

    ``alpha`` is the share of the colour. Classes are parted by thin light lines, and a strip at
    the bottom names those that occur; line and letter sizes follow the picture's. Pixels without
    a class, or of one that is not ``shown``, are untouched outside that strip. A picture too small
    for readable letters gets no legend, one with too many classes names the largest and counts the
    others.
    """
    if image.shape[:2] != labels.shape:
        raise SctnetError(
            f"an image of {image.shape[:2]} and labels of {labels.shape} (height, width) cannot "
            "be laid over each other: give labels of the image's size"
        )
    if not 0 <= alpha <= 1:
        raise SctnetError(f"alpha {alpha}: give 0 (the picture alone) to 1 (the colours alone)")
    if shown is not None:
        labels = np.where(np.isin(labels, list(shown)), labels, np.iinfo(labels.dtype).max)
    result = image.copy()
    for top in range(0, len(result), _BAND):
        rows = slice(top, top + _BAND)
        _tint(result[rows], labels[rows], colours, alpha)
    if boundaries:
        lines = _boundaries(labels)
        lines[labels >= len(colours)] = 0
        cv2.copyTo((result >> 1) + _LIGHT, lines, result)
    if legend:
        pixels = np.bincount(labels.ravel(), minlength=len(classes))[: len(classes)]
        draw_legend(result, pixels, colours, classes)
    return result


def _tint(picture: Picture, labels: LabelMap, colours: Sequence[Colour], alpha: float) -> None:
    """Lay the classes' colours over a picture, in place."""
    blend = cv2.addWeighted(picture, 1 - alpha, _tints(labels, colours), alpha, 0)
    known = labels < len(colours)
    if known.all():
        picture[:] = blend
    else:
        np.copyto(picture, blend, where=known[..., None])


def _tints(labels: LabelMap, colours: Sequence[Colour]) -> Picture:
    if labels.dtype != np.uint8:
        tints: Picture = np.asarray(colours, np.uint8)[np.minimum(labels, len(colours) - 1)]
        return tints
    # Four bytes are looked up at a time, of which three are wanted.
    table = np.zeros((256, 4), np.uint8)
    table[: len(colours), :3] = colours[:256]
    found = cv2.LUT(np.ascontiguousarray(labels), table.view(np.int32))
    return np.asarray(
        cv2.cvtColor(found.view(np.uint8).reshape(*labels.shape, 4), cv2.COLOR_RGBA2RGB)
    )


def _boundaries(labels: LabelMap) -> UInt8[np.ndarray, "h w"]:
    lines: np.ndarray = np.zeros(labels.shape, np.uint8)
    lines[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    lines[1:] |= labels[1:] != labels[:-1]
    thickness = round(min(labels.shape) / 500)
    if thickness > 1:
        lines = cv2.dilate(lines, np.ones((thickness, thickness), np.uint8))
    return lines


@dataclass(frozen=True)
class _Entry:
    name: str
    colour: Colour | None  # None: the count of the classes that found no room


def draw_legend(
    picture: Picture,
    pixels: Integer[np.ndarray, "k"],
    colours: Sequence[Colour],
    classes: Sequence[str],
) -> None:
    """Draw a strip into the picture that names the classes with pixels, or the largest that fit.

    ``pixels`` counts those of each class: in this picture or, so that the strip of a video keeps
    still, in all its frames so far.
    """
    height, width = picture.shape[:2]
    by_size = [int(index) for index in np.argsort(-pixels, kind="stable") if pixels[index]]
    if min(height, width) < _SMALLEST_PICTURE or not by_size:
        return
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
        if rows and _strip_height(len(rows), letters) <= height * _LEGEND_SHARE:
            _draw_strip(picture, rows, letters)
            return


def _entry_width(entry: _Entry, letters: int) -> int:
    """Return the pixels of chip, gap and name."""
    chip = 0 if entry.colour is None else letters + letters // 2
    return chip + _name_width(entry.name, letters)


@lru_cache(maxsize=4096)
def _name_width(name: str, letters: int) -> int:
    return round(font(letters).getlength(name))


@lru_cache(maxsize=1024)
def _name_shape(name: str, letters: int) -> tuple[Image.Image, int, int]:
    """Return a name as white on black, and its place beside the middle of its left end.

    Drawn once: a video's legend shows the same names in every frame.
    """
    left, top, right, bottom = map(round, font(letters).getbbox(name, anchor="lm"))
    shape = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(shape).text((-left, -top), name, 255, font(letters), anchor="lm")
    return shape, left, top


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


def _strip_height(rows: int, letters: int) -> int:
    return round(1.6 * letters * rows + 0.8 * letters)


def _draw_strip(picture: Picture, rows: list[list[_Entry]], letters: int) -> None:
    height = _strip_height(len(rows), letters)
    strip = Image.fromarray(picture[-height:] // 4 + 8)
    draw = ImageDraw.Draw(strip)
    for number, row in enumerate(rows):
        left, middle = letters, round(letters * (1.2 + 1.6 * number))
        for entry in row:
            text = left
            if entry.colour is not None:
                top = middle - letters // 2
                chip = (left, top, left + letters - 1, top + letters - 1)
                draw.rounded_rectangle(chip, radius=letters // 4, fill=entry.colour, outline=_RIM)
                text += letters + letters // 2
            shape, right, down = _name_shape(entry.name, letters)
            draw.bitmap((text + right, middle + down), shape, _LETTERS)
            left += _entry_width(entry, letters) + round(1.3 * letters)
    picture[-height:] = np.asarray(strip)
