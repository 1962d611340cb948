"""``sctnet predict``."""

from pathlib import Path
from typing import Annotated

import typer


def predict(
    model: Annotated[str, typer.Argument(help="A model folder or hub id.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Pictures, videos, folders (recursive), globs, addresses of streams, cameras (0)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the label maps and overlays.")] = ...,  # type: ignore[assignment]
    save: Annotated[
        str | None,
        typer.Option(
            help="Of pictures labels, overlay (default both); "
            "of videos overlay (default), labels, json."
        ),
    ] = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Opacity of the overlay.")] = 0.5,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    device: Annotated[str | None, typer.Option(help="Default: a GPU if there is one.")] = None,
    smooth: Annotated[
        float, typer.Option(min=0, max=0.99, help="Of videos: the share of the frames before.")
    ] = 0.0,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="Of videos: drop frames instead of lagging.")
    ] = False,
) -> None:
    """Label pictures and videos: label maps and overlays, in folders of their own below --out.

    What cannot be read is reported at the end and makes the exit status 1; the rest is done all
    the same. Ctrl-C ends a video properly with what was done.
    """
    from sctnet.cli.progress import console, counting_progress
    from sctnet.errors import SctnetError
    from sctnet.inference.files import check_output, find_pictures, predict_files
    from sctnet.inference.segmenter import Segmenter
    from sctnet.inference.video_files import check_video_output, find_videos

    videos, others = find_videos(inputs, out)
    if not videos and (smooth or realtime):
        raise SctnetError("--smooth and --realtime are for videos: give one, or leave them out")
    kinds = [kind.strip() for kind in ("labels,overlay" if save is None else save).split(",")]
    video_kinds = ["overlay"] if save is None else kinds
    if videos:
        check_video_output(out, video_kinds)
    if others or not videos:
        check_output(out, kinds)
    pictures, failures = find_pictures(others, out) if others else ([], [])
    segmenter = Segmenter(model, device, precision)
    if pictures:
        with counting_progress("predicting", len(pictures)) as progress:
            unreadable = predict_files(segmenter, pictures, out, kinds, alpha, progress)
        failures += unreadable
        done = len(pictures) - len(unreadable)
        print(f"{done} pictures labelled, {len(failures)} failed; written to {out}")  # noqa: T201
    interrupted = False
    if videos:
        from sctnet.cli.predict_video import label_videos
        from sctnet.inference.video import VideoOptions

        options = VideoOptions(video_kinds, alpha, smooth, realtime)
        unlabelled, interrupted = label_videos(segmenter, videos, out, options)
        failures += unlabelled
    for failure in failures:
        console.print(failure, style="red", markup=False, highlight=False, soft_wrap=True)
    if interrupted:
        raise typer.Exit(130)
    if failures:
        raise typer.Exit(1)
