"""The last step alone: from logits at stride 8 to a label map, compiled and by PyTorch.

    python benchmarks/label_maps.py CAMVID [--pictures 10] [--rounds 20]

The logits are those of the bundled model for test pictures of CamVid, brought to the working size:
random weights have no uniform regions. Both forms take turns on each picture, so that a busy
machine slows both; a picture's figure is its best round. ``planar`` resizes one class after the
other and keeps the largest; ``compiled`` is what predictions use where the library was compiled.
Last, ``sctnet eval`` scores the same pictures with either, in turns.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sctnet.data.dataset import SegmentationDataset
from sctnet.data.registry import open_dataset
from sctnet.evaluation.evaluator import evaluate
from sctnet.inference.segmenter import Segmenter
from sctnet.pipeline.argmax_torch import torch_label_map
from sctnet.pipeline.label_map import label_map, label_map_method
from sctnet.provenance import environment
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"
Size = tuple[int, int]
CASES: list[tuple[Size, ...]] = [
    ((512, 1024),),
    ((1024, 2048),),
    ((360, 480), (720, 1280)),
]
"""The working size, and the picture's where that is another."""


@torch.inference_mode()
def logits_of(segmenter: Segmenter, picture: np.ndarray, working: Size) -> Tensor:
    """Return the network's logits of a picture at this working size."""
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float()
    pixels = F.interpolate(pixels, working, mode="bilinear", antialias=True)
    preparation = segmenter.runtime.preprocessing
    prepared = (pixels - preparation.mean) / preparation.std
    return segmenter.runtime.network(prepared)


def uniform_share(logits: Tensor) -> float:
    """Return the share of cells between four samples that have one class."""
    labels = logits.argmax(1)
    corners = labels[:, :-1, :-1], labels[:, 1:, :-1], labels[:, :-1, 1:], labels[:, 1:, 1:]
    same = torch.stack([corner == corners[0] for corner in corners]).all(0)
    return float(same.float().mean())


def fastest(forms: list[Callable[[], Any]], rounds: int) -> list[float]:
    """Return the fewest milliseconds that each form took, in turns."""
    best = [float("inf")] * len(forms)
    for _ in range(rounds):
        for index, form in enumerate(forms):
            began = time.perf_counter()
            form()
            best[index] = min(best[index], 1000 * (time.perf_counter() - began))
    return best


def measure(all_logits: list[Tensor], sizes: tuple[Size, ...], rounds: int) -> dict[str, Any]:
    """Return the row of a case: means over the pictures."""
    whole = slice(0, sizes[-1][0]), slice(0, sizes[-1][1])
    rows, differing = [], 0
    for logits in all_logits:
        old, new = torch_label_map(logits, sizes, *whole), label_map(logits, *sizes)
        differing += int((old != new).sum())
        rows.append(
            fastest(
                [
                    lambda logits=logits: torch_label_map(logits, sizes, *whole),
                    lambda logits=logits: label_map(logits, *sizes),
                ],
                rounds,
            )
        )
    plain, made = np.mean(rows, axis=0)
    return {
        "classes": all_logits[0].shape[1],
        "stride_8": tuple(all_logits[0].shape[2:]),
        "resized_to": sizes,
        "uniform_cells": round(float(np.mean([uniform_share(x) for x in all_logits])), 3),
        "torch_ms": round(float(plain), 3),
        f"{label_map_method()}_ms": round(float(made), 3),
        "ratio": round(float(made / plain), 3),
        "pixels_that_differ": differing,
    }


def evaluation(
    segmenter: Segmenter, data: SegmentationDataset, rounds: int = 2
) -> dict[str, dict[str, float]]:
    """Return the images a second, and the mIoU, of a scoring with label maps of either kind."""
    chosen = sys.modules["sctnet.pipeline.label_map"]
    found: dict[str, dict[str, float]] = {}
    own = chosen.label_map_method
    for _ in range(rounds):
        for method in ("torch", own()):
            chosen.label_map_method = lambda _="cpu", method=method: method
            scores = evaluate(segmenter.predict_labels, data)
            rate = max(scores.images_per_second, found.get(method, {}).get("images_per_second", 0))
            found[method] = {"images_per_second": round(rate, 2), "miou": scores.scores.miou}
    chosen.label_map_method = own
    return found


def main() -> None:
    """Measure and write results/label_maps.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--model", default="sctnet-s-camvid")
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS / "label_maps.json")
    arguments = parser.parse_args()
    segmenter = Segmenter(arguments.model, "cpu")
    data = open_dataset(arguments.data, ("test",))
    chosen = np.linspace(0, len(data) - 1, arguments.pictures).round().astype(int)
    pictures = [data.image(int(index)) for index in chosen]
    began = time.perf_counter()
    label_map(torch.zeros(1, 2, 3, 3))  # loads the library
    first_call = time.perf_counter() - began
    rows = []
    for sizes in CASES:
        logits = [logits_of(segmenter, picture, sizes[0]) for picture in pictures]
        rows.append(measure(logits, sizes, arguments.rounds))
        print(rows[-1])
    result = {
        "what": "logits in memory, label map out; means over pictures of each one's best round",
        "model": str(segmenter),
        "pictures": arguments.pictures,
        "rounds": arguments.rounds,
        "first_call_seconds": round(first_call, 2),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "rows": rows,
        "eval_of_all_test_pictures": evaluation(segmenter, data),
        **environment(),
    }
    write_text(arguments.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
