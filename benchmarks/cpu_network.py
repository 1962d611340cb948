"""How far the kernels' labels are from PyTorch's, on real pictures, in fp32 and bf16.

    python benchmarks/cpu_network.py CAMVID [--split test]

The bundled model labels every picture in PyTorch and in the kernels; all are scored, and the pixels
are counted whose labels are those of PyTorch in float32. SCTNET_KERNELS names an instruction set.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sctnet.data.registry import open_dataset
from sctnet.evaluation.evaluator import evaluate
from sctnet.inference.segmenter import Segmenter
from sctnet.kernels import instruction_set
from sctnet.pipeline.precision import is_emulated
from sctnet.provenance import environment
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"
MODEL = "sctnet-s-camvid"


def main() -> None:
    """Measure and write results/compiled_network.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, default=RESULTS / "compiled_network.json")
    arguments = parser.parse_args()
    data = open_dataset(arguments.data, [arguments.split])
    forms = {
        f"{name} {precision}": Segmenter(MODEL, "cpu", precision, kernels=kernels)
        for name, kernels in (("PyTorch", "torch"), ("kernels", "native"))
        for precision in ("fp32", "bf16")
        if precision == "fp32" or not is_emulated(precision, torch.device("cpu"))
    }
    kind = instruction_set()
    assert kind is not None, "there is no compiled library"
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
        "kernels": kind.name,
        "rows": rows,
        **environment(),
    }
    write_text(arguments.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
