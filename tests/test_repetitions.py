"""Several seeds and folds: runs one after the other, their mean and spread, resumed as a whole."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drawn import written
from typer.testing import CliRunner

from sctnet.cli import app
from sctnet.cli.tables import repetitions_table
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.errors import SctnetError
from sctnet.training.repetitions import Repetitions, repetitions

SETTINGS = [
    "model.variant=sctnet-tiny", "model.init=null", "schedule.iterations=4", "run.batch_size=2",
    "run.validate_every=2", "run.checkpoint_every=1", "augmentation.crop=[32,32]",
    "run.precision=fp32", "data.workers=0",
]  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write six drawn streets that nobody divided."""
    (tmp_path / "streets").mkdir()
    streets = SyntheticStreets(0, 6, (60, 80))
    data = written(streets, 6, tmp_path / "streets")
    names = "\n".join(f"[{item.image}, {item.mask}]," for item in data.files)
    text = f"images: [{names}]\nclasses: [{', '.join(streets.classes)}]\n"
    (tmp_path / "own.yaml").write_text(text)
    return tmp_path / "own.yaml"


def train(*arguments: object) -> object:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def scores(run: Path) -> float:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return float(next(line["miou"] for line in reversed(lines) if "miou" in line))


def test_folds_are_trained_and_their_scores_told(source: Path) -> None:
    out = source.parent / "runs"
    program = train("--data", source, "--folds", 3, "--out", out, *SETTINGS)
    assert program.exit_code == 0, program.output
    assert [path.name for path in sorted(out.iterdir())] == [
        "fold-1", "fold-2", "fold-3", "repetitions.json",
    ]  # fmt: skip
    values = [scores(out / f"fold-{number}") for number in (1, 2, 3)]
    summary = json.loads((out / "repetitions.json").read_text())
    miou = summary["scores"]["miou"]
    assert miou["mean"] == pytest.approx(sum(values) / 3)
    assert miou["deviation"] == pytest.approx(statistics.stdev(values))
    assert (miou["lowest"], miou["highest"], miou["runs"]) == (min(values), max(values), 3)
    assert summary["runs"]["fold-2"]["miou"] == values[1]
    assert "all-but-fold-2-of-3" in (out / "fold-2/recipe.yaml").read_text()
    assert f"{100 * miou['mean']:.2f}" in program.output
    assert max(len(line) for line in program.output.splitlines() if "│" in line) <= 80
    again = train("--data", source, "--folds", 3, "--out", out, *SETTINGS)
    assert isinstance(again.exception, SctnetError)
    assert "fold-1: holds a run already; continue with --resume" in str(again.exception)


@pytest.mark.slow
def test_seeds_differ_and_finished_runs_are_kept(source: Path) -> None:
    out = source.parent / "runs"
    given = ("run.seed=5", *SETTINGS, "--data", source, "--seeds", 2, "--out", out)
    program = train(*given)
    assert program.exit_code == 0, program.output
    first = (out / "seed-5" / "model.safetensors").read_bytes()
    second = (out / "seed-6" / "model.safetensors").read_bytes()
    assert first != second
    (out / "repetitions.json").unlink()
    for name in ("summary.json", "last.ckpt", "recipe.yaml", "config.json", "README.md"):
        (out / "seed-6" / name).unlink()  # as if it had not begun
    at = (out / "seed-5" / "last.ckpt").stat().st_mtime_ns
    program = train(*given, "--resume")
    assert program.exit_code == 0, program.output
    assert (out / "seed-5" / "last.ckpt").stat().st_mtime_ns == at
    assert (out / "seed-6" / "model.safetensors").read_bytes() == second
    assert (out / "repetitions.json").is_file()
    other = train(*given, "--resume", "optimizer.rate=0.5")
    assert "begun with other settings, the first is optimizer.rate" in str(other.exception)


def test_pictures_that_were_added_tell_the_way_on(source: Path) -> None:
    out = source.parent / "run"
    given = ("--data", source, "--out", out, *SETTINGS, "data.train=[all]", "data.validation=[]")
    assert train(*given).exit_code == 0
    data = written(SyntheticStreets(0, 7, (60, 80)), 7, source.parent / "streets")
    added = f"images: [[{data.files[6].image}, {data.files[6].mask}],"
    source.write_text(source.read_text().replace("images: [", added))
    told = str(train(*given, "--resume").exception)
    assert "the run was begun on 6 pictures" in told
    assert f"begin another from its weights with model.init={out} and another --out" in told


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on(source: Path) -> None:
    out = source.parent / "runs"
    settings = [each.replace("iterations=4", "iterations=40") for each in SETTINGS]
    arguments = ["--data", source, "--seeds", 2, "--out", out, *settings, "run.validate_every=40"]
    program = subprocess.Popen(
        [sys.executable, "-m", "sctnet", "train", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    end = time.monotonic() + 100
    while not (out / "seed-0" / "last.ckpt").exists() and time.monotonic() < end:
        time.sleep(0.05)
    program.send_signal(signal.SIGINT)
    _, told = program.communicate(timeout=60)
    assert f"Stopped; what was done is in {out}, continue it with --resume" in told
    assert not (out / "repetitions.json").exists()
    resumed = train(*arguments, "--resume")
    assert resumed.exit_code == 0, resumed.output
    summary = json.loads((out / "repetitions.json").read_text())
    assert list(summary["runs"]) == ["seed-0", "seed-1"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--seeds", 2, "--folds", 2], "--seeds, --folds: give one of them"),
        (["--seeds", 1], "--seeds: give 2 or more"),
        (["--folds", 1], "--folds: give 2 to 100"),
        (["--folds", 2, "data.train=[train]"], "--folds: decides data.train: leave it out"),
        (["--folds", 7], "6 pictures cannot be divided into 7 folds"),
        (["--folds", 2, "--dry-run"], "--seeds, --folds: name the folder"),
    ],
)
def test_wrong_numbers_are_told(arguments: list[object], sentence: str, source: Path) -> None:
    out = source.parent / "runs"
    program = train("--data", source, "--out", out, *arguments)
    assert sentence in str(program.exception)
    assert not out.exists()


def test_runs_of_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from sctnet import processes

    monkeypatch.setattr(
        "sctnet.training.repetitions.launched_processes", lambda: processes.Processes(0, 2)
    )
    with pytest.raises(SctnetError, match="start them without torchrun"):
        repetitions(2, None, 0, ())


def test_a_class_that_a_fold_lacks_is_averaged_over_the_others() -> None:
    found = Repetitions({"fold-1": {"miou": 0.5, "iou.car": 0.25}, "fold-2": {"miou": 0.25}})
    spreads = found.spreads()
    assert spreads["iou.car"] == (0.25, None, 0.25, 0.25, 1)
    assert spreads["miou"].mean == 0.375
    assert spreads["miou"].deviation == pytest.approx(0.125 * 2**0.5)
    assert repetitions_table(found).row_count == 2
