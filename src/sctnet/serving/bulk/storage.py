"""Files on a disk or behind a URL, by pyarrow's and fsspec's file systems."""

import os
import secrets
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sctnet.data.picture_files import walk
from sctnet.errors import SctnetError
from sctnet.writing import write_whole

_PYARROW = frozenset({"s3", "gs", "gcs", "abfs", "abfss", "hdfs"})

_WHOLE_UPLOADS = frozenset({"s3", "gcs", "abfs"})
"""Stores in which an object appears only when its upload is complete, and renaming copies it."""


def is_url(text: str) -> bool:
    """Say whether a text is a URL."""
    return "://" in text


def full_name(text: str) -> str:
    """Return a URL unchanged; return the absolute path of a path or a file:// URL."""
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    return text if is_url(text) else os.path.abspath(text)  # noqa: PTH100 - links stay


def join(folder: str, *names: str) -> str:
    """Return the full name of something below a folder."""
    return "/".join([folder.rstrip("/"), *names])


def read_bytes(name: str, most: int | None = None) -> bytes:
    """Return a file's content; :class:`SctnetError` where it cannot be read or is over ``most``."""
    filesystem, path = _opened(name)
    try:
        with filesystem.open_input_file(path) as file:
            if most is not None and file.size() > most:
                raise SctnetError(f"{name}: more than {most:,} bytes: give a smaller file")
            content: bytes = file.read()
            return content
    except FileNotFoundError as error:
        raise SctnetError(f"{name}: no such file: check the path") from error
    except OSError as error:
        raise SctnetError(f"{name}: cannot be read ({_reason(error)})") from error


def open_input(name: str) -> Any:
    """Return a file to read in any order, of pyarrow; raises OSError."""
    filesystem, path = _opened(name)
    return filesystem.open_input_file(path)


def write_bytes(name: str, content: bytes) -> None:
    """Write a file that appears whole or not at all, and the folders above it.

    It is written beside and renamed, but in object stores, where an upload appears at its end.
    Raises :class:`SctnetError` where it cannot be written.
    """
    try:
        if not is_url(name):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            write_whole(name, content)
            return
        filesystem, path = _opened(name)
        if filesystem.type_name in _WHOLE_UPLOADS:
            with filesystem.open_output_stream(path) as stream:
                stream.write(content)
            return
        folder, _, last = path.rpartition("/")
        if folder:
            filesystem.create_dir(folder, recursive=True)
        beside = join(folder, f".{last[:40]}.{secrets.token_hex(6)}.part") if folder else path
        with filesystem.open_output_stream(beside) as stream:
            stream.write(content)
        if beside != path:
            filesystem.move(beside, path)
    except OSError as error:
        raise SctnetError(f"{name}: cannot be written ({_reason(error)})") from error


def remove(name: str) -> None:
    """Delete a file, if it is there."""
    filesystem, path = _opened(name)
    try:
        filesystem.delete_file(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SctnetError(f"{name}: cannot be deleted ({_reason(error)})") from error


def remove_empty_folder(name: str) -> None:
    """Delete an empty folder on a disk; object stores have no folders."""
    if not is_url(name):
        with suppress(OSError):
            Path(name).rmdir()


def exists(name: str) -> bool:
    """Say whether there is a file of this name."""
    return _kind(name) == "File"


def is_folder(name: str) -> bool:
    """Say whether there is a folder of this name."""
    return _kind(name) == "Directory"


def files_below(folder: str) -> list[str]:
    """Return the full names of all files below a folder, sorted; none where there is no folder."""
    from pyarrow.fs import FileSelector, FileType

    if not is_url(folder):
        return (
            sorted(join(folder, path) for path in walk(Path(folder))) if is_folder(folder) else []
        )
    filesystem, path = _opened(folder)
    selector = FileSelector(path, allow_not_found=True, recursive=True)
    try:
        found = filesystem.get_file_info(selector)
    except OSError as error:
        raise SctnetError(f"{folder}: cannot be listed ({_reason(error)})") from error
    # Paths of a file system lack the protocol of the URL.
    cut = len(path.rstrip("/"))
    return sorted(
        folder.rstrip("/") + info.path[cut:] for info in found if info.type == FileType.File
    )


def matching(pattern: str) -> list[str]:
    """Return the full names of what a URL with wildcards, as a glob has them, matches, sorted."""
    from fsspec.implementations.arrow import ArrowFSWrapper

    filesystem, path = _opened(pattern)
    beginning = pattern[: len(pattern) - len(path)] if pattern.endswith(path) else ""
    try:
        found = ArrowFSWrapper(filesystem).glob(path)
    except OSError as error:
        raise SctnetError(f"{pattern}: cannot be listed ({_reason(error)})") from error
    return sorted(beginning + str(each) for each in found)


def _kind(name: str) -> str:
    filesystem, path = _opened(name)
    try:
        return str(filesystem.get_file_info(path).type.name)
    except OSError as error:
        raise SctnetError(f"{name}: cannot be looked up ({_reason(error)})") from error


def _opened(name: str) -> tuple[Any, str]:
    """Return the file system of a full name, and its path there."""
    from pyarrow.fs import LocalFileSystem

    if not is_url(name):
        return LocalFileSystem(), name
    protocol, _, rest = name.partition("://")
    if protocol in _PYARROW:
        # The rest of an address is not read as one: a key may hold spaces, % and #.
        host, _, key = rest.partition("/")
        filesystem, root = _by_pyarrow(f"{protocol}://{host}")
        return filesystem, f"{root.rstrip('/')}/{key}".rstrip("/")
    filesystem = _by_fsspec(protocol, name)
    return filesystem, str(filesystem.handler.fs._strip_protocol(name))


@lru_cache
def _by_pyarrow(address: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem

    try:
        filesystem, root = FileSystem.from_uri(address)
    except (OSError, ValueError, NotImplementedError) as error:
        raise SctnetError(f"{address}: cannot be opened ({_reason(error)})") from error
    return filesystem, str(root)


def _by_fsspec(protocol: str, name: str) -> Any:
    import fsspec
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    try:
        # fsspec keeps one file system of each kind.
        filesystem, _ = fsspec.core.url_to_fs(name)
    except (ImportError, ValueError, OSError) as error:
        raise SctnetError(
            f"{name}: nothing here opens {protocol}:// addresses ({_reason(error)}): "
            "install the package that teaches fsspec this protocol"
        ) from error
    return PyFileSystem(FSSpecHandler(filesystem))


def _reason(error: BaseException) -> str:
    """Return the reason of a system's or a store's error, as part of a sentence."""
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
