"""Several pictures on one sheet, to be compared."""

from collections.abc import Collection, Sequence

import cv2
import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw

from sctnet.pictures.fonts import fitting_font
from sctnet.pictures.overlay import overlay
from sctnet.pictures.palette import Colour

Picture = UInt8[np.ndarray, "_ _ 3"]

_WIDEST_COLUMN = 640  # pixels: three columns then fill a common screen
_WIDEST_COMPARED = 960
_NARROWEST_COLUMN = 160
_LARGEST_LETTERS = 26
_PAPER = 255
_INK = (40, 40, 40)


def contact_sheet(
    rows: Sequence[Sequence[Picture]], titles: Sequence[str], most: int = _WIDEST_COLUMN
) -> Picture:
    """Lay RGB pictures out in rows, under one title a column; returns an RGB picture.

    All columns have the width of the widest picture (160 to ``most`` pixels); each picture is
    scaled to it and keeps its ratio. Raises ValueError where a row has more or fewer pictures than
    there are titles.
    """
    widest = max(picture.shape[1] for row in rows for picture in row)
    width = min(max(widest, _NARROWEST_COLUMN), most)
    margin = width // 32
    lines = [_line([_title(text, width) for text in titles], margin)]
    for row in rows:
        pictures = [_scaled(picture, width) for picture, _ in zip(row, titles, strict=True)]
        lines.append(_line(pictures, margin))
    sheet = np.concatenate(lines)
    return np.pad(sheet, ((margin, 0), (0, 0), (0, 0)), constant_values=_PAPER)


def comparison(
    image: Picture,
    labels: Integer[np.ndarray, "h w"],
    colours: Sequence[Colour],
    classes: Sequence[str],
    alpha: float = 0.5,
    shown: Collection[int] | None = None,
) -> Picture:
    """Lay a picture and its overlay side by side, each at most 960 pixels wide.

    Both are made smaller before they are laid over each other: the legend stays readable.
    """
    if image.shape[1] > _WIDEST_COMPARED:
        image = _scaled(image, _WIDEST_COMPARED)
        size = (image.shape[1], image.shape[0])
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
    tinted = overlay(image, labels, colours, classes, alpha, shown=shown)
    return contact_sheet([[image, tinted]], ["picture", "labels"], _WIDEST_COMPARED)


def _line(cells: list[Picture], margin: int) -> Picture:
    """Put cells side by side, with a margin around each but above."""
    width = cells[0].shape[1]
    height = max(cell.shape[0] for cell in cells) + margin
    line = np.full((height, margin + len(cells) * (width + margin), 3), _PAPER, np.uint8)
    for column, cell in enumerate(cells):
        left = margin + column * (width + margin)
        line[: cell.shape[0], left : left + width] = cell
    return line


def _scaled(picture: Picture, width: int) -> Picture:
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    shrinks = width < picture.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (width, height), interpolation=method))


def _title(text: str, width: int) -> Picture:
    letters = min(max(13, width // 24), _LARGEST_LETTERS)
    cell = Image.new("RGB", (width, round(1.4 * letters)), (_PAPER, _PAPER, _PAPER))
    middle = (width // 2, cell.height // 2)
    letter = fitting_font(text, letters, width)
    ImageDraw.Draw(cell).text(middle, text, _INK, letter, anchor="mm")
    return np.asarray(cell)
