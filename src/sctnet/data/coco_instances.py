"""Reads COCO's file of instances: one file for all pictures of a split, as CVAT exports it.

https://cocodataset.org/#format-data. A segmentation is a list of polygons or a run-length code,
as numbers or compressed. An instance with a box and no area, which is how programs write a
rectangle, fills its box. Instances are drawn in the file's order, whatever their category.

A picture is looked for by its ``file_name`` below the folder of images, and where it is not there,
or the name leads elsewhere, by its last part, if one file below the folder has that name: Label
Studio writes paths of its own server, and programs on Windows backslashes.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
from jaxtyping import Bool
from pydantic import BaseModel, Field, TypeAdapter

from sctnet.data.dataset import Files, Labels
from sctnet.data.labelme import Canvas, Coordinate, LabelNames, Point, read_json, require_size
from sctnet.data.pairing import Mismatch
from sctnet.data.picture_files import is_file, pictures_below, tell_once
from sctnet.data.rle import Runs, decode_counts, decode_runs
from sctnet.errors import SctnetError, shortened

Outline = list[Coordinate]
"""x, y, x, y and so on."""


class Box(NamedTuple):
    """A rectangle by two opposite corners, both inside, in pixels: columns and rows."""

    corner: Point
    opposite: Point


Area = list[Outline] | Runs | Box

_Number = int | str | None

_SHORT = 16  # characters of a compressed code that may cover nothing: it has one or two runs


class _Picture(BaseModel):
    id: int
    file_name: str
    height: int = Field(ge=1)
    width: int = Field(ge=1)


class _Instance(BaseModel):
    id: _Number = None
    image_id: int
    category_id: int
    segmentation: list[Outline] | Runs | None = None
    bbox: list[Coordinate] | None = None
    """Left, top, width and height."""


class _Category(BaseModel):
    id: int
    name: str


class _InstancesFile(BaseModel):
    images: list[_Picture] = Field(min_length=1)
    annotations: list[_Instance]
    categories: list[_Category]


_INSTANCES = TypeAdapter(_InstancesFile)


class DrawnPicture(NamedTuple):
    """The instances of one picture."""

    source: Path
    """The file, and below it the picture's name."""
    height: int
    width: int
    uncovered: int
    instances: list[tuple[int, Area]]
    """Label and area, from back to front."""

    def labels(self) -> Labels:
        """Draw the label map; :class:`SctnetError` for a run-length code that does not fit."""
        canvas = Canvas(self.height, self.width, self.uncovered)
        for label, area in self.instances:
            if isinstance(area, Runs):
                canvas.pixels(label, self._covered(area))
                continue
            if isinstance(area, Box):
                canvas.rectangle(label, *area)
                continue
            for outline in area:
                canvas.polygon(label, list(zip(outline[::2], outline[1::2], strict=True)))
        return canvas.labels()

    def _covered(self, runs: Runs) -> Bool[np.ndarray, "h w"]:
        if runs.size != (self.height, self.width):
            raise SctnetError(
                f"{self.source}: a run-length code of {runs.size[1]} x {runs.size[0]} "
                f"for a picture of {self.width} x {self.height}: export it again"
            )
        try:
            return decode_runs(runs)
        except ValueError as error:
            raise SctnetError(f"{self.source}: {error}: export it again") from error


def find_instances(
    path: Path,
    image_folder: Path,
    split: str,
    names: LabelNames,
    complain: Callable[[Mismatch], None] = lambda _: None,
) -> dict[Files, DrawnPicture]:
    """Return the pictures that a file of instances lists, in its order, and how to draw them.

    Their masks bear the file's and the picture's name; there is no such file. ``complain`` is told
    of areas without a pixel. Raises :class:`SctnetError` for another kind of file, a category that
    is not a class, and a picture that is missing, or shares its number or stem with another.
    """
    file = read_json(path, _INSTANCES, "a COCO file of instances")
    below = _PicturesByName(image_folder)
    areas = _areas_by_picture(file, names, path)
    found: dict[Files, DrawnPicture] = {}
    seen: set[int | PurePosixPath] = set()
    for picture in file.images:
        require_size(path, picture.height, picture.width)
        name = below.find(picture.file_name, path)
        files = Files(f"{split}/{name}", image_folder / name, path / name)
        for key, what in ((picture.id, "number"), (name.with_suffix(""), "stem")):
            if key in seen:
                raise SctnetError(
                    f"{path}: two pictures have the {what} {key}: keep one, or export it again"
                )
            seen.add(key)
        instances = areas.pop(picture.id, [])
        for number, _, area in instances:
            if not _may_cover(area, picture.height, picture.width):
                sentence = f"{path}: the annotation {number} covers no pixel of {name}"
                complain(Mismatch("empty-area", sentence))
        found[files] = DrawnPicture(
            files.mask,
            picture.height,
            picture.width,
            names.uncovered,
            [(label, area) for _, label, area in instances],
        )
    if areas:
        raise SctnetError(
            f"{path}: there is no picture of number {next(iter(areas))}, which an annotation has: "
            "export it again"
        )
    boxes = sum(isinstance(area, Box) for each in found.values() for _, area in each.instances)
    if boxes:
        tell_once(f"{path}: {boxes} annotations have a box and no area, and fill their boxes")
    return found


def _areas_by_picture(
    file: _InstancesFile, names: LabelNames, path: Path
) -> dict[int, list[tuple[_Number, int, Area]]]:
    """Return the annotations by the number of their picture: number, label and area."""
    name_of_category: dict[int, str] = {}
    for category in file.categories:
        other = name_of_category.setdefault(category.id, category.name)
        if other != category.name:
            raise SctnetError(
                f"{path}: the categories {other!r} and {category.name!r} have one id, "
                f"{category.id}: give each its own, or export it again"
            )
    areas: dict[int, list[tuple[_Number, int, Area]]] = {}
    for item in file.annotations:
        if item.category_id not in name_of_category:
            raise SctnetError(
                f"{path}: there is no category {item.category_id}, which an annotation has: "
                "export it again"
            )
        label = names.label(name_of_category[item.category_id], path)
        areas.setdefault(item.image_id, []).append((item.id, label, _area(item, path)))
    return areas


def _area(item: _Instance, path: Path) -> Area:
    if isinstance(item.segmentation, Runs):
        return item.segmentation
    outlines = [outline for outline in item.segmentation or [] if outline]
    if any(len(outline) % 2 for outline in outlines):
        raise SctnetError(
            f"{path}: a polygon of the annotation {item.id} has an x without a y: export it again"
        )
    short = next((outline for outline in outlines if len(outline) < 6), None)
    if short is not None:
        raise SctnetError(
            f"{path}: a polygon of the annotation {item.id} has {len(short) // 2} points, and "
            "three enclose an area: draw its outline, or remove it"
        )
    if outlines:
        return outlines
    left, top, width, height = item.bbox if item.bbox and len(item.bbox) == 4 else (0, 0, 0, 0)
    if width <= 0 or height <= 0:
        raise SctnetError(
            f"{path}: the annotation {item.id} has neither an area nor a box: "
            "draw its outline, or remove it"
        )
    return Box((left, top), (left + width, top + height))


def _may_cover(area: Area, height: int, width: int) -> bool:
    """Say whether an area has a pixel of its picture, as far as can be told without drawing it."""
    if isinstance(area, Runs):
        counts = area.counts
        if isinstance(counts, str):
            if len(counts) > _SHORT:
                return True
            try:
                counts = decode_counts(counts)
            except ValueError:  # which is told when it is drawn
                return True
        return not counts or any(counts[1::2])
    if isinstance(area, Box):
        columns, rows = zip(area.corner, area.opposite, strict=True)
        return _meet(columns, rows, height, width)
    return any(_meet(outline[::2], outline[1::2], height, width) for outline in area)


def _meet(columns: Sequence[float], rows: Sequence[float], height: int, width: int) -> bool:
    return max(columns) >= 0 <= max(rows) and min(columns) < width and min(rows) < height


class _PicturesByName:
    """The pictures below a folder, by the last part of their paths."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, file_name: str, source: Path) -> PurePosixPath:
        """Return a picture's path below the folder; :class:`SctnetError` where it is not clear."""
        named = PurePosixPath(file_name.replace("\\", "/"))
        is_below = not named.is_absolute() and ".." not in named.parts and bool(named.parts)
        if is_below and is_file(self._folder / named):
            return named
        last = named.name.rpartition("?d=")[2]
        for name in dict.fromkeys((last, unquote(last))):
            found = self._by_name[name]
            if len(found) == 1:
                return found[0]
            if found:
                raise SctnetError(
                    f"{source}: {shortened(file_name)!r} could be {found[0]} or {found[1]} below "
                    f"{self._folder}: write its path below that folder as file_name"
                )
        raise SctnetError(
            f"{source}: the picture {shortened(file_name)!r} is not below {self._folder}: put it "
            "there, or correct the folder under images, or the file_name"
        )

    @cached_property
    def _by_name(self) -> defaultdict[str, list[PurePosixPath]]:
        found: defaultdict[str, list[PurePosixPath]] = defaultdict(list)
        for path in pictures_below(self._folder).taken:
            place = PurePosixPath(path.relative_to(self._folder).as_posix())
            found[place.name].append(place)
        return found
