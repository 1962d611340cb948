"""A served model: its options, its threads and its replacement.

On a CPU a model has one worker a core, each in one thread of PyTorch: several pictures at a time
are faster than one picture in all threads, because those wait for each other in every layer.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sctnet.checkpoints.model_folder import exists, first_message
from sctnet.errors import SctnetError
from sctnet.inference.picture_plan import PlannedPicture
from sctnet.inference.predictor import LabelMap
from sctnet.inference.runtimes.runtime import RUNTIMES
from sctnet.inference.segmenter import Segmenter
from sctnet.inference.sources import Picture
from sctnet.serving.http.limits import Admission, Limits, Refusal
from sctnet.serving.http.metrics import Metrics
from sctnet.serving.http.micro_batcher import Closed, Finished, MicroBatcher

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_MAX_WORKERS = 16  # by default; every one holds the working memory of a batch


def _numbers(value: object) -> object:
    return value.split("+") if isinstance(value, str) else value


class ModelChoice(BaseModel):
    """A model as a user names it: ``MODEL[,key=value...]``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    name: Annotated[str, Field(pattern=f"^{_NAME}$")]
    """The name that clients use."""
    precision: str = "auto"
    device: str | None = None
    workers: Annotated[int, Field(ge=1, le=256)] | None = None
    """Threads that run it; None: one a core, or one on a GPU."""
    batch: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Pictures of one size at most that pass the network together; None: 2 in fp32 on a CPU, where
    more pass no faster, else 4."""
    delay: Annotated[float, Field(ge=0, le=10_000)] = 2.0
    """Milliseconds that a picture waits for others at most."""
    scales: Annotated[tuple[float, ...], BeforeValidator(_numbers)] = (1.0,)
    """Times the working size; in a text with + between them."""
    flip: bool | None = None
    """Whether the mirrored picture is averaged in; None: as the model was calibrated."""
    tile: Annotated[int, Field(ge=32)] | None = None
    """The side of square windows, in pixels of the picture."""

    @classmethod
    def from_text(cls, text: str, defaults: Mapping[str, object]) -> "ModelChoice":
        """Read ``MODEL[,key=value...]``; raises :class:`SctnetError` for any other text."""
        model, *settings = [text] if exists(Path(text)) else text.split(",")
        pairs = dict(_pair(setting, text) for setting in settings)
        path = Path(model)
        name = path.stem if path.suffix.lower() in RUNTIMES else path.resolve().name
        try:
            return cls.model_validate({"name": name, **defaults, **pairs, "model": model})
        except ValidationError as error:
            key = error.errors()[0]["loc"][0]
            hint = f": give it a name of letters, digits, ., _ and -, as {model},name=NAME"
            message = f"its name{hint}" if key == "name" else first_message(error)
            raise SctnetError(f"{text}: {message}") from error


def _pair(setting: str, text: str) -> tuple[str, str]:
    key, equals, value = setting.partition("=")
    known = [field for field in ModelChoice.model_fields if field != "model"]
    if not equals or key not in known:
        raise SctnetError(
            f"{text}: {setting!r} is not a setting of a model: choose from {', '.join(known)}, "
            "such as MODEL,precision=bf16,workers=2"
        )
    return key, value


def read_choices(texts: Sequence[str], defaults: Mapping[str, object]) -> list[ModelChoice]:
    """Read what a user wants served; each model needs a name of its own."""
    choices = [ModelChoice.from_text(text, defaults) for text in texts]
    names = [choice.name for choice in choices]
    for choice in choices:
        if names.count(choice.name) > 1:
            raise SctnetError(
                f"{choice.name}: the name of two models: name one, as {choice.model},name=NAME"
            )
    return choices


class _Loaded(NamedTuple):
    segmenter: Segmenter
    batcher: MicroBatcher[PlannedPicture, LabelMap]


class ServedModel:
    """A model with its queue and its workers, replaceable while it is in use."""

    def __init__(self, choice: ModelChoice, limits: Limits, metrics: Metrics) -> None:
        self.choice, self.name = choice, choice.name
        self.admission = Admission(limits)
        self._metrics = metrics
        self._reloading = threading.Lock()
        self._current = self._load()
        metrics.watch_queue(self.name, lambda: self._current.batcher.waiting)

    @property
    def segmenter(self) -> Segmenter:
        """The model as it is now."""
        return self._current.segmenter

    def submit(
        self, pictures: Sequence[Picture]
    ) -> tuple[Segmenter, list[Future[Finished[LabelMap]]]]:
        """Submit pictures; return the model that labels them, and a future for each.

        Raises :class:`Refusal` for pictures that the model cannot take.
        """
        while True:
            current = self._current
            try:
                planned = [current.segmenter.plan(picture) for picture in pictures]
                return current.segmenter, current.batcher.submit(planned)
            except Closed:
                if current is self._current:
                    raise Refusal(503, "the server is stopping: ask another one") from None
            except SctnetError as error:
                raise Refusal(413, str(error)) from error

    def reload(self) -> None:
        """Load the model again and replace the old one, which finishes its work.

        Raises :class:`SctnetError` where it cannot be loaded; the old one then stays.
        """
        with self._reloading:
            try:
                before, self._current = self._current, self._load()
            except SctnetError:
                self._metrics.reloads.labels(self.name, "failed").inc()
                raise
            before.batcher.close()
            self._metrics.reloads.labels(self.name, "done").inc()

    def close(self) -> None:
        """Finish the submitted pictures, and stop."""
        with self._reloading:
            self._current.batcher.close()

    def _load(self) -> _Loaded:
        choice, cores = self.choice, _cores()
        workers = choice.workers or min(cores, _MAX_WORKERS)
        threads, before = max(1, cores // workers), torch.get_num_threads()
        torch.set_num_threads(threads)  # of this thread; engines of other kinds take it over
        try:
            segmenter = Segmenter(
                choice.model, choice.device, choice.precision,
                tile=choice.tile, scales=choice.scales, flip=choice.flip,
            )  # fmt: skip
            segmenter.batch_size = choice.batch or _best_batch(segmenter)
            segmenter.predict_labels([np.zeros((64, 64, 3), np.uint8)])  # the first call prepares
        finally:
            torch.set_num_threads(before)
        if choice.workers is None and not _on_cpu(segmenter):
            workers = 1

        def label(pictures: list[PlannedPicture]) -> list[LabelMap]:
            self._metrics.batch_pictures.labels(self.name).observe(len(pictures))
            return [
                labels
                for group in segmenter.batches(pictures, lambda picture: picture)
                for labels in segmenter.predictor.labels(group)
            ]

        batcher = MicroBatcher(
            label,
            lambda picture: picture.image.shape,
            most=segmenter.batch_size,
            delay=choice.delay / 1000,
            workers=workers,
            prepare=lambda: torch.set_num_threads(threads),
        )
        return _Loaded(segmenter, batcher)


def _best_batch(segmenter: Segmenter) -> int:
    return 2 if _on_cpu(segmenter) and segmenter.precision == "fp32" else 4


def _on_cpu(segmenter: Segmenter) -> bool:
    return torch.device(segmenter.device).type == "cpu"


def _cores() -> int:
    """Return the cores that this process may use."""
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable is not None else os.cpu_count() or 1
