"""``sctnet doctor``."""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

_NOTHING = "-"


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Tell what is installed, what this machine is, and how models would run on it and why.

    Made for bug reports: it changes nothing, and names no folder of yours by its full path.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from sctnet.inference.doctor import examine

    found = examine()
    if as_json:
        print(json.dumps(found, indent=2))  # noqa: T201
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for section, values in found.items():
        table.add_row(Text(section, style="bold"), "")
        for name, value in _lines(values):
            table.add_row(Text(f"  {name}"), Text(value))
    Console().print(table)


def _lines(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield name, "; ".join(f"{key}: {part}" for key, part in value.items())
        elif isinstance(value, list):
            yield name, ", ".join(map(str, value)) or _NOTHING
        else:
            yield name, _NOTHING if value in (None, {}) else str(value)
