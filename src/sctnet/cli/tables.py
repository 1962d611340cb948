"""Tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import HEAVY_HEAD, SIMPLE_HEAD, Box
from rich.columns import Columns
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from sctnet.checking.check import Report
    from sctnet.checking.findings import Finding
    from sctnet.evaluation.classification import ClassificationScores
    from sctnet.evaluation.evaluator import Evaluation
    from sctnet.inference.calibration import CalibrationReport
    from sctnet.inference.files import PredictionSummary
    from sctnet.training.repetitions import Repetitions

_MAX_CLASSES = 30  # rows of a table that shall stay on one page
_DETAILS = 3
_LONG_WORD = 14  # letters, such as non-commercial, which a folded line leaves whole


def table_of(
    *names: str,
    figures: Sequence[str] = (),
    remarks: Sequence[str] = (),
    title: str | None = None,
    box: Box = HEAVY_HEAD,
) -> Table:
    """Return a table with columns of names, figures and remarks, none of which is ever cut.

    Where a line is too short, remarks are folded; without remarks, names are.
    """
    table = Table(title=title, box=box)
    for name in names:
        table.add_column(name, overflow="fold", no_wrap=bool(remarks))
    for figure in figures:
        table.add_column(figure, justify="right", no_wrap=True)
    for remark in remarks:
        table.add_column(remark, overflow="fold")
    if remarks:
        table.columns[-1].min_width = _LONG_WORD
    return table


def listing(
    names: Sequence[str], figures: Sequence[str] = (), remarks: Sequence[str] = ()
) -> Table:
    """Return a table without lines between its columns, for as many as a terminal can hold."""
    table = table_of(*names, figures=figures, remarks=remarks, box=SIMPLE_HEAD)
    table.padding, table.pad_edge, table.show_edge = 0, False, False
    return table


def scores_table(evaluation: Evaluation) -> Table:
    """Return the IoU, precision and recall of every class and, below, the totals."""
    scores = evaluation.scores
    figures = ["IoU %", "precision %", "recall %"]
    table = table_of("class", figures=figures, title=f"{evaluation.images} pictures")
    for name, value in scores.iou.items():
        # As Text: in a plain str, rich would take [/x] or [bold] for markup.
        iou = "absent" if value is None else f"{100 * value:.2f}"
        others = (scores.precision[name], scores.recall[name])
        table.add_row(Text(name), iou, *("" if x is None else f"{100 * x:.2f}" for x in others))
    table.add_section()
    table.add_row("mean IoU", f"{100 * scores.miou:.2f}")
    table.add_row("pixel accuracy", f"{100 * scores.pixel_accuracy:.2f}")
    table.add_row("mean accuracy", f"{100 * scores.mean_accuracy:.2f}")
    table.add_row("images/s, predictor alone", f"{evaluation.images_per_second:.2f}")
    return table


def iou_of_classes(iou: Mapping[str, float]) -> list[RenderableType]:
    """Return the IoU of every class in columns, of many the lowest; those of 0 are red."""
    shown = dict(sorted(iou.items(), key=lambda item: item[1])[:_MAX_CLASSES])
    width = max(map(len, shown))
    cells = [
        Text(f"{name:<{width}} {100 * value:5.1f}", style="" if value else "bold red")
        for name, value in iou.items()
        if name in shown
    ]
    of = f", the {_MAX_CLASSES} lowest of {len(iou)} classes" if len(iou) > len(shown) else ""
    return [f"IoU %{of}:", Columns(cells, padding=(0, 3), column_first=True)]


def scales_table(report: CalibrationReport) -> Table:
    """Return every scale that was tried, with its time and its mIoU; the kept one is bold."""
    figures = ["scale", "flip", "ms", "mIoU %"]
    table = table_of("working size", figures=figures, title=f"{report.pictures} pictures")
    table.caption = "ms: for one picture, on this machine"
    for each in sorted(report.candidates, key=lambda each: (each.flip, each.scale)):
        table.add_row(
            str(each.working_size),
            f"{each.scale:g}",
            "yes" if each.flip else "no",
            f"{each.milliseconds:.1f}",
            f"{100 * each.miou:.2f}",
            style="bold" if each is report.chosen else None,
        )
    return table


def offsets_table(report: CalibrationReport) -> Table:
    """Return the offset and the IoU of every class, before and after."""
    table = table_of("class", figures=["offset", "IoU % before", "after"])
    before, after = report.before.iou, report.after.iou
    offsets = report.offsets or (0.0,) * len(before)
    for name, offset in zip(before, offsets, strict=True):
        shown = (
            "" if value is None else f"{100 * value:.2f}" for value in (before[name], after[name])
        )
        table.add_row(Text(name), f"{offset:+.2f}" if offset else "", *shown)
    table.add_section()
    totals = (f"{100 * each.miou:.2f}" for each in (report.before, report.after))
    table.add_row("mean IoU", "", *totals)
    return table


def repetitions_table(found: Repetitions) -> Table:
    """Return the mean and the spread of every score of several runs."""
    table = table_of(
        "score",
        figures=["mean %", "spread", "lowest", "highest", "runs"],
        title=f"{len(found.runs)} runs, each on its own validation pictures at its end",
    )
    table.caption = "spread: standard deviation of a sample, in points"
    for name, spread in found.spreads().items():
        deviation = "" if spread.deviation is None else f"{100 * spread.deviation:.2f}"
        figures = (f"{100 * each:.2f}" for each in (spread.lowest, spread.highest))
        table.add_row(Text(name), f"{100 * spread.mean:.2f}", deviation, *figures, str(spread.runs))
    return table


def classification_table(scores: ClassificationScores) -> Table:
    """Return both accuracies and the speed."""
    table = table_of("score", figures=[""], title=f"{scores.images} pictures")
    table.add_row("top-1 %", f"{100 * scores.top1:.2f}")
    table.add_row("top-5 %", f"{100 * scores.top5:.2f}")
    table.add_row("images/s, classifier alone", f"{scores.images / scores.predict_seconds:.2f}")
    return table


def check_summary(report: Report) -> list[RenderableType]:
    """Return a check as one page: what there is, how often each class occurs, what is wrong."""
    lines: list[RenderableType] = [Text(line) for line in _contents(report)]
    if report.labelled_tallies:
        lines.append(_class_table(report))
    if report.suggestions():
        lines.append(Text("suggested: " + " ".join(report.suggestions())))
    lines.append(Text(""))
    for finding in report.findings:
        lines.append(_finding_text(finding))
    errors = sum(finding.is_error for finding in report.findings)
    warnings = len(report.findings) - errors
    if report.findings:
        lines.append(Text(f"errors: {errors}, warnings: {warnings}", style="bold"))
    else:
        lines.append(Text("Nothing is wrong.", style="bold green"))
    return lines


def _contents(report: Report) -> Iterator[str]:
    from sctnet.data.picture_files import left_out_sentence

    yield f"{report.source}: {len(report.classes)} classes" if report.classes else report.source
    for split in report.splits:
        name, tally = split.name, report.tallies[split.name]
        if not split.data.classes:
            yield f"  {name}: cannot be opened"
            continue
        sizes = tally.sizes.most_common(1)
        size = ""
        if sizes:
            (height, width), _ = sizes[0]
            others = len(tally.sizes) - 1
            size = f" of {width} x {height}" + (f" and {others} other sizes" if others else "")
        labels = "no published labels"
        if split.data.labelled:
            labels = f"{100 * report.ignored_share(name):.3g} % of the pixels ignored"
        pictures = "1 picture" if tally.pictures == 1 else f"{tally.pictures} pictures"
        yield f"  {name}: {pictures}{size}, {labels}"
        if split.unlabelled:
            yield f"  {name}: {split.unlabelled} more without a mask, which are left out"
        if split.left_out:
            yield f"  {name}: {left_out_sentence(split.left_out)}"


def _class_table(report: Report) -> Table:
    """Return the classes, of many the rarest in training, with their shares and weights."""
    figures = [each for name in report.labelled_tallies for each in (f"{name} %", "in")]
    table = table_of("class", figures=[*figures, "weight"])
    table.caption = "in: pictures that show the class"
    if report.diagnoses:
        table.caption = "as the masks are read now, with the errors below"
    rows = report.class_rows()
    shown: Sequence[int] = range(len(rows))
    if len(shown) > _MAX_CLASSES:
        trained = report.tallies[report.training].pixels
        shown = sorted(sorted(shown, key=lambda label: trained[label])[:_MAX_CLASSES])
        table.title = f"the {_MAX_CLASSES} rarest of {len(report.classes)} classes"
    for label in shown:
        table.add_row(*(Text(cell) for cell in rows[label]))
    return table


def _finding_text(finding: Finding) -> Text:
    kind, style = ("error", "bold red") if finding.is_error else ("warning", "bold yellow")
    count = f" ({finding.count})" if finding.count else ""
    text = Text.assemble((kind, style), f" {finding.cause} in {finding.split}{count}: ")
    text.append(finding.sentence)
    for detail in finding.details[:_DETAILS]:
        text.append(f"\n    {detail}")
    more = finding.count - len(finding.details[:_DETAILS])
    if finding.details and more > 0:
        text.append(f"\n    and {more} more")
    return text


def prediction_table(summary: PredictionSummary) -> Table:
    """Return each class's share of all pixels and, below, how many pictures took how long."""
    table = table_of("class", figures=["share %"])
    total = sum(summary.areas.values())
    for name, pixels in summary.areas.items():
        if pixels:
            table.add_row(Text(name), f"{100 * pixels / total:.2f}")
    table.add_section()
    table.add_row("pictures", str(summary.labelled))
    table.add_row("seconds", f"{summary.seconds:.1f}")
    table.add_row("pictures/s, with reading and writing", _speed(summary))
    return table


def _speed(summary: PredictionSummary) -> str:
    return f"{summary.labelled / max(summary.seconds, 1e-9):.2f}"


def distillation_table(compared: dict[str, Any]) -> Table:
    """Return student and teacher side by side."""
    table = table_of("", figures=["teacher", "student"])
    both = compared["teacher"], compared["student"]
    millions = (
        "" if each["parameters"] is None else f"{each['parameters'] / 1e6:.2f} M" for each in both
    )
    table.add_row("parameters", *millions)
    table.add_row("size", *(f"{each['bytes'] / 1e6:.1f} MB" for each in both))
    table.add_row("a picture, here", *(f"{each['milliseconds']:.1f} ms" for each in both))
    count = compared["held_back_pictures"]
    agreement = f"{100 * compared['agreement_miou']:.1f} %"
    table.add_row(f"mIoU with the teacher, {count} held back", "", agreement)
    if "validation_miou" in compared:
        scores = (compared["validation_miou"][name] for name in ("teacher", "student"))
        table.add_row("mIoU with the labels", *(f"{100 * score:.1f} %" for score in scores))
    return table
