"""The command line: one small file a command, that parses, calls and prints."""

import sys

import typer

from sctnet.cli import (
    bench,
    convert,
    data,
    demo,
    evaluate,
    export,
    models,
    plot,
    predict,
    recipes,
    serve,
    train,
)
from sctnet.errors import SctnetError

app = typer.Typer(
    name="sctnet",
    help="Real-time semantic segmentation: train, score and use SCTNet.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("export")(export.export)
app.command("bench")(bench.bench)
app.command("convert")(convert.convert)
app.command("models")(models.models)
app.command("demo")(demo.demo)
app.command("plot")(plot.plot)
app.command("serve")(serve.serve)
app.add_typer(recipes.app, name="recipes")
app.add_typer(data.app, name="data")


def main() -> None:
    """Run the program; a mistake of the user is one sentence and exit status 2.

    Typer ends an interrupted command with status 130.
    """
    try:
        app()  # ends in SystemExit
    except SctnetError as error:
        print(f"sctnet: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
