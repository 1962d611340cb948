"""``sctnet calibrate``."""

from pathlib import Path
from typing import Annotated

import typer

from sctnet.cli.options import PRECISIONS, numbers
from sctnet.errors import SctnetError


def calibrate(
    model: Annotated[str, typer.Argument(help="A model folder; with --out also any other model.")],
    data: Annotated[
        str | None, typer.Option(help="A data set's root or YAML, or the word synthetic.")
    ] = None,
    split: Annotated[
        str, typer.Option(help="Which pictures; not those that shall score the model.")
    ] = "val",
    scales: Annotated[
        str, typer.Option(help="Times the working size; the one of the highest mIoU is kept.")
    ] = "0.75,1.0,1.25,1.5,2.0",
    flip: Annotated[
        bool, typer.Option("--flip", help="Try the average with the mirrored picture too.")
    ] = False,
    recall: Annotated[
        str | None,
        typer.Option(help="Find at least this share of a class, at the least cost: car=0.9."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write a calibrated copy here, and leave the model.")
    ] = None,
    undo: Annotated[
        bool,
        typer.Option("--undo", help="Take the calibration back: the model is as it was trained."),
    ] = False,
    precision: Annotated[str, typer.Option(help=PRECISIONS)] = "auto",
    device: Annotated[str | None, typer.Option(help="Default: a GPU if there is one.")] = None,
) -> None:
    """Choose a model's scale and its classes' offsets on validation pictures; store them in it.

    Offsets are added to the logits, which moves the borders between classes. What does not help
    the half of the pictures that did not choose it is not kept. All that uses the model follows:
    predict, eval, serve, export. A later calibration replaces this one.
    """
    from rich.console import Console

    from sctnet.cli.progress import counting_progress
    from sctnet.cli.tables import offsets_table, scales_table
    from sctnet.inference.calibration import calibrate as run
    from sctnet.inference.calibration import undo as restore

    if undo:
        print(f"{restore(model)}: as it was before it was calibrated")  # noqa: T201
        return
    if data is None:
        raise SctnetError("--data: name the data whose pictures choose (only --undo does without)")
    with counting_progress("calibrating", None) as progress:
        report = run(
            model, data, split=split, scales=numbers("--scales", scales), flip=flip,
            recall=None if recall is None else _class_and_share(recall), out=out, device=device,
            precision=precision, progress=progress,
        )  # fmt: skip
    Console().print(scales_table(report), offsets_table(report), sep="\n")
    print(report)  # noqa: T201


def _class_and_share(text: str) -> tuple[str, float]:
    name, _, share = text.rpartition("=")
    try:
        return name, float(share)
    except ValueError as error:
        raise SctnetError(f"--recall {text}: give a class and a share, as in car=0.9") from error
