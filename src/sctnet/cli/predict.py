"""``sctnet predict``."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sctnet.cli.options import FLIP, MAP, PRECISIONS, SCALES, TILE, numbers

if TYPE_CHECKING:
    from sctnet.inference.files import PictureFile
    from sctnet.inference.segmenter import Segmenter


def predict(
    model: Annotated[
        str,
        typer.Argument(help="A model folder, bundled name, hub id, .onnx or OpenVINO .xml file."),
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Pictures, videos, folders (recursive), globs, addresses of streams, cameras (0)."
        ),
    ] = None,
    out: Annotated[str, typer.Option(help="Folder for the results; with Ray also a URL.")] = ...,  # type: ignore[assignment]
    more_inputs: Annotated[
        list[str] | None, typer.Option("--input", help="The same as an INPUT without a name.")
    ] = None,
    save: Annotated[
        str | None,
        typer.Option(
            help="What to write, with commas: of pictures labels, overlay (default both), "
            "comparison, probabilities, json, polygons; of videos overlay (default), labels, json; "
            "with Ray labels (default) or rle."
        ),
    ] = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Opacity of the overlay.")] = 0.5,
    classes: Annotated[
        str | None, typer.Option(help="Show only these in overlays, with commas: road,car.")
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Pictures at a time; more than 1 helps on a GPU.")
    ] = 1,
    tile: Annotated[int | None, typer.Option(min=32, help=TILE)] = None,
    scales: Annotated[str, typer.Option(help=SCALES)] = "1.0",
    flip: Annotated[bool | None, typer.Option("--flip/--no-flip", help=FLIP)] = None,
    class_map: Annotated[str | None, typer.Option("--map", help=MAP)] = None,
    skip_existing: Annotated[
        bool,
        typer.Option("--skip-existing", help="Leave out pictures that already have their results."),
    ] = False,
    precision: Annotated[str, typer.Option(help=PRECISIONS)] = "auto",
    runtime: Annotated[
        str | None,
        typer.Option(
            help="torch, onnx or openvino, for which a model folder is exported once; default: "
            "PyTorch, and on a CPU kernels of our own; a file has its own."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Default: a GPU if there is one.")] = None,
    smooth: Annotated[
        float,
        typer.Option(min=0, max=0.99, help="Videos: the weight of earlier frames, 0 to below 1."),
    ] = 0.0,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="Videos: drop frames instead of lagging.")
    ] = False,
    engine: Annotated[
        str, typer.Option(help="local, or ray: many workers, here or on a cluster.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="Ray: a cluster that runs already; default: this machine.")
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(help="Ray: how many, or fewest:most; default: what there is room for."),
    ] = None,
    worker_cpus: Annotated[
        int | None, typer.Option(min=1, help="Ray: CPU cores of each worker; default 1.")
    ] = None,
    worker_gpus: Annotated[
        float | None,
        typer.Option(min=0, help="Ray: GPUs of each worker; with 0.25 four share one."),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(help="Ray: the column of Parquet tables with the pictures or paths."),
    ] = None,
) -> None:
    """Label pictures and videos: label maps and overlays, in folders of their own below --out.

    With --engine ray, pictures by the million: folders, globs, Parquet tables and WebDataset
    shards, on a disk or at a URL. If it is stopped, the same command continues.

    Inputs that cannot be read are reported at the end, and the exit status is then 1; the others
    are labelled. You can stop it at any time: a video is finished with the frames so far, and
    --skip-existing continues with the other pictures.
    """
    from sctnet.cli.progress import console
    from sctnet.cli.runtimes import model_for
    from sctnet.errors import SctnetError, printable
    from sctnet.inference.files import check_output, find_pictures
    from sctnet.inference.segmenter import Segmenter
    from sctnet.inference.video.files import check_video_output, find_videos

    inputs = [*(inputs or []), *(more_inputs or [])]
    if not inputs:
        raise SctnetError("nothing to label: give pictures, folders or globs")
    if not all(each.strip() for each in inputs):
        raise SctnetError("an input is empty, as of a variable without a value: name a file")
    of_ray = {
        "--address": address, "--workers": workers, "--worker-cpus": worker_cpus,
        "--worker-gpus": worker_gpus, "--column": column,
    }  # fmt: skip
    if engine == "ray":
        from sctnet.cli.predict_bulk import label_in_bulk

        of_local = {
            "--alpha": alpha != 0.5, "--classes": classes, "--smooth": smooth,
            "--realtime": realtime, "--map": class_map,
        }  # fmt: skip
        _refuse(of_local, "--engine local")
        label_in_bulk(
            str(model_for(runtime, model, precision)), inputs, out, address=address,
            workers=workers, cpus=worker_cpus or 1,
            gpus=worker_gpus or 0.0, column=column, kind=save or "labels", device=device,
            precision=precision, tile=tile, batch_size=batch,
            scales=tuple(numbers("--scales", scales)), flip=flip,
        )  # fmt: skip
        return
    if engine != "local":
        raise SctnetError(f"--engine {engine}: choose local or ray")
    _refuse(of_ray, "--engine ray")
    if "://" in out:
        raise SctnetError(f"--out {out}: an address is written to by --engine ray; give a folder")
    folder = Path(out)
    videos, others = find_videos(inputs, folder)
    if not videos and (smooth or realtime):
        raise SctnetError("--smooth and --realtime are for videos: give one, or leave them out")
    if videos and not others and (classes or tile or skip_existing or scales != "1.0"):
        raise SctnetError(
            "--classes, --tile, --scales and --skip-existing are for pictures: leave them out"
        )
    kinds = _listed("labels,overlay" if save is None else save)
    video_kinds = ["overlay"] if save is None else kinds
    if videos:
        check_video_output(folder, video_kinds)
    if others or not videos:
        check_output(folder, kinds)
    pictures, failures = find_pictures(others, folder, may_be_none=bool(videos))
    segmenter = Segmenter(
        model_for(runtime, model, precision), device, precision, tile=tile, batch_size=batch,
        scales=numbers("--scales", scales), flip=flip,
        kernels="torch" if runtime == "torch" else "auto", class_map=class_map,
    )  # fmt: skip
    if pictures:
        shown = None if classes is None else _listed(classes)
        failures = _label_pictures(
            segmenter, pictures, failures, folder, kinds, alpha, shown, skip_existing
        )
    interrupted = False
    if videos:
        from sctnet.cli.predict_video import label_videos
        from sctnet.inference.video.prediction import VideoOptions

        options = VideoOptions(video_kinds, alpha, smooth, realtime)
        unlabelled, interrupted = label_videos(segmenter, videos, folder, options)
        failures += unlabelled
    for failure in map(printable, failures):
        console.print(failure, style="red", markup=False, highlight=False, soft_wrap=True)
    if failures or interrupted:
        raise typer.Exit(130 if interrupted else 1)


def _refuse(options: Mapping[str, object], where: str) -> None:
    """Raise an error for options that were given and belong elsewhere."""
    from sctnet.errors import SctnetError

    given = [name for name, value in options.items() if value not in (None, False)]
    if given:
        raise SctnetError(f"{', '.join(given)}: only with {where}; leave out")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _label_pictures(
    segmenter: "Segmenter",
    pictures: "list[PictureFile]",
    missing: list[str],
    out: Path,
    kinds: list[str],
    alpha: float,
    classes: list[str] | None,
    skip_existing: bool,
) -> list[str]:
    """Label them and say what came of it; return what failed, the missing ones too."""
    from rich.console import Console

    from sctnet.cli.progress import counting_progress
    from sctnet.cli.tables import prediction_table
    from sctnet.errors import printable
    from sctnet.inference.files import predict_files

    try:
        with counting_progress("predicting", len(pictures)) as progress:
            summary = predict_files(
                segmenter, pictures, out, kinds, alpha, progress,
                classes=classes, skip_existing=skip_existing,
            )  # fmt: skip
    except KeyboardInterrupt:
        print(f"Stopped; what was done is in {out}, go on with --skip-existing", file=sys.stderr)  # noqa: T201
        raise
    if summary.labelled:
        Console().print(prediction_table(summary))
    if summary.animated:
        others = f" and {len(summary.animated) - 3} more" if len(summary.animated) > 3 else ""
        named = printable(", ".join(summary.animated[:3]))
        print(f"Of several frames or pages, the first alone is labelled: {named}{others}")  # noqa: T201
    failures = [*missing, *summary.failures]
    skipped = f", {summary.skipped} were there already" if summary.skipped else ""
    print(  # noqa: T201
        f"{summary.labelled} pictures labelled{skipped}, {len(failures)} failed; written to {out}"
    )
    return failures
