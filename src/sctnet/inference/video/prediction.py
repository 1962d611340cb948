"""Videos: decoded, labelled, drawn and encoded at the same time, frame by frame."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from sctnet.data.streams import ReadAhead, ordered_map
from sctnet.errors import SctnetError
from sctnet.inference.segmenter import Segmenter
from sctnet.inference.video.files import check_video_output, clear_folder
from sctnet.inference.video.overlay import tinted
from sctnet.inference.video.report import VideoReport, VideoTally
from sctnet.inference.video.smoothing import ExponentialSmoothing, Flicker, Stillness
from sctnet.inference.video.source import VideoFrame, VideoSource, open_video, paced, until
from sctnet.inference.video.writer import VideoWriter
from sctnet.pictures.overlay import check_alpha
from sctnet.pictures.palette import save_label_map

_MAX_WORKERS = 4  # each holds some frames and the network's maps of one
_ROWS = 4  # rows of a cell's pixels (or a few more) that tell whether the cell changes


@dataclass(frozen=True)
class VideoOptions:
    """Options of the prediction on a video."""

    kinds: Sequence[str] = ("overlay",)
    """Of overlay, labels and json; see :func:`predict_video`."""
    alpha: float = 0.5
    """The opacity of the classes' colours in the overlay."""
    smooth: float = 0.0
    """The weight of the earlier frames in each frame's logits, from 0 to below 1."""
    realtime: bool = False
    """Drop frames instead of lagging behind a camera, a stream or a file's own pace."""


def predict_video(
    segmenter: Segmenter,
    source: str | Path,
    out: Path,
    name: Path,
    options: VideoOptions = VideoOptions(),
    progress: Callable[[int, int | None], None] | None = None,
) -> VideoReport:
    """Label a video file, a network stream or a camera.

    Writes the requested results: ``out/overlay/NAME.mp4``, the tinted video with the audio of the
    file; ``out/labels/NAME/000000.png``, a label map for every frame; ``out/json/NAME.json``, the
    area of each class over time. ``progress`` receives the number of finished frames and, if known,
    of all frames. Ctrl-C or a broken source ends the video at that point, and the report says so.
    Raises :class:`SctnetError` for a source that cannot be opened or has no frames, and for a file
    that cannot be written; it then leaves no video and no thread.
    """
    check_video_output(out, options.kinds)
    check_alpha(options.alpha)
    if not 0 <= options.smooth < 1:
        raise SctnetError(f"a smoothing of {options.smooth}: give a share from 0 to below 1")
    if options.smooth:
        segmenter.runtime.require_logits("logits to smooth")
    stop = threading.Event()
    with open_video(source) as video, ThreadPoolExecutor(1, "sctnet-video") as pool:
        run = _Run(segmenter, video, out, name, options)
        running = pool.submit(run.run, stop, progress)
        try:
            return running.result()
        except KeyboardInterrupt:
            stop.set()
            return running.result()


class _Scored(NamedTuple):
    frame: VideoFrame
    found: Tensor
    """Logits, 1 x K x h x w, or labels, 1 x H x W, from an exported file that gives labels."""
    small: Tensor
    """The picture at the size of the cells."""


class _Settled(NamedTuple):
    number: int
    frame: VideoFrame
    found: Tensor
    seen: np.ndarray
    """Cells of each class in all frames so far."""


class _Drawn(NamedTuple):
    pts: int
    counts: np.ndarray
    """Pixels of each class."""
    overlay: Any | None
    """A frame of PyAV."""


class _Run:
    """One video on its way; ``_score`` and ``_draw`` run in several threads, the rest in one."""

    def __init__(
        self, segmenter: Segmenter, video: VideoSource, out: Path, name: Path, options: VideoOptions
    ) -> None:
        self._segmenter = segmenter
        self._video = video
        self._options = options
        self._overlay = out / "overlay" / name.with_name(f"{name.name}.mp4")
        # A picture or a folder of pictures may have the same name as the video.
        self._labels = out / "labels" / name.with_name(f"{name.name}.video")
        self._json = out / "json" / name.with_name(f"{name.name}.video.json")
        self._smoothing = ExponentialSmoothing(options.smooth)
        self._stillness = Stillness()
        self._flicker, self._flicker_smoothed = Flicker(), Flicker()
        self._seen = np.zeros(len(segmenter.classes), np.int64)
        self._number = 0

    def run(
        self, stop: threading.Event, progress: Callable[[int, int | None], None] | None
    ) -> VideoReport:
        """Run all stages on the video, and return the report."""
        video, options = self._video, self._options
        began, tally = perf_counter(), VideoTally(self._segmenter.classes)
        if "labels" in options.kinds:
            clear_folder(self._labels)
        frames = video.frames()
        if options.realtime and not video.is_live:
            frames = paced(frames, video.time_base)
        writer = VideoWriter(self._overlay, video) if "overlay" in options.kinds else nullcontext()
        with (
            worker_pool(self._segmenter) as (pool, workers, self._segmenter),
            ReadAhead(until(frames, stop), newest_only=options.realtime) as ahead,
            writer,
        ):
            settled = map(self._settle, ordered_map(pool, self._score, ahead, workers))
            for drawn in ordered_map(pool, self._draw, settled, workers):
                tally.add(float(drawn.pts * video.time_base), drawn.counts)
                if isinstance(writer, VideoWriter) and drawn.overlay is not None:
                    writer.write(drawn.overlay, drawn.pts)
                if progress is not None:
                    progress(tally.frames, video.total)
            if not tally.frames:
                raise SctnetError(video.damage or f"{video.name}: there are no frames in it")
            if isinstance(writer, VideoWriter):
                writer.finish()
        report = VideoReport(
            source=video.name,
            frames=tally.frames,
            dropped=ahead.dropped,
            seconds=perf_counter() - began,
            share=tally.share(),
            smooth=options.smooth,
            flicker=self._flicker.share,
            flicker_smoothed=self._flicker_smoothed.share if options.smooth else None,
            interrupted=stop.is_set(),
            damage=video.damage,
        )
        if "json" in options.kinds:
            tally.write(self._json, report, str(self._segmenter))
        return report

    @torch.inference_mode()
    def _score(self, frame: VideoFrame) -> _Scored:
        predictor = self._segmenter.predictor
        runtime, pixels = self._segmenter.runtime, [predictor.pixels(frame.picture)]
        (found,) = runtime(pixels)
        found = found.float() if found.ndim == 4 else found
        if self._segmenter.flip:
            # Logits, not probabilities: what follows keeps the resolution of the cells.
            found = (found + runtime(pixels, mirrored=True)[0].float()) / 2
        height, width = _cells(found).shape[1:]
        # Some rows of each cell are enough to tell whether it changes.
        rows = frame.picture[:: max(1, len(frame.picture) // (_ROWS * height))]
        small = cv2.resize(rows, (width, height), interpolation=cv2.INTER_AREA)
        seen = torch.from_numpy(small).permute(2, 0, 1)[None].to(found.device)
        return _Scored(frame, found, seen)

    @torch.inference_mode()
    def _settle(self, scored: _Scored) -> _Settled:
        """Do the work that needs the frames in order, at the resolution of the cells."""
        still = self._stillness(scored.small)
        labels = _cells(scored.found)
        self._flicker.add(labels, still)
        found = scored.found
        if self._options.smooth:
            found = self._smoothing(found)
            labels = _cells(found)
            self._flicker_smoothed.add(labels, still)
        cells = torch.bincount(labels.flatten(), minlength=len(self._seen)).cpu().numpy()
        self._seen = self._seen + cells
        self._number += 1
        return _Settled(self._number - 1, scored.frame, found, self._seen)

    @torch.inference_mode()
    def _draw(self, settled: _Settled) -> _Drawn:
        picture, segmenter, kinds = settled.frame.picture, self._segmenter, self._options.kinds
        labels = segmenter.predictor.label_map(settled.found, picture)
        counts = _pixels_of_each(labels, len(segmenter.classes))
        if "labels" in kinds:
            file = self._labels / f"{settled.number:06}.png"
            save_label_map(labels, segmenter.colours, file)
        if "overlay" not in kinds:
            return _Drawn(settled.frame.pts, counts, None)
        look = segmenter.colours, segmenter.classes, self._options.alpha
        overlay = tinted(settled.frame, self._video.standard, labels, settled.seen, *look)
        return _Drawn(settled.frame.pts, counts, overlay)


def _cells(found: Integer[Tensor, "1 h w"] | Float[Tensor, "1 k h w"]) -> Integer[Tensor, "1 _ _"]:
    """Return a label for each cell: one of the logits' samples, or one in 8 x 8 labels."""
    return found.argmax(1) if found.ndim == 4 else found[:, ::8, ::8]


def _pixels_of_each(labels: np.ndarray, classes: int) -> np.ndarray:
    if labels.dtype != np.uint8:
        return np.bincount(labels.ravel(), minlength=classes)
    # A quarter of bincount's time. Its counts are float32, which is exact for this many rows.
    rows = max(1, 2**24 // labels.shape[1])
    counts = np.zeros(256, np.int64)
    for top in range(0, len(labels), rows):
        part = cv2.calcHist([labels[top : top + rows]], [0], None, [256], [0, 256])
        counts += part.ravel().astype(np.int64)  # OpenCV 4 gives a column
    return counts[:classes]


@contextmanager
def worker_pool(segmenter: Segmenter) -> Iterator[tuple[ThreadPoolExecutor, int, Segmenter]]:
    """Yield a pool that keeps all of PyTorch's threads busy, its size, and the segmenter to call.

    Several frames at a time, each in few threads, are faster than one frame in all threads, because
    the threads of a frame wait for each other in every layer. OpenCV starts no threads of its own.
    """
    threads, opencv_threads = torch.get_num_threads(), cv2.getNumThreads()
    workers = min(_MAX_WORKERS, threads)
    torch.set_num_threads(threads // workers)  # new threads take it over
    cv2.setNumThreads(1)
    pool = ThreadPoolExecutor(workers, "sctnet-frames")
    try:
        yield pool, workers, segmenter.side_by_side(workers)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
        cv2.setNumThreads(opencv_threads)
