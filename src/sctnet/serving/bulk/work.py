"""The inputs of a bulk prediction (folders, globs, tables, shards), cut into units of work."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from glob import glob, has_magic
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from sctnet.data.picture_files import PICTURE_ENDINGS, is_picture, tell_left_out
from sctnet.errors import SctnetError
from sctnet.inference.files import distinct_names, find_places
from sctnet.serving.bulk.encoded_picture import Encoded
from sctnet.serving.bulk.output_paths import safe_place
from sctnet.serving.bulk.shards import SHARD_SUFFIXES, is_shard, shard_pictures
from sctnet.serving.bulk.storage import (
    exists,
    files_below,
    full_name,
    is_folder,
    is_url,
    join,
    matching,
)
from sctnet.serving.bulk.tables import PictureTable, Row

_TABLE = ".parquet"
_MAX_PARTS_OF_A_ROW_GROUP = 8  # each is read from the row group's beginning
_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Unit:
    """The pictures that one call of a worker labels."""

    pictures: list[tuple[str, str]] = field(default_factory=list)
    """Source and name of each; empty for a shard, whose pictures are known when it is read."""
    table: str = ""
    column: str = ""
    row_group: int = 0
    rows: list[int] = field(default_factory=list)
    """Of the table, where it holds the pictures themselves: one for each of ``pictures``."""
    shard: str = ""
    name: str = ""
    """Of the shard's results: their folder."""
    done: list[str] = field(default_factory=list)
    """Sources within the shard that are done."""

    def to_text(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Unit":
        """Return what :meth:`to_text` wrote."""
        unit = cls(**json.loads(text))
        return cls(
            **{**asdict(unit), "pictures": [(source, name) for source, name in unit.pictures]}
        )

    def encoded(self) -> Iterator[Encoded]:
        """Yield the pictures, or the reason why one cannot be read."""
        if self.shard:
            yield from shard_pictures(self.shard, self.name, frozenset(self.done))
        elif self.table:
            wanted = dict(zip(self.rows, self.pictures, strict=True))
            try:
                table = PictureTable(self.table, self.column)
            except SctnetError as error:
                yield from (Encoded(*each, problem=str(error)) for each in self.pictures)
                return
            yield from table.pictures(self.row_group, wanted)
        else:
            yield from (Encoded(*each) for each in self.pictures)


class Recorded(NamedTuple):
    """The record of a picture by earlier runs."""

    name: str
    done: bool
    """Labelled; what failed is tried again."""


@dataclass
class Work:
    """The units of work, and the counts of pictures."""

    units: list[Unit] = field(default_factory=list)
    pictures: int | None = 0
    """Pictures to label; None with shards, which are not counted before they are read."""
    skipped: int = 0
    """Pictures that are done; of shards, those that are in the manifest."""
    failures: list[str] = field(default_factory=list)
    """A sentence for each input without a picture."""


@dataclass
class _Found:
    places: list[tuple[str, Path]] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add_file(self, file: str, place: Path) -> None:
        if file.lower().endswith(_TABLE):
            self.tables.append(file)
        elif is_shard(file):
            self.shards.append(file)
        else:
            self.places.append((file, place))

    def add_folder(self, folder: str, out: str) -> bool:
        """Add a folder's pictures or, where it has none, its tables or else its shards."""
        files = [file for file in files_below(folder) if not file.startswith(join(out, ""))]
        files = [file for file in files if "/." not in file[len(folder) :]]
        for wanted in (is_picture, lambda file: file.lower().endswith(_TABLE), is_shard):
            chosen = [file for file in files if wanted(file)]
            for file in chosen:
                self.add_file(file, Path(file[len(folder) :].lstrip("/")))
            if chosen:
                others = (PurePosixPath(file).suffix.lower() for file in files)
                left_out = Counter(others) - Counter(
                    PurePosixPath(file).suffix.lower() for file in chosen
                )
                tell_left_out(folder, left_out)
                return True
        return False


def find_work(
    inputs: Sequence[str],
    out: str,
    recorded: Mapping[str, Recorded],
    column: str | None = None,
    per_unit: Callable[[int], int] = lambda _: 256,
) -> Work:
    """Return the units of work of folders, globs, Parquet tables and WebDataset shards.

    An input is a path or a URL. A folder stands for all pictures below it; without pictures, for
    all tables, and without tables, for all shards. Results below ``out`` are left out. Results get
    the names that ``sctnet predict`` gives, and keep their names in ``recorded``. ``per_unit`` maps
    the number of all pictures to the pictures per unit. Raises :class:`SctnetError` for a table
    that cannot be read, and if there is no picture at all.
    """
    found = _Found()
    for item in (each for given in inputs for each in _expanded(given)):
        _collect(item, out, found)
    work = Work(failures=found.failures)
    rows: dict[str, tuple[PictureTable, Row]] = {}
    for name in dict.fromkeys(found.tables):
        table = PictureTable(name, column)
        if table.holds_bytes:
            rows |= {row.source: (table, row) for row in table.rows()}
        else:
            found.places += _places_of(table)
    if not (found.places or rows or found.shards or found.tables):
        raise SctnetError(
            f"{found.failures[0]}; give pictures ({', '.join(sorted(PICTURE_ENDINGS))}), folders, "
            f"Parquet tables ({_TABLE}) or WebDataset shards ({', '.join(SHARD_SUFFIXES)})"
        )
    taken = {Path(each.name) for each in recorded.values()}
    files = _missing(found.places, recorded, None, taken)
    taken |= {Path(name) for _, name in files}
    places = [(source, safe_place(row.place)) for source, (_, row) in rows.items()]
    cells = _missing(places, recorded, PICTURE_ENDINGS, taken)
    shards = distinct_names([(each, _shard_place(each)) for each in dict.fromkeys(found.shards)])

    size = per_unit(len(files) + len(cells))
    work.units += [Unit(pictures=part) for part in _parts(files, size)]
    work.units += _row_units(cells, rows, size)
    inside = _done_in_shards(recorded) if shards else {}
    work.units += [
        Unit(shard=shard, name=str(name), done=inside.get(shard, [])) for shard, name in shards
    ]
    work.pictures = None if shards else len(files) + len(cells)
    known = [source for source, _ in [*dict(found.places).items(), *places]]
    work.skipped = len(known) - len(files) - len(cells)
    work.skipped += sum(len(inside.get(shard, [])) for shard, _ in shards)
    return work


def _collect(item: str, out: str, found: _Found) -> None:
    name = full_name(item)
    reason = "no pictures, tables or shards there"
    try:
        if is_url(name):
            if _collected_url(name, out, found):
                return
        elif _collected_path(item, name, out, found):
            return
        if not has_magic(item) and not is_folder(name) and not exists(name):
            reason = "there is no such file or folder"
    except SctnetError as error:
        found.failures.append(str(error))
        return
    found.failures.append(f"{item}: {reason}")


def _collected_path(item: str, name: str, out: str, found: _Found) -> bool:
    """Add what a path or a glob names; pictures just as ``sctnet predict`` finds them."""
    globbed = has_magic(item) and not os.path.exists(name)  # noqa: PTH110
    matches = sorted(glob(name, recursive=True)) if globbed else [name]  # noqa: PTH207
    others = [each for each in matches if each.lower().endswith((_TABLE, *SHARD_SUFFIXES))]
    for each in others:
        if is_folder(each):
            found.add_folder(each, out)
        elif exists(each):
            found.add_file(each, Path(PurePosixPath(each).name))
    if not globbed and others:
        return is_folder(name) or exists(name)
    places, failures = find_places([name], Path(out))
    pictures = [(str(path), place) for path, place in places if str(path) not in others]
    found.places += pictures
    if pictures:
        found.failures += failures
    if pictures or others:
        return True
    return not globbed and is_folder(name) and found.add_folder(name, out)


def _collected_url(name: str, out: str, found: _Found) -> bool:
    if exists(name):
        found.add_file(name, Path(PurePosixPath(name).name))
        return True
    if is_folder(name):
        return found.add_folder(name, out)
    any_found = False
    for each in matching(name) if has_magic(name) else []:
        if is_folder(each):
            any_found = found.add_folder(each, out) or any_found
        elif not each.startswith(join(out, "")):
            found.add_file(each, Path(PurePosixPath(each).name))
            any_found = True
    return any_found


def _expanded(text: str) -> list[str]:
    """Expand braces as in WebDataset's names of shards: {000..012}, {a,b}."""
    match = _BRACES.search(text)
    if match is None or (not is_url(text) and os.path.exists(text)):  # noqa: PTH110
        return [text]
    inner = match.group(1)
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", inner)
    if bounds:
        first, last = bounds.groups()
        options = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    elif "," in inner:
        options = inner.split(",")
    else:
        return [text]
    before, after = text[: match.start()], text[match.end() :]
    return [each for option in options for each in _expanded(f"{before}{option}{after}")]


def _places_of(table: PictureTable) -> list[tuple[str, Path]]:
    """Return a table's paths, each with its place below the folder that all have in common.

    Relative ones are meant from the table's folder.
    """
    folder = table.name.rpartition("/")[0]
    paths = [path for path in table.paths() if path]
    sources = [
        path if is_url(path) or path.startswith("/") else join(folder, path) for path in paths
    ]
    folders = {source.rpartition("/")[0] for source in sources}
    common = _common_folder(folders)
    return [(source, safe_place(source[len(common) :])) for source in sources]


def _common_folder(folders: set[str]) -> str:
    """Return the longest beginning, of whole parts, that all folders share."""
    if not folders:
        return ""
    first, last = min(folders).split("/"), max(folders).split("/")
    shared = 0
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    return "/".join(first[:shared])


def _missing(
    places: Sequence[tuple[str, Path]],
    recorded: Mapping[str, Recorded],
    endings: frozenset[str] | None,
    taken: set[Path],
) -> list[tuple[str, str]]:
    """Return source and name of the pictures that are not done.

    What an earlier run has named keeps its name. The others find these taken; taking them one by
    one in the same order, they get the names that they would have had in one run.
    """
    known = {source: recorded[source] for source, _ in places if source in recorded}
    new = distinct_names([pair for pair in places if pair[0] not in known], endings, taken)
    names = {source: str(name) for source, name in new}
    names |= {source: each.name for source, each in known.items() if not each.done}
    return [(source, names[source]) for source in dict(places) if source in names]


def _parts(items: list[tuple[str, str]], size: int) -> Iterator[list[tuple[str, str]]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def _row_units(
    cells: Sequence[tuple[str, str]], rows: Mapping[str, tuple[PictureTable, Row]], size: int
) -> Iterator[Unit]:
    def group(cell: tuple[str, str]) -> tuple[str, int]:
        table, row = rows[cell[0]]
        return table.name, row.row_group

    for (table, row_group), members in groupby(cells, key=group):
        pictures = list(members)
        column = rows[pictures[0][0]][0].column
        for part in _parts(pictures, max(size, -(-len(pictures) // _MAX_PARTS_OF_A_ROW_GROUP))):
            numbers = [rows[source][1].row for source, _ in part]
            yield Unit(part, table, column, row_group, numbers)


def _done_in_shards(recorded: Mapping[str, Recorded]) -> dict[str, list[str]]:
    inside: dict[str, list[str]] = {}
    for source, each in recorded.items():
        if each.done and "::" in source:
            inside.setdefault(source.rpartition("::")[0], []).append(source)
    return inside


def _shard_place(shard: str) -> Path:
    name = PurePosixPath(shard).name
    ending = next(each for each in reversed(SHARD_SUFFIXES) if name.lower().endswith(each))
    return safe_place(name[: -len(ending)] + ".tar")
