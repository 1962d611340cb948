"""WebDataset shards: tar files in which a picture and its class follow each other.

``000123.jpg`` and ``000123.cls`` (the number of the class, as text) are one picture. Shards are
described by a YAML file; its paths are relative to it, and ``{0000..0146}`` stands for a row of
numbers:

```yaml
shards:
  train: https://bucket.example/imagenet-train-{0000..0146}.tar
  val: [imagenet-val-0.tar, imagenet-val-1.tar]
classes: classes.txt        # one name a line, by number; or a list
```

A shard that is named by URL is downloaded once, into ``$SCTNET_CACHE/shards`` or
``~/.cache/sctnet/shards``. Pictures are then read from where they lie in their tar, in any order.
"""

import hashlib
import itertools
import os
import re
import shutil
import tarfile
import urllib.request
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import override

from sctnet.data.classification.dataset import ClassificationDataset
from sctnet.data.dataset import check_splits
from sctnet.data.images import EncodedImage
from sctnet.data.picture_files import is_picture
from sctnet.data.streams import in_threads
from sctnet.errors import SctnetError
from sctnet.writing import cache_folder
from sctnet.yaml_files import load_yaml

_THREADS = 8
_MAX_BYTES = 1 << 28
"""Of a picture in a shard."""
_ROW = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_SHARDS = 1_000_000


class ShardsDescription(BaseModel):
    """The YAML file of shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: dict[str, str | tuple[str, ...]] = Field(min_length=1)
    classes: str | tuple[str, ...]


class _Shard(NamedTuple):
    """Where the pictures of a tar are: by number in it, their name, first byte, length, class."""

    file: Path
    names: list[str]
    begins: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


class ShardedPictures(ClassificationDataset):
    """The pictures of some shards, one shard after the other."""

    def __init__(self, name: str, classes: tuple[str, ...], shards: Sequence[_Shard]) -> None:
        self.name, self.classes = name, classes
        self._shards = tuple(shards)
        self._ends = list(accumulate(len(shard.names) for shard in shards))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @override
    def item_name(self, index: int) -> str:
        shard, number = self._locate(index)
        return f"{shard.file.name}/{shard.names[number]}"

    @override
    def encoded(self, index: int) -> EncodedImage:
        shard, number = self._locate(index)
        length = int(shard.lengths[number])
        name = f"{shard.file}/{shard.names[number]}"
        if length > _MAX_BYTES:
            raise SctnetError(f"{name}: {length} bytes, no picture of a shard is so large")
        try:
            with shard.file.open("rb") as stream:
                stream.seek(int(shard.begins[number]))
                data = stream.read(length)
        except OSError as error:
            raise SctnetError(f"{shard.file}: cannot be read ({error.strerror})") from error
        return EncodedImage(data, name)

    @override
    def label(self, index: int) -> int:
        shard, number = self._locate(index)
        return int(shard.labels[number])

    def _locate(self, index: int) -> tuple[_Shard, int]:
        place = bisect_right(self._ends, index)
        shard = self._shards[place]
        return shard, index - (self._ends[place] - len(shard.names))


def open_shards(file: Path, splits: Sequence[str]) -> ShardedPictures:
    """Open splits of shards that a YAML file describes, joined.

    Raises :class:`SctnetError` for a description, shard or download that is not as it must be.
    """
    description = _described(file)
    check_splits(splits, sorted(description.shards), file)
    classes = _class_names(description.classes, file)
    places = [
        place for split in splits for place in _expanded(description.shards[split], str(file))
    ]

    def index(number: int) -> _Shard:
        return _indexed(_local(places[number], file.parent), len(classes))

    shards = list(in_threads(index, range(len(places)), _THREADS))
    return ShardedPictures(f"{file.stem} {'+'.join(splits)}", classes, shards)


def _described(file: Path) -> ShardsDescription:
    try:
        content: Any = load_yaml(file.read_text(encoding="utf-8-sig"), str(file))
        return ShardsDescription.model_validate(content)
    except (OSError, UnicodeDecodeError) as error:
        raise SctnetError(f"{file}: cannot be read as text; give the shards' YAML file") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise SctnetError(
            f"{file}: {key}: {first['msg']}; it takes shards (by split) and classes"
        ) from error


def _class_names(classes: str | tuple[str, ...], file: Path) -> tuple[str, ...]:
    if isinstance(classes, str):
        listed = file.parent / classes
        try:
            classes = tuple(listed.read_text(encoding="utf-8-sig").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise SctnetError(
                f"{file}: classes: {listed} cannot be read as a list of names, one a line"
            ) from error
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise SctnetError(f"{file}: classes: name two or more, each once")
    return classes


def _expanded(patterns: str | Sequence[str], origin: str) -> Iterator[str]:
    """Yield the places that patterns with rows such as {000..146} stand for."""
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        rows = [(match[1], match[2]) for match in _ROW.finditer(pattern)]
        counts = [int(last) - int(first) + 1 for first, last in rows]
        if any(count < 1 for count in counts) or np.prod(counts, dtype=float) > _MAX_SHARDS:
            raise SctnetError(f"{origin}: shards: {pattern} stands for no row of shards")
        columns = (
            [f"{int(first) + step:0{len(first)}}" for step in range(count)]
            for (first, _), count in zip(rows, counts, strict=True)
        )
        parts = _ROW.split(pattern)[::3]
        for numbers in itertools.product(*columns):
            yield "".join(a + b for a, b in zip(parts, (*numbers, ""), strict=True))


def _local(place: str, beside: Path) -> Path:
    """Return the file of a shard, downloaded if it has to be."""
    if not place.startswith(("http://", "https://")):
        return beside / place
    named = os.environ.get("SCTNET_CACHE")
    base = Path(named) if named else cache_folder() / "sctnet"
    digest = hashlib.sha256(place.encode()).hexdigest()[:16]
    target = base / "shards" / f"{digest}-{place.rpartition('/')[2].partition('?')[0]}"
    if target.exists():
        return target
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(place, timeout=60) as answer, part.open("wb") as stream:  # noqa: S310 (http and https alone)
            shutil.copyfileobj(answer, stream, 1 << 20)
            wanted = answer.headers.get("Content-Length")
            if wanted is not None and stream.tell() != int(wanted):
                raise OSError(f"{stream.tell()} of {wanted} bytes came")
        part.replace(target)
    except (OSError, ValueError) as error:  # the client's errors are OSErrors
        raise SctnetError(f"{place}: cannot be downloaded ({error}); try again later") from error
    finally:
        part.unlink(missing_ok=True)
    return target


def _indexed(file: Path, classes: int) -> _Shard:
    """Read the headers of a tar, and the classes."""
    names: list[str] = []
    rows: list[tuple[int, int, int]] = []
    try:
        with tarfile.open(file, "r:") as tar:
            for key, picture, label in _pairs(tar, file):
                if not 0 <= label < classes:
                    raise SctnetError(
                        f"{file}: {key}.cls is {label}, the classes have the numbers 0 to "
                        f"{classes - 1}"
                    )
                names.append(picture.name)
                rows.append((picture.offset_data, picture.size, label))
    except (OSError, tarfile.TarError) as error:
        raise SctnetError(
            f"{file}: not a whole tar file ({error}); copy or download it again"
        ) from error
    begins, lengths, labels = np.array(rows, np.int64).reshape(-1, 3).T
    return _Shard(file, names, begins, lengths, labels)


def _pairs(tar: tarfile.TarFile, file: Path) -> Iterator[tuple[str, tarfile.TarInfo, int]]:
    """Yield the key, the picture and the class of what is grouped by its name."""
    members = (member for member in tar if member.isfile())
    for key, group in itertools.groupby(members, lambda member: _key(member.name)):
        # Read while the tar is at this place; of a picture, its place is enough.
        picture = label = None
        for member in group:
            if member.name.endswith(".cls"):
                label = _label(tar, member, file)
            elif is_picture(member.name):
                picture = member
        if picture is not None and label is None:
            raise SctnetError(f"{file}: {picture.name} has no {Path(key).name}.cls beside it")
        if picture is not None and label is not None:
            yield key, picture, label


def _key(name: str) -> str:
    """Return a member's name without what follows the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, file: Path) -> int:
    stream = tar.extractfile(member)
    text = b"" if stream is None else stream.read(32)
    if not text.strip().isdigit():
        raise SctnetError(f"{file}: {member.name} holds no number of a class")
    return int(text)
