"""Accuracy over speed, published and measured: Figures 1, 6, 7 and 8 of the paper."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sctnet.pictures.plots import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

_INK = "#1c2733"
_DPI = 130
_MARKERS = ("o", "s", "^", "D", "v")
"""Of the groups of networks, told apart by their shapes, so that a print in grey tells them too."""
_DIRECTIONS = (
    (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1),
    (1, 0.5), (1, -0.5), (-1, 0.5), (-1, -0.5),
)  # fmt: skip
"""Of a label from its point: right, up."""
_DISTANCES = (7, 10, 14, 19, 25, 32, 40, 50)
"""Of a label from its point, in typographic points."""
_FAR = 12
"""A distance beyond which a line leads to the label."""


class Point(NamedTuple):
    """A network in a panel."""

    name: str
    family: str
    """Its name without the size of its pictures; a line joins the points of a family."""
    group: str
    """A shape for each; stars are drawn where ``ours``."""
    ours: bool
    fps: float
    miou: float
    """Percent."""


class Panel(NamedTuple):
    """One of the plots that share the axis of accuracy."""

    title: str
    points: list[Point]


def tradeoff_picture(panels: Sequence[Panel], title: str, *paths: str | Path) -> None:
    """Draw mIoU over frames a second, in a logarithmic scale, a panel beside the other.

    Our networks are stars, all others have a shape for each group; labels stand where they hide
    nothing. The endings of the files decide their formats: .png, .svg or .pdf.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure = Figure(figsize=(6.4 * len(panels), 6.2), dpi=_DPI, layout="constrained")
    figure.suptitle(title, fontsize=11, color=_INK)
    axes_of = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    groups = list(dict.fromkeys(p.group for each in panels for p in each.points if not p.ours))
    for axes, panel in zip(axes_of, panels, strict=True):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(panel.title, fontsize=10, color=_INK)
        axes.set_xlabel("frames a second")
        axes.grid(color="#e3e5e8", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.16, y=0.09)
        _paint(axes, panel.points, groups)
    axes_of[0].set_ylabel("mIoU (%), as published")
    axes_of[0].legend(loc="best", fontsize=8, framealpha=0.9)
    figure.draw_without_rendering()  # settles where the points are, which labels keep clear of
    figure.set_layout_engine("none")
    for axes, panel in zip(axes_of, panels, strict=True):
        _label(axes, panel.points)
    for path in paths:
        save_figure(figure, path)


def _paint(axes: "Axes", points: Sequence[Point], groups: Sequence[str]) -> None:
    for family in dict.fromkeys(point.family for point in points):
        members = sorted((p for p in points if p.family == family), key=lambda p: p.miou)
        own = [(p.fps, p.miou) for p in members]
        ours = any(point.ours for point in points if point.family == family)
        axes.plot(*np.array(own).T, color=_INK if ours else "#8a8f98", linewidth=0.9)
    for group, marker in zip(groups, _MARKERS, strict=False):
        own = [(p.fps, p.miou) for p in points if p.group == group and not p.ours]
        if own:
            speeds, accuracies = np.array(own).T
            axes.scatter(
                speeds, accuracies, marker=marker, s=34, facecolor="white", edgecolor=_INK,
                linewidth=1.1, label=group, zorder=3,
            )  # fmt: skip
    stars = [(p.fps, p.miou) for p in points if p.ours]
    if stars:
        speeds, accuracies = np.array(stars).T
        axes.scatter(speeds, accuracies, marker="*", s=170, color=_INK, label="SCTNet", zorder=4)


def _label(axes: "Axes", points: Sequence[Point]) -> None:
    """Name each point, ours first, at the nearest place where its name hides nothing."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    halo = [withStroke(linewidth=2.5, foreground="white")]
    centres = axes.transData.transform([(point.fps, point.miou) for point in points])
    pixels = _DPI / 72  # in a typographic point
    around = 5 * pixels
    taken = [Bbox([centre - around, centre + around]) for centre in centres]
    if (legend := axes.get_legend()) is not None:
        taken.append(legend.get_window_extent())
    order = sorted(range(len(points)), key=lambda n: (not points[n].ours, -points[n].miou))
    for number in order:
        point, centre = points[number], centres[number]
        style: dict[str, Any] = {"fontsize": 7.5, "fontweight": "bold" if point.ours else "normal"}
        trial = axes.text(0, 0, point.name, parse_math=False, **style)
        size = np.array(trial.get_window_extent().size)
        trial.remove()
        best, offset = None, np.zeros(2)
        for distance, (right, up) in product(_DISTANCES, _DIRECTIONS):
            shift = np.array([right, up]) * distance * pixels
            corner = centre + shift + size * [(right - 1) / 2, (up - 1) / 2]
            box = Bbox([corner, corner + size])
            hidden = sum(_overlap(box, other) for other in taken) + 9 * _outside(box, axes.bbox)
            if best is None or hidden < best[0]:
                best, offset = (hidden, box), (corner - centre) / pixels
            if hidden == 0:
                break
        assert best is not None
        taken.append(best[1])
        far = np.abs(offset + size / pixels / 2).max() > _FAR + size.max() / pixels / 2
        axes.annotate(
            point.name, (point.fps, point.miou), (offset[0], offset[1]), textcoords="offset points",
            color=_INK, parse_math=False, zorder=5, path_effects=halo, **style,
            arrowprops={"arrowstyle": "-", "color": "#b4b8bf", "linewidth": 0.7} if far else None,
        ).set_in_layout(False)  # fmt: skip


def _overlap(one: "Bbox", other: "Bbox") -> float:
    """Return the area that two boxes share, in square pixels."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return float(max(0.0, width) * max(0.0, height))


def _outside(box: "Bbox", frame: "Bbox") -> float:
    """Return the area of a box that is not in the frame, in square pixels."""
    return float(box.width * box.height) - _overlap(box, frame)
