"""Progress bars of long commands."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True)
shown = True
"""Whether bars are shown; ``sctnet --quiet`` sees to it."""


def progress_bar(remaining: ProgressColumn | None = None) -> Progress:
    """Return a bar with counts, a free text, elapsed and remaining time.

    ``remaining`` shows the remaining time where the counts alone do not tell it.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        remaining or TimeRemainingColumn(),
        console=console,
        disable=not shown,
    )


@contextmanager
def training_progress() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show a run's iterations, loss, speed and remaining time; and the scores of validations."""
    from sctnet.cli.tables import iou_of_classes

    progress = progress_bar(TextColumn("{task.fields[left]}", style="progress.remaining"))

    def observe(record: dict[str, Any]) -> None:
        # The bar begins with the first record: after all checks, and where a resumed run is.
        if not progress.tasks:
            step, total = int(record["step"]), record.get("of")
            progress.add_task("training", total=total, completed=step, text="", left="-:--:--")
            progress.start()
        bar = progress.tasks[0].id
        progress.update(bar, completed=record["step"])
        if (left := record.get("seconds_left")) is not None:
            progress.update(bar, left=_duration(left))
        if "loss" in record:
            text = f"loss {record['loss']:.3f}  {record['images_per_second']:.1f} images/s"
            progress.update(bar, text=text)
        elif "of" not in record:
            to_go = "" if left is None else f"; about {_duration(left)} to go"
            line = f"iteration {record['step']:.0f}: validation {_scores(record)}{to_go}"
            progress.console.print(line, highlight=False)
            if "iou" in record:
                progress.console.print(*iou_of_classes(record["iou"]), sep="\n")

    try:
        yield observe
    finally:
        progress.stop()


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


_SCORES = {
    "miou": "mIoU", "pixel_accuracy": "pixel accuracy", "top1": "top-1", "top5": "top-5",
}  # fmt: skip


def _scores(record: dict[str, Any]) -> str:
    return ", ".join(
        f"{words} {record[key]:.4f}" for key, words in _SCORES.items() if key in record
    )


@contextmanager
def counting_progress(description: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Show how many of ``total`` pictures are done, and how many a second.

    The yielded function takes the number done and, if no total was given, the total. In that case
    the bar begins with the first call, after all checks.
    """
    progress = progress_bar()
    bar = progress.add_task(description, total=total, text="")
    if total is not None:
        progress.start()

    def done(count: int, of: int | None = total) -> None:
        progress.start()
        progress.update(bar, completed=count, total=of)
        speed = progress.tasks[bar].finished_speed or progress.tasks[bar].speed
        if speed:
            progress.update(bar, text=f"{speed:.1f} images/s")

    try:
        yield done
    finally:
        if progress.live.is_started:
            progress.stop()
