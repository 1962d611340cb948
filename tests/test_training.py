"""A run: what it leaves, and that nothing but its recipe decides what it becomes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import sctnet
from sctnet.checkpoints.model_folder import load_config
from sctnet.data.registry import open_dataset
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.errors import SctnetError
from sctnet.inference.scoring import score
from sctnet.inference.segmenter import Segmenter
from sctnet.training.recipe import Recipe, load_recipe
from sctnet.training.run_folder import read_metrics
from sctnet.training.segmentation_task import SegmentationTask
from sctnet.training.trainer import train

SETTINGS = [
    "augmentation.crop=[48, 64]",
    "run.precision=fp32",
    "schedule.iterations=6",
    "schedule.warmup_iterations=2",
    "run.batch_size=2",
    "run.log_every=1",
    "run.validate_every=100",
    "run.checkpoint_every=2",
    "data.validation=[]",
    "data.workers=0",
    "loss.class_weights=none",
]


def recipe(*settings: str) -> Recipe:
    return load_recipe("synthetic/sctnet-tiny", [*SETTINGS, *settings])


def weights(folder: Path) -> dict[str, Tensor]:
    return sctnet.load_model(folder).state_dict()


def assert_equal_runs(one: Path, other: Path) -> None:
    """Compare the models, and the checkpoints down to the optimiser, bit for bit."""
    first, second = weights(one), weights(other)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    checkpoints = [torch.load(path / "last.ckpt", weights_only=True) for path in (one, other)]
    states = [checkpoint["optimizer"]["state"] for checkpoint in checkpoints]
    for number, state in states[0].items():
        assert torch.equal(state["exp_avg_sq"], states[1][number]["exp_avg_sq"])


class StopError(Exception):
    """Stands for a crash."""


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that was never stopped."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(recipe(), folder)
    return folder


def test_a_run_folder_is_a_model_folder(whole_run: Path) -> None:
    expected = {
        "README.md", "config.json", "last.ckpt", "metrics.jsonl", "model.safetensors",
        "recipe.yaml", "summary.json", "tensorboard",
    }  # fmt: skip
    assert {path.name for path in whole_run.iterdir()} == expected
    config = load_config(whole_run)
    assert config.classes == open_dataset("synthetic", ["train"]).classes
    assert load_recipe(whole_run / "recipe.yaml") == recipe()
    summary = json.loads((whole_run / "summary.json").read_text())
    assert (summary["iterations"], summary["images"], summary["seed"]) == (6, 12, 0)
    records = read_metrics(whole_run / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert all(record["loss"] > 0 for record in records)
    assert list((whole_run / "tensorboard").iterdir())


def test_a_crashed_run_ends_as_if_it_had_never_stopped(whole_run: Path, tmp_path: Path) -> None:
    def crash(record: dict[str, float]) -> None:
        if record["step"] == 5:  # the last checkpoint is that of iteration 4
            raise StopError

    with pytest.raises(StopError):
        train(recipe(), tmp_path, observe=crash)
    train(recipe(), tmp_path, resume=True)
    assert_equal_runs(whole_run, tmp_path)
    steps = [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_workers_do_not_change_a_run(whole_run: Path, tmp_path: Path) -> None:
    train(load_recipe("synthetic/sctnet-tiny", [*SETTINGS, "data.workers=2"]), tmp_path)
    assert_equal_runs(whole_run, tmp_path)


@pytest.mark.slow
def test_a_process_ends_though_something_keeps_a_frame_of_its_run(tmp_path: Path) -> None:
    """As an exception does that some library keeps."""
    code = f"""
import sys
from sctnet.training.recipe import load_recipe
from sctnet.training.trainer import train
kept = []
recipe = load_recipe("synthetic/sctnet-tiny", {[*SETTINGS, "data.workers=1"]})
train(recipe, {str(tmp_path)!r}, observe=lambda _: kept.append(sys._getframe()))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def _command(out: Path, *more: str) -> list[str]:
    program = "from sctnet.cli import main; main()"
    settings = [*SETTINGS, "schedule.iterations=24", "run.checkpoint_every=3", "data.workers=1"]
    arguments = ["train", "synthetic/sctnet-tiny", *settings, "--out", str(out), *more]
    return [sys.executable, "-c", program, *arguments]


def _start_and_signal(out: Path, number: signal.Signals) -> tuple[int, str]:
    """Begin a run in a process of its own and signal it after its first checkpoint."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        _command(out),
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 60
        while not (out / "last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        # As a terminal does: Ctrl-C reaches the loader's workers, too.
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        *(pytest.param(other, marks=pytest.mark.slow) for other in (signal.SIGTERM, signal.SIGINT)),
    ],
)
def test_a_stopped_process_is_resumed_exactly(number: signal.Signals, tmp_path: Path) -> None:
    """SIGKILL loses what came after the last checkpoint; the others save one first."""
    settings = ["schedule.iterations=24", "run.checkpoint_every=3", "data.workers=1"]
    train(recipe(*settings), tmp_path / "whole")
    status, errors = _start_and_signal(tmp_path / "stopped", number)
    if number is signal.SIGKILL:
        assert status == -signal.SIGKILL
    else:
        assert status == 130
        assert "Traceback" not in errors
    train(recipe(*settings), tmp_path / "stopped", resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_is_not_overwritten_and_not_changed(whole_run: Path) -> None:
    before = weights(whole_run)
    with pytest.raises(SctnetError, match="holds a run already; continue it with --resume"):
        train(recipe(), whole_run)
    with pytest.raises(SctnetError, match=r"begun with other settings, the first is run\.seed"):
        train(recipe("run.seed=1"), whole_run, resume=True)
    assert all(torch.equal(value, before[key]) for key, value in weights(whole_run).items())


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(recipe("schedule.iterations=2"), tmp_path)
    (tmp_path / "README.md").write_text("of a model that was calibrated since")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with caplog.at_level("INFO", "sctnet"):
        train(recipe("schedule.iterations=2"), tmp_path, resume=True)
    assert "this run is finished; nothing is changed" in caplog.text
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_broken_checkpoint_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(recipe("schedule.iterations=1"), tmp_path)
    assert "no validation: nothing will tell when the model was best" in caplog.text
    (tmp_path / "last.ckpt").write_bytes(b"half")
    with pytest.raises(SctnetError, match=r"last\.ckpt: not a whole checkpoint"):
        train(recipe("schedule.iterations=1"), tmp_path, resume=True)


def test_what_is_no_run_is_neither_resumed_nor_replaced(tmp_path: Path) -> None:
    with pytest.raises(SctnetError, match="no run to resume"):
        train(recipe(), tmp_path / "typo", resume=True)
    assert not (tmp_path / "typo").exists()
    (tmp_path / "README.md").write_text("somebody's project")
    with pytest.raises(SctnetError, match=r"would replace \(README\.md"):
        train(recipe(), tmp_path)
    assert (tmp_path / "README.md").read_text() == "somebody's project"
    assert not (tmp_path / "recipe.yaml").exists()


def test_a_resumed_record_counts_the_steps_before(tmp_path: Path) -> None:
    """A record of three steps, of which the stop fell on the second."""
    settings = ["run.log_every=3", "run.checkpoint_every=4"]
    train(recipe(*settings), tmp_path / "whole")

    def crash(record: dict[str, float]) -> None:
        if record["step"] == 5:
            raise StopError

    with pytest.raises(StopError):
        train(recipe(*settings), tmp_path / "stopped", observe=crash)
    train(recipe(*settings), tmp_path / "stopped", resume=True)
    runs = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("whole", "stopped")]
    assert [r["loss"] for r in runs[0]] == [r["loss"] for r in runs[1]]
    assert [r["step"] for r in runs[1]] == [3, 6]


def test_a_failed_validation_loses_nothing_and_is_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["data.validation=[val]", "run.validate_every=3", "run.checkpoint_every=100"]
    readable = SyntheticStreets.pair

    def pair(dataset: SyntheticStreets, index: int) -> object:
        if len(dataset) == 40:  # the validation split
            raise SctnetError("unreadable")
        return readable(dataset, index)

    with monkeypatch.context() as broken:
        broken.setattr(SyntheticStreets, "pair", pair)
        with pytest.raises(SctnetError, match="unreadable"):
            train(recipe(*settings), tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["iteration"] == 3
    train(recipe(*settings), tmp_path, resume=True)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in records if "miou" in record] == [3, 6]


def test_changed_data_are_not_resumed_on(tmp_path: Path) -> None:
    train(recipe(), tmp_path)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    torch.save({**checkpoint, "train_pictures": 7}, tmp_path / "last.ckpt")
    with pytest.raises(SctnetError, match="begun on 7 pictures"):
        train(recipe(), tmp_path, resume=True)


def test_the_average_is_what_is_saved(tmp_path: Path) -> None:
    train(recipe("run.ema_decay=0.5"), tmp_path)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    key = "stem.0.weight"
    saved = weights(tmp_path)[key]
    assert torch.equal(saved, checkpoint["average"][f"module.{key}"])
    assert not torch.equal(saved, checkpoint["model"][key])


def test_accumulated_steps_differ_only_by_batch_statistics(tmp_path: Path) -> None:
    train(recipe("run.accumulate=2", "schedule.iterations=2"), tmp_path)
    losses = [record["loss"] for record in read_metrics(tmp_path / "metrics.jsonl")]
    assert len(losses) == 2
    assert all(loss > 0 for loss in losses)


def test_validation_scores_what_eval_scores(tmp_path: Path) -> None:
    """The best model's mIoU in the metrics is that of the model in best/."""
    settings = ["data.validation=[val]", "run.validate_every=2", "schedule.iterations=4"]
    train(recipe(*settings), tmp_path)
    scored = [r["miou"] for r in read_metrics(tmp_path / "metrics.jsonl") if "miou" in r]
    assert len(scored) == 2
    data = open_dataset("synthetic", ["val"])
    best = score(Segmenter(tmp_path / "best"), data, tmp_path / "evaluation")
    # Training validates in PyTorch and the saved model predicts in CPU kernels; they round apart.
    assert best.scores.miou == pytest.approx(max(scored), rel=1e-4)


@pytest.mark.parametrize(
    ("class_weights", "remedy"),
    [("none", "or give rare classes weight"), ("balanced", "or train longer")],
)
def test_validation_tells_every_class_and_warns_of_those_never_found(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    class_weights: str,
    remedy: str,
) -> None:
    build = SegmentationTask.build

    def biased(self, from_start):
        network, start = build(self, from_start)
        network.add_offsets([-1e3, *[0] * 9, -1e3])
        return network, start

    monkeypatch.setattr(SegmentationTask, "build", biased)
    settings = ["data.validation=[val]", "run.validate_every=1", "optimizer.rate=1e-12"]
    settings += ["schedule.iterations=3", f"loss.class_weights={class_weights}"]
    train(recipe(*settings), tmp_path)
    records = [r for r in read_metrics(tmp_path / "metrics.jsonl") if "miou" in r]
    data = open_dataset("synthetic", ["val"])
    for record in records:
        assert set(record["iou"]) == set(data.classes)  # all occur in the truth
        assert record["miou"] == pytest.approx(np.mean(list(record["iou"].values())))
    never = [name for name, iou in records[0]["iou"].items() if iou == 0]
    assert {"Sky", "Bicyclist"} <= {*never}
    told = [each.getMessage() for each in caplog.records if "no pixel of" in each.getMessage()]
    assert told[0].startswith(f"after 1 of 3 iterations no pixel of {', '.join(never)} is found")
    assert remedy in told[0]
    assert all(told[0] != other for other in told[1:]), "each class is told once"


def test_a_start_is_loaded(whole_run: Path, tmp_path: Path) -> None:
    train(recipe(f"model.init={whole_run}", "optimizer.rate=1e-12"), tmp_path)
    key = "stem.0.weight"
    torch.testing.assert_close(weights(tmp_path)[key], weights(whole_run)[key])


def test_a_network_learns(tmp_path: Path) -> None:
    settings = ["schedule.iterations=60", "run.log_every=15", "optimizer.rate=5e-3"]
    train(recipe(*settings), tmp_path)
    losses = [record["loss"] for record in read_metrics(tmp_path / "metrics.jsonl")]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("data.source=null", "--data"),
        ("data.source=/nowhere", "/nowhere does not exist"),
        ("data.train=[dusk]", "dusk"),
        ("run.precision=fp16", "needs a GPU"),
        ("loss.class_weights=[1, 2]", "2 weights for 11 classes"),
        ("model.variant=sctnet-x", "sctnet-x"),
        ("model.options={attention_kernel: 2x2}", "attention_kernel"),
        ("model.init=nowhere", "nowhere"),
        ("model.options={num_classes: 3}", "num_classes"),
        ("optimizer.betas=[2, 3]", "optimizer.betas"),
        ("loss.class_weights=[-1, 1]", "loss.class_weights"),
        ("run.seed=99999999999999999999", "run.seed"),
        ("augmentation.scale=[.inf, .inf]", "augmentation.scale"),
    ],
)
def test_mistakes_are_told_before_training(setting: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(SctnetError) as caught:
        train(recipe(setting), tmp_path / "run")
    assert "Value error" not in str(caught.value)
    assert named in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("value", "sentence"),
    [(0, "every labelled pixel is 'road'"), (255, "no pixel is labelled")],
)
def test_labels_that_teach_nothing_are_refused(value: int, sentence: str, tmp_path: Path) -> None:
    """Such as 0/255 masks while 255 is ignored: nothing is trained, nothing is written."""
    for folder, shape in (("images", (48, 64, 3)), ("masks", (48, 64))):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.full(shape, value, np.uint8)).save(tmp_path / folder / "a.png")
    source = tmp_path / "own.yaml"
    source.write_text("{images: {train: images}, masks: {train: masks}, classes: [road, car]}")
    with pytest.raises(SctnetError, match=f"{sentence}.*sctnet data check"):
        train(recipe(f"data.source={source}", "data.train=[train]"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
