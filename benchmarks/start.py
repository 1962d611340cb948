"""Seconds from the command to the first label map, as a ratio to ``import torch``.

    python benchmarks/start.py [PICTURE] [--runs N]

Each run is a process of its own; the kinds take turns, and the shortest run of each counts. *Cold*
means that bytecode has to be compiled first, as in a fresh container that may not write any.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2

from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.provenance import environment
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"
IN_PYTHON = "import sys, sctnet; sctnet.Segmenter('sctnet-s-camvid')(sys.argv[1]).labels"


def seconds(command: list[str], settings: dict[str, str]) -> float:
    """Return how long a process took."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=kept | settings)  # noqa: S603 - from here
    return time.perf_counter() - began


def main() -> None:
    """Measure and write results/start.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path, nargs="?", help="default: a drawn street")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as folder:
        picture = arguments.picture
        if picture is None:
            picture = Path(folder) / "street.png"
            cv2.imwrite(str(picture), SyntheticStreets(0, 1, (480, 640)).image(0)[..., ::-1])
        program = Path(sys.executable).with_name("sctnet")
        out = str(Path(folder) / "out")
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "Segmenter": [sys.executable, "-c", IN_PYTHON, str(picture)],
            "sctnet predict": [
                str(program), "predict", "sctnet-s-camvid", str(picture),
                "--out", out, "--save", "labels",
            ],
        }  # fmt: skip
        # Bytecode that may not be written is compiled in every run; the first warm one writes it.
        kinds = {"warm": {}, "cold": {"PYTHONPYCACHEPREFIX": out, "PYTHONDONTWRITEBYTECODE": "1"}}
        for kind, settings in kinds.items():
            best = dict.fromkeys(commands, float("inf"))
            for number in range(arguments.runs + 1):
                for name, command in commands.items():
                    each = seconds(command, settings)
                    best[name] = min(best[name], each) if number else best[name]
            found[kind] = {name: round(each, 2) for name, each in best.items()}
    for kind, best in found.items():
        for name, each in best.items():
            print(
                f"{kind}  {name:15} {each:6.2f} s  {each / best['import torch']:.2f}x import torch"
            )
    result = {"what": "seconds of a process", "runs": arguments.runs, "seconds": found}
    write_text(RESULTS / "start.json", json.dumps(result | environment(), indent=2) + "\n")


if __name__ == "__main__":
    main()
