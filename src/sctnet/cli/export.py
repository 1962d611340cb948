"""``sctnet export``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from sctnet.cli.options import height_width

if TYPE_CHECKING:
    from sctnet.checkpoints.exported_file import Output, Precision
    from sctnet.export.exporting import ExportOptions, Format


def export(
    model: Annotated[str, typer.Argument(help="A model folder, bundled name or hub id.")],
    out: Annotated[
        Path, typer.Option(help="The file, .onnx, .xml, .pt2 or .engine; for a server a folder.")
    ] = ...,  # type: ignore[assignment]
    format: Annotated[  # noqa: A002
        str,
        typer.Option(
            help="onnx, openvino, torch or tensorrt; a folder for another server: triton or "
            "openvino-model-server."
        ),
    ] = "onnx",
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16 or int8.")] = "fp32",
    output: Annotated[
        str,
        typer.Option(
            help="What the file gives: labels, logits or probabilities of every pixel, "
            "or logits8, those of the network's own stride."
        ),
    ] = "labels",
    size: Annotated[
        str | None, typer.Option(help="Take pictures of this HEIGHTxWIDTH only; default: any.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Take exactly this many at a time; default: any number."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Compare with PyTorch on this folder's pictures, not on drawn streets."),
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="For int8: a folder of pictures like those to come.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="For int8: a data set's root or YAML, to say what int8 costs in mIoU."),
    ] = None,
    split: Annotated[str, typer.Option(help="Which pictures of --data.")] = "val",
    max_drop: Annotated[
        float,
        typer.Option(min=0, help="Points of mIoU that int8 may lose on --data; else no file."),
    ] = 1.0,
) -> None:
    """Write a model as one file that runs without this package, proven equal to it.

    It takes RGB bytes, N x H x W x 3; resizing and normalisation are inside. A file that differs
    from PyTorch by more than its precision explains is not written. For Triton or OpenVINO Model
    Server it comes in a folder that the server loads as it is.
    """
    from sctnet.data.registry import open_dataset
    from sctnet.export.exporting import export_model
    from sctnet.export.model_repository import FORMATS, export_model_repository

    # Checked by export_model, which names the choices.
    options: ExportOptions = {
        "precision": cast("Precision", precision),
        "output": cast("Output", output),
        "size": None if size is None else height_width("--size", size),
        "batch": batch,
        "images": images,
        "calibrate": calibrate,
        "dataset": None if data is None else open_dataset(data, [split]),
        "max_drop": max_drop,
        "say": print,
    }
    report = (
        export_model_repository(model, out, format, **options)
        if format in FORMATS
        else export_model(model, out, format=cast("Format", format), **options)
    )
    print(report)  # noqa: T201
