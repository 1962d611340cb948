"""Which pictures are worth labelling next: those a model is unsure of, unlike each other."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import yaml
from jaxtyping import Float32

from sctnet.data.dataset import Labels, Picture
from sctnet.data.images import read_image
from sctnet.errors import SctnetError
from sctnet.inference.segmenter import Segmenter
from sctnet.pictures.contact_sheet import contact_sheet
from sctnet.pictures.encoding import write_picture
from sctnet.pictures.overlay import overlay
from sctnet.unlabelled.sources import gather_pictures, write_list
from sctnet.writing import write_text

PICTURES_FOLDER = "pictures"
LIST_FILE, SHEET_FILE = "suggested.txt", "sheet.jpg"
COCO_FILE, DATA_FILE = "coco.json", "data.yaml"

_CELLS = 4  # a picture is described by the classes in 4 x 4 cells
_SIDE = 256  # pixels of the shorter side at which a picture is looked at
_SHOWN = 12
_SMALLEST_AREA = 1e-4  # of the picture; a smaller region is joined to what is around it
_TOLERANCE = 1.0  # pixels between an outline and its polygon


class Look(NamedTuple):
    """What a model makes of a picture."""

    uncertainty: float
    """Mean over the pixels of 1 - (best probability - next)."""
    described: Float32[np.ndarray, " cells"]
    """The mean probability of each class in each cell."""


@dataclass(frozen=True)
class Suggestions:
    """The chosen pictures, in the order of their worth."""

    pictures: list[Path]
    uncertainties: list[float]
    looked_at: int
    remarks: list[str]


def suggest(
    model: str | Path,
    sources: str | Path | Sequence[str | Path],
    number: int,
    out: str | Path,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Suggestions:
    """Choose pictures to label next, and write them with the model's labels as a start.

    ``sources`` are those of :func:`~sctnet.unlabelled.sources.gather_pictures`. Of every picture,
    looked at with 256 pixels at its shorter side, the uncertainty and a description are kept:
    the mean probabilities in 4 x 4 cells. The first choice is the most uncertain picture; each next
    one has the largest product of its uncertainty and its distance to the nearest chosen one.

    ``out`` gets suggested.txt, sheet.jpg, the pictures with a LabelMe file each, coco.json, and
    data.yaml, which trains on them once the labels are corrected. Raises :class:`SctnetError` for
    what cannot be read, and for a folder that holds something.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SctnetError(f"{folder}: is not empty; choose a new folder")
    if number < 1:
        raise SctnetError(f"--number {number}: ask for one picture or more")
    segmenter = Segmenter(model)
    given = [sources] if isinstance(sources, str | Path) else list(sources)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SctnetError(f"{folder}: cannot be written ({error.strerror})") from error
    found = gather_pictures([str(source) for source in given], folder)
    remarks = list(found.remarks)
    readable: list[Path] = []
    looks: list[Look] = []
    for done, picture in enumerate(found.pictures, start=1):
        try:
            looks.append(_look(segmenter, read_image(picture)))
            readable.append(picture)
        except SctnetError as error:
            remarks.append(f"{error}; it is left out")
        progress(done, len(found.pictures))
    if not readable:
        raise SctnetError(f"not one picture can be read; of the first: {remarks[0]}")
    chosen = choose(
        np.array([look.uncertainty for look in looks]),
        np.stack([look.described for look in looks]),
        number,
    )
    pictures = [readable[place] for place in chosen]
    write_list(pictures, folder / LIST_FILE)
    _export(segmenter, pictures, folder)
    uncertainties = [looks[place].uncertainty for place in chosen]
    return Suggestions(pictures, uncertainties, len(readable), remarks)


def choose(
    uncertainties: np.ndarray, described: Float32[np.ndarray, "n cells"], number: int
) -> list[int]:
    """Return the numbers of pictures, each uncertain and unlike those before it.

    A picture that is described as one before it is chosen only when nothing else is left.
    """
    chosen = [int(uncertainties.argmax())]
    nearest = np.full(len(uncertainties), np.inf, np.float32)
    while len(chosen) < min(number, len(uncertainties)):
        distance = np.abs(described - described[chosen[-1]]).sum(axis=1)
        nearest = np.minimum(nearest, distance)
        worth = uncertainties * nearest
        worth[chosen] = -1
        chosen.append(int(worth.argmax()))
    return chosen


def _look(segmenter: Segmenter, picture: Picture) -> Look:
    height, width = picture.shape[:2]
    factor = min(1.0, _SIDE / min(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
    (found,) = segmenter.predict_probabilities([small])
    probabilities = torch.from_numpy(found)
    best, following = probabilities.topk(2, dim=0).values
    cells = torch.nn.functional.adaptive_avg_pool2d(probabilities, _CELLS)
    return Look(float(1 - (best - following).mean()), cells.flatten().numpy())


def _export(segmenter: Segmenter, pictures: Sequence[Path], folder: Path) -> None:
    """Write the pictures with the model's labels as polygons, a sheet, and their description."""
    place = folder / PICTURES_FOLDER
    rows: list[list[np.ndarray]] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    try:
        place.mkdir()
        for number, picture in enumerate(pictures, start=1):
            image = read_image(picture)
            (labels,) = segmenter.predict_labels([image])
            name = f"{number:03d}_{picture.stem}{picture.suffix.lower()}"
            shutil.copyfile(picture, place / name)
            shapes = outlines(labels.astype(np.uint8))
            height, width = labels.shape
            labelme = _labelme(name, (height, width), shapes, segmenter.classes)
            write_text((place / name).with_suffix(".json"), json.dumps(labelme))
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            annotations += _coco(number, len(annotations), shapes)
            if len(rows) < _SHOWN:
                tinted = overlay(image, labels, segmenter.colours, segmenter.classes, legend=False)
                rows.append([image, tinted])
    except OSError as error:
        raise SctnetError(f"{folder}: cannot be written ({error.strerror})") from error
    names = enumerate(segmenter.classes, start=1)
    coco = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in names],
    }
    write_text(folder / COCO_FILE, json.dumps(coco))
    described: dict[str, Any] = {
        "images": {"train": PICTURES_FOLDER},
        "masks": {"train": PICTURES_FOLDER},
        "classes": list(segmenter.classes),
    }
    if len(set(segmenter.colours)) == len(segmenter.colours):
        described["colours"] = [list(map(int, colour)) for colour in segmenter.colours]
    write_text(folder / DATA_FILE, yaml.safe_dump(described, sort_keys=False, allow_unicode=True))
    write_picture(contact_sheet(rows, ["picture", "the model's labels"]), folder / SHEET_FILE)


Shape = tuple[int, list[tuple[float, float]]]
"""A label and the corners of an outline, columns and rows of pixels."""


def outlines(labels: Labels) -> list[Shape]:
    """Return polygons that make the label map when they are drawn one over the other, in order.

    A region is drawn with its holes filled, the largest first; what lies in a hole follows. Regions
    of less than a ten thousandth of the picture are left to what is around them.
    """
    least = max(4.0, _SMALLEST_AREA * labels.size)
    found: list[tuple[float, Shape]] = []
    for label in np.unique(labels).tolist():
        contours, hierarchy = cv2.findContours(
            (labels == label).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
        )
        outer = [each for each, links in zip(contours, hierarchy[0], strict=True) if links[3] < 0]
        for contour in outer:
            area = float(cv2.contourArea(contour))
            simple = cv2.approxPolyDP(contour, _TOLERANCE, closed=True)[:, 0]
            if area >= least and len(simple) >= 3:
                corners = [(float(x), float(y)) for x, y in simple]
                found.append((area, (int(label), corners)))
    return [shape for _, shape in sorted(found, key=lambda item: -item[0])]


def _labelme(
    name: str, size: tuple[int, int], shapes: Sequence[Shape], classes: Sequence[str]
) -> dict[str, Any]:
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": [
            {
                "label": classes[label], "points": [list(point) for point in points],
                "group_id": None, "description": "", "shape_type": "polygon", "flags": {},
                "mask": None,
            }
            for label, points in shapes
        ],
        "imagePath": name,
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }  # fmt: skip


def _coco(picture: int, first: int, shapes: Sequence[Shape]) -> list[dict[str, Any]]:
    annotations = []
    for number, (label, points) in enumerate(shapes, start=first + 1):
        columns, rows = zip(*points, strict=True)
        left, top = min(columns), min(rows)
        area = cv2.contourArea(np.array(points, np.float32))
        annotations.append(
            {
                "id": number, "image_id": picture, "category_id": label + 1, "iscrowd": 0,
                "segmentation": [[value for point in points for value in point]],
                "bbox": [left, top, max(columns) - left, max(rows) - top], "area": float(area),
            }
        )  # fmt: skip
    return annotations
