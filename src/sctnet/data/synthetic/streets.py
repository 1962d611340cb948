"""Drawn streets with CamVid's classes: a data set for tests, demos and first steps, without files.

Things are placed in metres (see :mod:`sctnet.data.synthetic.canvas`) and painted from far to near.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from typing_extensions import override

from sctnet.data.camvid import CLASSES, COLOURS
from sctnet.data.dataset import (
    IGNORE,
    JoinedDataset,
    Labels,
    Picture,
    SegmentationDataset,
    check_splits,
)
from sctnet.data.synthetic.canvas import (
    BUILDING,
    FENCE,
    PAVEMENT,
    ROAD,
    SKY,
    TREE,
    Points,
    Scene,
)
from sctnet.data.synthetic.objects import (
    LEAVES,
    draw_bicyclist,
    draw_bin,
    draw_car,
    draw_pedestrian,
    draw_pole,
    draw_sign,
    draw_tree,
)

_WALLS = [(150, 90, 70), (200, 185, 160), (165, 160, 155), (120, 105, 95), (215, 205, 190)]

SPLITS = {"train": (1, 240), "val": (2, 40), "test": (3, 40)}
"""The seed and the number of pictures of each split of the data set named ``synthetic``."""


class SyntheticStreets(SegmentationDataset):
    """``count`` drawn streets of ``size`` (height, width); picture i is a function of (seed, i)."""

    def __init__(self, seed: int, count: int, size: tuple[int, int] = (180, 240)) -> None:
        self.name = f"synthetic streets, seed {seed}"
        self.classes = CLASSES
        self.colours = COLOURS
        self._seed = seed
        self._count = count
        self._size = size

    def __len__(self) -> int:
        return self._count

    @override
    def item_name(self, index: int) -> str:
        return f"streets-{self._seed}/{index:05d}.png"

    @override
    def image(self, index: int) -> Picture:
        return self.pair(index)[0]

    @override
    def labels(self, index: int) -> Labels:
        return self.pair(index)[1]

    @override
    def pair(self, index: int) -> tuple[Picture, Labels]:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return _draw_street(np.random.default_rng([self._seed, index]), *self._size)


def open_synthetic(splits: Sequence[str]) -> SegmentationDataset:
    """Open one or more of the splits of :data:`SPLITS`, joined: the same pictures every time."""
    check_splits(splits, list(SPLITS), "synthetic")
    parts = [SyntheticStreets(*SPLITS[split]) for split in splits]
    return JoinedDataset(f"synthetic streets {'+'.join(splits)}", parts)


def _draw_street(random: np.random.Generator, height: int, width: int) -> tuple[Picture, Labels]:
    scene = Scene(random, height, width)
    _draw_sky_and_skyline(scene)
    _draw_ground(scene)
    for side in (-1, 1):
        _draw_houses(scene, side)
    _draw_things(scene)
    return scene.photograph(), scene.labels


def _draw_sky_and_skyline(scene: Scene) -> None:
    random = scene.random
    bottom = int(scene.horizon) + 1
    zenith = scene.paint((120, 160, 215) if random.random() < 0.6 else (175, 182, 190), 12)
    share = np.linspace(0, 1, bottom)[:, None, None]
    scene.canvas[:bottom] = (zenith * (1 - share) + scene.haze * share).clip(0, 255)
    scene.labels[:bottom] = SKY
    for _ in range(random.integers(4)):
        column, row = random.uniform(0, scene.width), random.uniform(0, bottom * 0.7)
        for _ in range(4):
            puff = (column + random.normal(0, 12), row + random.normal(0, 3))
            size = (random.uniform(8, 25), random.uniform(3, 7))
            scene.ellipse(None, puff, size, scene.paint((228, 230, 234), 5), 0)
    z, x = 95.0, -90.0
    while x < 90:
        wide, tall = random.uniform(8, 22), random.uniform(4, 15)
        foot = scene.project(x, 0, z)
        size = (wide * scene.focal / z, tall * scene.focal / z)
        if random.random() < 0.5:
            scene.box(BUILDING, foot, size, scene.paint(scene.choose(_WALLS), 15), z)
        else:
            crown = (foot[0] + size[0] / 2, foot[1] - size[1] / 3)
            leaves = scene.paint(scene.choose(LEAVES), 10)
            scene.ellipse(TREE, crown, (size[0] * 0.6, size[1] * 0.6), leaves, z)
        x += wide


def _draw_ground(scene: Scene) -> None:
    random, near, far = scene.random, 1.0, 95.0

    def strip(left: float, right: float, z0: float = near, z1: float = far) -> Points:
        corners = ((left, z0), (left, z1), (right, z1), (right, z0))
        return [scene.project(x, 0, z) for x, z in corners]

    top = int(scene.project(0, 0, far)[1])
    scene.canvas[top:] = scene.paint((150, 145, 140), 15).clip(0, 255)
    scene.labels[top:] = PAVEMENT
    asphalt = scene.paint((95, 95, 100), 15)
    road, white = scene.road, scene.paint((215, 215, 208), 8)
    scene.polygon(ROAD, strip(-road, road), asphalt)
    for _ in range(3):  # mended places
        x, z = random.uniform(-road, road - 1), random.uniform(3, 25)
        scene.polygon(None, strip(x, x + 1, z, z + random.uniform(1, 8)), asphalt * 0.93)
    for side in (-1, 1):
        scene.polygon(None, strip(side * (road - 0.05), side * (road + 0.15)), asphalt * 1.35)
    dashes = [strip(-0.07, 0.07, z, z + 2) for z in np.arange(random.uniform(1, 5), 60, 5)]
    scene.polygons(None, dashes, white, 0)
    if random.random() < 0.3:
        z = random.uniform(7, 18)
        stripes = [strip(x, x + 0.5, z, z + 2.5) for x in np.arange(-road + 0.3, road - 0.5, 1)]
        scene.polygons(None, stripes, white, 0)


def _draw_houses(scene: Scene, side: int) -> None:
    """Draw one side of the street: a row of fronts from far to near, with gaps and fences."""
    random = scene.random
    front = side * (scene.road + scene.pavement)
    ends = [random.uniform(2.0, 4.0)]
    while ends[-1] < 90:
        ends.append(ends[-1] + random.uniform(6, 14))
    for near, far in zip(ends[-2::-1], ends[:0:-1], strict=True):
        if random.random() < 0.75:
            _draw_house(scene, side, front + side * random.uniform(0.2, 2.5), near, far)
        else:
            for z in (far - 2, near + 2):
                draw_tree(scene, front + side * random.uniform(2, 5), z)
        if random.random() < 0.25:
            _draw_fence(scene, front, near, far)


def _draw_house(scene: Scene, side: int, front: float, near: float, far: float) -> None:
    random = scene.random
    tall, storey = random.uniform(5, 13), random.uniform(2.7, 3.3)
    wall = scene.paint(scene.choose(_WALLS), 15)
    wall = wall * (0.78 if side == scene.sun else 1.05)

    def upright(z0: float, z1: float, y0: float, y1: float) -> Points:
        corners = ((y0, z0), (y1, z0), (y1, z1), (y0, z1))
        return [scene.project(front, y, z) for y, z in corners]

    back = front + side * 8
    gable = [
        scene.project(x, y, near) for x, y in ((front, 0), (front, tall), (back, tall), (back, 0))
    ]
    scene.polygon(BUILDING, gable, wall * 0.85, near)
    scene.polygon(BUILDING, upright(near, far, 0, tall), wall, (near + far) / 2)
    scene.polygon(None, upright(near, far, tall - 0.4, tall), wall * 0.7, near)
    glass = scene.paint((60, 70, 85), 20)
    windows = [
        upright(z, z + 1.1, y, y + 1.5)
        for z in np.arange(near + 0.7, far - 1.5, random.uniform(1.8, 2.8))
        for y in np.arange(0.9, tall - 2, storey)
    ]
    if windows and near < 50:
        scene.polygons(None, windows, glass, near)
    door = near + random.uniform(0.5, 4)
    scene.polygon(None, upright(door, door + 1, 0, 2.1), scene.paint((90, 60, 50), 30), near)
    if random.random() < 0.3:  # a border nobody labelled, as where annotators were unsure
        outline = np.array(upright(near, far, 0, tall)).clip(-9999, 9999).astype(np.int32)
        cv2.polylines(scene.labels, [outline], True, IGNORE, 1)


def _draw_fence(scene: Scene, x: float, near: float, far: float) -> None:
    tall = scene.random.uniform(0.9, 1.5)
    paint = scene.paint((95, 85, 75), 25)
    corners = ((0, near), (tall, near), (tall, far), (0, far))
    scene.polygon(FENCE, [scene.project(x, y, z) for y, z in corners], paint, near)
    pickets = [
        [scene.project(x, y, at) for y, at in ((0, z), (tall, z), (tall, z + 0.2), (0, z + 0.2))]
        for z in np.arange(near, far - 0.2, 0.5)
    ]
    scene.polygons(None, pickets, paint * 1.3, near)


def _draw_things(scene: Scene) -> None:
    """Draw the objects of the street, from far to near."""
    random, road, pavement = scene.random, scene.road, scene.pavement
    things = []
    for draw, most, nearest, farthest in (
        (draw_tree, 2, 8, 40),
        (draw_pole, 4, 5, 35),
        (draw_sign, 3, 5, 22),
        (draw_bin, 1, 6, 20),
        (draw_pedestrian, 4, 5, 22),
    ):
        for _ in range(random.integers(most + 1)):
            side = random.choice([-1, 1])
            x = side * (road + random.uniform(0.3, pavement - 0.2))
            things.append((random.uniform(nearest, farthest), x, draw))
    for _ in range(random.integers(4)):
        things.append((random.uniform(6, 30), random.choice([-1, 1]) * (road - 1.1), draw_car))
    if random.random() < 0.4:
        things.append((random.uniform(9, 35), scene.eye_x, draw_car))
    for _ in range(random.integers(3)):
        x = random.choice([-1, 1]) * random.uniform(0.5, road - 0.8)
        things.append((random.uniform(5, 16), x, draw_bicyclist))
    for z, x, draw in sorted(things, key=lambda thing: -thing[0]):
        draw(scene, x, z)
