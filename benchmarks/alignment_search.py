"""Ways to teach SCTNet-S on CamVid, at equal wall-clock, from one start: which is worth its time.

    python benchmarks/alignment_search.py CAMVID TEACHER RUNS [--trials "NAME;..."] [--seeds 0,1]
        [--iterations N] [--crop 240,320] [--start MODEL] [--all] [--test] [--out FILE]
        [--figure FILE.svg]

TEACHER is a run of ``camvid/teacher_efficientnet-lite2`` on train. Every trial is a
``sctnet train`` by two processes of one thread, on train, from the backbone in the package or
``--start``. It is scored on val, to choose by, and with ``--test`` once on test; with ``--all`` it
learns from val, too, and is scored on test alone. A taught run has fewer iterations: an
iteration of it takes ``--ratio`` times as long, the teacher's answers counted in. So other programs
on the machine do no harm to the comparison. Runs that are there are kept, one that was begun is
continued. ``--figure`` draws val's mIoU over time. ``results/alignment_search.json`` and
``results/alignment_equal_time.json`` hold the commands that wrote them.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from sctnet.provenance import environment
from sctnet.training.run_folder import RunFolder, read_metrics
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"
BATCH = 8
RECIPE = "camvid/sctnet-s_360x480"
LOGITS = {"decoder": 0, "stage4": 0, "stage3": 0, "shared_head": False}
PAPER = {"logits": 3, "decoder": 15, "stage4": 15, "stage3": 15}
FITTED = {"projections": "fitted"}
SOFT = {"soft": 1, "hard": 0, "confidence": "none"}


def _times(factor: float) -> dict[str, Any]:
    return {name: weight * factor for name, weight in PAPER.items()}


TRIALS: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None]] = {
    "untaught": (None, None),
    "logits, KL, T 1, weight 1": ({**LOGITS, "logits": 1, "loss": "kl", "temperature": 1}, None),
    "logits, KL, T 4, weight 1": ({**LOGITS, "logits": 1, "loss": "kl"}, None),
    "logits, CWD, T 4, weight 3": ({**LOGITS, "logits": 3}, None),
    "logits, L2, weight 0.1": ({**LOGITS, "logits": 0.1, "loss": "l2"}, None),
    "SIAM, the paper's weights": (PAPER, None),
    "SIAM, weights / 10": (_times(0.1), None),
    "SIAM, weights / 30": (_times(1 / 30), None),
    "SIAM, weights / 3, decay 1": ({**_times(1 / 3), "decay": 1}, None),
    "SIAM / 10 and logits, KL, T 1": (_times(0.1), {**SOFT, "temperature": 1}),
    "SIAM / 10 and logits, KL, T 4": (_times(0.1), {**SOFT, "temperature": 4}),
    "fitted SIAM / 3": ({**_times(1 / 3), **FITTED}, None),
    "fitted SIAM / 10": ({**_times(0.1), **FITTED}, None),
    "fitted SIAM / 30": ({**_times(1 / 30), **FITTED}, None),
    "fitted SIAM / 10, decay 1": ({**_times(0.1), **FITTED, "decay": 1}, None),
    "fitted SIAM / 10 and logits, KL, T 1": (
        {**_times(0.1), **FITTED},
        {**SOFT, "temperature": 1},
    ),
}
"""What teaches, by name: fields of ``alignment`` and of ``distillation``. All are without class
weights, which is the first thing that was tried."""


def command(arguments: argparse.Namespace, name: str, seed: int, iterations: int) -> list[str]:
    """Return the settings of a trial's run."""
    settings = [
        f"model.init={arguments.start}",
        "loss.class_weights=none",
        *(
            ("data.train=[train, val]", "data.validation=[]")
            if arguments.all
            else ("data.train=[train]", "data.validation=[val]")
        ),
        f"augmentation.crop={[int(side) for side in arguments.crop.split(',')]}",
        f"optimizer.rate={arguments.rate}",
        f"schedule.iterations={iterations}",
        f"schedule.warmup_iterations={max(1, iterations // 20)}",
        # The moving average reaches back over a tenth of the run.
        f"run.ema_decay={round(1 - 10 / iterations, 5)}",
        f"run.validate_every={max(1, iterations // 4)}",
        f"run.seed={seed}",
    ]
    alignment, distillation = TRIALS[name]
    if alignment is not None:
        cache = {"views": arguments.views, "folder": str(arguments.runs / f"answers-{seed}")}
        fields = {"teacher": str(arguments.teacher), "cache": cache, **alignment}
        settings.append(f"alignment={json.dumps(fields)}")
    if distillation is not None:
        settings.append(f"distillation={json.dumps(distillation)}")
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


def miou(arguments: argparse.Namespace, run: Path, split: str) -> float:
    """Return the mIoU of a run's last weights on a split, in percent."""
    out = run / f"scores_{split}"
    if not (out / "scores.json").is_file():
        line = ["-m", "sctnet", "eval", str(run), "--data", arguments.camvid]
        line += ["--split", split, "--precision", "fp32", "--out", str(out)]
        # S603: this very Python and sctnet.
        subprocess.run(  # noqa: S603
            [sys.executable, *line], check=True, stdout=subprocess.DEVNULL
        )
    return round(100 * float(json.loads((out / "scores.json").read_text())["miou"]), 2)


def ratio(arguments: argparse.Namespace, name: str) -> float:
    """Return the time of a trial's iteration, of which an untaught one takes 1."""
    alignment = TRIALS[name][0]
    if alignment is None:
        return 1.0
    taught: float = arguments.ratio if alignment["decoder"] else arguments.logits_ratio
    return taught


def row(arguments: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Do one trial."""
    run = arguments.runs / f"{name} {seed}".replace(" ", "_").replace("/", "by")
    iterations = round(arguments.iterations / ratio(arguments, name))
    settings = command(arguments, name, seed, iterations)
    summary = train(arguments, settings, run)
    lines = read_metrics(RunFolder(run).metrics_file)
    return {
        "trial": name,
        "seed": seed,
        "iterations": iterations,
        "time": ratio(arguments, name),
        "seconds": summary["seconds"],
        **({} if arguments.all else {"val": miou(arguments, run, "val")}),
        **({"test": miou(arguments, run, "test")} if arguments.test or arguments.all else {}),
        "curve": [[line["step"], round(100 * line["miou"], 2)] for line in lines if "miou" in line],
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
    parser.add_argument(
        "--ratio", type=float, default=1.4, help="of a taught run's time an iteration"
    )
    parser.add_argument("--logits-ratio", type=float, default=1.2, help="where logits alone teach")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--crop", default="360,480")
    parser.add_argument("--start", default="sctnet-s-tiny-imagenet")
    parser.add_argument("--all", action="store_true", help="learn from val, too; score on test")
    parser.add_argument("--test", action="store_true", help="score on test, too: once")
    parser.add_argument("--out", type=Path, default=RESULTS / "alignment_search.json")
    parser.add_argument("--figure", type=Path, help="an .svg or .png")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in arguments.trials.split(";") if arguments.trials else TRIALS:
        for seed in map(int, arguments.seeds.split(",")):
            rows.append(row(arguments, name, seed))
            print(rows[-1].get("val", ""), rows[-1].get("test", ""), name, seed, flush=True)
            result = {
                "what": "SCTNet-S on CamVid: mIoU in % of val and test, at equal wall-clock",
                "command": shlex.join(["python", "benchmarks/alignment_search.py", *sys.argv[1:]]),
                "crop": arguments.crop,
                "ratios": [arguments.ratio, arguments.logits_ratio],
                "rows": rows,
                **environment(),
            }
            write_text(arguments.out, json.dumps(result, indent=2) + "\n")
    if arguments.figure:
        draw(rows, arguments.figure)


def draw(rows: list[dict[str, Any]], target: Path) -> None:
    """Draw val's mIoU over the time, in untaught iterations."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    names = list(dict.fromkeys(row["trial"] for row in rows))
    for row in rows:
        place = names.index(row["trial"])
        time = [step * row["time"] for step, _ in row["curve"]]
        axes.plot(
            time,
            [miou for _, miou in row["curve"]],
            color=f"C{place % 10}",
            marker="osD^vPX*<>dph"[place],
            linestyle="-" if place < 10 else "--",
            label=row["trial"] if row["seed"] == rows[0]["seed"] else None,
        )
    axes.set_xlabel("time, in iterations of an untaught run (taught ones take longer)")
    axes.set_ylabel("mIoU on CamVid val, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(target)


if __name__ == "__main__":
    main()
