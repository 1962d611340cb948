"""``sctnet bench``."""

from pathlib import Path
from typing import Annotated

import typer

from sctnet.cli.bench_tables import bench_tables
from sctnet.cli.options import PRECISIONS, height_width
from sctnet.errors import SctnetError

_WITH_TABLES = {"models", "table", "out", "rounds", "threads", "device"}


def bench(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Model folders, bundled names, hub ids, .onnx, .xml files; with --table, the "
            "methods or networks of the table to time; default: all."
        ),
    ] = None,
    table: Annotated[
        list[str] | None,
        typer.Option(help="Time a table of the paper: 1, 2, 3 or 11; may be given several times."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --table: a JSON file for all figures.")
    ] = None,
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the pictures.")] = "512x1024",
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 1,
    images: Annotated[
        Path | None,
        typer.Option(help="A folder of pictures, resized to --size; default: drawn streets."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each model.")] = 10,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the CPU; default: as many as PyTorch uses.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Default: of a folder a GPU if there is one, else the CPU.")
    ] = None,
    precision: Annotated[str, typer.Option(help=PRECISIONS)] = "auto",
    compiled: Annotated[
        bool,
        typer.Option("--compiled", help="Compile folders' networks; on a GPU with CUDA graphs."),
    ] = False,
) -> None:
    """Time whole predictions: a decoded picture's bytes in, its label map out; models take turns.

    The ratio is to the first model's best. With --table, the networks of a table of the paper take
    turns, by its protocol (fp32, PyTorch eager, full-size logits) and in their fastest form here.
    """
    if table:
        strange = [
            f"--{name}"
            for name in context.params
            if name not in _WITH_TABLES and _is_given(context, name)
        ]
        if strange:
            raise SctnetError(f"{strange[0]} does not go with --table: leave it out")
        bench_tables(table, models or [], out, rounds, threads, device or "")
        return
    if out is not None:
        raise SctnetError("--out goes with --table: leave it out, or name a table")
    if not models:
        raise SctnetError("no models: name one or more, or a --table of the paper")
    import torch
    from rich.console import Console

    from sctnet.cli.tables import table_of
    from sctnet.inference.runtimes.runtime import exported_file
    from sctnet.inference.segmenter import Segmenter
    from sctnet.inference.timing import pictures_to_time, time_predictions
    from sctnet.pipeline.label_map import label_map_method

    pictures = pictures_to_time(height_width("--size", size), images)
    segmenters = [
        Segmenter(
            model,
            device,
            precision,
            threads=threads,
            batch_size=batch,
            compiled=compiled and exported_file(model) is None,
        )
        for model in models
    ]
    timings = time_predictions(segmenters, pictures, batch, rounds)
    figures = ["best ms", "median ms", "pictures/s", "ratio"]
    timed = table_of("model", "runtime", figures=figures)
    for model, segmenter, each in zip(models, segmenters, timings, strict=True):
        numbers = each.best, each.median, 1000 * batch / each.best, each.best / timings[0].best
        timed.add_row(model, str(segmenter.runtime), *(f"{number:.2f}" for number in numbers))
    methods = {label_map_method(segmenter.device) for segmenter in segmenters}
    Console().print(
        timed,
        f"{size}, {batch} at a time, {threads or torch.get_num_threads()} threads; bytes in memory "
        f"to label maps; argmax form: {' and '.join(sorted(methods))}; {rounds} rounds.",
        sep="\n",
    )


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"
