"""What ``fuse()`` gains in PyTorch on the CPU: one picture in, logits of its size out.

    python benchmarks/folding.py [--runs N]

Both networks take turns, so that a busy machine slows both; the figure is the ratio of the
fastest runs. The auxiliary head, which inference does not run, is in neither.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import nn

from sctnet.models import create_model
from sctnet.provenance import environment
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"


def fastest(networks: list[nn.Module], images: torch.Tensor, runs: int) -> list[float]:
    """Return the fewest seconds that each network took, in turns."""
    best = [float("inf")] * len(networks)
    for _ in range(runs):
        for index, network in enumerate(networks):
            began = time.perf_counter()
            network(images)
            best[index] = min(best[index], time.perf_counter() - began)
    return best


def main() -> None:
    """Measure and write results/fusing.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=12)
    arguments = parser.parse_args()
    rows = []
    for variant in ("sctnet-s", "sctnet-b"):
        for size in ((360, 480), (512, 1024)):
            plain = create_model(variant, 19, auxiliary_head=False).eval()
            plain = plain.to(memory_format=torch.channels_last)
            fused = plain.fuse()
            images = torch.randn(1, 3, *size).contiguous(memory_format=torch.channels_last)
            with torch.inference_mode():
                before, after = fastest([plain, fused], images, arguments.runs)
            norms = [
                sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
                for network in (plain, fused)
            ]
            rows.append(
                {
                    "variant": variant,
                    "size": size,
                    "plain_ms": round(1000 * before, 2),
                    "fused_ms": round(1000 * after, 2),
                    "ratio": round(after / before, 3),
                    "batch_norms_plain": norms[0],
                    "batch_norms_fused": norms[1],
                }
            )
            print(rows[-1])
    what = "PyTorch eager, fp32, channels last, batch 1; network and last resize inside the clock"
    result = {"what": what, "runs": arguments.runs, "rows": rows, **environment()}
    write_text(RESULTS / "fusing.json", json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
