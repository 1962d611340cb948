"""The record of a bulk prediction: parts during the run, one Parquet file at its end.

A worker writes a part after all results of the part, so a recorded picture is finished. A part is
written whole, and its name follows from its pictures. A worker that repeats the work of a dead one
finds the part, or writes the same one. The end of a run merges all parts into one file, with a row
for each picture, and then deletes them. If it is stopped in between, the next run reads both.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sctnet.errors import SctnetError
from sctnet.serving.bulk.storage import (
    exists,
    files_below,
    join,
    open_input,
    remove,
    remove_empty_folder,
    write_bytes,
)
from sctnet.serving.bulk.work import Recorded

FILE = "manifest.parquet"
PARTS = "manifest.parts"
_KEY = b"sctnet"


class Row(NamedTuple):
    """The record of a picture."""

    source: str
    name: str
    output: str | None
    """Below the destination: its label map, or the table that holds its run lengths."""
    height: int | None
    width: int | None
    areas: dict[str, int] | None
    """Pixels of each class."""
    error: str | None
    frames: int | None = None
    """Of an animation, or pages; the first is labelled."""


class Manifest:
    """The manifest below a destination, of one model and one set of options.

    ``identity`` holds the options, and the model's hash under ``model``; every file has it in its
    metadata.
    """

    def __init__(self, out: str, identity: Mapping[str, Any], classes: Sequence[str]) -> None:
        import pyarrow as pa

        self.file, self._parts = join(out, FILE), join(out, PARTS)
        self.identity = dict(identity)
        self._schema = pa.schema(
            [
                pa.field("source", pa.string(), nullable=False),
                pa.field("name", pa.string(), nullable=False),
                pa.field("output", pa.string()),
                pa.field("model", pa.string(), nullable=False),
                pa.field("height", pa.int32()),
                pa.field("width", pa.int32()),
                pa.field("areas", pa.struct([pa.field(each, pa.int64()) for each in classes])),
                pa.field("error", pa.string()),
                pa.field("frames", pa.int32()),
            ],
            metadata={_KEY: json.dumps(self.identity, sort_keys=True).encode()},
        )

    def check(self) -> None:
        """Raise :class:`SctnetError` where the destination has another model's manifest."""
        if not exists(self.file):
            return
        there = _identity(self.file)
        differing = [
            key for key in {**there, **self.identity} if there.get(key) != self.identity.get(key)
        ]
        if differing:
            key = "model" if "model" in differing else sorted(differing)[0]
            raise SctnetError(
                f"{self.file}: its {key} is {_shown(there.get(key))}, not "
                f"{_shown(self.identity.get(key))}: give another --out, or what it was begun with"
            )

    def begin(self) -> None:
        """Write an empty manifest if there is none, and merge the parts of an interrupted run."""
        if not exists(self.file):
            self._write(self.file, self._schema.empty_table())
        self.compact()

    def recorded(self) -> dict[str, Recorded]:
        """Return the record of every picture, by its source."""
        table = self._table(["source", "name", "error"])
        columns = (table.column(name).to_pylist() for name in ("source", "name", "error"))
        return {
            source: Recorded(name, error is None)
            for source, name, error in zip(*columns, strict=True)
        }

    def outputs(self) -> set[str]:
        """Return all outputs that are recorded."""
        return {each for each in self._table(["output"]).column(0).to_pylist() if each is not None}

    def part(self, name: str) -> list[Row] | None:
        """Return the rows of a part, or None if it does not exist yet."""
        file = join(self._parts, f"{name}.parquet")
        if not exists(file):
            return None
        return [
            Row(**{key: value for key, value in row.items() if key != "model"})
            for row in _read(file).to_pylist()
        ]

    def write_part(self, name: str, rows: Iterable[Row]) -> None:
        """Record pictures, after all of their results are written."""
        self._write(join(self._parts, f"{name}.parquet"), self._rows(rows))

    def begun(self, name: str) -> str | None:
        """Return the note of a worker that began a part and did not finish it."""
        note = join(self._parts, f"{name}.begun")
        return _text(note) if exists(note) else None

    def note(self, name: str, text: str) -> None:
        """Leave a note that a part was begun."""
        write_bytes(join(self._parts, f"{name}.begun"), text.encode())

    def compact(self) -> None:
        """Merge all parts into one file with a row for each picture, sorted by source."""
        parts = self._part_files()
        if not parts:
            return
        self._write(self.file, self._table(None).sort_by("source"))
        notes = [file for file in files_below(self._parts) if file.endswith(".begun")]
        for file in [*parts, *notes]:
            remove(file)
        remove_empty_folder(self._parts)

    def _part_files(self) -> list[str]:
        return [file for file in files_below(self._parts) if file.endswith(".parquet")]

    def _table(self, columns: Sequence[str] | None) -> Any:
        """Return the latest row of each picture; a part is newer than the file."""
        import pyarrow as pa
        import pyarrow.compute as pc

        files = [self.file] if exists(self.file) else []
        files += self._part_files()
        wanted = None if columns is None else list(dict.fromkeys(["source", *columns, "error"]))
        tables = [_read(file, wanted) for file in files]
        schema = (
            self._schema if wanted is None else pa.schema([self._schema.field(c) for c in wanted])
        )
        table = pa.concat_tables([each.cast(schema) for each in tables] or [schema.empty_table()])
        # Of several rows of a picture: the last success, else the last failure.
        order = pa.array(range(len(table)), pa.int64())
        good = pc.cast(pc.is_null(table.column("error")), pa.int64())
        rank = pc.add(order, pc.multiply(good, len(table)))
        last = pa.table({"source": table.column("source"), "rank": rank}).group_by("source")
        kept = pc.sort_indices(last.aggregate([("rank", "max")]).column("rank_max"))
        ranks = last.aggregate([("rank", "max")]).column("rank_max").take(kept)
        length = max(len(table), 1)
        rows = pc.subtract(ranks, pc.multiply(pc.divide(ranks, length), length))
        chosen = table.take(rows)
        return chosen if columns is None else chosen.select(list(columns))

    def _rows(self, rows: Iterable[Row]) -> Any:
        import pyarrow as pa

        model = self.identity["model"]
        content = [{**row._asdict(), "model": model} for row in rows]
        return pa.Table.from_pylist(content, schema=self._schema)

    def _write(self, file: str, table: Any) -> None:
        write_table(file, table.replace_schema_metadata(self._schema.metadata))


def write_table(file: str, table: Any) -> None:
    """Write a Parquet file that appears whole or not at all."""
    import pyarrow.parquet as pq

    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    write_bytes(file, content.getvalue())


def _read(file: str, columns: Sequence[str] | None = None) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_input(file) as source:
            return pq.read_table(source, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise SctnetError(
            f"{file}: cannot be read ({str(error).splitlines()[0]}): delete it, what it told of is "
            "done again"
        ) from error


def _identity(file: str) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_input(file) as source:
            metadata = pq.read_schema(source).metadata or {}
        found = json.loads(metadata[_KEY])
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise SctnetError(
            f"{file}: not a manifest of bulk prediction: give another --out, or remove it"
        ) from error
    return dict(found)


def _text(file: str) -> str:
    with open_input(file) as source:
        return bytes(source.read()).decode()


def _shown(value: Any) -> str:
    text = ",".join(value) if isinstance(value, list) else str(value)
    return text[:12] if len(text) == 64 else text
