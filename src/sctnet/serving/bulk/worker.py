"""A worker of bulk prediction: holds a model, and labels one unit of work after the other."""

import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch

from sctnet.errors import SctnetError
from sctnet.inference.batch_prediction import PicturePredictor
from sctnet.inference.segmentation_result import Segmentation
from sctnet.inference.segmenter import Segmenter
from sctnet.inference.sources import Picture
from sctnet.pictures.palette import encode_label_map
from sctnet.pipeline.precision import is_emulated
from sctnet.serving.bulk.encoded_picture import Encoded, decode
from sctnet.serving.bulk.manifest import Manifest, Row, write_table
from sctnet.serving.bulk.model_files import ModelFiles
from sctnet.serving.bulk.storage import join, write_bytes
from sctnet.serving.bulk.work import Unit

KINDS = ("labels", "rle")
"""The kinds of results: paletted PNGs below ``labels``, or Parquet tables of run lengths in
``rle``."""

_MAX_DEATHS = 2


def _refuse_emulation(options: "WorkerOptions") -> None:
    """Raise :class:`SctnetError` for a precision that was chosen where this machine emulates it."""
    device = torch.device(options.device or "cpu")
    if not options.by_name and is_emulated(options.precision, device):
        raise SctnetError(
            f"{options.precision}, which the machine that started the work multiplies, is emulated "
            "on a worker's: give --precision fp32, or use equal machines"
        )


@dataclass(frozen=True)
class WorkerOptions:
    """The options of a worker."""

    out: str
    kind: str
    identity: dict[str, Any]
    """Of the manifest."""
    device: str | None = None
    precision: str = "auto"
    by_name: bool = True
    """Whether a user named the precision; otherwise no worker may emulate it."""
    tile: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool | None = None
    batch_size: int = 1
    threads: int = 1
    per_part: int = 256
    """Pictures that are recorded together."""


class Worker:
    """Labels pictures, writes the results and then records them."""

    def __init__(self, model: ModelFiles, options: WorkerOptions) -> None:
        torch.set_num_threads(options.threads)
        _refuse_emulation(options)
        with tempfile.TemporaryDirectory() as folder:
            segmenter = Segmenter(
                model.write(Path(folder)), options.device, options.precision,
                tile=options.tile, batch_size=options.batch_size, scales=options.scales,
                flip=options.flip,
            )  # fmt: skip
        self._options = options
        self._predict = PicturePredictor[Encoded](segmenter, self._read, lambda item: item.source)
        self._frames: dict[str, int] = {}  # of pictures with several that are in work
        self._manifest = Manifest(options.out, options.identity, segmenter.classes)

    def _read(self, item: Encoded) -> Picture:
        first = decode(item)
        if first.frames > 1:
            self._frames[item.source] = first.frames
        return first.pixels

    def label(self, unit: Unit, name: str) -> Iterator[list[Row]]:
        """Label a unit of work; yield the rows of its parts, ``name-0000`` and so on.

        A part that another worker wrote before it died is taken over.
        """
        pictures, number = unit.encoded(), 0
        while (first := next(pictures, None)) is not None:
            group = chain([first], islice(pictures, self._options.per_part - 1))
            yield self._part(group, f"{name}-{number:04}")
            number += 1

    def _part(self, pictures: Iterable[Encoded], name: str) -> list[Row]:
        there = self._manifest.part(name)
        if there is not None:
            for _ in pictures:
                pass
            return there
        output = Output(self._options.out, self._options.kind, name)
        rows = [
            _row(item, result, output, self._frames.pop(item.source, 1))
            for item, result in self._labelled(pictures, name)
        ]
        output.finish()
        self._manifest.write_part(name, rows)
        return rows

    def _labelled(
        self, pictures: Iterable[Encoded], name: str
    ) -> Iterator[tuple[Encoded, Segmentation | SctnetError]]:
        """Label a part's pictures, one by one if a worker died of them before.

        This finds the picture that kills workers, for example because it needs too much memory. The
        picture is recorded as failed; otherwise it would kill one worker after the other.
        """
        note = self._manifest.begun(name)
        if note is None:
            self._manifest.note(name, json.dumps({"deaths": {}}))
            yield from self._predict(pictures)
            return
        left = json.loads(note)
        deaths: dict[str, int] = left["deaths"]
        if "at" in left:
            deaths[left["at"]] = deaths.get(left["at"], 0) + 1
        for item in pictures:
            if deaths.get(item.source, 0) >= _MAX_DEATHS:
                yield item, _deadly(item)
                continue
            self._manifest.note(name, json.dumps({"deaths": deaths, "at": item.source}))
            yield from self._predict([item])


def _deadly(item: Encoded) -> SctnetError:
    return SctnetError(
        f"{item.source}: {_MAX_DEATHS} workers died while they labelled it, perhaps of the memory "
        "that it takes: give each worker more, or cut the picture"
    )


class Output:
    """Writes a part's results: label maps at once, run lengths at the end of the part."""

    def __init__(self, out: str, kind: str, part: str) -> None:
        self._out, self._kind, self._part = out, kind, part
        self._codes: list[dict[str, Any]] = []

    def write(self, result: Segmentation, item: Encoded) -> str:
        """Write a picture's result and return its place below the destination."""
        if self._kind == "labels":
            place = f"labels/{item.name}.png"
            write_bytes(join(self._out, place), encode_label_map(result.labels, result.colours))
            return place
        for label, code in result.rle().items():
            self._codes.append({"source": item.source, "name": item.name, "class": label, **code})
        return f"rle/{self._part}.parquet"

    def finish(self) -> None:
        """Write the collected results."""
        if self._codes:
            write_table(join(self._out, f"rle/{self._part}.parquet"), _code_table(self._codes))


def _code_table(codes: list[dict[str, Any]]) -> Any:
    import pyarrow as pa

    columns = {name: pa.string() for name in ("source", "name", "class", "counts")}
    schema = pa.schema({**columns, "size": pa.list_(pa.int32())})
    return pa.Table.from_pylist(codes, schema=schema)


def _row(item: Encoded, result: Segmentation | SctnetError, output: Output, frames: int) -> Row:
    if isinstance(result, SctnetError):
        return Row(item.source, item.name, None, None, None, None, str(result))
    areas = {name: int(area["pixels"]) for name, area in result.area().items()}
    height, width = result.labels.shape
    place = output.write(result, item)
    return Row(item.source, item.name, place, height, width, areas, None, frames)
