"""What a picture was found to show."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from sctnet.pictures.overlay import overlay
from sctnet.pictures.palette import Colour, save_label_map


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A picture with a class for every pixel."""

    labels: UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"]
    """Class indices at the picture's size; uint16 where there are more than 255 classes."""
    image: UInt8[np.ndarray, "h w 3"]
    """The picture, RGB."""
    classes: Sequence[str]
    colours: Sequence[Colour]

    def overlay(self, alpha: float = 0.5, legend: bool = True) -> Image.Image:
        """Return the picture, tinted in the classes' colours; ``alpha`` is their share."""
        return Image.fromarray(
            overlay(self.image, self.labels, self.colours, self.classes, alpha, legend)
        )

    def save(self, path: str | Path) -> None:
        """Write the label map as a PNG whose pixel values are the class indices.

        Up to 255 classes it is paletted, so that it also looks right. Raises
        :class:`SctnetError` for a path that does not end in .png or cannot be written.
        """
        save_label_map(self.labels, self.colours, path)

    def area(self) -> dict[str, dict[str, int | float]]:
        """Return every class's ``pixels`` and ``percent`` of the picture, in the classes' order."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        return {
            name: {"pixels": int(count), "percent": 100 * int(count) / self.labels.size}
            for name, count in zip(self.classes, counts, strict=True)
        }
