"""How long a run takes: the estimate, other programs that slow it, and what is said of both."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sctnet.other_programs import OtherPrograms, slowed_by, wait_passively_beside_others
from sctnet.training.recipe import load_recipe
from sctnet.training.remaining_time import RemainingTime
from sctnet.training.run_folder import read_metrics
from sctnet.training.trainer import train


def test_validations_to_come_are_those_that_a_run_does() -> None:
    for iterations, every in ((10, 3), (9, 3), (2, 5), (1, 1)):
        left = RemainingTime(iterations, every, 1.0, 0)
        due = [step for step in range(1, iterations + 1) if step % every == 0 or step == iterations]
        for validated in (0, *due):
            assert left.validations(validated) == sum(at > validated for at in due)
    assert RemainingTime(10, None, None, 0).validations(0) == 0


def test_the_estimate_follows_the_speed_and_leaves_the_first_step_out() -> None:
    left = RemainingTime(1000, 100, 7.0, 4)
    left.step(60.0)  # it compiles
    for _ in range(4):
        left.step(2.0)
    assert left.is_known
    assert left.step_seconds == 2.0
    assert left.seconds(5, 0) == 995 * 2 + 10 * 7 + 4 * 7
    assert left.sentence(5, 0) == (
        "about 0:34:48 to go: 995 steps of 2.00 s, 10 validations of 7.0 s, "
        "0:00:28 to choose class offsets"
    )
    for _ in range(300):  # another program has come
        left.step(4.0)
    left.validation_seconds = 14.0
    assert left.seconds(305, 300) == pytest.approx(695 * 4 + 7 * 14 + 4 * 14, rel=0.01)
    unknown = RemainingTime(10, 5, None, 0)
    for _ in range(4):
        unknown.step(1.0)
    assert unknown.sentence(4, 0) == (
        "about 0:00:06 to go: 6 steps of 1.00 s, without 2 validations, which are not known yet"
    )


def test_a_run_says_once_how_long_it_takes_and_logs_what_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = [
        "augmentation.crop=[48, 64]", "run.precision=fp32", "schedule.iterations=8",
        "schedule.warmup_iterations=0", "run.batch_size=2", "run.log_every=1",
        "run.validate_every=6", "data.validation=[val]", "data.workers=0",
        "loss.class_weights=none",
    ]  # fmt: skip
    with caplog.at_level("INFO", "sctnet"):
        train(load_recipe("synthetic/sctnet-tiny", settings), tmp_path)
    told = [each.getMessage() for each in caplog.records if "to go: " in each.getMessage()]
    assert len(told) == 1
    assert ": 4 steps of " in told[0]
    assert ", 2 validations of " in told[0]
    records = read_metrics(tmp_path / "metrics.jsonl")
    known = [record["seconds_left"] for record in records if "seconds_left" in record]
    assert len(known) >= 5
    assert known[-1] == 0
    assert all(seconds >= 0 for seconds in known)


def fake_proc(folder: Path, busy: int, own: int, child: int, foreign: int) -> None:
    """Write what Linux tells, in ticks: two cores, of which the first may be used."""
    folder.mkdir(exist_ok=True)
    (folder / "stat").write_text(
        f"cpu  0 0 0\ncpu0 {busy} 0 0 900 50 0 0 0 0 0\ncpu1 77777 0 0 0 0 0 0 0 0 0\nintr 1\n"
    )
    me = os.getpid()
    for number, parent, ticks in ((me, 1, own), (me + 1, me, child), (me + 2, 1, foreign)):
        (folder / str(number)).mkdir(exist_ok=True)
        fields = f"{number} (a) name) S {parent} " + "0 " * 9 + f"{ticks} 0 0 0 0 0"
        (folder / str(number) / "stat").write_text(fields)


def test_others_are_what_is_busy_and_not_of_this_process_or_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sctnet.other_programs._usable", lambda: frozenset({0}))
    clock = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    second = os.sysconf("SC_CLK_TCK")
    fake_proc(tmp_path / "proc", 0, 0, 0, 0)
    others = OtherPrograms(tmp_path / "proc")
    fake_proc(tmp_path / "proc", 9 * second, 2 * second, second, 6 * second)
    assert others.cores() == pytest.approx(0.6)
    fake_proc(tmp_path / "proc", 9 * second, 4 * second, second, 6 * second)
    assert others.cores() == 0


def test_where_nothing_is_told_of_other_programs_nothing_is_said(tmp_path: Path) -> None:
    others = OtherPrograms(tmp_path / "nowhere")
    assert others.cores() is None
    environment: dict[str, str] = {}
    assert wait_passively_beside_others(environment, others) is None
    assert not environment


class Busy(OtherPrograms):
    """Other programs that are always as busy."""

    def __init__(self, cores: float) -> None:
        self.usable, self._cores = frozenset({0, 1}), cores

    def cores(self) -> float:
        return self._cores


def test_threads_sleep_beside_others_unless_a_user_decided() -> None:
    quiet: dict[str, str] = {}
    assert wait_passively_beside_others(quiet, Busy(0.2)) is None
    decided = {"OMP_WAIT_POLICY": "ACTIVE"}
    assert wait_passively_beside_others(decided, Busy(1.0)) is None
    assert (quiet, decided) == ({}, {"OMP_WAIT_POLICY": "ACTIVE"})
    busy: dict[str, str] = {}
    sentence = wait_passively_beside_others(busy, Busy(1.0))
    assert busy == {"OMP_WAIT_POLICY": "PASSIVE"}
    assert sentence is not None
    assert sentence.startswith("Other programs use 1.0 of 2 cores, so threads sleep")
    assert "--resume" not in slowed_by(1.0, 2, busy)
    assert "start it with --resume" in slowed_by(1.0, 2, quiet)


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch's OpenMP is libgomp on Linux alone")
def test_what_is_chosen_reaches_openmp() -> None:
    """Neither the package nor its command line imports PyTorch before it is chosen."""
    code = (
        "import sys, sctnet.cli.train, sctnet.other_programs as others\n"
        "class Busy(others.OtherPrograms):\n"
        "    def cores(self): return 1.0\n"
        "assert others.wait_passively_beside_others(others=Busy())\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\n"
    )
    environment = {**os.environ, "OMP_DISPLAY_ENV": "TRUE"}
    environment.pop("OMP_WAIT_POLICY", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr
