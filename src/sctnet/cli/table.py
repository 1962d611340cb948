"""``sctnet table``."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sctnet.comparison.published_tables import PublishedTable


def table(
    name: Annotated[
        str | None, typer.Argument(help="1 to 12, or 9a, 9b, 9c; default: list them all.")
    ] = None,
) -> None:
    """Print a table of the paper, as it was published."""
    from rich.console import Console

    from sctnet.cli.tables import listing
    from sctnet.comparison.published_tables import names_of, published_table, table_names

    console = Console()
    if name is None:
        contents = listing(["table"], remarks=["caption"])
        for each in table_names():
            contents.add_row(each, published_table(each).caption)
        console.print(contents)
        return
    for each in names_of(name):
        console.print(*_printed(each, published_table(each)), sep="\n")


def _printed(name: str, table: "PublishedTable") -> "list[RenderableType]":
    from rich.text import Text

    from sctnet.cli.tables import listing

    rows = list(table.records())
    figures = [
        key
        for key in table.columns
        if key in {"parameters", "size"} or any(isinstance(row[key], int | float) for row in rows)
    ]
    printed = listing(
        [_heading(table, key) for key in table.columns if key not in figures],
        figures=[_heading(table, key) for key in figures],
    )
    first = next(iter(table.columns))
    words = [str(row[first]) for row in rows] + _heading(table, first).split("\n")
    printed.columns[0].max_width = max(map(len, words)) + 1  # headings between rows are folded
    for row in table.rows:
        if len(row) == 1:
            printed.add_section()
        printed.add_row(*(Text("-" if cell is None else str(cell)) for cell in row))
    remarks = [f"Speeds: {table.device}.", *table.remarks] if table.device else table.remarks
    caption = Text(f"Table {name}: {table.caption}", style="bold")
    return [caption, Text(""), printed, *(Text(f"- {remark}") for remark in remarks), Text("")]


def _heading(table: "PublishedTable", key: str) -> str:
    return table.columns[key].replace("(", "\n(")
