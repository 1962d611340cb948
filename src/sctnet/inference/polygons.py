"""The polygons of a mask, as in GeoJSON.

Coordinates are in pixels, x to the right and y down, on the pixels' edges: the picture's corners
are (0, 0) and (width, height), and a single pixel is a square of area 1. A region therefore has
exactly its pixels' area, and filling it (the pixels whose centres lie inside) gives back the mask.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Bool, Int

Ring = Int[np.ndarray, "_ 2"]
"""Corners, x and y, the first one not repeated."""


def mask_polygons(mask: Bool[np.ndarray, "h w"]) -> list[list[list[list[int]]]]:
    """Return the coordinates of a GeoJSON MultiPolygon: polygons of an outer ring and its holes.

    Rings are closed. They touch themselves and others only in single points.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.uint8)
    # OpenCV's contours run through the centres of pixels. In a mask of twice the size, the centres
    # at a border are half an original pixel apart: one for each corner of the true outline.
    doubled = part.repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    polygons = []
    for outer, (_, _, hole, parent) in enumerate(hierarchy[0].tolist()):
        if parent != -1:
            continue
        rings = list(_simple_rings(contours[outer]))
        while hole != -1:
            rings += _simple_rings(contours[hole])
            hole = hierarchy[0][hole][0]
        polygons += _nested(rings)
    return [
        [[[x + left, y + top] for x, y in [*ring.tolist(), ring[0].tolist()]] for ring in rings]
        for rings in polygons
    ]


def _simple_rings(contour: Int[np.ndarray, "n 1 2"]) -> Iterator[Ring]:
    """Yield a border on the pixels' edges, cut where it meets itself, without straight points."""
    points = (contour[:, 0] + 1) // 2
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    path: list[tuple[int, int]] = []
    place: dict[tuple[int, int], int] = {}
    for x, y in points.tolist():
        point = (x, y)
        if point in place:
            start = place[point]
            yield _corners(path[start:])
            for passed in path[start:]:
                del place[passed]
            del path[start:]
        place[point] = len(path)
        path.append(point)
    yield _corners(path)


def _corners(path: list[tuple[int, int]]) -> Ring:
    ring = np.array(path)
    step, before = np.roll(ring, -1, axis=0) - ring, ring - np.roll(ring, 1, axis=0)
    bent: Ring = ring[(np.sign(step) != np.sign(before)).any(axis=1)]
    return bent


def _nested(rings: list[Ring]) -> list[list[Ring]]:
    """Append each hole to the outer ring around it."""
    # OpenCV follows outer contours and holes in opposite directions.
    areas = [_signed_area(ring) for ring in rings]
    polygons = [[ring] for ring, area in zip(rings, areas, strict=True) if area * areas[0] > 0]
    for ring, area in zip(rings, areas, strict=True):
        if area * areas[0] < 0:
            _smallest_around(polygons, ring).append(ring)
    return polygons


def _smallest_around(polygons: list[list[Ring]], hole: Ring) -> list[Ring]:
    if len(polygons) == 1:
        return polygons[0]
    # The centre of a pixel of the hole, next to its first edge, is not on any ring.
    inside = _point_inside(hole)
    around = [
        rings
        for rings in polygons
        if cv2.pointPolygonTest(rings[0].astype(np.float32), inside, False) > 0
    ]
    return min(around, key=lambda rings: abs(_signed_area(rings[0])))


def _point_inside(ring: Ring) -> tuple[float, float]:
    """Return the centre of the pixel in a ring's topmost, then leftmost corner."""
    x, y = min(map(tuple, ring.tolist()), key=lambda point: (point[1], point[0]))
    return x + 0.5, y + 0.5


def _signed_area(ring: Ring) -> float:
    x, y = ring.T.astype(np.int64)
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2
