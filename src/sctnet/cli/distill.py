"""``sctnet distill``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from sctnet.cli.options import MAP


def distill(
    teacher: Annotated[
        str,
        typer.Argument(
            help="A model folder, bundled name, hub id, model of transformers, .onnx or .xml file."
        ),
    ],
    recipe: Annotated[
        list[str] | None,
        typer.Argument(help="A recipe (default: chosen), and fields as key=value."),
    ] = None,
    pictures: Annotated[
        list[str] | None,
        typer.Option(help="A folder, glob, list (.txt) or video; may be given several times."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; it becomes a model folder.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Labelled pictures of the same classes, if there are any.")
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="The variant to train, such as sctnet-tiny.")
    ] = None,
    class_map: Annotated[str | None, typer.Option("--map", help=MAP)] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Train for about as long on this machine.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out from its last checkpoint.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Do a few steps, say what the run needs, write nothing."),
    ] = False,
) -> None:
    """Train a small network on what a large one says of pictures without labels.

    Of videos, frames that are unlike each other are taken. Some pictures are held back; on them the
    student is compared with its teacher at the end (summary.json, sheet.jpg).
    """
    from rich.console import Console

    from sctnet.cli.progress import training_progress
    from sctnet.cli.tables import distillation_table
    from sctnet.errors import SctnetError
    from sctnet.training.run_folder import RunFolder
    from sctnet.unlabelled.distill import distill as run
    from sctnet.unlabelled.distill import rehearse

    words = recipe or []
    named = [word for word in words if "=" not in word]
    settings = [word for word in words if "=" in word]
    if len(named) > 1:
        raise SctnetError(f"{named[1]}: one recipe is enough; pictures are given by --pictures")
    if student is not None:
        settings.insert(0, f"model.variant={student}")
    if not pictures and not resume:
        raise SctnetError("--pictures: name a folder, a video or a list of pictures")
    options = {
        "data": data, "recipe": named[0] if named else None, "settings": settings,
        "class_map": class_map, "minutes": minutes, "explain": print,
    }  # fmt: skip
    if dry_run:
        print(rehearse(teacher, pictures or [], **options))  # noqa: T201
        return
    if out is None:
        raise SctnetError("--out: name the run's folder (only --dry-run does without)")
    try:
        with training_progress() as observe:
            run(teacher, pictures or [], out, resume=resume, observe=observe, **options)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        print(f"Stopped; what was done is in {out}, continue it with --resume", file=sys.stderr)  # noqa: T201
        raise
    Console().print(distillation_table(RunFolder(out).summary()["distillation"]))
    print(f"The model is in {out}, the comparison in {out / 'sheet.jpg'}")  # noqa: T201
