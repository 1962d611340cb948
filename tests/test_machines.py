"""Training on two machines, rehearsed: what docs/scale.md says of many machines is so."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sctnet.training.interruption import deferred_interrupt

TOOL = Path(__file__).parents[1] / "tools" / "rehearse_machines.py"


def _has_namespaces() -> bool:
    if os.geteuid() or shutil.which("ip") is None:
        return False
    added = subprocess.run(["ip", "netns", "add", "sctnet-try"], capture_output=True)
    subprocess.run(["ip", "netns", "delete", "sctnet-try"], capture_output=True)
    return added.returncode == 0


def test_a_second_sigterm_still_lets_a_step_end() -> None:
    """SLURM sends one to every process, torchrun one more to those that it started."""
    with deferred_interrupt() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
def test_two_machines_are_killed_and_resumed(tmp_path: Path) -> None:
    if not _has_namespaces():
        pytest.skip("network namespaces need root and the program ip")
    out = tmp_path / "machines.json"
    ended = subprocess.run(
        [sys.executable, str(TOOL), "--out", str(out)], capture_output=True, text=True, timeout=900
    )
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 4
    for row in rows:
        assert row["processes"] == 2
        assert row["iterations_before"] < row["iterations"] == 150
        assert row["same_losses"], row
        assert row["same_weights"], row
        if row["disturbance"] == "one machine killed":
            assert row["said_that_the_other_is_lost"], row
