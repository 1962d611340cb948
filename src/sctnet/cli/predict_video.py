"""Videos in ``sctnet predict``."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sctnet.errors import SctnetError
from sctnet.inference.segmenter import Segmenter
from sctnet.inference.video.files import VideoInput
from sctnet.inference.video.prediction import VideoOptions, predict_video
from sctnet.inference.video.report import VideoReport


def label_videos(
    segmenter: Segmenter, videos: Sequence[VideoInput], out: Path, options: VideoOptions
) -> tuple[list[str], bool]:
    """Label videos one by one; return what failed, and whether Ctrl-C ended a file's video."""
    failures = []
    for video in videos:
        try:
            with _frame_progress(video.name.name) as progress:
                report = predict_video(segmenter, video.source, out, video.name, options, progress)
        except SctnetError as error:
            failures.append(str(error))
            continue
        print(f"{_summary(report)}; written to {out}")  # noqa: T201
        if report.damage is not None:
            failures.append(report.damage)
        if report.interrupted:
            return failures, True
    return failures, False


def _summary(report: VideoReport) -> str:
    largest = sorted(report.share.items(), key=lambda item: -item[1])[:3]
    parts = [
        f"{report.source}: {report.frames} frames in {report.seconds:.1f} s "
        f"({report.frames / report.seconds:.1f} frames/s)",
        f"{report.dropped} dropped" if report.dropped else "",
        _flicker(report),
        "mostly " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in largest),
        "ended by Ctrl-C" if report.interrupted else "",
    ]
    return "; ".join(part for part in parts if part)


def _flicker(report: VideoReport) -> str:
    if report.flicker is None:
        return ""
    before = f"flicker {100 * report.flicker:.2f} %"
    if report.flicker_smoothed is None:
        return before
    return f"{before}, smoothed {100 * report.flicker_smoothed:.2f} %"


@contextmanager
def _frame_progress(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show how many frames are done, how many a second, and the time that is left."""
    from sctnet.cli.progress import progress_bar

    with progress_bar() as progress:
        bar = progress.add_task(name, total=None, text="")

        def done(count: int, total: int | None) -> None:
            progress.update(bar, completed=count, total=total)
            speed = progress.tasks[bar].finished_speed or progress.tasks[bar].speed
            if speed:
                progress.update(bar, text=f"{speed:.1f} frames/s")

        yield done
