"""``sctnet data prepare``."""

from pathlib import Path
from typing import Annotated

import typer


def prepare(
    root: Annotated[Path, typer.Argument(help="The root of a COCO-Stuff-10K, as unpacked.")],
) -> None:
    """Turn labels that are slow to read into PNGs, once: the .mat files of COCO-Stuff-10K.

    Can be interrupted and goes on where it was. Broken files are named, and the exit status is
    then 1.
    """
    from sctnet.cli.progress import console, progress_bar
    from sctnet.data.prepared_labels import prepare_cocostuff

    with progress_bar() as progress:
        bar = progress.add_task("preparing", total=None, text="")
        prepared = prepare_cocostuff(
            root, lambda done, total: progress.update(bar, completed=done, total=total)
        )
    for failure in prepared.failures:
        console.print(failure, style="red", markup=False, highlight=False, soft_wrap=True)
    print(  # noqa: T201
        f"{root}: {prepared.written} label maps written, {prepared.present} were there, "
        f"{len(prepared.failures)} failed"
    )
    if prepared.failures:
        raise typer.Exit(1)
