"""WebDataset shards: tar files whose members of one key make a sample.

https://github.com/webdataset/webdataset; a key is a member's name up to the first dot of its last
part.
"""

import tarfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import PurePosixPath
from typing import Any

from sctnet.data.picture_files import PICTURE_ENDINGS
from sctnet.serving.bulk.encoded_picture import MAX_BYTES, Encoded
from sctnet.serving.bulk.output_paths import safe_place
from sctnet.serving.bulk.storage import open_input

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")


def is_shard(name: str) -> bool:
    """Say whether a file has the suffix of a shard."""
    return name.lower().endswith(SHARD_SUFFIXES)


def shard_pictures(shard: str, name: str, done: Collection[str]) -> Iterator[Encoded]:
    """Yield the pictures of a shard, read from its beginning to its end, but those ``done``.

    A sample shows one picture: its first member that ends as one alone (``jpg``, not ``seg.png``).
    Results are called ``name/key``. A damaged shard ends with an item that says so.
    """
    keys: Counter[str] = Counter()
    last = None
    try:
        with open_input(shard) as file, tarfile.open(fileobj=file, mode="r|*") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                stem, _, ending = path.name.partition(".")
                key = str(path.with_name(stem)) if stem else member.name
                if (
                    f".{ending.lower()}" not in PICTURE_ENDINGS
                    or not member.isfile()
                    or key == last
                ):
                    continue
                last = key
                place = str(safe_place(key))
                keys[place] += 1
                again = f"_{keys[place]}" if keys[place] > 1 else ""
                source = f"{shard}::{member.name}{again and '#' + again[1:]}"
                if source not in done:
                    yield _picture(archive, member, source, f"{name}/{place}{again}")
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError) as error:
        problem = f"{shard}: the shard is damaged or cut short ({error}): copy it again"
        if isinstance(error, OSError) and not isinstance(error, tarfile.TarError):
            problem = f"{shard}: cannot be read ({error.strerror or error})"
        yield Encoded(shard, name, problem=problem)


def _picture(archive: tarfile.TarFile, member: tarfile.TarInfo, source: str, name: str) -> Encoded:
    if member.size > MAX_BYTES:
        return Encoded(source, name, problem=f"{source}: more than {MAX_BYTES:,} bytes")
    stream: Any = archive.extractfile(member)
    return Encoded(source, name, stream.read())
