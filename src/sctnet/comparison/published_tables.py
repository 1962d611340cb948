"""Tables 1 to 12 of the paper, every row as printed, from the YAML files in ``tables/``.

A cell is text or a number as printed, with its marks (``64.4*``), gains (``79.7(+1.2)``) and units
(``12.3M``); where the paper prints a dash it is null. A row of a single cell is a heading. Imports
nothing heavy.
"""

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sctnet.errors import SctnetError
from sctnet.yaml_files import load_yaml

Cell = str | int | float | None
Size = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
"""Height, width."""

_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")
_GAIN = re.compile(r"\(([+-]\d+\.\d+)\)$")
_WIDTH_HEIGHT = re.compile(r"(\d+) × (\d+)")


class Method(NamedTuple):
    """A row of a table that compares networks."""

    name: str
    """As printed."""
    group: str
    """The heading above it, empty before the first."""
    network: str | None
    """The variant of this package, None where the table's file names none."""
    size: tuple[int, int]
    """Height, width of the pictures."""
    fps: float | None
    """Frames a second in PyTorch."""
    fps_tensorrt: float | None
    """Frames a second in TensorRT."""
    miou: float
    """Percent."""


class PublishedTable(BaseModel):
    """A table of the paper."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    caption: str
    remarks: tuple[str, ...] = ()
    """What the caption or the text around it says; the last of them may be ours."""
    device: str | None = None
    """Where its speeds were measured; None where a column says it, or nothing was measured."""
    classes: int | None = None
    """Of the data set, where the table compares networks."""
    size: Size | None = None
    """Of the pictures, where no column says it."""
    figure: int | None = None
    """The figure that draws it."""
    speed: str | None = None
    """The column of speeds in that figure."""
    from_elsewhere: dict[str, float] = {}
    """Speeds in that figure which the table has not, by the method."""
    columns: dict[str, str]
    """Headings as printed."""
    rows: tuple[tuple[Cell, ...], ...]
    networks: dict[str, str] = {}
    """This package's variants, by the method."""

    @model_validator(mode="after")
    def _rows_fit_columns(self) -> "PublishedTable":
        wrong = [row for row in self.rows if len(row) not in {1, len(self.columns)}]
        if wrong:
            raise ValueError(f"{wrong[0]}: {len(self.columns)} cells are needed, or one heading")
        known = {row[0] for row in self.rows if len(row) > 1}
        strangers = [name for name in (*self.networks, *self.from_elsewhere) if name not in known]
        if strangers:
            raise ValueError(f"no row is called {strangers[0]}")
        return self

    def records(self) -> Iterator[dict[str, Cell]]:
        """Yield the rows that are no headings, by the keys of the columns."""
        for row in self.rows:
            if len(row) > 1:
                yield dict(zip(self.columns, row, strict=True))

    def methods(self) -> list[Method]:
        """Return the rows of a table that compares networks (1, 2, 3 and 11), else nothing."""
        found, group = [], ""
        for row in self.rows if self.classes is not None else ():
            if len(row) == 1:
                group = str(row[0])
                continue
            cells = dict(zip(self.columns, row, strict=True))
            name, miou = str(cells["method"]), number(cells["miou"])
            assert miou is not None
            size = self.size or height_width(cells["size"])
            speeds = number(cells.get("fps_torch", cells.get("fps")))
            accelerated = number(cells.get("fps_tensorrt"))
            found.append(
                Method(name, group, self.networks.get(name), size, speeds, accelerated, miou)
            )
        return found


def number(cell: Cell) -> float | None:
    """Return the number that a cell begins with, without mark, gain and unit; None without one.

    Of a number of parameters (``12.3M``) these are the millions.
    """
    found = None if cell is None else _NUMBER.match(str(cell))
    return None if found is None else float(found[0])


def gain(cell: Cell) -> float | None:
    """Return the gain that stands in brackets behind a cell's number."""
    found = _GAIN.search(str(cell))
    return None if found is None else float(found[1])


def height_width(cell: Cell) -> tuple[int, int]:
    """Return the (height, width) of a cell such as ``2048 × 1024``, which has the width first."""
    found = _WIDTH_HEIGHT.fullmatch(str(cell))
    if found is None:
        raise ValueError(f"{cell}: not a width and a height")
    return int(found[2]), int(found[1])


def table_names() -> list[str]:
    """Return ``1`` to ``12`` in the paper's order; Table 9 is ``9a``, ``9b`` and ``9c``."""
    names = [
        file.name.removeprefix("table_").removesuffix(".yaml")
        for file in _folder().iterdir()
        if file.name.endswith(".yaml")
    ]
    return sorted(names, key=lambda name: (int(name.rstrip("abc")), name))


def names_of(text: str) -> list[str]:
    """Return the tables that a user's ``1``, ``9`` (all its parts) or ``9b`` names.

    Raises :class:`SctnetError` for any other.
    """
    names = table_names()
    found = [name for name in names if text in {name, name.rstrip("abc")}]
    if not found:
        raise SctnetError(f"table {text}: the paper has none: choose one of {', '.join(names)}")
    return found


@cache
def published_table(name: str) -> PublishedTable:
    """Return one of :func:`table_names`."""
    file = _folder() / f"table_{name}.yaml"
    return PublishedTable.model_validate(load_yaml(file.read_text("utf-8"), str(file)))


def _folder() -> Any:
    return files("sctnet.comparison") / "tables"
