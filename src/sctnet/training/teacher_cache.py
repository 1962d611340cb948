"""A teacher's answers about fixed views of pictures, asked for once and kept in a file.

The file begins with a description (JSON in 4,096 bytes), then a table with two checksums a view,
then the records, all of one size. It is sparse: it takes space as it is filled. A record counts
once its row of the table is written, and only if its checksum agrees, so that neither a killed
process nor a second one that writes the same view can spoil it.
"""

import errno
import fcntl
import json
import logging
import os
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sctnet.errors import SctnetError

FILE = "teacher.answers"

_LOG = logging.getLogger(__name__)
_HEAD = 4096
_ROW = struct.Struct("<II")  # of the crop's bytes, of the record; zeros: not known
_ALIGNED = 64
_HIGHEST = 65504.0  # of float16

_Layout = list[tuple[str, tuple[int, ...]]]
"""Type and shape of each tensor of a record; maps lie as height, width, channels."""


class TeacherCache:
    """What a teacher has made of fixed views, in a file that processes and runs can share.

    Maps are kept in float16, vectors in float32. The first ``gigabytes`` (10^9 bytes) of the views
    are kept; the others, and all once the disk is full, are asked for each time, rounded alike.
    ``about`` describes, by the names that a user knows, what the answers depend on. Raises
    :class:`SctnetError` for a file that was made for something else or cannot be written.
    """

    def __init__(self, file: Path, views: int, gigabytes: float, about: Mapping[str, str]) -> None:
        self.file = file
        self._views = views
        self._bytes = int(gigabytes * 1e9)
        self._about = {"views": str(views), **about}
        self._layout: _Layout | None = None
        self._stream: int | None = None
        self._full = False
        if file.exists():
            self._open()

    def encoded(
        self,
        views: Int[Tensor, " n"],
        checksums: Int[Tensor, " n"],
        ask: Callable[[Int[Tensor, " unknown"]], Sequence[Tensor]],
    ) -> tuple[Tensor, ...]:
        """Return the tensors of these views; ``ask`` is given the rows that are not known.

        ``checksums`` are those of the crops' bytes. Raises :class:`SctnetError` for a view that
        was another crop when it was kept.
        """
        places = list(zip(views.tolist(), checksums.tolist(), strict=True))
        unknown = list(range(len(places)))
        records = self._empty(len(places))
        if self._layout is not None:
            unknown = [
                row for row, place in enumerate(places) if not self._read(*place, records[row].data)
            ]
        if unknown:
            found = ask(torch.tensor(unknown, device=views.device))
            if self._layout is None:
                self._begin([_described(tensor) for tensor in found])
                records = self._empty(len(places))
            for number, row in enumerate(unknown):
                self._pack([tensor[number] for tensor in found], records[row])
                self._write(*places[row], records[row].data)
        return self._unpacked(records, views.device)

    def _empty(self, count: int) -> np.ndarray:
        size = 0 if self._layout is None else _size(self._layout)
        return np.empty((count, size), np.uint8)

    def _pack(self, tensors: Sequence[Tensor], record: np.ndarray) -> None:
        assert self._layout is not None
        record[:] = 0
        for (kind, shape), begin, tensor in zip(
            self._layout, _begins(self._layout)[:-1], tensors, strict=True
        ):
            if tensor.ndim == 3:
                tensor = tensor.permute(1, 2, 0).clamp(-_HIGHEST, _HIGHEST)
            values = tensor.to("cpu", torch.float32).numpy().astype(kind)
            end = begin + values.nbytes
            record[begin:end].view(kind).reshape(shape)[...] = values

    def _unpacked(self, records: np.ndarray, device: torch.device) -> tuple[Tensor, ...]:
        assert self._layout is not None
        tensors = []
        for (kind, shape), begin in zip(self._layout, _begins(self._layout)[:-1], strict=True):
            end = begin + prod(shape) * np.dtype(kind).itemsize
            stored = torch.from_numpy(records[:, begin:end].view(kind))
            values = stored.to(device).float().view(len(records), *shape)
            tensors.append(values.permute(0, 3, 1, 2) if len(shape) == 3 else values)
        return tuple(tensors)

    # The file

    def _open(self) -> None:
        """Open a file that is there, and see whether it is for these answers."""
        self._stream = self._opened(os.O_RDWR)
        head = os.pread(self._stream, _HEAD, 0)
        if head.strip(b"\0 "):
            self._compare(head)

    def _begin(self, layout: _Layout) -> None:
        """Make the file, unless another process did meanwhile."""
        self._layout = layout
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            if self._stream is None:
                self._stream = self._opened(os.O_RDWR | os.O_CREAT)
            with _Locked(self._stream):
                head = os.pread(self._stream, _HEAD, 0)
                if head.strip(b"\0 "):
                    self._compare(head)
                else:
                    os.ftruncate(self._stream, _HEAD + self._views * _ROW.size)
                    described = json.dumps({"about": self._about, "layout": layout})
                    _write_all(self._stream, described.encode().ljust(_HEAD), 0)
        except OSError as error:
            self._stop_keeping(error)
        kept = self._bytes // _size(layout)
        if kept < self._views:
            _LOG.warning(
                "alignment.cache.gigabytes: %d of %d views fit; about the others the teacher is "
                "asked each time",
                kept,
                self._views,
            )

    def _compare(self, head: bytes) -> None:
        """Take the layout of the file; raise where it was made for something else."""
        try:
            described = json.loads(head)
            about: dict[str, Any] = described["about"]
            layout = [(str(kind), tuple(shape)) for kind, shape in described["layout"]]
        except (ValueError, KeyError, TypeError) as error:
            raise SctnetError(
                f"{self.file}: not a file of a teacher's answers; delete it, or name another "
                "alignment.cache.folder"
            ) from error
        changed = [
            name for name in {**self._about, **about} if self._about.get(name) != about.get(name)
        ]
        if self._layout is not None and self._layout != layout:
            changed.append("teacher")
        if changed:
            raise SctnetError(
                f"{self.file}: holds answers for another {' and another '.join(changed)}; delete "
                "it, or name another alignment.cache.folder"
            )
        self._layout = layout

    def _opened(self, flags: int) -> int:
        try:
            return os.open(self.file, flags | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise SctnetError(
                f"{self.file}: cannot be opened for the teacher's answers ({error.strerror}); name "
                "another alignment.cache.folder"
            ) from error

    def _read(self, view: int, checksum: int, record: memoryview) -> bool:
        """Fill a record and return whether it is known."""
        if self._stream is None:
            return False
        row = os.pread(self._stream, _ROW.size, _HEAD + view * _ROW.size)
        if len(row) < _ROW.size or not any(row):
            return False
        of_crop, of_record = _ROW.unpack(row)
        read = os.preadv(self._stream, [record], self._place(view))
        if read < len(record) or zlib.crc32(record) != of_record:
            return False
        if of_crop != checksum:
            raise SctnetError(
                f"{self.file}: view {view} was another crop when its answer was kept: pictures or "
                "libraries have changed; delete it, or name another alignment.cache.folder"
            )
        return True

    def _write(self, view: int, checksum: int, record: memoryview) -> None:
        if self._full or self._stream is None or (view + 1) * len(record) > self._bytes:
            return
        try:
            _write_all(self._stream, record, self._place(view))
            row = _ROW.pack(checksum, zlib.crc32(record))
            _write_all(self._stream, row, _HEAD + view * _ROW.size)
        except OSError as error:
            self._stop_keeping(error)

    def _stop_keeping(self, error: OSError) -> None:
        self._full = True
        _LOG.warning(
            "%s: cannot be written (%s); about views that are not kept the teacher is asked each "
            "time",
            self.file,
            error.strerror or errno.errorcode.get(error.errno or 0, "unknown"),
        )

    def _place(self, view: int) -> int:
        assert self._layout is not None
        records = _HEAD + self._views * _ROW.size
        return -(-records // _HEAD) * _HEAD + view * _size(self._layout)


def digest(values: Any, tensors: Mapping[str, Tensor] | None = None) -> str:
    """Return a short word that other values (of JSON) or other tensors would change."""
    found = sha256(json.dumps(values, default=str).encode())
    for name, tensor in (tensors or {}).items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


class _Locked:
    """A file that one process at a time looks at and describes."""

    def __init__(self, stream: int) -> None:
        self._stream = stream

    def __enter__(self) -> None:
        fcntl.flock(self._stream, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._stream, fcntl.LOCK_UN)


def _write_all(stream: int, data: bytes | memoryview, offset: int) -> None:
    """Write everything; raise OSError where the disk is full."""
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(stream, view, offset)
        view, offset = view[written:], offset + written


def _described(tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    if tensor.ndim == 4:
        _, channels, height, width = tensor.shape
        return "<f2", (height, width, channels)
    return "<f4", tuple(tensor.shape[1:])


def _begins(layout: _Layout) -> list[int]:
    """Return where each tensor of a record begins, and where the last one ends."""
    begins, end = [], 0
    for kind, shape in layout:
        begins.append(end)
        end += -(-prod(shape) * np.dtype(kind).itemsize // _ALIGNED) * _ALIGNED
    return [*begins, end]


def _size(layout: _Layout) -> int:
    """Return the bytes of a record: whole pages."""
    return -(-_begins(layout)[-1] // _HEAD) * _HEAD
