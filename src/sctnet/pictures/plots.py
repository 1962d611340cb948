"""Plots: confusion matrix, scores by class and training curves."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, Int64

from sctnet.errors import SctnetError
from sctnet.writing import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_NUMBERS = 30  # classes: beyond, numbers in the cells are too small to read
_MAX_NAMES = 200  # classes: beyond, names at the sides are too small to read
_MAX_CLASS_ROWS = 80  # beyond, the picture would grow above 26 inches
_BLUE, _ORANGE, _GREY = "#1f5fa8", "#c8641e", "#8a8f98"


def confusion_picture(
    counts: Int64[np.ndarray, "k k"], classes: Sequence[str], path: str | Path
) -> None:
    """Draw a confusion matrix (rows truth, columns prediction) in percent of each true class.

    Cells below half a percent stay empty, rows of classes without truth are grey. Above 30
    classes no numbers are printed. The file's ending decides the format: .png, .svg or .pdf.
    """
    from matplotlib.figure import Figure

    totals = counts.sum(axis=1, keepdims=True)
    percent = np.where(totals > 0, 100 * counts / np.maximum(totals, 1), np.nan)
    inches = min(26.0, 3.0 + len(classes) * (0.42 if len(classes) <= _MAX_NUMBERS else 0.13))
    figure = Figure(figsize=(inches + 0.6, inches), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("#e6e6e6")
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("percent of the true class's pixels")
    bar.outline.set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if len(classes) <= _MAX_NAMES:
        letters = 9 if len(classes) <= _MAX_NUMBERS else 5
        plain: dict[str, Any] = {"fontsize": letters, "parse_math": False}  # a $ in a name is a $
        axes.set_xticks(range(len(classes)), classes, rotation=90, **plain)
        axes.set_yticks(range(len(classes)), classes, **plain)
    if len(classes) <= _MAX_NUMBERS:
        _print_numbers(axes, percent)
    save_figure(figure, path)


def _print_numbers(axes: "Axes", percent: Float64[np.ndarray, "k k"]) -> None:
    edges = np.arange(len(percent) + 1) - 0.5
    axes.hlines(edges, edges[0], edges[-1], color="white", linewidth=1)
    axes.vlines(edges, edges[0], edges[-1], color="white", linewidth=1)
    for row, column in np.argwhere(np.nan_to_num(percent) >= 0.5):
        value = percent[row, column]
        colour = "white" if value > 55 else "#1c2733"
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8)


def class_scores_picture(
    iou: Mapping[str, float | None],
    precision: Mapping[str, float | None],
    recall: Mapping[str, float | None],
    path: str | Path,
) -> None:
    """Draw the IoU of every class as a bar, with its precision and recall as marks, in percent.

    The values are fractions by class; None has no mark. The lowest IoU is at the bottom. The file's
    ending decides the format: .png, .svg or .pdf.
    """
    from matplotlib.figure import Figure

    names = sorted(iou, key=lambda name: iou[name] or 0.0)
    inches = min(26.0, 1.4 + 0.3 * len(names))
    figure = Figure(figsize=(8, inches), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(names))
    values = [
        np.array([100 * (np.nan if (x := of[name]) is None else x) for name in names], np.float64)
        for of in (iou, precision, recall)
    ]
    axes.barh(places, np.nan_to_num(values[0]), 0.7, color="#a9c6e5", label="IoU")
    axes.plot(values[1], places, "D", color=_BLUE, markersize=5, label="precision")
    axes.plot(values[2], places, "o", color=_ORANGE, markersize=5, label="recall")
    letters = 9 if len(names) <= _MAX_CLASS_ROWS else 5
    axes.set_yticks(places, names, fontsize=letters, parse_math=False)  # a $ in a name is a $
    axes.set_xlim(-1, 101)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("percent")
    axes.grid(axis="x", color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    save_figure(figure, path)


def training_curves(records: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Draw loss, score and learning rate over the steps, as far as the records hold them.

    ``records`` are the lines of a run's ``metrics.jsonl``: each has ``step`` and some of ``loss``,
    ``learning_rate`` and ``miou`` or ``top1`` (fractions). Raises :class:`SctnetError` where none
    has any.
    """
    from matplotlib.figure import Figure

    painters: dict[str, Callable[..., None]] = {
        "loss": _paint_loss,
        "miou": partial(_paint_score, "mIoU"),
        "top1": partial(_paint_score, "top-1"),
        "learning_rate": _paint_rate,
    }
    curves = {key: curve for key in painters if len(curve := _curve(records, key))}
    if not curves:
        raise SctnetError("the metrics hold no loss, score or learning_rate to draw; train first")
    ratios = [1 if key == "learning_rate" else 2 for key in curves]
    figure = Figure(figsize=(8, 1.1 + 1.35 * sum(ratios)), dpi=150, layout="constrained")
    panels = figure.subplots(
        len(curves), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": ratios}
    )[:, 0]
    for axes, (key, curve) in zip(panels, curves.items(), strict=True):
        painters[key](axes, curve)
        axes.grid(color="#e3e5e8", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    panels[-1].set_xlabel("step")
    figure.align_ylabels()
    save_figure(figure, path)


def _curve(records: Sequence[dict[str, Any]], key: str) -> Float64[np.ndarray, "n 2"]:
    """Return the (step, value) pairs of a key, n x 2, by step."""
    pairs = [(record["step"], record[key]) for record in records if record.get(key) is not None]
    return np.array(sorted(pairs), np.float64).reshape(-1, 2)


def _paint_loss(axes: "Axes", curve: Float64[np.ndarray, "n 2"]) -> None:
    steps, loss = curve.T
    window = max(1, len(loss) // 40)
    axes.set_ylabel("loss")
    if window == 1:
        axes.plot(steps, loss, color=_BLUE, linewidth=1.6)
        return
    axes.plot(steps, loss, color=_BLUE, alpha=0.3, linewidth=0.8)
    smooth = np.convolve(loss, np.full(window, 1 / window), mode="valid")
    axes.plot(steps[window - 1 :], smooth, color=_BLUE, label=f"mean of the last {window} records")
    axes.legend(frameon=False)


def _paint_score(words: str, axes: "Axes", curve: Float64[np.ndarray, "n 2"]) -> None:
    steps, score = curve[:, 0], 100 * curve[:, 1]
    best = int(np.argmax(score))
    axes.plot(steps, score, color=_ORANGE, marker="o", markersize=3.5)
    axes.axhline(score[best], color=_GREY, linestyle=":", linewidth=1)
    text = f"best {score[best]:.1f} %, at step {steps[best]:.0f}; last {score[-1]:.1f} %"
    axes.text(0.99, 0.06, text, ha="right", transform=axes.transAxes)
    axes.set_ylabel(f"{words} (%)")


def _paint_rate(axes: "Axes", curve: Float64[np.ndarray, "n 2"]) -> None:
    axes.plot(*curve.T, color=_GREY)
    axes.set_ylabel("learning rate")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Write a figure as its file ending says: .png, .svg or .pdf."""
    ending = Path(path).suffix.lower().removeprefix(".")
    if ending not in ("png", "svg", "pdf"):
        raise SctnetError(f"{path}: a plot is a .png, .svg or .pdf; end its name in one of them")
    content = BytesIO()
    with warnings.catch_warnings():
        # Names in letters that the font lacks are drawn as boxes; the picture is right otherwise.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(content, format=ending, bbox_inches="tight", pad_inches=0.15)
    write_whole(path, content.getvalue())
