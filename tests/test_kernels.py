"""The compiled library: who chooses it, what it refuses, and that it never reaches beyond."""

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import sctnet
from sctnet.checkpoints.model_folder import ModelConfig
from sctnet.errors import SctnetError
from sctnet.inference.runtimes import runtime
from sctnet.inference.runtimes.cpu_runtime import CpuRuntime
from sctnet.inference.runtimes.torch_runtime import TorchRuntime
from sctnet.kernels import instruction_set, library
from sctnet.kernels.library import Library, Shape
from sctnet.kernels.network import CpuNetwork
from sctnet.kernels.network import steps as kinds
from sctnet.kernels.network.packing import Weights
from sctnet.kernels.network.program import write_program
from sctnet.kernels.network.writer import Writer

HERE = Path(__file__).parent
SOURCES = Path(str(sctnet.__file__)).parent / "kernels" / "native"

if instruction_set() is None:
    pytest.skip("there is no compiled library here", allow_module_level=True)


def in_a_process(script, **environment):
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return run.stdout


def segmenter_of(kernels="auto"):
    torch.manual_seed(0)
    model = sctnet.create_model("sctnet-tiny", num_classes=5).eval()
    names = tuple(f"class {k}" for k in range(5))
    config = ModelConfig(network=model.config, classes=names)
    return sctnet.Segmenter.from_model(model, config, "cpu", kernels=kernels)


CHOICE = """
from sctnet.errors import SctnetError
from sctnet.kernels import instruction_set
try:
    found = instruction_set()
    print(found and found.name)
except SctnetError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", [kind for kind in library().instruction_sets if kind.offered])
def test_the_environment_names_an_instruction_set(kind):
    assert in_a_process(CHOICE, SCTNET_KERNELS=kind.name).strip() == kind.name


def test_the_environment_chooses_who_computes():
    newest = next(kind.name for kind in library().instruction_sets if kind.offered)
    assert in_a_process(CHOICE, SCTNET_KERNELS="native").strip() == newest
    assert in_a_process(CHOICE, SCTNET_KERNELS="auto").strip() == newest
    assert in_a_process(CHOICE, SCTNET_KERNELS="torch").strip() == "None"
    assert "SCTNET_KERNELS=mmx: this machine offers auto, torch, native" in in_a_process(
        CHOICE, SCTNET_KERNELS="mmx"
    )


def test_a_file_that_is_no_library_is_named(tmp_path):
    file = tmp_path / "sctnet_kernels.so"
    file.write_bytes(b"nothing")
    with pytest.raises(sctnet.SctnetError, match="no library of sctnet's kernels"):
        Library(file)


def test_steps_have_the_librarys_fields():
    assert kinds.STEP.names == library().step_fields


def test_a_caller_chooses_who_computes():
    assert isinstance(segmenter_of("auto").runtime, CpuRuntime)
    assert isinstance(segmenter_of("native").runtime, CpuRuntime)
    assert isinstance(segmenter_of("torch").runtime, TorchRuntime)
    with pytest.raises(sctnet.SctnetError, match="kernels 'numba': choose one of auto, native"):
        segmenter_of("numba")


def test_what_is_not_there_cannot_be_asked_for(monkeypatch):
    monkeypatch.setattr(runtime, "has_cpu_kernels", lambda *_, **__: False)
    assert isinstance(segmenter_of("auto").runtime, TorchRuntime)
    with pytest.raises(sctnet.SctnetError, match="leave kernels out"):
        segmenter_of("native")


def test_kernels_that_differ_are_left_to_pytorch_with_a_warning(monkeypatch):
    network = CpuNetwork.__call__
    monkeypatch.setattr(CpuNetwork, "__call__", lambda self, x: network(self, x) * 1.01)
    with pytest.warns(RuntimeWarning, match=r"differ from PyTorch by 1 % .* please report"):
        segmenter = segmenter_of()
    assert isinstance(segmenter.runtime, TorchRuntime)


def test_kernels_that_give_nan_are_left_to_pytorch(monkeypatch):
    network = CpuNetwork.__call__
    monkeypatch.setattr(CpuNetwork, "__call__", lambda self, x: network(self, x) * torch.nan)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        assert isinstance(segmenter_of().runtime, TorchRuntime)


OPENED = """
import sys
import sctnet
sctnet.Segmenter("sctnet-s-camvid", "cpu")
print("torch._dynamo" in sys.modules)
"""


def test_a_model_is_opened_without_pytorchs_compiler():
    """To import it takes seconds."""
    assert in_a_process(OPENED).strip() == "False"


def test_a_library_of_other_sources_is_refused(monkeypatch):
    """After ``git pull`` an editable installation may still have the library of before."""
    monkeypatch.setattr(sys.modules[Library.__module__], "_INTERFACE", 1)
    with pytest.raises(SctnetError, match=r"from other sources .* install it again"):
        library.__wrapped__()


# What would reach beyond


def written():
    """Return steps of a 3x3 convolution, and what they are computed with."""
    kind = instruction_set()
    weights = Weights(kind.shape)
    writer = Writer(weights, threads=1)
    convolution = torch.nn.Conv2d(32, 19, 3, padding=1)
    source = writer.plane(9, 10, 32)
    target = writer.strided(convolution, source)
    writer.convolution("name", convolution, source, target)
    one_by_one = torch.nn.Conv2d(19, 7, 1)
    logits = writer.strided(one_by_one, target)
    writer.convolution("other", one_by_one, target, logits)
    program = writer.program(logits)
    memory = np.zeros(program.memory, np.float32)
    scratch = np.zeros((1, program.scratch), np.float32)
    return kind, program.steps, None, memory, program.offsets, weights.arrays(), scratch


def test_steps_stay_within_their_arrays():
    library().compute(*written())


@pytest.mark.parametrize("index", [2, 4])
@pytest.mark.parametrize(
    "change",
    [
        {"target": 1 << 20},
        {"target": -1},
        {"height": 4000},
        {"width": 1 << 50},
        {"channels": 4000},
        {"factors": 1 << 20},
        {"bias": 1 << 20},
        {"depth": 4000},
        {"pieces": 4000},
        {"panels": 0},
        {"shares": 0},
        {"panels_of_piece": 0},
        {"kind": 99},
        {"residual": 1 << 30},
        {"source_row": -5},
    ],
    ids=str,
)
def test_a_step_that_reaches_beyond_is_refused(index, change):
    kind, steps, *given = written()
    steps = steps.copy()
    assert steps[index]["kind"] in (kinds.CONVOLVE, kinds.WINOGRAD)
    for name, value in change.items():
        steps[index][name] = value
    with pytest.raises(ValueError, match=f"step {index} reaches beyond"):
        library().compute(kind, steps, *given)


@pytest.mark.parametrize("which", [3, 4, 6])
def test_arrays_that_are_too_short_are_refused(which):
    given = list(written())
    given[which] = given[which][..., : given[which].shape[-1] // 2].copy()
    if which == 4:
        given[which] = given[which][:0]
    with pytest.raises(ValueError, match="reaches beyond"):
        library().compute(*given)


# Errors of memory, and undefined behaviour


SANITISED = """
import numpy as np, torch
import sctnet
from sctnet.kernels.network import CpuNetwork, network, packing
from sctnet.kernels import cross_entropy, library
from sctnet.kernels.preprocessing import cpu_preprocessing
from sctnet.pipeline.label_map import label_map

def aligned(length, kind=np.float32):
    memory = np.empty(length, kind)  # of the allocator that watches what lies around it
    memory.view(np.uint8)[:] = 255
    return memory

packing.aligned = aligned
torch.manual_seed(0)
model = sctnet.create_model("sctnet-tiny", num_classes=5).eval().fuse()
for kind in library().instruction_sets:
    if not kind.offered:
        continue
    for short in sorted({False, kind.takes_pairs and kind.shape.lanes <= 8}):
        computed = CpuNetwork(model, (0.0,) * 3, (1.0,) * 3, short, kind)
        for height, width in [(1, 1), (5000, 1), (1, 5000), (33, 31), (97, 50), (128, 64)]:
            image = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
            found = []
            for threads in (1, 2, 3, 5):
                network._threads = lambda callers: threads
                found.append(computed(image))
            assert all(torch.equal(found[0], each) for each in found[1:]), (kind, height, width)
            assert found[0].isfinite().all()
torch.set_num_threads(2)
for size in [(1, 1), (8, 8), (500, 3), (64, 300)]:
    for classes in (1, 3, 19, 300):
        logits = torch.randn(2, classes, *size)
        for sizes in ([], [(33, 47)], [(1, 1)], [(400, 300), (90, 77)]):
            label_map(logits, *sizes)
            label_map(logits.bfloat16(), *sizes)
            label_map(logits.contiguous(memory_format=torch.channels_last), *sizes)
mean = std = torch.ones(1, 3, 1, 1)
for size in [(1, 1), (5000, 1), (1, 5000), (70, 90)]:
    picture = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    for wanted in [(1, 1), (33, 47), (200, 3)]:
        for antialias in (True, False):
            cpu_preprocessing(picture, wanted, antialias, mean, std)
for kind in library().instruction_sets:
    if not kind.offered:
        continue
    cross_entropy.instruction_set = lambda: kind
    for classes in (1, 8, 19, 40):
        for small, size in [((1, 1), (9, 7)), ((6, 5), (48, 41)), ((20, 3), (7, 300))]:
            logits = torch.randn(2, classes, *small, requires_grad=True)
            labels = torch.randint(0, classes, (2, *size))
            cross_entropy.cpu_cross_entropy(logits, labels, None, 255).backward()
print("nothing found")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the sanitisers are preloaded as Linux does it")
def test_sanitisers_find_nothing(tmp_path):
    """AddressSanitizer and UndefinedBehaviorSanitizer, with guard zones around every array."""
    offered = ";".join(kind.name for kind in library().instruction_sets if kind.offered)
    configure = ["cmake", "-S", str(SOURCES), "-B", str(tmp_path)]
    configure += ["-DSCTNET_SANITIZE=ON", f"-DSCTNET_LEVELS={offered}"]
    for command in (configure, ["cmake", "--build", str(tmp_path), "--parallel", "2"]):
        subprocess.run(command, check=True, capture_output=True)
    preload = [
        subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        )
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    ]
    found = in_a_process(
        SANITISED,
        LD_PRELOAD=" ".join(each.stdout.strip() for each in preload),
        ASAN_OPTIONS="detect_leaks=0",
        SCTNET_KERNELS_LIBRARY=str(tmp_path / "sctnet_kernels.so"),
    )
    assert found == "nothing found\n"


# Processors that are emulated

STATISTICS = (123.0, 116.0, 103.0), (58.0, 57.0, 56.0)


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64")),
    reason="no compiler for aarch64 or no emulator: apt install g++-aarch64-linux-gnu qemu-user",
)
def test_arm_computes_the_same(tmp_path):
    """A whole network, its steps written for NEON's vectors."""
    torch.manual_seed(0)
    model = sctnet.create_model("sctnet-tiny", num_classes=5).eval().fuse()
    weights = Weights(Shape(lanes=4, rows=12, panel=8))
    program = write_program(model, weights, 45, 70, STATISTICS, 2)
    terms, factors = weights.arrays()
    picture = torch.randint(0, 256, (1, 45, 70, 3), dtype=torch.uint8)
    arrays = program.steps, program.offsets, terms, factors, picture.numpy()
    sizes = [program.memory, len(program.offsets), terms.size, factors.size, program.scratch]
    sizes += [len(program.steps), picture.numel()]
    given, found = tmp_path / "given", tmp_path / "found"
    given.write_bytes(b"".join(each.tobytes() for each in (np.array(sizes), *arrays)))
    compiler = ["aarch64-linux-gnu-g++", "-std=gnu++17", "-O1", "-I", str(SOURCES), "-c"]
    parts = ["kernels.cpp", "library.cpp", "check.cpp", "threads.cpp"]
    files = [str(SOURCES / part) for part in parts] + [str(HERE / "computes_steps.cpp")]
    names = ["-DSCTNET_LEVEL=neon", "-DSCTNET_LEVELS=LEVEL(neon)"]
    subprocess.run([*compiler, *names, *files], cwd=tmp_path, check=True)
    objects = [str(path) for path in tmp_path.glob("*.o")]
    program_file = str(tmp_path / "program")
    subprocess.run([compiler[0], *objects, "-static", "-pthread", "-o", program_file], check=True)
    subprocess.run(["qemu-aarch64", program_file, str(given), str(found)], check=True)
    plane, memory = program.logits, np.fromfile(found, np.float32)
    rows = memory[plane.begin :][: plane.height * plane.row].reshape(plane.height, -1)
    logits = rows[:, : plane.width * plane.pixel].reshape(plane.shape)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in STATISTICS)
    with torch.inference_mode():
        expected = model.features((picture.permute(0, 3, 1, 2) - mean) / std).logits
    expected = expected[0].permute(1, 2, 0).numpy()
    assert np.abs(logits - expected).max() < 1e-5 * np.abs(expected).max()
