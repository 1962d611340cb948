"""The result of labelling a picture."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, UInt8, UInt16
from PIL import Image

from sctnet.data.rle import encode_counts, label_runs
from sctnet.errors import SctnetError
from sctnet.inference.polygons import mask_polygons
from sctnet.pictures.contact_sheet import comparison
from sctnet.pictures.encoding import write_picture
from sctnet.pictures.overlay import overlay
from sctnet.pictures.palette import Colour, save_label_map
from sctnet.writing import write_whole

if TYPE_CHECKING:
    from supervision import Detections  # type: ignore[import-not-found,unused-ignore]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A picture with a class for every pixel."""

    labels: UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"]
    """Class indices at the picture's size; uint16 where there are more than 255 classes."""
    image: UInt8[np.ndarray, "h w 3"]
    """The picture, RGB."""
    classes: Sequence[str]
    colours: Sequence[Colour]
    probabilities: Float32[np.ndarray, "k h w"] | None = None
    """Probability of each class at each pixel, K x H x W, if requested; the label has the
    largest."""

    def overlay(
        self,
        alpha: float = 0.5,
        legend: bool = True,
        boundaries: bool = True,
        classes: Sequence[str] | None = None,
    ) -> Image.Image:
        """Return the picture, tinted in the classes' colours.

        ``alpha`` is the opacity of the colours, 0 to 1. With ``classes`` only these are tinted and
        named; upper and lower case do not matter. Raises :class:`SctnetError` for an unknown class.
        """
        return Image.fromarray(self._overlaid(alpha, legend, boundaries, classes))

    def comparison(self, alpha: float = 0.5, classes: Sequence[str] | None = None) -> Image.Image:
        """Return the picture and its overlay side by side, each at most 960 pixels wide."""
        shown = None if classes is None else class_indices(classes, self.classes)
        return Image.fromarray(
            comparison(self.image, self.labels, self.colours, self.classes, alpha, shown)
        )

    def save(self, path: str | Path) -> None:
        """Write the file that the path's suffix names.

        ``.png``: the label map, whose pixel values are the class indices; up to 255 classes it has
        a palette, so that viewers show the classes' colours. ``.jpg``: the overlay. ``.json``:
        size, areas and run lengths of :meth:`summary`. ``.geojson``: the polygons. ``.npy``: the
        probabilities. Raises :class:`SctnetError` for another suffix, for probabilities that were
        not requested, and for a path that cannot be written.
        """
        ending = Path(path).suffix.lower()
        if ending == ".png":
            save_label_map(self.labels, self.colours, path)
        elif ending in {".jpg", ".jpeg"}:
            write_picture(self._overlaid(), path)
        elif ending == ".json":
            write_whole(path, json.dumps(self.summary()).encode())
        elif ending == ".geojson":
            write_whole(path, json.dumps(self.polygons()).encode())
        elif ending == ".npy":
            write_whole(path, self._encoded_probabilities(path))
        else:
            raise SctnetError(
                f"{path}: end its name in .png (label map), .jpg (overlay), .json, .geojson or .npy"
            )

    def area(self) -> dict[str, dict[str, int | float]]:
        """Return every class's ``pixels`` and ``percent`` of the picture, in the classes' order."""
        counts = np.zeros(len(self.classes), np.int64)
        for top in range(0, len(self.labels), 256):  # bincount copies, 8 bytes per pixel
            band = self.labels[top : top + 256].ravel()
            counts += np.bincount(band, minlength=len(counts))[: len(counts)]
        return {
            name: {"pixels": int(count), "percent": 100 * int(count) / self.labels.size}
            for name, count in zip(self.classes, counts, strict=True)
        }

    def rle(self, compressed: bool = True) -> dict[str, dict[str, Any]]:
        """Return COCO's run-length code of every class that occurs.

        ``size`` is height and width. ``counts`` are the lengths of the runs, column by column: as
        the string that pycocotools reads, or as a list if not ``compressed``.
        """
        size = list(self.labels.shape)
        return {
            self.classes[index]: {
                "size": size,
                "counts": encode_counts(lengths) if compressed else lengths.tolist(),
            }
            for index, lengths in label_runs(self.labels, len(self.classes)).items()
        }

    def polygons(self) -> dict[str, Any]:
        """Return a GeoJSON FeatureCollection with a MultiPolygon for every class that occurs.

        Coordinates are pixels, x to the right and y down, on the pixels' edges. The filled polygons
        give exactly the label map, and their area is its number of pixels.
        """
        features = []
        for index in np.unique(self.labels[self.labels < len(self.classes)]).tolist():
            mask = self.labels == index
            features.append(
                {
                    "type": "Feature",
                    "properties": {
                        "class": self.classes[index],
                        "index": index,
                        "colour": list(self.colours[index]),
                        "pixels": int(mask.sum()),
                    },
                    "geometry": {"type": "MultiPolygon", "coordinates": mask_polygons(mask)},
                }
            )
        return {"type": "FeatureCollection", "features": features}

    def summary(self) -> dict[str, Any]:
        """Return size, and index, colour, area and run-length code of each class, for JSON.

        The code of a class that does not occur is None.
        """
        height, width = self.labels.shape
        codes = self.rle()
        return {
            "width": width,
            "height": height,
            "classes": [
                {
                    "name": name,
                    "index": index,
                    "colour": list(self.colours[index]),
                    **area,
                    "rle": codes.get(name),
                }
                for index, (name, area) in enumerate(self.area().items())
            ],
        }

    def to_supervision(self) -> "Detections":
        """Return a ``supervision.Detections`` with one mask for every class that occurs.

        Raises :class:`SctnetError` where supervision is not installed.
        """
        try:
            from supervision import Detections, mask_to_xyxy
        except ImportError as error:
            raise SctnetError("supervision is not installed: pip install supervision") from error
        present = np.unique(self.labels[self.labels < len(self.classes)]).astype(int)
        masks = self.labels == present[:, None, None]
        names = np.array([self.classes[index] for index in present])
        return Detections(
            xyxy=mask_to_xyxy(masks),
            mask=masks,
            class_id=present,
            data={"class_name": names},
        )

    def _overlaid(
        self,
        alpha: float = 0.5,
        legend: bool = True,
        boundaries: bool = True,
        classes: Sequence[str] | None = None,
    ) -> UInt8[np.ndarray, "h w 3"]:
        shown = None if classes is None else class_indices(classes, self.classes)
        return overlay(
            self.image, self.labels, self.colours, self.classes, alpha, legend, boundaries, shown
        )

    def _encoded_probabilities(self, path: str | Path) -> bytes:
        if self.probabilities is None:
            raise SctnetError(
                f"{path}: there are no probabilities: call the segmenter with probabilities=True"
            )
        content = BytesIO()
        np.save(content, self.probabilities)
        return content.getvalue()


def class_indices(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Return the indices of these class names; upper and lower case do not matter.

    Raises :class:`SctnetError` for an unknown name.
    """
    index_of = {name.casefold(): index for index, name in enumerate(classes)}
    index_of |= {name: index for index, name in enumerate(classes)}
    unknown = [name for name in names if name not in index_of and name.casefold() not in index_of]
    if unknown:
        raise SctnetError(f"no class {unknown[0]!r}: choose from {', '.join(classes)}")
    return [index_of[name if name in index_of else name.casefold()] for name in names]
