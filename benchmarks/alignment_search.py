"""Ways to teach SCTNet-S on CamVid, at equal wall-clock, from one start: which is worth its time.

    python benchmarks/alignment_search.py CAMVID TEACHER RUNS [--trials "NAME;..."] [--seeds 0,1]
        [--iterations N] [--crop 240,320] [--split val|test] [--out results/alignment_search.json]

TEACHER is a run of ``camvid/teacher_efficientnet-lite2``. With ``--split val`` (the default) all
train on train and are scored on val, to choose by; with ``--split test`` all train on train + val
and are scored on test, once. Every trial is a ``sctnet train`` by two processes of one thread, from
the backbone in the package. A taught run has fewer iterations, by the measured ratio of its step to
an untaught one (``results/alignment_step.json``) and what the teacher's answers take. Runs that are
there are kept, one that was begun is continued.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from sctnet.provenance import environment
from sctnet.training.run_folder import RunFolder, read_metrics
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"
BATCH = 8
RECIPE = "camvid/sctnet-s_360x480"
LOGITS = {"decoder": 0, "stage4": 0, "stage3": 0, "shared_head": False}
PAPER = {"logits": 3, "decoder": 15, "stage4": 15, "stage3": 15}


def _times(factor: float) -> dict[str, Any]:
    return {name: weight * factor for name, weight in PAPER.items()}


TRIALS: dict[str, dict[str, Any] | None] = {
    "untaught": None,
    "logits, KL, T 1, weight 1": {**LOGITS, "logits": 1, "loss": "kl", "temperature": 1},
    "logits, KL, T 4, weight 1": {**LOGITS, "logits": 1, "loss": "kl", "temperature": 4},
    "logits, CWD, T 4, weight 3": {**LOGITS, "logits": 3},
    "logits, L2, weight 0.1": {**LOGITS, "logits": 0.1, "loss": "l2"},
    "SIAM, the paper's weights": PAPER,
    "SIAM, weights / 10": _times(0.1),
    "SIAM, decay 1": {**PAPER, "decay": 1},
    "SIAM, weights / 3, decay 1": {**_times(1 / 3), "decay": 1},
}
"""What teaches, by name; all without class weights, which is the first thing that was tried."""


def command(arguments: argparse.Namespace, name: str, seed: int, iterations: int) -> list[str]:
    """Return the settings of a trial's run."""
    to_choose = arguments.split == "val"
    settings = [
        "model.init=sctnet-s-tiny-imagenet",
        "loss.class_weights=none",
        "data.train=[train]" if to_choose else "data.train=[train, val]",
        "data.validation=[val]" if to_choose else "data.validation=[]",
        f"augmentation.crop={[int(side) for side in arguments.crop.split(',')]}",
        f"optimizer.rate={arguments.rate}",
        f"schedule.iterations={iterations}",
        f"schedule.warmup_iterations={max(1, iterations // 20)}",
        # The moving average reaches back over a tenth of the run.
        f"run.ema_decay={round(1 - 10 / iterations, 5)}",
        f"run.validate_every={max(1, iterations // 5)}",
        f"run.seed={seed}",
    ]
    alignment = TRIALS[name]
    if alignment is not None:
        cache = {"views": arguments.views, "folder": str(arguments.runs / f"answers-{seed}")}
        fields = {"teacher": str(arguments.teacher), "cache": cache, **alignment}
        settings.append(f"alignment={json.dumps(fields)}")
    return settings


def train(arguments: argparse.Namespace, settings: list[str], run: Path) -> dict[str, Any]:
    """Do or continue a run; return its summary."""
    summary = run / "summary.json"
    if not summary.is_file():
        train = ["train", RECIPE, "--data", arguments.camvid, "--out", str(run), *settings]
        begun = ["--resume"] if RunFolder(run).checkpoint_file.is_file() else []
        two = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "sctnet"]
        print("sctnet", *train, flush=True)
        # S603: this very Python and sctnet.
        subprocess.run(  # noqa: S603
            [sys.executable, *two, *train, *begun],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
        )
    found: dict[str, Any] = json.loads(summary.read_text())
    return found


def test_scores(arguments: argparse.Namespace, run: Path) -> dict[str, Any]:
    """Score a run's last weights on the split (fractions)."""
    out = run / f"scores_{arguments.split}"
    if not (out / "scores.json").is_file():
        line = ["-m", "sctnet", "eval", str(run), "--data", arguments.camvid]
        line += ["--split", arguments.split, "--precision", "fp32", "--out", str(out)]
        # S603: this very Python and sctnet.
        subprocess.run(  # noqa: S603
            [sys.executable, *line], check=True, stdout=subprocess.DEVNULL
        )
    found: dict[str, Any] = json.loads((out / "scores.json").read_text())
    return found


def row(arguments: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Do one trial."""
    run = arguments.runs / arguments.split / f"{name} {seed}".replace(" ", "_").replace("/", "by")
    iterations = round(arguments.iterations / (1 if TRIALS[name] is None else arguments.ratio))
    settings = command(arguments, name, seed, iterations)
    summary = train(arguments, settings, run)
    scores = test_scores(arguments, run)
    lines = read_metrics(RunFolder(run).metrics_file)
    return {
        "trial": name,
        "seed": seed,
        "iterations": iterations,
        "seconds": summary["seconds"],
        "miou": round(100 * scores["miou"], 2),
        "curve": [
            [line["seconds"], round(100 * line["miou"], 2)] for line in lines if "miou" in line
        ],
        "settings": settings,
    }


def main() -> None:
    """Do the trials and write the results after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("camvid")
    parser.add_argument("teacher", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--trials", help="names, with a semicolon between; all of them if left out")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--iterations", type=int, default=600, help="of the untaught")
    parser.add_argument("--ratio", type=float, default=1.4, help="taught step / untaught step")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--crop", default="360,480")
    parser.add_argument("--split", choices=["val", "test"], default="val")
    parser.add_argument("--out", type=Path, default=RESULTS / "alignment_search.json")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in arguments.trials.split(";") if arguments.trials else TRIALS:
        for seed in map(int, arguments.seeds.split(",")):
            rows.append(row(arguments, name, seed))
            print(f"{rows[-1]['miou']:6.2f} % mIoU  {name}, seed {seed}", flush=True)
            result = {
                "what": f"SCTNet-S on CamVid {arguments.split}, mIoU in %, at equal wall-clock",
                "crop": arguments.crop,
                "ratio": arguments.ratio,
                "rows": rows,
                **environment(),
            }
            write_text(arguments.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
