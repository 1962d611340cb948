"""``sctnet plot``."""

from pathlib import Path
from typing import Annotated

import typer


def plot(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    out: Annotated[
        Path | None, typer.Option(help=".png, .svg or .pdf; default: curves.png in the run.")
    ] = None,
) -> None:
    """Draw a run's loss, learning rate and validation score over its iterations."""
    from sctnet.pictures.plots import training_curves
    from sctnet.training.run_folder import RunFolder, read_metrics

    target = out or run / "curves.png"
    training_curves(read_metrics(RunFolder(run).metrics_file), target)
    print(f"Written to {target}")  # noqa: T201
