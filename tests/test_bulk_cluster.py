"""Bulk prediction on a real cluster of two nodes of this machine, which lose workers and a node."""

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from drawn import street
from PIL import Image
from shared import THREE_CLASSES, saved

import sctnet
from sctnet.inference.files import find_pictures, predict_files

pytestmark = pytest.mark.slow
PICTURES = 120
PROGRAM = [sys.executable, "-m", "sctnet", "predict"]
ENVIRONMENT = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return saved(folder, classes=THREE_CLASSES)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(PICTURES):
        size = (240, 320) if number % 3 else (200, 150)
        Image.fromarray(street(*size, number)).save(folder / f"{number:03}.png")
    (folder / "bad.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def expected(model: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the local engine writes."""
    out = tmp_path_factory.mktemp("local")
    found, _ = find_pictures([str(pictures)], out)
    predict_files(sctnet.Segmenter(model, "cpu", batch_size=1), found, out, ["labels"])
    return out / "labels"


class Nodes:
    """A head and one more node, each of processes of its own."""

    def __init__(self, port: int, token: Path) -> None:
        token.write_text(secrets.token_hex(32))
        # A token of its own, not the one that Ray keeps in the home folder.
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self.environment = {**ENVIRONMENT, **own}
        self.address = f"127.0.0.1:{port}"
        ray = [str(Path(sys.executable).with_name("ray")), "start", "--block"]
        few = ["--num-cpus=1", "--object-store-memory=100000000"]
        head = ["--head", f"--port={port}", "--include-dashboard=false"]
        self.processes = []
        self._start([*ray, *few, *head])
        time.sleep(8)
        self._start([*ray, *few, f"--address={self.address}"])

    def _start(self, command: list[str]) -> None:
        quiet = subprocess.DEVNULL
        self.processes.append(
            subprocess.Popen(command, env=self.environment, stdout=quiet, stderr=quiet)
        )

    def workers(self) -> list[psutil.Process]:
        """Return the processes that hold a model, on both nodes."""
        return [each for node in self.processes for each in self._family(node) if self._works(each)]

    def remove(self, number: int) -> None:
        """Kill a node and all that runs on it, at once."""
        for each in self._family(self.processes[number]):
            _kill(each)

    def _family(self, node: subprocess.Popen[bytes]) -> list[psutil.Process]:
        try:
            parent = psutil.Process(node.pid)
            return [*parent.children(recursive=True), parent]
        except psutil.NoSuchProcess:
            return []

    def _works(self, process: psutil.Process) -> bool:
        try:
            return "MapWorker" in " ".join(process.cmdline())
        except psutil.Error:
            return False


def _kill(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(23379 + os.getpid() % 1000, tmp_path / "token")
    yield nodes
    for number in (1, 0):
        nodes.remove(number)
        nodes.processes[number].wait()


def start(
    model: Path,
    pictures: object,
    out: Path,
    *options: str,
    environment: dict[str, str] = ENVIRONMENT,
) -> subprocess.Popen[str]:
    command = [*PROGRAM, str(model), "--engine", "ray", "--input", str(pictures)]
    return subprocess.Popen(
        [*command, "--out", str(out), *options], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def written(out: Path) -> int:
    return len(list((out / "labels").glob("[!.]*.png")))


def wait_for(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while written(out) < count:
        assert process.poll() is None, "the run ended early"
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.02)


def assert_complete(out: Path, expected: Path) -> None:
    files = sorted(file.name for file in expected.iterdir())
    assert sorted(file.name for file in (out / "labels").iterdir()) == files
    for name in files:
        assert (out / "labels" / name).read_bytes() == (expected / name).read_bytes()
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    assert len({row["source"] for row in rows}) == len(rows) == PICTURES + 1
    assert {row["output"] for row in rows} == {None, *(f"labels/{name}" for name in files)}
    (bad,) = [row for row in rows if row["error"]]
    assert bad["source"].endswith("bad.jpg")
    assert sorted(path.name for path in out.iterdir()) == ["labels", "manifest.parquet"]


def test_a_worker_and_a_node_may_die(
    model: Path, pictures: Path, expected: Path, tmp_path: Path, nodes: Nodes
) -> None:
    out = tmp_path / "out"
    process = start(
        model,
        pictures,
        out,
        "--address",
        nodes.address,
        "--workers",
        "1:2",
        environment=nodes.environment,
    )
    output: list[str] = []
    reader = threading.Thread(target=lambda: output.append(process.communicate()[0]))
    reader.start()
    wait_for(out, 8, process)
    killed = nodes.workers()
    assert killed
    _kill(killed[0])
    count = written(out)
    wait_for(out, count + 10, process)
    before = written(out)
    nodes.remove(1)
    assert before < PICTURES, "the node is removed in mid-run"
    reader.join(timeout=240)
    assert process.returncode == 1, output
    assert f"{PICTURES} pictures labelled, 1 failed" in output[0]
    assert_complete(out, expected)


def test_a_killed_driver_loses_nothing(
    model: Path, pictures: Path, expected: Path, tmp_path: Path
) -> None:
    """What is left is done by the next run, here by another address of the same folder."""
    out = tmp_path / "out"
    process = start(model, pictures, out, "--workers", "1")
    wait_for(out, 40, process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    psutil.wait_procs(family, timeout=30)
    done = {file.name: file.stat().st_mtime_ns for file in (out / "labels").iterdir()}
    parts = list((out / "manifest.parts").glob("*.parquet"))
    recorded = {row["name"] for part in parts for row in pq.read_table(part).to_pylist()}
    assert recorded
    again = start(model, f"file://{pictures}", out, "--workers", "1")
    printed, _ = again.communicate(timeout=240)
    assert again.returncode == 1, printed
    assert_complete(out, expected)
    for name in recorded - {"bad"}:
        assert (out / "labels" / f"{name}.png").stat().st_mtime_ns == done[f"{name}.png"]
