"""What the video pipeline keeps of the bare model's rate, and what its stages cost.

    python benchmarks/video.py CLIP... [--model sctnet-s-camvid] [--rounds 3]

The bare model labels decoded frames one after the other (``Segmenter.predict_labels``, all
threads); the pipeline reads, labels, draws and writes the same clip. Both take turns, so that a
busy machine slows both; the figure is the ratio of the best rounds. The core-milliseconds of the
stages are processor time, each stage alone in one thread.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import cv2
import numpy as np
import torch

from sctnet.inference.segmenter import Segmenter
from sctnet.inference.video import VideoOptions, predict_video
from sctnet.inference.video_source import VideoFrame, open_video
from sctnet.inference.video_writer import VideoWriter
from sctnet.labels import label_map
from sctnet.pictures.overlay import draw_legend, overlay
from sctnet.provenance import environment
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"
SAMPLE = 40  # frames in memory, for the stages and the bare model


def rates(segmenter: Segmenter, clip: Path, frames: list[VideoFrame]) -> tuple[float, float]:
    """Return the frames a second of the bare model and of the whole pipeline, measured in turn."""
    began = time.perf_counter()
    for frame in frames:
        segmenter.predict_labels([frame.picture])
    bare = len(frames) / (time.perf_counter() - began)
    with TemporaryDirectory() as folder:
        report = predict_video(segmenter, clip, Path(folder), Path("clip"), VideoOptions())
    return bare, report.frames / report.seconds


def core_milliseconds(work: Callable[[], Any], frames: int) -> float:
    """Return the processor time of a frame, in one thread."""
    began = time.process_time()
    work()
    return round(1000 * (time.process_time() - began) / frames, 2)


@torch.inference_mode()
def stages(segmenter: Segmenter, clip: Path, frames: list[VideoFrame]) -> dict[str, float]:
    """Return the core-milliseconds of each stage; infer includes the label map at full size."""
    labeller, count = segmenter.runtime.labeller, len(frames)
    pixels = [torch.from_numpy(frame.picture)[None].permute(0, 3, 1, 2) for frame in frames]
    prepared = [labeller.preparation(image) for image in pixels]
    size, working = tuple(pixels[0].shape[2:]), tuple(prepared[0].shape[2:])
    labels = segmenter.predict_labels([frame.picture for frame in frames])
    seen = np.ones(len(segmenter.classes), np.int64)

    def decode() -> None:
        with open_video(clip) as video:
            for _, _ in zip(range(count), video.frames(), strict=False):
                pass

    def draw() -> list[np.ndarray]:
        drawn = []
        for frame, found in zip(frames, labels, strict=True):
            picture = overlay(
                frame.picture, found, segmenter.colours, segmenter.classes, legend=False
            )
            draw_legend(picture, seen, segmenter.colours, segmenter.classes)
            drawn.append(picture)
        return drawn

    pictures = draw()

    def encode() -> None:
        with (
            TemporaryDirectory() as folder,
            open_video(clip) as video,
            VideoWriter(Path(folder) / "clip.mp4", video) as writer,
        ):
            for frame, picture in zip(frames, pictures, strict=True):
                writer.write(picture, frame.pts)
            writer.finish()

    return {
        "decode": core_milliseconds(decode, count),
        "prepare": core_milliseconds(lambda: [labeller.preparation(x) for x in pixels], count),
        "infer": core_milliseconds(
            lambda: [label_map(labeller.logits(x), working, size) for x in prepared], count
        ),
        "overlay": core_milliseconds(draw, count),
        "encode": core_milliseconds(encode, count),
    }


def measure(segmenter: Segmenter, clip: Path, rounds: int) -> dict[str, Any]:
    """Return a clip's row."""
    with open_video(clip) as video:
        frames = [frame for frame, _ in zip(video.frames(), range(SAMPLE), strict=False)]
    best = np.zeros(2)
    for _ in range(rounds):
        best = np.maximum(best, rates(segmenter, clip, frames))
    threads, opencv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    spent = stages(segmenter, clip, frames)
    torch.set_num_threads(threads)
    cv2.setNumThreads(opencv_threads)
    return {
        "clip": clip.name,
        "size": frames[0].picture.shape[:2],
        "bare_model_frames_per_second": round(float(best[0]), 2),
        "pipeline_frames_per_second": round(float(best[1]), 2),
        "ratio": round(float(best[1] / best[0]), 3),
        "core_milliseconds": spent,
    }


def main() -> None:
    """Measure and write results/video.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--model", default="sctnet-s-camvid")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "video.json")
    arguments = parser.parse_args()
    segmenter = Segmenter(arguments.model, "cpu")
    segmenter.predict_labels([np.zeros((360, 480, 3), np.uint8)])  # the first call prepares
    rows = []
    for clip in arguments.clips:
        rows.append(measure(segmenter, clip, arguments.rounds))
        print(rows[-1])
    result = {
        "what": "PyTorch eager; bare: predict_labels on decoded frames; pipeline: file to file",
        "model": str(segmenter),
        "rounds": arguments.rounds,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "rows": rows,
        "av": av.__version__,
        **environment(),
    }
    write_text(arguments.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
