"""Progress bars of long commands."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True)


def progress_bar() -> Progress:
    """Return a bar with counts, a free text, elapsed and remaining time."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


@contextmanager
def training_progress() -> Iterator[Callable[[dict[str, float]], None]]:
    """Show a run's iterations, loss, speed and remaining time; a line for each validation."""
    progress = progress_bar()

    def observe(record: dict[str, float]) -> None:
        # The bar begins with the first record: after all checks, and where a resumed run is.
        if not progress.tasks:
            step, total = int(record["step"]), record.get("of")
            progress.add_task("training", total=total, completed=step, text="")
            progress.start()
        bar = progress.tasks[0].id
        progress.update(bar, completed=record["step"])
        if "loss" in record:
            text = f"loss {record['loss']:.3f}  {record['images_per_second']:.1f} images/s"
            progress.update(bar, text=text)
        elif "of" not in record:
            progress.console.print(
                f"iteration {record['step']:.0f}: validation {_scores(record)}", highlight=False
            )

    try:
        yield observe
    finally:
        progress.stop()


_SCORES = {
    "miou": "mIoU", "pixel_accuracy": "pixel accuracy", "top1": "top-1", "top5": "top-5",
}  # fmt: skip


def _scores(record: dict[str, float]) -> str:
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
