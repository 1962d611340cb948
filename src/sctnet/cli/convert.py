"""``sctnet convert``."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A .pth file of the released code, of a teacher, or of a network's authors."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The model folder to write.")],
    variant: Annotated[
        str | None,
        typer.Option(
            help="sctnet-s or sctnet-b, found from the widths by default; or the network of other "
            "authors whose checkpoint this is, such as seaformer-b."
        ),
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Class names, separated by commas.")] = None,
    teacher: Annotated[
        bool,
        typer.Option(
            "--teacher",
            help="Take the SegFormer of an MMSegmentation or released checkpoint, as a teacher.",
        ),
    ] = False,
    keys: Annotated[
        bool, typer.Option("--keys", help="List every key, not only how many there are.")
    ] = False,
) -> None:
    """Turn a released checkpoint into a model folder, strictly."""
    from sctnet.checkpoints.authors_checkpoint import authors_variants, convert_authors_checkpoint
    from sctnet.checkpoints.released_checkpoint import convert_checkpoint
    from sctnet.errors import SctnetError

    names = [name.strip() for name in classes.split(",")] if classes else None
    if teacher:
        if variant is not None or keys:
            raise SctnetError("--variant and --keys do not go with --teacher: leave them out")
        _convert_teacher(checkpoint, out, names)
        return
    if variant in authors_variants():
        report = convert_authors_checkpoint(checkpoint, out, variant, names)
    else:
        report = convert_checkpoint(checkpoint, out, variant, classes=names)
    if keys:
        for key in report.used:
            print(f"used     {key}")  # noqa: T201
        for key, group in report.ignored.items():
            print(f"ignored  {key} ({group})")  # noqa: T201
        for key in report.missing:
            print(f"new      {key}")  # noqa: T201
    print(report)  # noqa: T201
    print(f"Written to {out}")  # noqa: T201


def _convert_teacher(checkpoint: Path, out: Path, names: list[str] | None) -> None:
    from sctnet.checkpoints.teacher_conversion import convert_teacher

    config = convert_teacher(checkpoint, out, names)
    print(f"{config.variant}, a teacher with {config.num_classes} classes, written to {out}")  # noqa: T201
