"""A pinhole camera and a canvas: the picture and the labels of a street, painted together.

Places are in metres: x to the right of the road's middle, y up from it, z away from the camera.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from sctnet.data.dataset import IGNORE, Colour, Picture

# The labels of CamVid's classes, in their order.
SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)

Points = Sequence[tuple[float, float]]
Paint = np.ndarray  # a colour, three floats of 0-255

# How grainy (per pixel) and how patchy (over some pixels) the surfaces of each class are.
_GRAIN = np.array([0.01, 0.05, 0.03, 0.04, 0.05, 0.16, 0.02, 0.08, 0.02, 0.05, 0.05], np.float32)
_PATCH = np.array([0.03, 0.06, 0.05, 0.05, 0.06, 0.22, 0.04, 0.08, 0.06, 0.10, 0.10], np.float32)


class Scene:
    """An empty street of random proportions, its camera, and the canvas it is painted on.

    The canvas starts black, the labels ignored. Positions are (column, row) in pixels; ``z`` is
    the distance in metres, which only decides how much haze lies over the paint.
    """

    def __init__(self, random: np.random.Generator, height: int, width: int) -> None:
        self.random = random
        self.height, self.width = height, width
        self.canvas = np.zeros((height, width, 3), np.uint8)
        self.labels = np.full((height, width), IGNORE, np.uint8)
        self.focal = width * random.uniform(0.75, 0.95)
        self.horizon = height * random.uniform(0.40, 0.52)
        self.centre = width * random.uniform(0.38, 0.62)
        self.eye = random.uniform(1.4, 1.9)  # metres above the road
        self.road = random.uniform(3.4, 5.0)  # metres from the road's middle to the kerb
        self.pavement = random.uniform(1.8, 3.2)  # metres from the kerb to the houses
        self.eye_x = -self.road * random.uniform(0.2, 0.6)  # in the left lane
        self.sun = random.choice([-1, 1])
        self.haze = self.paint((205, 212, 220), 12)

    def paint(self, colour: Colour, spread: float) -> Paint:
        """Return a colour near the one given: lighter or darker, and a little of another hue."""
        return (
            np.array(colour) + self.random.normal(0, spread) + self.random.normal(0, spread / 3, 3)
        )

    def choose(self, colours: Sequence[Colour]) -> Colour:
        """Return one of the colours."""
        return colours[int(self.random.integers(len(colours)))]

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Return the picture position (column, row) of a point in metres."""
        return (
            self.centre + (x - self.eye_x) * self.focal / z,
            self.horizon + (self.eye - y) * self.focal / z,
        )

    def polygon(self, label: int | None, points: Points, paint: Paint, z: float = 0) -> None:
        """Fill a polygon given in pixels; without a label it is paint on what lies below."""
        self.polygons(label, [points], paint, z)

    def polygons(self, label: int | None, shapes: Sequence[Points], paint: Paint, z: float) -> None:
        """Fill several polygons of equally many corners; see :meth:`polygon`."""
        # Positions in sixteenths of a pixel, held within what OpenCV's integers can take.
        fixed = list((np.array(shapes).clip(-9999, 9999) * 16).astype(np.int32))
        cv2.fillPoly(self.canvas, fixed, self._seen(paint, z), cv2.LINE_AA, 4)
        if label is not None:
            cv2.fillPoly(self.labels, fixed, label, cv2.LINE_8, 4)

    def ellipse(
        self,
        label: int | None,
        centre: tuple[float, float],
        axes: tuple[float, float],
        paint: Paint,
        z: float,
        thickness: int = -1,
    ) -> None:
        """Draw an ellipse, filled unless a thickness in pixels is given; see :meth:`polygon`."""
        middle = (int(centre[0] * 16), int(centre[1] * 16))
        radii = (max(8, int(axes[0] * 16)), max(8, int(axes[1] * 16)))
        angles = (0, 0, 360)
        colour = self._seen(paint, z)
        cv2.ellipse(self.canvas, middle, radii, *angles, colour, thickness, cv2.LINE_AA, 4)
        if label is not None:
            cv2.ellipse(self.labels, middle, radii, *angles, label, thickness, cv2.LINE_8, 4)

    def box(
        self,
        label: int | None,
        left_bottom: tuple[float, float],
        size: tuple[float, float],
        paint: Paint,
        z: float,
    ) -> None:
        """Fill an upright rectangle, at least one pixel wide."""
        (left, bottom), (width, height) = left_bottom, size
        right, top = left + max(1.0, width), bottom - max(1.0, height)
        corners = [(left, bottom), (left, top), (right, top), (right, bottom)]
        self.polygon(label, corners, paint, z)

    def _seen(self, paint: Paint, z: float) -> tuple[float, ...]:
        """Return the paint as it looks through z metres of haze."""
        clear = math.exp(-z / 150)
        return tuple((paint * clear + self.haze * (1 - clear)).tolist())

    def photograph(self) -> Picture:
        """Add texture, light and the faults of a camera to the canvas."""
        random, shape = self.random, (self.height, self.width)
        class_of_pixel = np.minimum(self.labels, len(_GRAIN) - 1)
        grain = random.standard_normal(shape, np.float32)
        light = 1 + grain * _GRAIN[class_of_pixel]
        light += self._patches(8) * _PATCH[class_of_pixel]
        light += self._patches(60) * np.float32(random.uniform(0.02, 0.10))
        slope = np.linspace(-1, 1, self.width, dtype=np.float32) * random.uniform(-0.12, 0.12)
        light = (light + slope) * np.float32(random.uniform(0.75, 1.15))
        tint = random.normal(1, 0.04, 3).astype(np.float32)
        lit = self.canvas * light[..., None] * tint
        blurred = np.asarray(cv2.GaussianBlur(lit, (3, 3), random.uniform(0.3, 0.8)))
        noise = random.standard_normal((*shape, 1), np.float32) * random.uniform(0.5, 3)
        return (blurred + noise).clip(0, 255).astype(np.uint8)

    def _patches(self, pixels: int) -> np.ndarray:
        rows, columns = self.height // pixels + 2, self.width // pixels + 2
        coarse = self.random.standard_normal((rows, columns), np.float32)
        return cv2.resize(coarse, (self.width, self.height), interpolation=cv2.INTER_CUBIC)
