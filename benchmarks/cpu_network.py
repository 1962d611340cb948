"""How far the loops' labels are from PyTorch's, on real pictures, in fp32 and bf16.

    python benchmarks/cpu_network.py CAMVID [--split test]

The bundled model labels every picture in PyTorch and in loops of our own; all are scored, and the
pixels are counted whose labels are those of PyTorch in float32.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sctnet.checkpoints.model_folder import load_model
from sctnet.data.registry import open_dataset
from sctnet.evaluation.evaluator import evaluate
from sctnet.inference.runtimes.cpu_runtime import CpuRuntime
from sctnet.inference.runtimes.torch_runtime import TorchRuntime
from sctnet.inference.segmenter import Segmenter
from sctnet.models import SegmentationNetwork
from sctnet.provenance import environment
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"
MODEL = "sctnet-s-camvid"


def in_pytorch(network: SegmentationNetwork, precision: str) -> Segmenter:
    """Return the bundled model as it is computed where the loops cannot be."""
    segmenter = Segmenter(MODEL, "cpu", precision)
    preparation = segmenter.config.preparation
    segmenter.predictor.runtime = TorchRuntime(network, preparation, "cpu", precision)
    return segmenter


def main() -> None:
    """Measure and write results/compiled_network.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, default=RESULTS / "compiled_network.json")
    arguments = parser.parse_args()
    data = open_dataset(arguments.data, [arguments.split])
    network = load_model(MODEL)
    forms = {
        f"PyTorch {precision}": in_pytorch(network, precision) for precision in ("fp32", "bf16")
    }
    for precision in ("fp32", "bf16"):
        segmenter = Segmenter(MODEL, "cpu", precision)
        if isinstance(segmenter.runtime, CpuRuntime):
            forms[f"loops {precision}"] = segmenter
    expected: list[np.ndarray] = []
    rows: list[dict[str, Any]] = []
    for name, segmenter in forms.items():
        found: list[np.ndarray] = []

        def predict(images: Any, segmenter: Segmenter = segmenter, found: Any = found) -> Any:
            labels = segmenter.predict_labels(images)
            found.extend(labels)
            return labels

        scores = evaluate(predict, data).scores
        expected = expected or found
        same = np.mean([np.mean(a == b) for a, b in zip(found, expected, strict=True)])
        rows.append(
            {
                "form": name,
                "miou": scores.miou,
                "pixel_accuracy": scores.pixel_accuracy,
                "labels_as_in_pytorch_fp32": round(float(same), 7),
            }
        )
        print(rows[-1])
    result = {
        "what": f"{MODEL} on {len(data)} pictures of {arguments.split}",
        "threads": torch.get_num_threads(),
        "rows": rows,
        **environment(),
    }
    write_text(arguments.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
