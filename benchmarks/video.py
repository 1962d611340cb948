"""What the video pipeline keeps of the bare model's rate, by runtime, and what its stages cost.

    python benchmarks/video.py CLIP [--model sctnet-s-camvid] [--seconds 30] [--rounds 2]

The clip, repeated until it lasts so long, is labelled by every runtime. The bare model labels
decoded frames one after the other (``Segmenter.predict_labels``, all threads), and once more
several at the same time, each in fewer threads, as the pipeline does; the pipeline reads, labels,
draws and writes the clip. All take turns, so that a busy machine slows all, and the best rounds
count. The core-milliseconds of the stages are processor time, each stage alone in one thread.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import cv2
import numpy as np
import torch

from sctnet.export.exporting import export_model
from sctnet.inference.segmenter import Segmenter
from sctnet.inference.video.overlay import tinted
from sctnet.inference.video.prediction import VideoOptions, predict_video, worker_pool
from sctnet.inference.video.source import VideoFrame, open_video
from sctnet.inference.video.writer import VideoWriter
from sctnet.provenance import environment
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"
SAMPLE = 80  # frames in memory, for the stages and the bare model
CALIBRATION = 24  # frames
RUNTIMES = [
    ("folder", "fp32"), ("folder", "bf16"), ("onnx", "fp32"), ("openvino", "fp32"),
    ("openvino", "bf16"), ("openvino", "int8"),
]  # fmt: skip


def repeated(clip: Path, seconds: float, target: Path) -> Path:
    """Write a clip's packets again and again, without its sound."""
    with av.open(str(target), "w") as output:
        stream, shift = None, 0
        while True:
            with av.open(str(clip)) as container:
                source = container.streams.video[0]
                stream = stream or output.add_stream_from_template(source)
                for packet in container.demux(source):
                    if packet.dts is None or packet.pts is None:
                        continue
                    if (packet.dts + shift) * source.time_base >= seconds:
                        return target
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = stream
                    output.mux(packet)
                assert source.duration is not None
                shift += source.duration


class Models:
    """The same model for every runtime, exported where it has to be."""

    def __init__(self, model: str, frames: list[VideoFrame], folder: Path) -> None:
        self._model, self._folder = model, folder
        self._calibrate = folder / "frames"
        self._calibrate.mkdir()
        for number, frame in enumerate(frames[:: max(1, len(frames) // CALIBRATION)]):
            cv2.imwrite(str(self._calibrate / f"{number}.png"), frame.picture[..., ::-1])

    def open(self, runtime: str, precision: str, threads: int) -> Segmenter:
        """Return the model in this runtime; ends in logits, which are resized outside the graph."""
        if runtime == "folder":
            return Segmenter(self._model, "cpu", precision, threads=threads)
        stored = "int8" if precision == "int8" else "fp32"
        file = self._folder / f"{stored}{'.onnx' if runtime == 'onnx' else '.xml'}"
        if not file.exists():
            calibrate = self._calibrate if stored == "int8" else None
            export_model(
                self._model, file, format=runtime, precision=stored, output="logits8",
                calibrate=calibrate,
            )  # fmt: skip
        return Segmenter(file, "cpu", precision, threads=threads)


def rates(segmenter: Segmenter, clip: Path, frames: list[VideoFrame]) -> list[float]:
    """Return frames a second: the bare model, the same side by side, the whole pipeline."""
    began = time.perf_counter()
    for frame in frames:
        segmenter.predict_labels([frame.picture])
    alone = time.perf_counter()
    with worker_pool(segmenter) as (pool, _, several):
        several.predict_labels([frames[0].picture])  # compiles it, the first time
        began_beside = time.perf_counter()
        list(pool.map(lambda frame: several.predict_labels([frame.picture]), frames))
    beside = time.perf_counter()
    with TemporaryDirectory() as folder:
        report = predict_video(segmenter, clip, Path(folder), Path("clip"), VideoOptions())
    count = len(frames)
    return [
        count / (alone - began),
        count / (beside - began_beside),
        report.frames / report.seconds,
    ]


def core_milliseconds(work: Callable[[], Any], frames: int) -> float:
    """Return the processor time of a frame, in one thread."""
    began = time.process_time()
    work()
    return round(1000 * (time.process_time() - began) / frames, 2)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch and OpenCV work in the caller's thread alone."""
    threads, opencv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    yield
    torch.set_num_threads(threads)
    cv2.setNumThreads(opencv_threads)


@torch.inference_mode()
def stages(segmenter: Segmenter, clip: Path, frames: list[VideoFrame]) -> dict[str, float]:
    """Return the core-milliseconds of each stage; infer is all from picture to label map."""
    count, labels = len(frames), segmenter.predict_labels([frame.picture for frame in frames])
    seen = np.ones(len(segmenter.classes), np.int64)
    look = segmenter.colours, segmenter.classes, VideoOptions.alpha

    def decode() -> str:
        with open_video(clip) as video:
            for _, _ in zip(range(count), video.frames(), strict=False):
                pass
            return video.standard

    standard = decode()

    def draw() -> list[av.VideoFrame]:
        return [
            tinted(frame, standard, found, seen, *look)
            for frame, found in zip(frames, labels, strict=True)
        ]

    drawn = draw()

    def encode() -> None:
        with (
            TemporaryDirectory() as folder,
            open_video(clip) as video,
            VideoWriter(Path(folder) / "clip.mp4", video) as writer,
        ):
            for frame, picture in zip(frames, drawn, strict=True):
                writer.write(picture, frame.pts)
            writer.finish()

    return {
        "decode": core_milliseconds(decode, count),
        "infer": core_milliseconds(
            lambda: [segmenter.predict_labels([frame.picture]) for frame in frames], count
        ),
        "overlay": core_milliseconds(draw, count),
        "encode": core_milliseconds(encode, count),
    }


def main() -> None:
    """Measure and write results/video.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--model", default="sctnet-s-camvid")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "video.json")
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    with TemporaryDirectory() as name:
        clip = repeated(arguments.clip, arguments.seconds, Path(name) / "clip.mp4")
        with open_video(clip) as video:
            total = video.total
            frames = [frame for frame, _ in zip(video.frames(), range(SAMPLE), strict=False)]
        models = Models(arguments.model, frames, Path(name))
        opened = [models.open(*runtime, threads) for runtime in RUNTIMES]
        for segmenter in opened:
            segmenter.predict_labels([frames[0].picture])  # the first call prepares
        best = np.zeros((len(opened), 3))
        for _ in range(arguments.rounds):
            for index, segmenter in enumerate(opened):
                best[index] = np.maximum(best[index], rates(segmenter, clip, frames))
        rows = []
        for (runtime, precision), (alone, beside, whole) in zip(
            RUNTIMES, best.tolist(), strict=True
        ):
            with one_thread():
                spent = stages(models.open(runtime, precision, 1), clip, frames)
            rows.append(
                {
                    "runtime": runtime, "precision": precision,
                    "bare_model_frames_per_second": round(alone, 2),
                    "bare_model_side_by_side_frames_per_second": round(beside, 2),
                    "pipeline_frames_per_second": round(whole, 2),
                    "ratio": round(whole / alone, 3),
                    "ratio_side_by_side": round(whole / beside, 3),
                    "core_milliseconds": spent,
                }
            )  # fmt: skip
            print(rows[-1])
    result = {
        "what": "bare: predict_labels on decoded frames; pipeline: file to file, overlay",
        "clip": f"{arguments.clip.name}, {total} frames in {arguments.seconds:g} s",
        "size": frames[0].picture.shape[:2],
        "model": arguments.model,
        "rounds": arguments.rounds,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "rows": rows,
        "av": av.__version__,
        **environment(),
    }
    write_text(arguments.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
