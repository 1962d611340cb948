"""Reads COCO's file of instances: one file for all pictures of a split, as CVAT exports it.

https://cocodataset.org/#format-data. A segmentation is a list of polygons or a run-length code,
as numbers or compressed. Instances are drawn in the file's order, whatever their category.
"""

from pathlib import Path, PurePosixPath
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Bool
from pydantic import BaseModel, Field, TypeAdapter

from sctnet.data.dataset import Files, Labels
from sctnet.data.labelme import Canvas, Coordinate, LabelNames, read_json, require_size
from sctnet.data.rle import Runs, decode_runs
from sctnet.errors import SctnetError

Outline = Annotated[list[Coordinate], Field(min_length=6)]
"""x, y, x, y and so on."""


class _Picture(BaseModel):
    id: int
    file_name: str
    height: int = Field(ge=1)
    width: int = Field(ge=1)


class _Instance(BaseModel):
    image_id: int
    category_id: int
    segmentation: list[Outline] | Runs


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
    instances: list[tuple[int, list[Outline] | Runs]]
    """Label and area, from back to front."""

    def labels(self) -> Labels:
        """Draw the label map; :class:`SctnetError` for a run-length code that does not fit."""
        canvas = Canvas(self.height, self.width, self.uncovered)
        for label, area in self.instances:
            if isinstance(area, Runs):
                canvas.pixels(label, self._covered(area))
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
    path: Path, image_folder: Path, split: str, names: LabelNames
) -> dict[Files, DrawnPicture]:
    """Return the pictures that a file of instances lists, in its order, and how to draw them.

    Their masks bear the file's and the picture's name; there is no such file. Raises
    :class:`SctnetError` for another kind of file, a category that is not a class, and a picture
    that is missing, or shares its number or stem with another.
    """
    file = read_json(path, _INSTANCES, "a COCO file of instances")
    areas = _areas_by_picture(file, names, path)
    found: dict[Files, DrawnPicture] = {}
    seen: set[int | PurePosixPath] = set()
    for picture in file.images:
        require_size(path, picture.height, picture.width)
        name = _safe_name(picture.file_name, path)
        files = Files(f"{split}/{name}", image_folder / name, path / name)
        for key, what in ((picture.id, "number"), (name.with_suffix(""), "stem")):
            if key in seen:
                raise SctnetError(
                    f"{path}: two pictures have the {what} {key}: keep one, or export it again"
                )
            seen.add(key)
        if not files.image.is_file():
            raise SctnetError(f"{path}: the picture {files.image} is missing: put it there")
        instances = areas.pop(picture.id, [])
        found[files] = DrawnPicture(
            files.mask, picture.height, picture.width, names.uncovered, instances
        )
    if areas:
        raise SctnetError(
            f"{path}: there is no picture of number {next(iter(areas))}, which an annotation has: "
            "export it again"
        )
    return found


def _areas_by_picture(
    file: _InstancesFile, names: LabelNames, path: Path
) -> dict[int, list[tuple[int, list[Outline] | Runs]]]:
    name_of_category = {category.id: category.name for category in file.categories}
    areas: dict[int, list[tuple[int, list[Outline] | Runs]]] = {}
    for item in file.annotations:
        if item.category_id not in name_of_category:
            raise SctnetError(
                f"{path}: there is no category {item.category_id}, which an annotation has: "
                "export it again"
            )
        area = item.segmentation
        if not isinstance(area, Runs) and any(len(outline) % 2 for outline in area):
            raise SctnetError(f"{path}: a polygon has an x without a y: export it again")
        label = names.label(name_of_category[item.category_id], path)
        areas.setdefault(item.image_id, []).append((label, area))
    return areas


def _safe_name(file_name: str, path: Path) -> PurePosixPath:
    name = PurePosixPath(file_name.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or not name.parts:
        raise SctnetError(
            f"{path}: {file_name!r} is not below the folder of images: write a relative path"
        )
    return name
