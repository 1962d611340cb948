"""Label maps from shapes: rasterises polygons, and reads LabelMe's files.

Pixels are set as LabelMe's own exporter sets them, by Pillow's ``ImageDraw``: the point (x, y) lies
on the pixel of column x and row y, and a shape covers what its outline runs through and encloses
(at a sharp tip up to two pixels more).
Of shapes that overlap the later one counts. What no shape covers is ``background`` where that is
a class, and ignored elsewhere.
"""

import codecs
import math
from base64 import b64decode
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw
from pydantic import BaseModel, Field, FiniteFloat, TypeAdapter, ValidationError

from sctnet.data.dataset import IGNORE, Labels
from sctnet.data.images import MAX_PIXELS, decode_image
from sctnet.errors import SctnetError

BACKGROUND = "background"

T = TypeVar("T")

_MAX_BYTES = 1 << 30  # the largest published annotation files have half of that
_MAX_COORDINATE = 1e6  # pixels: Pillow's own numbers overflow far beyond

Coordinate = Annotated[FiniteFloat, Field(ge=-_MAX_COORDINATE, le=_MAX_COORDINATE)]
Point = tuple[Coordinate, Coordinate]
"""Column and row, in pixels."""


class LabelNames:
    """Which label a shape's name stands for."""

    def __init__(self, classes: Sequence[str], ignored: Collection[str]) -> None:
        self._label_of_name = dict.fromkeys(ignored, IGNORE)
        self._label_of_name |= {name: label for label, name in enumerate(classes)}
        self.uncovered = self._label_of_name.get(BACKGROUND, IGNORE)

    def label(self, name: str, path: Path) -> int:
        """Return a name's label; :class:`SctnetError`, naming the file, for a name unknown."""
        if name not in self._label_of_name:
            raise SctnetError(
                f"{path}: the label {name!r} is not a class: "
                "correct it, or add it to classes or ignored_labels"
            )
        return self._label_of_name[name]


class Canvas:
    """A label map in the making."""

    def __init__(self, height: int, width: int, label: int) -> None:
        self._image = Image.new("L", (width, height), label)
        self._draw = ImageDraw.Draw(self._image)

    def polygon(self, label: int, points: Sequence[Point]) -> None:
        """Fill an outline of three points or more."""
        self._draw.polygon(list(points), fill=label, outline=label)

    def rectangle(self, label: int, corner: Point, opposite: Point) -> None:
        """Fill between two opposite corners, both inside."""
        left, right = sorted((corner[0], opposite[0]))
        top, bottom = sorted((corner[1], opposite[1]))
        self._draw.rectangle((left, top, right, bottom), fill=label, outline=label)

    def circle(self, label: int, centre: Point, edge: Point) -> None:
        """Fill a circle of a centre and a point on its edge."""
        radius = math.dist(centre, edge)
        box = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
        self._draw.ellipse(box, fill=label, outline=label)

    def pixels(
        self, label: int, covered: Bool[np.ndarray, "h w"], corner: tuple[int, int] = (0, 0)
    ) -> None:
        """Fill the pixels where ``covered`` is true; ``corner`` is where its first one lies."""
        self._draw.bitmap(corner, Image.fromarray(covered.astype(np.uint8) * 255), fill=label)

    def labels(self) -> Labels:
        """Return what was drawn."""
        return np.array(self._image)


class _Shape(BaseModel):
    label: str
    points: list[Point]
    shape_type: str = "polygon"
    mask: str | None = None
    """Of a mask: a PNG in base64, which lies between the two points."""


class _LabelMeFile(BaseModel):
    shapes: list[_Shape]
    height: int = Field(alias="imageHeight", ge=1)
    width: int = Field(alias="imageWidth", ge=1)


_LABELME = TypeAdapter(_LabelMeFile)
_TWO = range(2, 3)
_POINTS = {"polygon": range(3, 1 << 30), "rectangle": _TWO, "circle": _TWO, "mask": _TWO}


def read_labelme(names: LabelNames, path: Path) -> Labels:
    """Read a LabelMe file as a label map.

    Raises :class:`SctnetError` for another kind of file, a label that is not a class, and a shape
    without an area (a line, a point).
    """
    file = read_json(path, _LABELME, "a LabelMe file")
    require_size(path, file.height, file.width)
    canvas = Canvas(file.height, file.width, names.uncovered)
    for shape in file.shapes:
        _draw(shape, canvas, names.label(shape.label, path), path)
    return canvas.labels()


def _draw(shape: _Shape, canvas: Canvas, label: int, path: Path) -> None:
    kind, points = shape.shape_type, shape.points
    if kind not in _POINTS:
        raise SctnetError(
            f"{path}: a shape of {shape.label!r} is a {kind}: draw one of {', '.join(_POINTS)}"
        )
    if len(points) not in _POINTS[kind]:
        raise SctnetError(
            f"{path}: a {kind} of {shape.label!r} has {len(points)} points: correct it in LabelMe"
        )
    if kind == "polygon":
        canvas.polygon(label, points)
    elif kind == "rectangle":
        canvas.rectangle(label, *points)
    elif kind == "circle":
        canvas.circle(label, *points)
    else:
        column, row = points[0]
        canvas.pixels(label, _covered(shape, path), (round(column), round(row)))


def _covered(shape: _Shape, path: Path) -> Bool[np.ndarray, "h w"]:
    name = f"{path}, the mask of a {shape.label!r}"
    try:
        picture = decode_image(b64decode(shape.mask or "", validate=True), name)
    except ValueError as error:  # binascii's own is one
        if isinstance(error, SctnetError):
            raise
        raise SctnetError(f"{name}: not in base64: save it again in LabelMe") from error
    return picture[..., 0] > 0


def read_json(path: Path, adapter: TypeAdapter[T], what: str) -> T:
    """Read and check a JSON file; :class:`SctnetError` for one that is not ``what``."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise SctnetError(f"{path}: larger than {_MAX_BYTES >> 20} MB: split it")
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        content.decode()
        return adapter.validate_json(content)
    except UnicodeDecodeError as error:
        raise SctnetError(f"{path}: not UTF-8 text: save it as UTF-8") from error
    except OSError as error:
        raise SctnetError(f"{path}: cannot be read ({error.strerror}): give {what}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        problem = f"{place}: {first['msg']}" if place else first["msg"]
        raise SctnetError(f"{path}: not {what} ({problem}): export it again") from error


def require_size(path: Path, height: int, width: int) -> None:
    """Raise :class:`SctnetError` for a picture too large to be drawn."""
    if height * width > MAX_PIXELS:
        raise SctnetError(
            f"{path}: a picture of {width} x {height} is more than "
            f"{MAX_PIXELS // 1_000_000} million pixels: cut it into tiles"
        )
