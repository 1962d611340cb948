"""``sctnet plot``."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


class _RunByDefault(TyperGroup):
    """Takes what is no command for a run's folder: ``sctnet plot runs/a``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command's name before anything else."""
        known = {*self.commands, "--help"}
        return super().parse_args(ctx, args if not args or args[0] in known else ["run", *args])


app = typer.Typer(
    cls=_RunByDefault,
    help="Draw a run's curves (sctnet plot RUN), or accuracy over speed (sctnet plot tradeoff).",
    no_args_is_help=True,
)


@app.command("run")
def run(
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


@app.command("tradeoff")
def tradeoff(
    results: Annotated[Path, typer.Argument(help="The JSON file of `sctnet bench --table`.")],
    out: Annotated[
        Path | None, typer.Option(help="The folder for the figures; default: that of the results.")
    ] = None,
    eager: Annotated[
        bool,
        typer.Option("--eager", help="Draw the paper's protocol, not the fastest form."),
    ] = False,
) -> None:
    """Draw mIoU over frames a second, published beside measured: the paper's Figures 1, 6, 7, 8.

    Each table in the results gives a figure, as PNG and SVG.
    """
    from sctnet.comparison.figures import read_results, tradeoff_panels
    from sctnet.pictures.tradeoff import tradeoff_picture

    found = read_results(results)
    for table in dict.fromkeys(row["table"] for row in found["rows"]):
        title, panels = tradeoff_panels(table, found, "eager" if eager else "prediction")
        stem = (out or results.parent) / f"tradeoff_table_{table}"
        targets = [stem.with_suffix(ending) for ending in (".png", ".svg")]
        tradeoff_picture(panels, title, *targets)
        for target in targets:
            print(f"Written to {target}")  # noqa: T201
