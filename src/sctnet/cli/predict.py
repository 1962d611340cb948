"""``sctnet predict``."""

from pathlib import Path
from typing import Annotated

import typer


def predict(
    model: Annotated[str, typer.Argument(help="A model folder or hub id.")],
    inputs: Annotated[list[str], typer.Argument(help="Pictures, folders (recursive), globs.")],
    out: Annotated[Path, typer.Option(help="Folder for the label maps and overlays.")] = ...,  # type: ignore[assignment]
    save: Annotated[str, typer.Option(help="What to write: labels, overlay or both.")] = (
        "labels,overlay"
    ),
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Opacity of the overlay.")] = 0.5,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    device: Annotated[str | None, typer.Option(help="Default: a GPU if there is one.")] = None,
) -> None:
    """Label pictures: paletted PNG label maps and overlays, in folders of their own below --out.

    Pictures that cannot be read are reported at the end and make the exit status 1; the others are
    done all the same.
    """
    from sctnet.cli.progress import console, counting_progress
    from sctnet.inference.files import check_output, find_pictures, predict_files
    from sctnet.inference.segmenter import Segmenter

    kinds = [kind.strip() for kind in save.split(",")]
    check_output(out, kinds)
    pictures, missing = find_pictures(inputs, out)
    segmenter = Segmenter(model, device, precision)
    with counting_progress("predicting", len(pictures)) as progress:
        unreadable = predict_files(segmenter, pictures, out, kinds, alpha, progress)
    failures = [*missing, *unreadable]
    for failure in failures:
        console.print(failure, style="red", markup=False, highlight=False, soft_wrap=True)
    done = len(pictures) - len(unreadable)
    print(f"{done} pictures labelled, {len(failures)} failed; written to {out}")  # noqa: T201
    if failures:
        raise typer.Exit(1)
