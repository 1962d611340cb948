"""The objects of a drawn street: each function paints one object at x, z (metres)."""

from collections.abc import Sequence

import numpy as np

from sctnet.data.dataset import IGNORE
from sctnet.data.synthetic.canvas import (
    BICYCLIST,
    CAR,
    PEDESTRIAN,
    POLE,
    SIGN,
    TREE,
    Points,
    Scene,
)

LEAVES = [(60, 90, 40), (85, 105, 45), (45, 70, 45), (110, 95, 45)]
_RED, _BLUE, _SILVER, _BLACK = (170, 30, 30), (35, 55, 120), (190, 190, 195), (40, 42, 45)
_BODIES = [_RED, _BLUE, _SILVER, _BLACK, (225, 225, 220), (60, 95, 70)]  # of cars and clothes


def draw_tree(scene: Scene, x: float, z: float) -> None:
    """Draw a trunk and a crown of leaves."""
    random, unit = scene.random, scene.focal / z
    column, foot = scene.project(x, 0, z)
    tall, crown = random.uniform(3.5, 7), random.uniform(1.2, 2.4)
    scene.box(
        TREE,
        (column - 0.12 * unit, foot),
        (0.25 * unit, tall * unit),
        scene.paint((75, 60, 45), 8),
        z,
    )
    leaves = scene.paint(scene.choose(LEAVES), 10)
    for part in range(7):
        centre = (
            column + random.normal(0, crown * 0.45) * unit,
            foot - (tall + random.normal(0, crown * 0.45)) * unit,
        )
        size = crown * random.uniform(0.45, 0.8) * unit
        scene.ellipse(TREE, centre, (size, size * 0.85), leaves * (0.8 + 0.07 * part), z)


def draw_pole(scene: Scene, x: float, z: float) -> None:
    """Draw a lamp post whose arm reaches over the road."""
    unit = scene.focal / z
    column, foot = scene.project(x, 0, z)
    paint = scene.paint((90, 92, 95), 25)
    tall = scene.random.uniform(4, 8)
    scene.box(POLE, (column, foot), (0.14 * unit, tall * unit), paint, z)
    reach = -np.sign(x) * scene.random.uniform(0.6, 1.6)
    scene.box(
        POLE,
        (column + min(0, reach) * unit, foot - (tall - 0.15) * unit),
        (abs(reach) * unit, 0.12 * unit),
        paint,
        z,
    )


def draw_sign(scene: Scene, x: float, z: float) -> None:
    """Draw a round or square sign on its pole."""
    random, unit = scene.random, scene.focal / z
    column, foot = scene.project(x, 0, z)
    scene.box(POLE, (column, foot), (0.09 * unit, 2.4 * unit), scene.paint((120, 122, 125), 15), z)
    colours = [(190, 40, 40), (40, 70, 160), (220, 200, 60), (225, 225, 225)]
    paint, size = scene.paint(scene.choose(colours), 12), random.uniform(0.35, 0.6) * unit
    centre = (column, foot - 2.5 * unit)
    if random.random() < 0.5:
        scene.ellipse(SIGN, centre, (size, size), paint, z)
        scene.ellipse(None, centre, (size * 0.6, size * 0.6), scene.paint((230, 230, 230), 5), z)
    else:
        corner = (centre[0] - size, centre[1] + size)
        scene.box(SIGN, corner, (2 * size, random.uniform(1.2, 2.2) * size), paint, z)


def draw_bin(scene: Scene, x: float, z: float) -> None:
    """Draw a litter bin, which belongs to no class and is ignored."""
    unit = scene.focal / z
    paint = scene.paint((50, 75, 60), 20)
    scene.box(IGNORE, scene.project(x, 0, z), (0.6 * unit, 1.1 * unit), paint, z)


def _draw_person(
    scene: Scene, label: int, foot: tuple[float, float], unit: float, z: float
) -> None:
    """Draw legs, body and head over ``foot``; ``unit`` is the pixels of one metre."""
    random = scene.random
    column, row = foot
    trousers, coat = (scene.paint(scene.choose(_BODIES), 20) for _ in range(2))
    skin = scene.paint((190, 145, 120), 25)
    stride = random.uniform(0.05, 0.3) * unit
    hip = (column, row - 0.9 * unit)
    for step in (-stride, stride):
        leg = [
            (hip[0] - 0.12 * unit, hip[1]),
            (hip[0] + 0.12 * unit, hip[1]),
            (column + step + 0.07 * unit, row),
            (column + step - 0.07 * unit, row),
        ]
        scene.polygon(label, leg, trousers, z)
    scene.ellipse(label, (column, row - 1.15 * unit), (0.24 * unit, 0.36 * unit), coat, z)
    scene.ellipse(label, (column, row - 1.6 * unit), (0.11 * unit, 0.14 * unit), skin, z)


def draw_pedestrian(scene: Scene, x: float, z: float) -> None:
    """Draw a person on foot."""
    _draw_person(scene, PEDESTRIAN, scene.project(x, 0, z), scene.focal / z, z)


def draw_bicyclist(scene: Scene, x: float, z: float) -> None:
    """Draw a rider who crosses or comes towards us: the wheels are turned by chance."""
    unit = scene.focal / z
    column, row = scene.project(x, 0, z)
    paint = scene.paint((50, 50, 55), 15)
    turned = scene.random.uniform(0.25, 1)
    thick = max(1, round(0.07 * unit))
    for step in (-0.5, 0.5):
        hub = (column + step * turned * unit, row - 0.33 * unit)
        scene.ellipse(BICYCLIST, hub, (0.33 * turned * unit, 0.33 * unit), paint, z, thick)
    frame = [
        (column - 0.5 * turned * unit, row - 0.33 * unit),
        (column, row - 0.95 * unit),
        (column + 0.5 * turned * unit, row - 0.33 * unit),
        (column, row - 0.4 * unit),
    ]
    scene.polygon(BICYCLIST, frame, scene.paint((150, 50, 50), 40), z)
    _draw_person(scene, BICYCLIST, (column, row - 0.3 * unit), unit * 0.95, z)


def draw_car(scene: Scene, x: float, z: float) -> None:
    """Draw a car seen from behind or ahead, with the flank that the camera sees."""
    random = scene.random
    wide, low, tall, long = 0.85, random.uniform(0.8, 1.0), random.uniform(1.35, 1.7), 3.8
    body = scene.paint(scene.choose(_BODIES), 15)
    glass, rubber = scene.paint((55, 62, 72), 12), scene.paint((30, 30, 32), 4)

    def at(points: Sequence[tuple[float, float, float]]) -> Points:
        return [scene.project(x + dx, y, z + dz) for dx, y, dz in points]

    shadow = at(
        [
            (-wide - 0.2, 0, -0.3),
            (wide + 0.2, 0, -0.3),
            (wide + 0.2, 0, long),
            (-wide - 0.2, 0, long),
        ]
    )
    scene.polygon(None, shadow, rubber * 1.6, z)
    seen = -wide if x > scene.eye_x else wide  # the flank towards the camera
    flank = at([(seen, 0.25, 0), (seen, low, 0), (seen, low, long), (seen, 0.25, long)])
    scene.polygon(CAR, flank, body * 0.8, z)
    cabin = at(
        [(seen, low, 0.3), (seen * 0.85, tall, 0.8), (seen * 0.85, tall, 2.4), (seen, low, 3.1)]
    )
    scene.polygon(CAR, cabin, glass * 0.9, z)
    for dx in (-0.62, 0.42):
        scene.polygon(
            CAR, at([(dx, 0, 0), (dx, 0.4, 0), (dx + 0.22, 0.4, 0), (dx + 0.22, 0, 0)]), rubber, z
        )
    for dz in (0.6, 3.0):
        wheel = at([(seen, 0, dz), (seen, 0.6, dz), (seen, 0.6, dz + 0.6), (seen, 0, dz + 0.6)])
        scene.polygon(CAR, wheel, rubber, z)
    roof = wide * 0.8
    scene.polygon(
        CAR,
        at([(-wide, low, 0.2), (-roof, tall, 0.7), (roof, tall, 0.7), (wide, low, 0.2)]),
        body,
        z,
    )
    pane = roof * 0.92
    scene.polygon(
        None,
        at(
            [
                (-pane, low, 0.2),
                (-pane * 0.9, tall - 0.12, 0.7),
                (pane * 0.9, tall - 0.12, 0.7),
                (pane, low, 0.2),
            ]
        ),
        glass,
        z,
    )
    scene.polygon(
        CAR, at([(-wide, 0.25, 0), (-wide, low, 0), (wide, low, 0), (wide, 0.25, 0)]), body, z
    )
    light = scene.paint((200, 40, 35) if random.random() < 0.6 else (240, 240, 220), 10)
    for dx in (-wide + 0.05, wide - 0.3):
        lamp = at([(dx, 0.6, 0), (dx, 0.78, 0), (dx + 0.25, 0.78, 0), (dx + 0.25, 0.6, 0)])
        scene.polygon(None, lamp, light, z)
