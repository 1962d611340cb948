"""What calibration brings: chosen on CamVid's split val, read once on its split test.

    python benchmarks/calibration.py CAMVID [MODEL ...] [--out results/calibration.json]

Each model (by default the bundled one) is copied and calibrated by ``sctnet calibrate COPY --data
CAMVID --split val``, by the same with ``--scales 1.0`` (offsets alone) and with ``--flip``. Nothing
is chosen on the test pictures: the model as it was trained and the three copies are scored there.
Beware that the bundled model was trained on the pictures of val too.
"""

import argparse
import json
import os
import shlex
import tempfile
from pathlib import Path
from typing import Any

from sctnet.checkpoints.model_folder import load_config
from sctnet.data.registry import open_dataset
from sctnet.evaluation.evaluator import evaluate
from sctnet.inference.calibration import calibrate
from sctnet.inference.segmenter import Segmenter
from sctnet.provenance import environment
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"
WAYS: dict[str, dict[str, Any]] = {
    "sctnet calibrate COPY --data CAMVID --split val --scales 1.0": {"scales": [1.0]},
    "sctnet calibrate COPY --data CAMVID --split val": {},
    "sctnet calibrate COPY --data CAMVID --split val --flip": {"flip": True},
}


def test_scores(model: str | Path, camvid: str) -> dict[str, Any]:
    """Return the scores on the test pictures, and how they were predicted."""
    segmenter = Segmenter(model)
    scores = evaluate(segmenter.predict_labels, open_dataset(camvid, ["test"])).scores
    iou = {name: round(100 * value, 2) for name, value in scores.iou.items() if value is not None}
    return {"test_miou": round(100 * scores.miou, 2), "test_iou": iou, "used": str(segmenter)}


def rows(model: str, camvid: str) -> list[dict[str, Any]]:
    """Return the model as it was trained, and calibrated in each way."""
    found: list[dict[str, Any]] = [{"command": "none", **test_scores(model, camvid)}]
    for command, options in WAYS.items():
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, "copy")
            report = calibrate(model, camvid, split="val", out=copy, **options)
            found.append({"command": command, "val": report.to_json(), **test_scores(copy, camvid)})
        print(command, found[-1]["used"], found[0]["test_miou"], "->", found[-1]["test_miou"])
    return found


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("camvid")
    parser.add_argument("models", nargs="*", default=["sctnet-s-camvid"])
    parser.add_argument("--out", type=Path, default=RESULTS / "calibration.json")
    arguments = parser.parse_args()
    result = {
        "what": "chosen on CamVid val, read on CamVid test (mIoU in %)",
        "command": shlex.join(["python", "benchmarks/calibration.py", "CAMVID"]),
        "models": {
            Path(model).name: {
                "network": load_config(model).network.variant,
                "rows": rows(model, arguments.camvid),
            }
            for model in arguments.models
        },
        "load_average": [round(value, 2) for value in os.getloadavg()],
        **environment(),
    }
    write_text(arguments.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
