"""What a long command shows while it runs."""

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
def training_progress(iterations: int) -> Iterator[Callable[[dict[str, float]], None]]:
    """Show a run's iterations, loss, speed and remaining time; a line for each validation."""
    progress = progress_bar()

    def observe(record: dict[str, float]) -> None:
        # The bar begins with the first record: after all checks, and where a resumed run is.
        if not progress.tasks:
            progress.add_task("training", total=iterations, completed=int(record["step"]), text="")
            progress.start()
        bar = progress.tasks[0].id
        progress.update(bar, completed=record["step"])
        if "loss" in record:
            text = f"loss {record['loss']:.3f}  {record['images_per_second']:.1f} images/s"
            progress.update(bar, text=text)
        if "miou" in record:
            progress.console.print(
                f"iteration {record['step']:.0f}: validation mIoU {record['miou']:.4f}, "
                f"pixel accuracy {record['pixel_accuracy']:.4f}"
            )

    try:
        yield observe
    finally:
        progress.stop()


@contextmanager
def counting_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many of ``total`` pictures are done, and how many a second."""
    with progress_bar() as progress:
        bar = progress.add_task(description, total=total, text="")

        def done(count: int) -> None:
            progress.update(bar, completed=count)
            speed = progress.tasks[bar].finished_speed or progress.tasks[bar].speed
            if speed:
                progress.update(bar, text=f"{speed:.1f} images/s")

        yield done
