"""``sctnet convert``."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A .pth file of the released code.")],
    out: Annotated[Path, typer.Argument(help="The model folder to write.")],
    variant: Annotated[
        str | None, typer.Option(help="sctnet-s or sctnet-b; found from the widths by default.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Class names, separated by commas.")] = None,
    keys: Annotated[
        bool, typer.Option("--keys", help="List every key, not only how many there are.")
    ] = False,
) -> None:
    """Turn a released checkpoint into a model folder, strictly."""
    from sctnet.conversion import convert_checkpoint

    names = [name.strip() for name in classes.split(",")] if classes else None
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
