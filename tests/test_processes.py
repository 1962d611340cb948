"""Several processes do what one does: the same curve, the same pictures, the same counts."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from sctnet.checkpoints.model_folder import save_model
from sctnet.errors import SctnetError
from sctnet.models import create_model
from sctnet.models.layers import BatchNorm
from sctnet.processes import ALONE, Processes, launched_processes
from sctnet.training.devices import convert_sync_batchnorm
from sctnet.training.run_folder import read_metrics

WORKER = """
import json, sys, torch
from pathlib import Path
from torch import nn
from sctnet.data.loading import TrainingStream
from sctnet.models import create_model
from sctnet.models.layers import BatchNorm
from sctnet.processes import launched_processes
from sctnet.training import trainer
from sctnet.training.learner import Learner
from sctnet.training.recipe import load_recipe
from sctnet.training.teachers import NetworkTeacher
from sctnet.data.registry import open_dataset

torch.set_num_threads(1)
# Norms that are not synchronised see their own share alone; here they are to see none.
BatchNorm.train = lambda self, mode=True: nn.Module.train(self, False)
rank, out = launched_processes().rank, Path(sys.argv[1])
seen, learners, load, build = [], [], TrainingStream.load, Learner.__init__

def recorded(stream, number):
    seen.append((number, stream.picture_number(number)))
    return load(stream, number)

def remembered(learner, *arguments, **options):
    build(learner, *arguments, **options)
    learners.append(learner)
    learner.before = {key: value.clone() for key, value in learner.criterion.state_dict().items()}

TrainingStream.load, Learner.__init__ = recorded, remembered
recipe = load_recipe("synthetic/sctnet-tiny", sys.argv[2:])
teacher = None
if recipe.alignment is not None:
    torch.manual_seed(7)
    teacher = NetworkTeacher(
        create_model("sctnet-tiny", 11), open_dataset("synthetic", ["train"]).classes
    )
trainer.train(recipe, out, teacher=teacher)
after = learners[0].criterion.state_dict()
moved = [key for key, value in learners[0].before.items() if not torch.equal(value, after[key])]
(out / f"seen{rank}.json").write_text(json.dumps({"seen": seen, "moved": moved}))
"""
PARTING = """
import gc, sys
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from sctnet.training.dry_run import dry_run
from sctnet.training.recipe import load_recipe
from sctnet.training.trainer import train

part, left = distributed.destroy_process_group, []

def watched():
    left.append([each for each in gc.get_objects() if type(each) is DistributedDataParallel])
    part()

distributed.destroy_process_group = watched
recipe = load_recipe("synthetic/sctnet-tiny", sys.argv[2:])
dry_run(recipe) if sys.argv[1] == "dry" else train(recipe, sys.argv[1])
assert left == [[]], left
"""
SETTINGS = [
    "augmentation.crop=[48, 64]",
    "run.precision=fp32",
    "model.options={drop_path: 0}",
    "schedule.iterations=20",
    "schedule.warmup_iterations=2",
    "run.batch_size=4",
    "run.log_every=1",
    "run.validate_every=100",
    "run.checkpoint_every=100",
    "run.ema_decay=null",
    "data.workers=0",
    "data.validation=[]",
    "loss.class_weights=none",
    "optimizer.rate=1e-3",
]
ALIGNMENT = (
    "alignment={teacher: given, logits: 3, decoder: 15, stage3: 15, stage4: 15, shared_head: false}"
)


def launch(processes: int, *arguments: str) -> subprocess.Popen[str]:
    """Start a program under torchrun, or plainly where it is to be alone."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(torchrun if processes > 1 else []), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], timeout: float = 240) -> str:
    _, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors
    return errors


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("worker") / "worker.py"
    file.write_text(WORKER)
    return str(file)


def counts(folder: Path) -> dict:
    return json.loads((folder / "scores.json").read_text())


@pytest.mark.slow
def test_two_processes_learn_and_score_as_one(worker: str, tmp_path: Path) -> None:
    validation = ["data.validation=[val]"]
    for processes in (1, 2):
        finish(launch(processes, worker, str(tmp_path / str(processes)), *SETTINGS, *validation))
    records = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("1", "2")]
    losses = [[r["loss"] for r in run if "loss" in r] for run in records]
    assert len(losses[0]) == 20
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    files = [tmp_path / "1/seen0.json", tmp_path / "2/seen0.json", tmp_path / "2/seen1.json"]
    alone, first, second = ([tuple(k) for k in json.loads(f.read_text())["seen"]] for f in files)
    assert sorted(first + second) == alone
    assert not set(first) & set(second)

    for processes in (1, 2):
        arguments = ["eval", str(tmp_path / "2"), "--data", "synthetic", "--sheet", "3"]
        out = ["--out", str(tmp_path / f"scores{processes}")]
        finish(launch(processes, "-m", "sctnet", *arguments, *out))
    one, two = counts(tmp_path / "scores1"), counts(tmp_path / "scores2")
    assert one["counts"] == two["counts"]
    assert (one["images"], two["images"]) == (40, 40)
    (validated,) = [r["miou"] for r in records[1] if "miou" in r]
    assert validated == one["miou"]
    sheets = [(tmp_path / f"scores{run}" / "sheet.png").read_bytes() for run in (1, 2)]
    assert sheets[0] == sheets[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "dry"])
def test_networks_are_gone_before_the_processes_part(tmp_path: Path, kind: str) -> None:
    """Else they would end the group, under Python's lock, and that can wait for ever."""
    script = tmp_path / "parting.py"
    script.write_text(PARTING)
    out = "dry" if kind == "dry" else str(tmp_path / "run")
    finish(launch(2, str(script), out, *SETTINGS, "schedule.iterations=2"))


@pytest.mark.slow
def test_alignment_is_shared(worker: str, tmp_path: Path) -> None:
    """Also: every parameter that DDP waits for gets a gradient, else the second step fails."""
    settings = [*SETTINGS, ALIGNMENT, "schedule.iterations=4"]
    for processes in (1, 2):
        finish(launch(processes, worker, str(tmp_path / str(processes)), *settings))
    runs = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("1", "2")]
    for key in ("loss_alignment_stage3", "loss_alignment_decoder", "loss"):
        one, two = ([record[key] for record in run] for run in runs)
        assert one == pytest.approx(two, rel=1e-4)
    moved = json.loads((tmp_path / "2/seen1.json").read_text())["moved"]
    assert any("projections.decoder" in key for key in moved)
    assert not any("teacher" in key for key in moved)


@pytest.mark.slow
def test_srun_starts_a_run_too(worker: str, tmp_path: Path, free_port: int) -> None:
    """With the variables that srun sets; there is no SLURM here."""
    shared = {
        "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port),
        "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "b100", "SLURM_NTASKS": "2", "SLURM_NNODES": "1",
        "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NODEID": "0",
    }  # fmt: skip
    command = [sys.executable, worker, str(tmp_path), *SETTINGS, "schedule.iterations=2"]
    ranks = [{"SLURM_PROCID": number, "SLURM_LOCALID": number} for number in "01"]
    processes = [
        subprocess.Popen(
            command, env={**os.environ, **shared, **rank}, stderr=subprocess.PIPE, text=True
        )
        for rank in ranks
    ]
    for process in processes:
        finish(process)
    assert json.loads((tmp_path / "summary.json").read_text())["processes"] == 2


@pytest.fixture
def free_port() -> int:
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        return connection.getsockname()[1]


@pytest.mark.slow
def test_a_killed_process_ends_the_others(worker: str, tmp_path: Path) -> None:
    settings = [*SETTINGS, "schedule.iterations=100000", "run.checkpoint_every=2"]
    process = launch(2, worker, str(tmp_path), *settings)
    deadline = time.monotonic() + 120
    while not (tmp_path / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(_children(process.pid)[-1], signal.SIGKILL)
    _, errors = process.communicate(timeout=90)
    assert process.returncode != 0
    assert "lost the others of this run" in errors
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["iteration"] >= 2


def _children(parent: int) -> list[int]:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return sorted(int(number) for number in text.split())


@pytest.mark.parametrize(
    "variant",
    [
        "sctnet-tiny",
        "ddrnet-23-slim",
        "segnext-t",
        "segformer-b0",
        "seaformer-b",
        "rtformer-s",
        "afformer-b",
    ],
)
def test_a_network_of_several_gpus_is_not_taken_for_a_fused_one(
    variant: str, tmp_path: Path
) -> None:
    converted = convert_sync_batchnorm(create_model(variant, 3))
    assert not converted.is_fused
    save_model(converted, tmp_path / "model", ["a", "b", "c"])
    assert converted.fuse().is_fused


def test_norms_are_synchronised_and_stay_one_model() -> None:
    model = create_model("sctnet-tiny", 5)
    for norm in (m for m in model.modules() if isinstance(m, BatchNorm)):
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    images = torch.randn(1, 3, 64, 96)
    expected, keys = model.eval()(images), list(model.state_dict())
    eps = [m.eps for m in model.modules() if isinstance(m, BatchNorm)]
    converted = convert_sync_batchnorm(model)
    norms = [m for m in converted.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert not any(isinstance(m, BatchNorm) for m in converted.modules())
    assert [norm.eps for norm in norms] == eps
    assert list(converted.state_dict()) == keys
    create_model("sctnet-tiny", 5).load_state_dict(converted.state_dict())
    torch.testing.assert_close(converted.eval()(images), expected)
    fused = converted.fuse()
    assert fused.is_fused
    torch.testing.assert_close(fused(images), expected, rtol=1e-3, atol=1e-4)


TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
}  # fmt: skip
SRUN = {
    "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2",
    "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ALONE),
        ({"RANK": "1", "WORLD_SIZE": "2"}, ALONE),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, ALONE),
        (TORCHRUN, Processes(5, 8, 1, 4, "torchrun")),
        (SRUN, Processes(5, 8, 1, 4, "srun")),
        ({**SRUN, **TORCHRUN, "RANK": "2"}, Processes(2, 8, 1, 4, "torchrun")),
    ],
)
def test_the_launcher_says_who_we_are(environment: dict[str, str], expected: Processes) -> None:
    assert launched_processes(environment) == expected
    assert expected.machines in (1, 2)


def test_unequal_machines_are_refused() -> None:
    with pytest.raises(SctnetError, match="same number on each"):
        launched_processes({**SRUN, "SLURM_STEP_NUM_TASKS": "7"})


def test_shares_are_every_index_once() -> None:
    shares = [Processes(rank, 3).own_part(8) for rank in range(3)]
    assert sorted(index for share in shares for index in share) == list(range(8))


def test_processes_without_a_meeting_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(SctnetError, match="export MASTER_ADDR"):
        Processes(0, 2, 0, 2, "srun").connect()
