"""``sctnet export``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from sctnet.cli.options import height_width
from sctnet.errors import SctnetError

if TYPE_CHECKING:
    from sctnet.checkpoints.exported_file import Output, Precision
    from sctnet.export.exporting import ExportOptions, Format


def export(
    model: Annotated[str, typer.Argument(help="A model folder, bundled name or hub id.")],
    out: Annotated[
        Path,
        typer.Option(
            help="The file, .onnx, .xml, .pt2, .engine or .pte; for a browser or a server a folder."
        ),
    ] = ...,  # type: ignore[assignment]
    format: Annotated[  # noqa: A002
        str,
        typer.Option(
            help="onnx, openvino, torch, tensorrt or executorch; web: a page for browsers; a "
            "folder for another server: triton or openvino-model-server."
        ),
    ] = "onnx",
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, fp16, bf16 or int8; default: fp32, and what agrees with PyTorch for web."
        ),
    ] = None,
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
    serve: Annotated[
        bool, typer.Option("--serve", help="For web: show the page at 127.0.0.1 afterwards.")
    ] = False,
    runtime_folder: Annotated[
        Path | None,
        typer.Option(
            help="For web: npm's package onnxruntime-web, a .tgz or a folder; default: npm fetches "
            "it once."
        ),
    ] = None,
) -> None:
    """Write a model as one file that runs without this package, proven equal to it.

    It takes RGB bytes, N x H x W x 3; resizing and normalisation are inside. A file that differs
    from PyTorch by more than its precision explains is not written. For Triton or OpenVINO Model
    Server it comes in a folder that the server loads as it is. The page for browsers labels
    pictures, videos and a camera without any server's help.
    """
    from sctnet.data.registry import open_dataset
    from sctnet.export.exporting import export_model
    from sctnet.export.model_repository import FORMATS, export_model_repository

    common: dict[str, Any] = {
        "images": images,
        "calibrate": calibrate,
        "dataset": None if data is None else open_dataset(data, [split]),
        "max_drop": max_drop,
        "say": print,
    }
    if format == "web":
        if (output, size, batch) != ("labels", None, None):
            raise SctnetError(
                "a page takes any picture and shows labels: leave --output, --size and --batch out"
            )
        _export_web(model, out, precision, runtime_folder, serve, common)
        return
    if serve or runtime_folder is not None:
        raise SctnetError(
            f"--serve and --runtime-folder go with --format web, not {format}: leave them out"
        )
    # Checked by export_model, which names the choices.
    options: ExportOptions = {
        "precision": cast("Precision", precision or "fp32"),
        "output": cast("Output", output),
        "size": None if size is None else height_width("--size", size),
        "batch": batch,
        **common,  # type: ignore[typeddict-item]
    }
    report = (
        export_model_repository(model, out, format, **options)
        if format in FORMATS
        else export_model(model, out, format=cast("Format", format), **options)
    )
    print(report)  # noqa: T201


def _export_web(
    model: str,
    out: Path,
    precision: str | None,
    runtime_folder: Path | None,
    serve: bool,
    common: dict[str, Any],
) -> None:
    from sctnet.export.web.web_page import export_web_page
    from sctnet.serving.static_folder import serve_folder

    chosen = cast("Precision | None", precision)
    report = export_web_page(model, out, precision=chosen, runtime_folder=runtime_folder, **common)
    print(report)  # noqa: T201
    if serve:
        serve_folder(out, lambda at: print(f"Open {at} (Ctrl-C ends it)", flush=True))  # noqa: T201
