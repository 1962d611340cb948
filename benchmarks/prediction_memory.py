"""Peak memory of labelling a picture of 1024 x 2048, above that of the loaded model.

    python benchmarks/prediction_memory.py PICTURE [--calibrate FOLDER] [--runs 4]

The bundled model, told to take pictures at their own size, as a folder and as exported files. Each
is loaded in a process of its own, which then labels the picture, enlarged to that size, several
times. Peaks are of resident memory, code that is first needed then included.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import torch

from sctnet.checkpoints.model_folder import load_config, load_model, save_model
from sctnet.data.images import read_image
from sctnet.export.exporting import export_model
from sctnet.inference.segmenter import Segmenter
from sctnet.pipeline.preprocessing import WorkingSize
from sctnet.provenance import environment
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"
SIZE = 1024, 2048
FILES = [("onnx", "fp32", ".onnx"), ("openvino", "fp32", ".xml"), ("openvino", "int8", ".xml")]


def megabytes(key: str) -> float:
    """Return a figure of this process, as Linux tells it."""
    found = re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) / 1024


def peaks(model: str, picture: Path, runs: int) -> dict[str, Any]:
    """Label the picture so many times in this process."""
    torch.set_num_threads(2)
    image = cv2.resize(read_image(picture), SIZE[::-1])
    segmenter = Segmenter(model, "cpu")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    loaded, above = megabytes("VmRSS"), []
    for _ in range(runs):
        segmenter.predict_labels([image])
        above.append(round(megabytes("VmHWM") - loaded))
    return {"loaded_mb": round(loaded), "first_mb": above[0], "largest_mb": max(above)}


def models(folder: Path, calibrate: Path | None) -> dict[str, Path]:
    """Write the model as a folder and as files."""
    config = load_config("sctnet-s-camvid")
    preparation = config.preparation.model_copy(update={"working_size": WorkingSize()})
    whole = save_model(
        load_model("sctnet-s-camvid"), folder / "model", config.classes, preparation=preparation
    )
    found = {"folder, fp32": whole}
    for kind, precision, suffix in FILES:
        if precision == "int8" and calibrate is None:
            continue
        file = folder / f"{kind}-{precision}{suffix}"
        pictures = {"calibrate": calibrate} if precision == "int8" else {}
        export_model(whole, file, format=kind, precision=precision, output="logits8", **pictures)
        found[f"{kind}, {precision}"] = file
    return found


def main() -> None:
    """Measure each in a process of its own and write results/prediction_memory.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--calibrate", type=Path, help="a folder of pictures, for int8")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--only", help="measure this model in this process")
    arguments = parser.parse_args()
    if arguments.only is not None:
        print(json.dumps(peaks(arguments.only, arguments.picture, arguments.runs)))
        return
    rows = []
    with TemporaryDirectory() as folder:
        for how, model in models(Path(folder), arguments.calibrate).items():
            command = [sys.executable, __file__, str(arguments.picture), "--only", str(model)]
            command += ["--runs", str(arguments.runs)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
            rows.append({"how": how, **json.loads(said.splitlines()[-1])})
            print(rows[-1])
    result = {"what": "one picture of 1024x2048, 2 threads; megabytes above the loaded model"}
    result |= {"rows": rows, "runs": arguments.runs, **environment()}
    write_text(RESULTS / "prediction_memory.json", json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
