"""The command line: one small file a command, that parses, calls and prints."""

import logging
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from sctnet.cli import (
    bench,
    calibrate,
    convert,
    data,
    demo,
    distill,
    doctor,
    evaluate,
    export,
    models,
    plot,
    predict,
    recipes,
    serve,
    table,
    train,
)
from sctnet.errors import SctnetError, printable

app = typer.Typer(
    name="sctnet",
    help="Real-time semantic segmentation: train, score and use SCTNet.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("train")(train.train)
app.command("distill")(distill.distill)
app.command("eval")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("calibrate")(calibrate.calibrate)
app.command("export")(export.export)
app.command("bench")(bench.bench)
app.command("convert")(convert.convert)
app.command("models")(models.models)
app.command("table")(table.table)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("serve")(serve.serve)
app.add_typer(recipes.app, name="recipes")
app.add_typer(data.app, name="data")
app.add_typer(plot.app, name="plot")


@app.callback(invoke_without_command=True)
def _options(
    asked: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Show no bar that moves; for scripts and their logs.")
    ] = False,
) -> None:
    if quiet:
        from sctnet.cli import progress

        progress.shown = False
    if asked:
        print(f"sctnet {version('sctnet')}")  # noqa: T201
        raise typer.Exit


class _OnConsole(logging.Handler):
    """Prints what the package logs on standard error, above a bar that moves."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message as it is."""
        from sctnet.cli.progress import console

        lines = record.getMessage().split("\n")
        console.print(
            "\n".join(map(printable, lines)), markup=False, highlight=False, soft_wrap=True
        )


def main() -> None:
    """Run the program; a mistake of the user is one sentence and exit status 2.

    Typer ends an interrupted command with status 130.
    """
    log = logging.getLogger("sctnet")
    log.addHandler(_OnConsole())
    log.setLevel(logging.INFO)
    try:
        app()  # ends in SystemExit
    except SctnetError as error:
        print(printable(f"sctnet: {error}"), file=sys.stderr)  # noqa: T201
        sys.exit(2)
