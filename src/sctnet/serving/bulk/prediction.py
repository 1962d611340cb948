"""Bulk prediction on Ray Data: pictures by the million, on one machine or a cluster.

Little data goes through Ray: units of work with the names of their pictures go to the workers, and
rows of statistics come back. Workers read the pictures, write the results and record them in the
manifest, so nothing is lost if a worker, a machine or the driver dies.
"""

import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sctnet.errors import SctnetError
from sctnet.inference.files import PredictionSummary
from sctnet.inference.segmenter import Segmenter
from sctnet.serving.bulk.manifest import Manifest, Row
from sctnet.serving.bulk.model_files import ModelFiles, read_model_files
from sctnet.serving.bulk.storage import files_below, full_name, join, remove
from sctnet.serving.bulk.work import Unit, find_work
from sctnet.serving.bulk.worker import KINDS, Worker, WorkerOptions
from sctnet.serving.memory import keep_freed_memory

_MAX_PER_PART = 256  # pictures; at most this many are repeated after a worker's death
_PARTS_A_WORKER = 8  # at least, so that all workers end at about the same time
_MAX_TASKS = 10_000  # that Ray tracks


@dataclass(frozen=True)
class BulkOptions:
    """How many workers, and what each one has."""

    address: str | None = None
    """Of a Ray cluster; None: $RAY_ADDRESS or, without it, this machine alone."""
    workers: tuple[int, int] | None = None
    """Fewest and most; None: from one to as many as there are CPUs (or GPUs) for."""
    cpus: int = 1
    gpus: float = 0.0
    """Of a GPU, 0.25 lets four workers share one."""
    column: str | None = None
    """Of Parquet tables, the one with the pictures or their paths."""
    kind: str = "labels"
    device: str | None = None
    precision: str = "auto"
    tile: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool | None = None
    batch_size: int = 1


def predict_bulk(
    model: str,
    inputs: Sequence[str],
    out: str,
    options: BulkOptions,
    progress: Callable[[int, int | None], None] | None = None,
) -> PredictionSummary:
    """Label pictures into ``out``, a folder or URL, by workers on Ray, and return how it went.

    ``inputs`` are the inputs of :func:`~sctnet.serving.bulk.work.find_work`. Pictures that an
    earlier run with the same model and options labelled are left out; failed ones are tried again.
    With batches of one picture, labels equal those of ``sctnet predict`` on the same kind of
    device, bit for bit; larger batches may round differently. ``progress`` receives the number of
    finished pictures and, if known, of all pictures. Raises :class:`SctnetError` for invalid inputs
    and options, another model's manifest in ``out``, and a cluster that cannot be reached.
    """
    _require_ray()
    out = full_name(out)
    if options.kind not in KINDS:
        raise SctnetError(f"{options.kind} to save: with Ray, choose {' or '.join(KINDS)}")
    files = read_model_files(model)
    # Tried here first, where an error is one sentence; the workers load their own model.
    segmenter = Segmenter(
        model, "cpu", options.precision, tile=options.tile, batch_size=options.batch_size,
        scales=options.scales, flip=options.flip,
    )  # fmt: skip
    precision = options.precision
    if precision == "auto" and torch.device(_device(options)).type == "cpu":
        precision = segmenter.precision  # all machines of a cluster then compute alike
    manifest = Manifest(out, _identity(files, options, precision), segmenter.classes)
    manifest.check()
    recorded = manifest.recorded()
    with _cluster(options) as most:
        workers = options.workers or (1, most)

        def per_part(pictures: int) -> int:
            shared = -(-pictures // (workers[1] * _PARTS_A_WORKER))
            return max(options.batch_size, min(_MAX_PER_PART, shared), 1)

        work = find_work(inputs, out, recorded, options.column, per_part)
        manifest.begin()
        _remove_unrecorded(manifest, out)
        summary = PredictionSummary(segmenter.classes, skipped=work.skipped)
        summary.failures = list(work.failures)
        summary.areas = dict.fromkeys(segmenter.classes, 0)
        size = per_part(work.pictures) if work.pictures else _MAX_PER_PART
        settings = WorkerOptions(
            out, options.kind, manifest.identity, _device(options), precision,
            options.precision == precision, options.tile, options.scales, options.flip,
            options.batch_size, options.cpus, size,
        )  # fmt: skip
        began = time.perf_counter()
        for row in _run(work.units, files, settings, workers, options):
            _add(summary, row)
            if progress is not None:
                total = None if work.pictures is None else work.pictures + work.skipped
                progress(summary.done - len(work.failures), total)
        summary.seconds = time.perf_counter() - began
    manifest.compact()
    return summary


class UnitWorker:
    """A :class:`Worker` as Ray Data calls it: one unit of work in, its rows of statistics out."""

    def __init__(self, model: Any, options: WorkerOptions) -> None:
        import ray

        keep_freed_memory()  # the process is the worker's own
        self._worker = Worker(ray.get(model), options)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> Iterator[dict[str, list[Any]]]:
        """Label the units of a batch."""
        for text, name in zip(batch["unit"], batch["name"], strict=True):
            for rows in self._worker.label(Unit.from_text(str(text)), str(name)):
                yield _statistics(rows)


def _statistics(rows: Sequence[Row]) -> dict[str, list[Any]]:
    areas = [list(row.areas.values()) for row in rows if row.areas is not None]
    return {
        "labelled": [len(areas)],
        "areas": [[sum(column) for column in zip(*areas, strict=True)]],
        "failures": [[row.error for row in rows if row.error is not None]],
        "animated": [[row.source for row in rows if (row.frames or 1) > 1]],
    }


def _add(summary: PredictionSummary, row: Mapping[str, Any]) -> None:
    summary.labelled += int(row["labelled"])
    summary.failures += [str(failure) for failure in row["failures"]]
    summary.animated += [str(source) for source in row["animated"]]
    for name, pixels in zip(summary.areas, row["areas"], strict=False):
        summary.areas[name] += int(pixels)


def _run(
    units: Sequence[Unit],
    model: ModelFiles,
    settings: WorkerOptions,
    workers: tuple[int, int],
    options: BulkOptions,
) -> Iterator[Mapping[str, Any]]:
    """Yield a row of statistics for every part of every unit, as they are done."""
    import ray
    from ray.data import ActorPoolStrategy

    if not units:
        return
    run = secrets.token_hex(4)  # parts of different runs have different names
    items = [
        {"unit": unit.to_text(), "name": f"{run}-{number:06}"} for number, unit in enumerate(units)
    ]
    data = ray.data.from_items(items, override_num_blocks=min(len(items), _MAX_TASKS))
    labelled = data.map_batches(
        UnitWorker,
        batch_size=1,
        fn_constructor_args=(ray.put(model), settings),
        compute=ActorPoolStrategy(
            min_size=workers[0],
            max_size=max(workers),
            initial_size=min(max(workers), max(workers[0], len(items))),
            max_tasks_in_flight_per_actor=2,  # not more, so that the last units start at once
        ),
        num_cpus=options.cpus,
        num_gpus=options.gpus,
    )
    try:
        yield from labelled.iter_rows()
    except ray.exceptions.RayError as error:
        # The text of Ray's traceback contains the worker's own sentence.
        told = re.findall(r"SctnetError: (.+)", str(error))
        raise SctnetError(
            told[-1] if told else f"the workers failed: {_last_line(error)}"
        ) from error


def _remove_unrecorded(manifest: Manifest, out: str) -> None:
    """Delete tables of run lengths whose part was not recorded; they are written again."""
    recorded = manifest.outputs()
    for file in files_below(join(out, "rle")):
        if file[len(out.rstrip("/")) + 1 :] not in recorded:
            remove(file)


def _identity(files: ModelFiles, options: BulkOptions, precision: str) -> dict[str, Any]:
    """Return what must be the same for a run to go on with an earlier one."""
    return {
        "model": files.sha256,
        "description": files.description_sha256,
        "precision": precision,
        "tile": options.tile,
        "scales": list(options.scales),
        "flip": options.flip,
        "save": options.kind,
    }


def _device(options: BulkOptions) -> str:
    return options.device or ("cuda" if options.gpus else "cpu")


@contextmanager
def _cluster(options: BulkOptions) -> Iterator[int]:
    """Connect to a cluster, or start one on this machine; return how many workers fit."""
    import ray

    for name in ("ray", "ray.data"):  # errors in their logs are raised here instead
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    address = options.address or os.environ.get("RAY_ADDRESS") or "local"
    connected = ray.is_initialized()
    if not connected:
        here: Any = {"include_dashboard": False} if address == "local" else {}
        try:
            ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **here)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise SctnetError(
                f"{address}: no Ray cluster can be reached there ({_last_line(error)}): "
                "check --address and, where the cluster asks for a token, set RAY_AUTH_MODE=token"
            ) from error
    try:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        room = int(resources.get("CPU", 0) // options.cpus)
        if options.gpus:
            room = min(room, int(resources.get("GPU", 0) / options.gpus))
        fewest = options.workers[0] if options.workers else 1
        if room < fewest and address == "local" and not connected:
            raise SctnetError(
                f"{fewest} workers of {options.cpus} CPUs and {options.gpus:g} GPUs have no room "
                f"here: there are {resources.get('CPU', 0):g} CPUs and "
                f"{resources.get('GPU', 0):g} GPUs"
            )
        yield max(room, 1)
    finally:
        if not connected:
            ray.shutdown()


def _require_ray() -> None:
    # Before the import, which reads them: nothing is reported to Ray's makers, and what concerns
    # the user is said by us.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import pyarrow  # noqa: F401
        import ray.data  # noqa: F401
    except ImportError as error:
        raise SctnetError('Ray is not installed: pip install "sctnet[ray]"') from error


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
