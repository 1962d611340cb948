"""Pictures in Parquet tables: a column of paths, or of encoded pictures."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sctnet.errors import SctnetError
from sctnet.serving.bulk.encoded_picture import Encoded
from sctnet.serving.bulk.storage import open_input

_PATHS = ("path", "image", "image_path", "file", "file_name", "filename", "uri", "url", "image_url")
_NAMES = ("name", "id", "key", "__key__", "image_id", *_PATHS)
_ROWS_AT_A_TIME = 8  # encoded pictures in memory at once


class Row(NamedTuple):
    """A row of a table that holds an encoded picture."""

    source: str
    place: str
    """The name of the row's picture, or the table's name and the row's number."""
    row_group: int
    row: int
    """Its number in the row group."""


class PictureTable:
    """A Parquet file and its columns. Raises :class:`SctnetError` for any other file.

    ``column`` names the one with the pictures; by default the only one that holds bytes (or a
    struct of ``bytes`` and ``path``), else the only one of strings, or one with a usual name.
    """

    def __init__(self, name: str, column: str | None = None) -> None:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        self.name = name
        try:
            self._file = ParquetFile(open_input(name))
        except FileNotFoundError as error:
            raise SctnetError(f"{name}: no such file: check the path") from error
        except (OSError, ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise SctnetError(f"{name}: not a Parquet table that can be read ({reason})") from error
        self._schema = self._file.schema_arrow
        self.column = self._picture_column(column)
        kind = self._schema.field(self.column).type
        self.holds_bytes = not _is_text(kind)
        self._within = f"{self.column}.bytes" if _is_struct(kind) else self.column
        self._names = self._name_column(_is_struct(kind))

    @property
    def row_groups(self) -> int:
        """The number of its row groups."""
        return int(self._file.num_row_groups)

    def paths(self) -> Iterator[str | None]:
        """Yield the cells of a column of paths."""
        for group in range(self.row_groups):
            yield from self._column(group, self.column)

    def rows(self) -> Iterator[Row]:
        """Yield the rows of a column of bytes, without reading the bytes."""
        seen: Counter[str] = Counter()
        stem = self.name.rstrip("/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
        number = 0
        for group in range(self.row_groups):
            length = self._file.metadata.row_group(group).num_rows
            names = self._column(group, self._names) if self._names else [None] * length
            for row, given in enumerate(names):
                text = f"{stem}/{number:06}" if given in (None, "") else str(given)
                seen[text] += 1
                again = f"#{seen[text]}" if seen[text] > 1 else ""
                yield Row(f"{self.name}::{text}{again}", text, group, row)
                number += 1

    def pictures(self, row_group: int, wanted: Mapping[int, tuple[str, str]]) -> Iterator[Encoded]:
        """Yield the pictures of these rows of a row group; ``wanted`` tells source and name."""
        from pyarrow import ArrowException, types

        row = 0
        try:
            for batch in self._file.iter_batches(
                _ROWS_AT_A_TIME, row_groups=[row_group], columns=[self._within], use_threads=False
            ):
                cells = batch.column(0)
                for cell in cells.field(0) if types.is_struct(cells.type) else cells:
                    if row in wanted:
                        yield _encoded(*wanted[row], cell.as_py())
                    row += 1
                if row > max(wanted):
                    break
        except (OSError, ArrowException) as error:
            problem = (
                f"{self.name}: row group {row_group} is damaged ({str(error).splitlines()[0]})"
            )
            for source, name in list(wanted.values())[sum(number < row for number in wanted) :]:
                yield Encoded(source, name, problem=problem)

    def _column(self, row_group: int, column: str) -> list[Any]:
        from pyarrow import ArrowException, types

        try:
            found = self._file.read_row_group(row_group, columns=[column]).column(0)
        except (OSError, ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise SctnetError(
                f"{self.name}: row group {row_group} is damaged ({reason})"
            ) from error
        if types.is_struct(found.type):
            found = found.combine_chunks().field(0)
        cells: list[Any] = found.to_pylist()
        return cells

    def _picture_column(self, wanted: str | None) -> str:
        fields = list(self._schema)
        if wanted is not None:
            kinds = [each.type for each in fields if each.name == wanted]
            if kinds and (_is_bytes(kinds[0]) or _is_struct(kinds[0]) or _is_text(kinds[0])):
                return wanted
            raise SctnetError(
                f"{self.name}: no column {wanted!r} of paths or bytes: there are "
                f"{', '.join(each.name for each in fields)}"
            )
        holding = [each.name for each in fields if _is_bytes(each.type) or _is_struct(each.type)]
        if len(holding) == 1:
            return str(holding[0])
        texts = [each.name for each in fields if _is_text(each.type)]
        usual = [name for name in _PATHS if name in texts]
        if not holding and (len(texts) == 1 or usual):
            return str(usual[0] if usual else texts[0])
        raise SctnetError(
            f"{self.name}: which column holds the pictures, or their paths? "
            f"Name one with --column: {', '.join(each.name for each in fields)}"
        )

    def _name_column(self, struct: bool) -> str | None:
        names = [each.name for each in self._schema if each.name != self.column]
        usual = [name for name in _NAMES if name in names and self._is_name(name)]
        if usual:
            return usual[0]
        return f"{self.column}.path" if struct else None

    def _is_name(self, column: str) -> bool:
        from pyarrow import types

        kind = self._schema.field(column).type
        return _is_text(kind) or bool(types.is_integer(kind))


def _encoded(source: str, name: str, data: bytes | None) -> Encoded:
    problem = f"{source}: the row holds no picture" if data is None else None
    return Encoded(source, name, data, problem)


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_bytes(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _is_struct(kind: Any) -> bool:
    """Say whether it is the struct of bytes and path that Hugging Face's data sets hold."""
    from pyarrow import types

    return bool(types.is_struct(kind)) and {"bytes", "path"} <= {each.name for each in kind}
