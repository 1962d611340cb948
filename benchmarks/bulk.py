"""What a worker of bulk prediction does in a second, and what ten million pictures would cost.

    python benchmarks/bulk.py [--model sctnet-s-camvid] [--pictures 128] [--rounds 2]

Pictures of 1 megapixel (1152 x 864, JPEG of quality 90, drawn streets) are labelled into PNGs by
`sctnet predict --engine ray`, by one and by two workers of one core each, in turn; from file to
file, the start of Ray apart. The best rounds count. Once as the model asks, which may make pictures
smaller for the network, and once at the pictures' own size.

On a machine of two cores the second worker fills it: half of what two do is what a core does. One
alone does more, because it reads ahead on the idle core. The ten millions are extrapolated from a
full machine, and say so.
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

from sctnet.checkpoints.model_folder import find_model, load_config, load_model, save_model
from sctnet.data.images import read_image
from sctnet.data.registry import open_dataset
from sctnet.inference.segmenter import Segmenter
from sctnet.pipeline.preprocessing import WorkingSize
from sctnet.provenance import environment
from sctnet.serving.bulk.prediction import BulkOptions, predict_bulk
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


def measured(model: str, pictures: Path, rounds: int) -> dict[str, Any]:
    """Return the best rates of several rounds, and what ten million pictures would cost."""
    bare, one, two = 0.0, 0.0, 0.0
    for _ in range(rounds):
        bare = max(bare, bare_rate(model, pictures, DIFFERENT))
        one = max(one, rate(model, pictures, 1))
        two = max(two, rate(model, pictures, 2))
    row = {
        "model": str(Segmenter(model, "cpu")),
        "network_alone_pictures_per_second": round(bare, 2),
        "one_worker_pictures_per_second": round(one, 2),
        "two_workers_pictures_per_second": round(two, 2),
        "two_workers_over_one": round(two / one, 3),
        "pictures_per_second_per_core": round(two / 2, 2),
        "core_hours_of_ten_million_pictures_extrapolated": round(2 * MANY / two / 3600),
    }
    print(json.dumps(row, indent=2), flush=True)
    return row


def at_own_size(model: str, folder: Path) -> str:
    """Write the model again, to see every picture at the picture's own size; return its folder.

    Its labels are worth less, since it has learned from small pictures; its cost is that of a
    network which works at this size.
    """
    config = load_config(find_model(model))
    preparation = config.preparation.model_copy(update={"working_size": WorkingSize()})
    return str(
        save_model(
            load_model(model), folder, config.classes,
            colours=config.colours, preparation=preparation,
        )
    )  # fmt: skip


def main() -> None:
    """Measure and write results/bulk.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="sctnet-s-camvid")
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "bulk.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        pictures, own_size = Path(folder) / "pictures", Path(folder) / "own-size"
        pictures.mkdir()
        draw(pictures, arguments.pictures)
        models = [arguments.model, at_own_size(arguments.model, own_size)]
        rows = [measured(model, pictures, arguments.rounds) for model in models]
    result: dict[str, Any] = {
        "what": "files to files: JPEGs of 1152 x 864 in, paletted PNGs out; workers of one core",
        "pictures": arguments.pictures,
        "rounds": arguments.rounds,
        "rows": rows,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "ray": version("ray"),
        **environment(),
    }
    write_text(arguments.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
