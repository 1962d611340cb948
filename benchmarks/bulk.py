"""What a worker of bulk prediction does in a second, and what ten million pictures would cost.

    python benchmarks/bulk.py [--model sctnet-s-camvid] [--pictures 160] [--rounds 3]

Pictures of 1 megapixel (1152 x 864, JPEG of quality 90, drawn streets) are labelled into PNGs by
`sctnet predict --engine ray`, by one and by two workers of one core each, in turn; from file to
file, the start of Ray apart. The best rounds count. The ten millions are extrapolated from the rate
of one worker, and say so.
"""

import argparse
import json
import os
import time
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import torch

from sctnet.data.images import read_image
from sctnet.data.opening import open_dataset
from sctnet.inference.segmenter import Segmenter
from sctnet.provenance import environment
from sctnet.serving.bulk import BulkOptions, predict_bulk
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"
SIZE = (1152, 864)  # width, height
DIFFERENT = 20  # pictures; the others are copies of them
MANY = 10_000_000


def draw(folder: Path, count: int) -> None:
    """Write street scenes of a megapixel, as JPEG."""
    data = open_dataset("synthetic", ["train"])
    for number in range(count):
        picture, _ = data.pair(number % DIFFERENT)
        large = cv2.resize(picture, SIZE, interpolation=cv2.INTER_CUBIC)
        settings = [cv2.IMWRITE_JPEG_QUALITY, 90]
        cv2.imwrite(str(folder / f"{number:05}.jpg"), large, settings)


def rate(model: str, pictures: Path, workers: int) -> float:
    """Return the pictures a second of a run, from the first part that is done to the last."""
    times: list[tuple[int, float]] = []
    with TemporaryDirectory() as out:
        summary = predict_bulk(
            model, [str(pictures)], out, BulkOptions(workers=(workers, workers)),
            lambda done, _: times.append((done, time.perf_counter())),
        )  # fmt: skip
    if summary.failures:
        raise SystemExit(f"pictures failed: {summary.failures[0]}")
    (some, began), (every, ended) = times[0], times[-1]
    return (every - some) / (ended - began)


def bare_rate(model: str, pictures: Path, count: int) -> float:
    """Return the pictures a second of the network alone, in one thread, on decoded pictures."""
    segmenter = Segmenter(model, "cpu", batch_size=1)
    images = [read_image(file) for file in sorted(pictures.iterdir())[:count]]
    segmenter.predict_labels(images[:1])
    began = time.perf_counter()
    for image in images:
        segmenter.predict_labels([image])
    return len(images) / (time.perf_counter() - began)


def main() -> None:
    """Measure and write results/bulk.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="sctnet-s-camvid")
    parser.add_argument("--pictures", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "bulk.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    best: dict[str, float] = {"bare": 0.0, "1": 0.0, "2": 0.0}
    with TemporaryDirectory() as folder:
        pictures = Path(folder)
        draw(pictures, arguments.pictures)
        for _ in range(arguments.rounds):
            best["bare"] = max(best["bare"], bare_rate(arguments.model, pictures, DIFFERENT))
            for workers in (1, 2):
                found = rate(arguments.model, pictures, workers)
                best[str(workers)] = max(best[str(workers)], found)
            print(best)
    result: dict[str, Any] = {
        "what": "files to files: JPEGs of 1152 x 864 in, paletted PNGs out; workers of one core",
        "model": str(Segmenter(arguments.model, "cpu")),
        "pictures": arguments.pictures,
        "rounds": arguments.rounds,
        "network_alone_pictures_per_second": round(best["bare"], 2),
        "one_worker_pictures_per_second": round(best["1"], 2),
        "two_workers_pictures_per_second": round(best["2"], 2),
        "two_workers_over_one": round(best["2"] / best["1"], 3),
        "core_hours_of_ten_million_pictures_extrapolated": round(MANY / best["1"] / 3600),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "ray": version("ray"),
        **environment(),
    }
    write_text(arguments.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
