"""Rehearse training on two machines: started by torchrun and as srun does, killed, and resumed.

    sudo python tools/rehearse_machines.py [--out results/machines.json]

Two network namespaces of this machine, joined by a virtual cable, stand for two machines: each has
an address of its own and sees nothing of the other but what goes over the cable. The files are
shared, as they are on a cluster. Four rehearsals, each a tiny network on drawn streets for 150
iterations, compared with the same run undisturbed: by torchrun, one machine killed at once
(SIGKILL to all its processes), both resumed; with the variables that srun sets, all stopped by
SIGTERM, as SLURM does before the time is over, and resumed. Needs root, for the namespaces.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sctnet.provenance import environment
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"
ADDRESSES = ("10.213.77.1", "10.213.77.2")
PORT = "29511"
NAMES = tuple(f"sctnet-machine{number}" for number in (0, 1))
CABLE = tuple(f"sctnet{number}" for number in (0, 1))
ITERATIONS = 150
KILLED_AFTER = 30
TRAIN = ["-m", "sctnet", "train", "synthetic/sctnet-tiny"]
SETTINGS = [
    "augmentation.crop=[96, 128]", f"schedule.iterations={ITERATIONS}",
    "schedule.warmup_iterations=2", "run.batch_size=4", "run.log_every=1",
    "run.validate_every=1000", "run.checkpoint_every=10", "data.workers=0", "data.validation=[]",
]  # fmt: skip
LIMIT = 300  # seconds


@contextmanager
def two_machines() -> Iterator[None]:
    """Lay the cable between two network namespaces, and take all away in the end."""

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)  # noqa: S603, S607 - as the system has it

    remove_machines()  # what a killed rehearsal has left
    try:
        for name in NAMES:
            ip("netns", "add", name)
        ip("link", "add", CABLE[0], "netns", NAMES[0], "type", "veth",
           "peer", "name", CABLE[1], "netns", NAMES[1])  # fmt: skip
        for name, end, address in zip(NAMES, CABLE, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        remove_machines()


def remove_machines() -> None:
    """Delete the network namespaces, and the cable with them."""
    for name in NAMES:
        command = ["ip", "netns", "delete", name]
        subprocess.run(command, stderr=subprocess.DEVNULL)  # noqa: S603


def processes_of(number: int) -> list[int]:
    """Return all processes that run on a machine."""
    command = ["ip", "netns", "pids", NAMES[number]]
    found = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return [int(each) for each in found.stdout.split()]


@dataclass
class Machines:
    """A run, as it goes on both machines."""

    processes: list[subprocess.Popen[str]]

    def signal(self, number: int, kind: signal.Signals) -> None:
        """Send a signal to all processes of a machine, as SLURM does to those of a job."""
        for each in processes_of(number):
            with suppress(ProcessLookupError):
                os.kill(each, kind)

    def wait_for_training(self) -> None:
        """Wait until the training processes have ended; a torchrun above them may live on."""
        launchers = {each.pid for each in self.processes if "torch.distributed.run" in each.args}
        deadline = time.monotonic() + LIMIT
        while {each for number in (0, 1) for each in processes_of(number)} - launchers:
            if time.monotonic() > deadline:
                sys.exit("the training goes on")
            for process in self.processes:
                process.poll()
            time.sleep(0.05)

    def finish(self) -> list[tuple[int, str]]:
        """Return exit status and errors of each machine, when both have ended."""
        found = []
        for process in self.processes:
            _, errors = process.communicate(timeout=LIMIT)
            found.append((process.returncode, errors))
        return found


def start(number: int, command: list[str], variables: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start a command on a machine, in a group of processes of its own."""
    # Gloo would look for the network by the host's name, which has no address on the cable.
    own = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",
        "GLOO_SOCKET_IFNAME": CABLE[number],
        **variables,
    }
    return subprocess.Popen(  # noqa: S603 - our own program
        ["ip", "netns", "exec", NAMES[number], sys.executable, *command],  # noqa: S607
        env=own, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def torchrun(out: Path, *options: str) -> Machines:
    """Start a run as docs/scale.md does with torchrun, on both machines."""
    command = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
               "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:{PORT}"]  # fmt: skip
    train = [*TRAIN, "--out", str(out), *SETTINGS, *options]

    def place(number: int) -> list[str]:
        # What torchrun finds out by itself where the host's name stands for its address.
        host = "true" if number == 0 else "false"
        return ["--local-addr", ADDRESSES[number], "--rdzv-conf", f"is_host={host}"]

    return Machines([start(number, [*command, *place(number), *train], {}) for number in (0, 1)])


def srun(out: Path, *options: str) -> Machines:
    """Start a run with the variables of a batch of two machines with one task each."""
    shared = {
        "MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": PORT, "SLURM_JOB_ID": "1",
        "SLURM_JOB_NAME": "b100", "SLURM_NTASKS": "2", "SLURM_NNODES": "2",
        "SLURM_NTASKS_PER_NODE": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2",
        "SLURM_LOCALID": "0",
    }  # fmt: skip
    command = [*TRAIN, "--out", str(out), *SETTINGS, *options]
    return Machines(
        [
            start(number, command, {**shared, "SLURM_PROCID": rank, "SLURM_NODEID": rank})
            for number, rank in enumerate("01")
        ]
    )


LAUNCHERS = {"torchrun": torchrun, "srun": srun}


def iterations(out: Path) -> int:
    """Return how many iterations a run has logged."""
    try:
        return len((out / "metrics.jsonl").read_text().splitlines())
    except FileNotFoundError:
        return 0


def wait_for(run: Machines, out: Path, count: int) -> None:
    """Wait until a run has logged so many iterations."""
    deadline = time.monotonic() + LIMIT
    while iterations(out) < count:
        if any(process.poll() is not None for process in run.processes):
            sys.exit(f"the run ended early: {_last_lines(run.finish())}")
        if time.monotonic() > deadline:
            sys.exit(f"{out}: the run does not get on")
        time.sleep(0.02)


def learned(out: Path) -> dict[str, Any]:
    """Return what a run came to."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    weights = (out / "model.safetensors").read_bytes()
    return {
        "losses": [line["loss"] for line in lines if "loss" in line],
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "processes": json.loads((out / "summary.json").read_text())["processes"],
    }


def _last_lines(ended: list[tuple[int, str]]) -> list[str]:
    return [f"status {status}: {errors.strip()[-400:]}" for status, errors in ended]


def whole(launcher: str, out: Path) -> dict[str, Any]:
    """Run undisturbed."""
    ended = LAUNCHERS[launcher](out).finish()
    if any(status for status, _ in ended):
        sys.exit(f"{launcher}: the undisturbed run failed: {_last_lines(ended)}")
    return learned(out)


def disturbed(launcher: str, kind: str, out: Path) -> dict[str, Any]:
    """Run, kill one machine or stop all, and resume both."""
    run = LAUNCHERS[launcher](out)
    wait_for(run, out, KILLED_AFTER)
    machines = (1,) if kind == "one machine killed" else (0, 1)
    for number in machines:
        run.signal(number, signal.SIGKILL if len(machines) == 1 else signal.SIGTERM)
    began = time.monotonic()
    run.wait_for_training()
    seconds = time.monotonic() - began
    if len(machines) == 1 and run.processes[0].poll() is None:
        # A torchrun waits five minutes for the lost one and listens to nothing meanwhile.
        run.signal(0, signal.SIGKILL)
    ended = run.finish()
    stopped = iterations(out)
    told = "lost the others of this run" in ended[0][1]
    resumed = LAUNCHERS[launcher](out, "--resume").finish()
    if any(status for status, _ in resumed):
        sys.exit(f"{launcher}: the resumed run failed: {_last_lines(resumed)}")
    return {
        "launcher": launcher,
        "disturbance": kind,
        "iterations_before": stopped,
        "exit_statuses": [status for status, _ in ended],
        "said_that_the_other_is_lost": told,
        "seconds_until_training_had_ended": round(seconds, 1),
        **learned(out),
    }


def main() -> None:
    """Rehearse and write the outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / "machines.json")
    out = parser.parse_args().out
    if os.geteuid():
        sys.exit("network namespaces need root: run this with sudo")
    rows = []
    with two_machines(), TemporaryDirectory() as folder:
        for launcher in LAUNCHERS:
            expected = whole(launcher, Path(folder) / launcher)
            for number, kind in enumerate(("one machine killed", "all asked to stop")):
                row = disturbed(launcher, kind, Path(folder) / f"{launcher}{number}")
                losses = row.pop("losses")
                row["same_losses"] = losses == expected["losses"]
                row["same_weights"] = row.pop("weights_sha256") == expected["weights_sha256"]
                row["iterations"] = len(losses)
                rows.append(row)
                print(row, flush=True)
    result = {
        "what": "two network namespaces of one machine, a virtual cable between them, gloo; the "
        "disturbed runs are compared with an undisturbed one of the same launcher",
        "command": "python tools/rehearse_machines.py",
        "settings": SETTINGS,
        "rows": rows,
        **environment(),
    }
    write_text(out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
