"""What somebody with sixty labelled pictures gets, step by step, each by one command.

    python benchmarks/sixty_pictures.py CAMVID [--minutes 25] [--pictures 60] [--folds 3]

Most of CamVid's labels are hidden: of its training pictures sixty are taken, evenly spaced, and
every fifth of these validates. Then the commands of a user are run: training by the recipe that is
chosen, from random weights and from the backbone in the package, for as many iterations as
``--minutes`` allow; calibration of the offsets, of the scale, of the flip; and folds. CamVid's
split test is read after each, and nothing is chosen on it. Writes results/sixty_pictures.json and
.md.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from sctnet.checkpoints.model_folder import load_config
from sctnet.data.registry import open_dataset
from sctnet.provenance import environment
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"
TRAINING_SHARE = 0.8
"""Of the minutes; the rest validates, calibrates and scores."""


def write_data(camvid: str, pictures: int, folder: Path) -> tuple[Path, Path]:
    """Write the labelled pictures as folders; return the YAML of two splits, and of one."""
    data = open_dataset(camvid, ["train"])
    for place, number in enumerate(np.linspace(0, len(data) - 1, pictures).round().astype(int)):
        image, labels = data.pair(int(number))
        split = "val" if place % 5 == 2 else "train"
        for kind, pixels in (("images", image), ("masks", labels)):
            target = folder / kind / split / f"{int(number):04}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(target)
    files = folder / "field.yaml", folder / "undivided.yaml"
    for file, splits in zip(
        files, ({"train": "/train", "val": "/val"}, {"train": ""}), strict=True
    ):
        description = {
            "images": {split: f"images{part}" for split, part in splits.items()},
            "masks": {split: f"masks{part}" for split, part in splits.items()},
            "classes": list(data.classes),
        }
        write_text(file, yaml.safe_dump(description))
    return files


class Story:
    """Commands of a user, what they took, and what the test pictures say after each."""

    def __init__(self, camvid: str, work: Path) -> None:
        self.camvid, self.work = camvid, work
        self.rows: list[dict[str, Any]] = []

    def run(self, *arguments: str) -> tuple[str, float]:
        """Run a command; return what it printed, and the minutes that it took."""
        print(f"$ sctnet {self._told(arguments)}", flush=True)
        began = time.monotonic()
        command = [sys.executable, "-m", "sctnet", *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
        if done.returncode:
            sys.exit(f"sctnet {self._told(arguments)}: exit status {done.returncode}")
        return done.stdout, (time.monotonic() - began) / 60

    def tell(self, step: str, arguments: Sequence[str], minutes: float, runs: list[Path]) -> None:
        """Score models on the test pictures, and keep a row of the table."""
        scores = [self._test_miou(run) for run in runs]
        row = {
            "step": step,
            "command": f"sctnet {self._told(arguments)}",
            "minutes": round(minutes, 2),
            "test_miou": [round(100 * score, 2) for score in scores],
        }
        print(f"{step}: {row['test_miou']} % mIoU on test", flush=True)
        self.rows.append(row)

    def do(self, step: str, run: Path, *arguments: str) -> None:
        """Run a command that makes or changes the model of a run, and score it."""
        _, minutes = self.run(*arguments)
        self.tell(step, arguments, minutes, [run])

    def _test_miou(self, run: Path) -> float:
        out = run / "evaluation" / "test"
        self.run("eval", str(run), "--data", self.camvid, "--split", "test", "--out", str(out))
        return float(json.loads((out / "scores.json").read_text())["miou"])

    def _told(self, arguments: Sequence[str]) -> str:
        """Return a command as a user types it, without the folders of this machine."""
        text = shlex.join(arguments).replace(f"{self.work}/", "")
        return text.replace(shlex.quote(self.camvid), "CAMVID")


def iterations_for(story: Story, data: Path, minutes: float) -> int:
    """Return how many iterations of the chosen recipe take so long, by its dry run."""
    printed, _ = story.run("train", "--data", str(data), "--dry-run")
    rate = re.search(r"training step +([\d.]+) images/s", printed)
    batch = re.search(r"run\.batch_size = (\d+)", printed)
    assert rate is not None
    assert batch is not None
    return max(10, int(minutes * 60 * float(rate[1]) / int(batch[1])) // 10 * 10)


def tell_story(story: Story, pictures: int, minutes: float, folds: int) -> dict[str, Any]:
    """Run all commands; return what was decided on the way."""
    data, undivided = write_data(story.camvid, pictures, story.work)
    helps, _ = story.run("train", "--help")
    folds = folds if "--folds" in helps else 0
    each = TRAINING_SHARE * minutes / (2 + folds)
    iterations = iterations_for(story, data, each)
    scratch, run = story.work / "scratch", story.work / "run"
    lasting = f"schedule.iterations={iterations}"
    plain = ["train", "--data", str(data), lasting, "data.calibrate=false"]
    story.do("from random weights", scratch, *plain, "model.init=null", "--out", str(scratch))
    story.do("from the backbone in the package", run, *plain, "--out", str(run))
    calibrate = ["calibrate", str(run), "--data", str(data)]
    story.do("+ class offsets", run, *calibrate, "--scales", "1.0")
    story.do("+ scale", run, *calibrate)
    story.do("+ flip", run, *calibrate, "--flip")
    config = load_config(run)
    if folds:
        out = story.work / "folds"
        command = [
            "train", "--data", str(undivided), "--folds", str(folds), lasting, "--out", str(out),
        ]  # fmt: skip
        _, taken = story.run(*command)
        runs = sorted(file.parent for file in out.rglob("summary.json"))
        runs = [each for each in runs if (each / "model.safetensors").is_file()]
        story.tell(f"{folds} folds, with class offsets", command, taken, runs)
    return {
        "pictures": pictures,
        "iterations": iterations,
        "kept": f"working size {config.preparation.working_size}, flip {config.flip}",
    }


def table(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the results as a page."""
    lines = [
        "# What sixty labelled pictures bring\n",
        f"{about['pictures']} pictures of CamVid's split train, every fifth of which validates; "
        f"{about['iterations']} iterations of the chosen recipe; mIoU in % on the split test, at "
        "the end of each step. Made by `python benchmarks/sixty_pictures.py CAMVID` "
        f"(`sixty_pictures.json`). Kept at the end: {about['kept']}.\n",
        "| step | test mIoU % | minutes |",
        "|---|---|---|",
    ]
    for row in rows:
        values = row["test_miou"]
        score = f"{np.mean(values):.1f}"
        if len(values) > 1:
            score += f" ± {np.std(values, ddof=1):.1f}"
        lines.append(f"| {row['step']} | {score} | {row['minutes']:.1f} |")
    commands = "\n".join(row["command"] for row in rows)
    return "\n".join([*lines, f"\n```\n{commands}\n```\n"])


def main() -> None:
    """Run the story and write its results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("camvid")
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "sixty_pictures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sixty-") as work:
        story = Story(str(Path(arguments.camvid).resolve()), Path(work))
        about = tell_story(story, arguments.pictures, arguments.minutes, arguments.folds)
    result = {
        **about,
        "minutes_asked_for": arguments.minutes,
        "rows": story.rows,
        "load_average": [round(value, 2) for value in os.getloadavg()],
        **environment(),
    }
    write_text(arguments.out.with_suffix(".json"), json.dumps(result, indent=2) + "\n")
    write_text(arguments.out.with_suffix(".md"), table(story.rows, about))
    print(table(story.rows, about))


if __name__ == "__main__":
    main()
