"""The first step alone: from a picture's bytes to the network's input, compiled and by PyTorch.

    python benchmarks/preprocessing.py [--rounds 20]

Noise of common sizes is brought to a shorter side of 360. Both forms take
turns, so that a busy machine slows both, and the best round counts; what the network itself takes
stands beside them. ``compiled`` is the loop that predictions use where it was compiled.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from label_maps import fastest

from sctnet.inference.segmenter import Segmenter
from sctnet.pipeline import preprocessing as preparation
from sctnet.pipeline.preprocessing import Preprocessing, PreprocessingConfig, WorkingSize
from sctnet.provenance import environment
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"
CASES = [
    ((720, 1280), 360),
    ((1080, 1920), 360),
    ((3000, 4000), 360),
]
"""The picture's size, and the shorter side to which it is brought."""


@torch.inference_mode()
def measure(segmenter: Segmenter, size: tuple[int, int], side: int, rounds: int) -> dict[str, Any]:
    """Return the row of a case."""
    rule = WorkingSize(rule="shorter-side", pixels=side)
    prepare = Preprocessing(PreprocessingConfig(working_size=rule))
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    compiled = preparation.instruction_set

    def planar() -> torch.Tensor:
        preparation.instruction_set = lambda: None
        prepared: torch.Tensor = prepare(image)
        preparation.instruction_set = compiled
        return prepared

    prepared = prepare(image)
    apart = (prepared - planar()).abs() * prepare.std
    network = segmenter.runtime.network
    by_loop, by_pytorch = fastest([lambda: prepare(image), planar], rounds)
    time.sleep(1)  # PyTorch's threads go on spinning
    (beside,) = fastest([lambda: network(prepared)], rounds)
    return {
        "picture": size,
        "working_size": tuple(prepared.shape[2:]),
        "pytorch_ms": round(by_pytorch, 2),
        "compiled_ms": round(by_loop, 2),
        "ratio": round(by_loop / by_pytorch, 3),
        "network_fp32_ms": round(beside, 2),
        "largest_difference_grey_levels": round(float(apart.max()), 4),
    }


def main() -> None:
    """Measure and write results/preparation.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS / "preparation.json")
    arguments = parser.parse_args()
    segmenter = Segmenter("sctnet-s-camvid", "cpu")
    rows = [measure(segmenter, size, side, arguments.rounds) for size, side in CASES]
    for row in rows:
        print(row)
    result = {
        "what": "bytes, channels last, to floats; SCTNet-S beside it",
        "rounds": arguments.rounds,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "rows": rows,
        **environment(),
    }
    write_text(arguments.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
