"""The last step: equal to resizing and argmax in PyTorch, whatever the sizes, types and threads."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import sctnet
from sctnet.checkpoints.model_folder import ModelConfig
from sctnet.errors import SctnetError
from sctnet.kernels import library
from sctnet.pipeline import argmax_cuda as gathered
from sctnet.pipeline import argmax_torch as planes
from sctnet.pipeline.argmax_torch import resize_logits, torch_label_map
from sctnet.pipeline.label_map import label_map, label_map_method

SIDES = st.integers(1, 300)
SIZES = st.lists(st.tuples(SIDES, SIDES), min_size=0, max_size=3)
LAYOUTS = {"planar": torch.contiguous_format, "channels last": torch.channels_last}
TYPES = {torch.float32: 2**-24, torch.bfloat16: 2**-9, torch.float16: 2**-12}


def smooth_logits(shape, seed, integers=False):
    """Logits with regions, as a trained network gives them, or whole numbers with many ties."""
    generator = torch.Generator().manual_seed(seed)
    if integers:
        return torch.randint(-3, 4, shape, generator=generator).float()
    number, classes, height, width = shape
    coarse = torch.randn(number, classes, height // 4 + 1, width // 4 + 1, generator=generator)
    return 5 * F.interpolate(coarse, (height, width), mode="bilinear")


def assert_labels_win(labels, logits, sizes):
    """Labels are the argmax of the resized logits wherever that is beyond rounding."""
    planes = resize_logits(logits.float().contiguous(), tuple(sizes))
    assert labels.shape == (len(logits), *planes.shape[2:])
    # How far from the largest a label's logit may be: what two resizes can err in float32.
    lost = planes.amax(1) - planes.gather(1, labels.long()[:, None])[:, 0]
    assert (lost <= 2e-6 * logits.float().abs().amax()).all()
    ties = planes.topk(min(2, planes.shape[1]), dim=1).values
    clear = ties[:, 0] - ties[:, -1] > 2e-6 * logits.float().abs().amax()
    if planes.shape[1] > 1:
        assert torch.equal(labels.long()[clear], planes.argmax(1)[clear])


def test_the_library_is_what_makes_label_maps_here():
    assert label_map_method() == label_map_method(torch.device("cpu")) == "cpu"
    assert label_map_method("meta") == "torch"


@given(
    number=st.integers(1, 2),
    classes=st.one_of(st.integers(1, 12), st.sampled_from([19, 150, 255, 256, 300])),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    sizes=SIZES,
    kind=st.sampled_from(list(TYPES)),
    layout=st.sampled_from(list(LAYOUTS)),
    integers=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=80)
def test_label_maps_are_those_of_resizing_and_argmax(
    number, classes, height, width, sizes, kind, layout, integers, seed
):
    if classes > 100:
        sizes = [(min(h, 60), min(w, 60)) for h, w in sizes]
    logits = smooth_logits((number, classes, height, width), seed, integers)
    logits = logits.to(kind).contiguous(memory_format=LAYOUTS[layout])
    labels = label_map(logits, *sizes)
    assert labels.dtype == (torch.uint8 if classes <= 255 else torch.uint16)
    assert_labels_win(labels, logits, sizes)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((1, 19, 32, 64), [(256, 512)]),
        ((1, 11, 45, 60), [(360, 480)]),
        ((2, 5, 23, 31), [(180, 241)]),
        ((1, 11, 23, 31), [(184, 248), (360, 640)]),
        ((1, 7, 45, 60), [(360, 480), (97, 131)]),
        ((1, 7, 60, 45), [(33, 200), (300, 170)]),
    ],
    ids=["stride 8", "CamVid", "odd", "two", "smaller again", "smaller first"],
)
def test_label_maps_of_regions_are_equal_to_the_last_pixel(shape, sizes):
    logits = smooth_logits(shape, seed=1)
    planes = resize_logits(logits, tuple(sizes))
    assert len(planes.argmax(1).unique()) == shape[1]
    assert torch.equal(label_map(logits, *sizes).long(), planes.argmax(1))


def test_of_equal_logits_the_lowest_class_wins():
    logits = smooth_logits((1, 3, 9, 12), seed=0)
    doubled = torch.cat([logits, logits.flip(1), logits], dim=1)
    labels = label_map(doubled, (72, 96))
    assert torch.equal(labels, torch.minimum(label_map(logits, (72, 96)), labels))
    assert labels.max() < 3
    assert not label_map(torch.zeros(1, 9, 5, 7), (40, 56)).any()


@given(
    seed=st.integers(0, 100),
    bounds=st.tuples(*[st.integers(0, 90)] * 4),
    then=st.sampled_from([(), ((90, 121),), ((150, 70),)]),
)
@settings(deadline=None, max_examples=40)
def test_a_part_is_cut_out_of_the_whole(seed, bounds, then):
    logits = smooth_logits((2, 6, 12, 15), seed)
    sizes = ((96, 120), *then)
    height, width = sizes[-1]
    top, left = min(bounds[0], height - 1), min(bounds[1], width - 1)
    rows = slice(top, min(height, top + 1 + bounds[2]))
    columns = slice(left, min(width, left + 1 + bounds[3]))
    whole = label_map(logits, *sizes)
    part = label_map(logits, *sizes, rows=rows, columns=columns)
    assert torch.equal(part, whole[:, rows, columns])
    planar = torch_label_map(logits, sizes, rows, columns)
    assert (planar == part).float().mean() > 0.99


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", list(TYPES))
@pytest.mark.parametrize("method", ["cpu", "torch"])
def test_logits_that_are_not_finite_are_refused(value, kind, method, monkeypatch):
    monkeypatch.setattr(label_maps_module(), "label_map_method", lambda _: method)
    for place in [(0, 0, 0, 0), (1, 2, 3, 5), (1, 4, 11, 8)]:
        logits = smooth_logits((2, 5, 12, 9), seed=0).to(kind)
        logits[place] = value
        with pytest.raises(SctnetError, match=r"not finite .* try fp32"):
            label_map(logits, (96, 72))


def label_maps_module():
    return sys.modules["sctnet.pipeline.label_map"]


def test_the_largest_numbers_are_numbers():
    logits = torch.tensor([-3.4e38, 3.4e38]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4)
    assert label_map(logits, (32, 32)).unique().tolist() == [1]
    assert label_map(logits.flip(1), (32, 32)).unique().tolist() == [0]


@pytest.mark.parametrize(
    ("shape", "size"), [((1, 0, 4, 4), (8, 8)), ((1, 2, 0, 4), (8, 8)), ((1, 2, 4, 4), (0, 8))]
)
def test_what_has_no_labels_is_refused(shape, size):
    with pytest.raises(SctnetError, match="cannot be resized"):
        label_map(torch.zeros(shape), size)
    assert label_map(torch.zeros(0, 2, 4, 4), (8, 8)).shape == (0, 8, 8)


# Threads and processes


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("two_threads")
def test_many_threads_at_once_get_what_one_gets():
    logits = [smooth_logits((1, 5, 8 + n, 10), seed=n) for n in range(8)]
    large = [smooth_logits((2, 5, 40, 50 + n), seed=n) for n in range(8)]
    expected = [label_map(each, (64, 80)) for each in logits]
    expected_large = [label_map(each, (320, 401)) for each in large]

    def work(number):
        for _ in range(400):
            assert torch.equal(label_map(logits[number], (64, 80)), expected[number])
        for _ in range(20):
            assert torch.equal(label_map(large[number], (320, 401)), expected_large[number])
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


@pytest.mark.usefixtures("two_threads")
def test_a_mistake_in_a_helper_reaches_the_caller():
    logits = smooth_logits((1, 5, 60, 60), seed=0)
    logits[0, 0, -1, -1] = float("nan")
    for _ in range(20):
        with pytest.raises(SctnetError, match="not finite"):
            label_map(logits, (480, 480))


def in_a_process(script, **environment):
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


FORKED = """
import multiprocessing, torch
from sctnet.pipeline.label_map import label_map

torch.set_num_threads(2)
logits = torch.randn(1, 5, 60, 60, generator=torch.Generator().manual_seed(0))
expected = label_map(logits, (480, 480))

def child(results):
    results.put(torch.equal(label_map(logits, (480, 480)), expected))

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=child, args=(results,))
    process.start()
    print(results.get(timeout=60))
    process.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks are Linux's")
def test_a_forked_process_has_threads_of_its_own():
    assert in_a_process(FORKED).strip() == "True"


WITHOUT_LIBRARY = """
import torch
from sctnet.pipeline.label_map import label_map, label_map_method
logits = torch.randn(1, 300, 6, 8, generator=torch.Generator().manual_seed(0))
labels = label_map(logits, (48, 64))
print(label_map_method(), labels.dtype, labels.long().sum().item())
"""


def test_without_a_library_pytorch_makes_the_label_map():
    logits = torch.randn(1, 300, 6, 8, generator=torch.Generator().manual_seed(0))
    total = label_map(logits, (48, 64)).long().sum().item()
    found = in_a_process(WITHOUT_LIBRARY, SCTNET_KERNELS="torch").split()
    assert found == ["torch", "torch.uint16", str(total)]


LAST_THREAD = """
import threading, time, torch
from sctnet.pipeline.label_map import label_map

def late():
    time.sleep(0.5)
    logits = torch.ones(1, 2, 64, 128)
    logits[:, 1] = 2
    print(label_map(logits, (512, 1024)).sum().item())

torch.set_num_threads(2)
threading.Thread(target=late).start()
"""


def test_the_first_label_map_may_come_when_the_main_thread_has_ended():
    assert in_a_process(LAST_THREAD) == f"{512 * 1024}\n"


@pytest.mark.parametrize(
    "kind",
    [kind for kind in library().instruction_sets if kind.offered],
    ids=lambda kind: kind.name,
)
def test_the_exponential_of_kernels_is_within_its_bound(kind):
    powers = np.append(np.float32(0), -np.geomspace(1e-8, 80, 5000).astype(np.float32))
    found = library().exponentials(kind, powers)
    expected = np.exp(powers.astype(np.float64))
    assert np.abs(found / expected - 1).max() < 80 * 2**-24, "as the power itself is rounded"
    assert np.abs(found - expected).max() < 2e-7
    assert library().exponentials(kind, np.float32([-3e38, np.nan])).max() < 2e-38


# Other forms


@given(
    classes=st.sampled_from([1, 3, 19, 300]),
    sizes=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=2),
    kind=st.sampled_from(list(TYPES)),
    seed=st.integers(0, 100),
)
@settings(deadline=None, max_examples=40)
def test_what_a_gpu_gathers_is_the_label_map(classes, sizes, kind, seed):
    logits = smooth_logits((2, classes, 7, 9), seed).to(kind)
    down, across = gathered_taps(logits, sizes)
    labels = gathered.gathered_argmax(logits, down, across)
    assert labels.dtype == (torch.uint8 if classes <= 255 else torch.uint16)
    assert_labels_win(labels, logits, sizes)


def gathered_taps(logits, sizes):
    height, width = logits.shape[2:]
    return (
        planes.weights_on((height, *(h for h, _ in sizes)), 0, sizes[-1][0], logits.device),
        planes.weights_on((width, *(w for _, w in sizes)), 0, sizes[-1][1], logits.device),
    )


def test_a_gpu_without_a_compiler_takes_class_after_class(monkeypatch):
    def no_compiler():
        raise RuntimeError("no compiler")

    monkeypatch.setattr(gathered, "_compiles", True)
    monkeypatch.setattr(gathered, "_compiled", no_compiler)
    logits = smooth_logits((1, 5, 7, 9), seed=0)
    for _ in range(2):
        labels = gathered.cuda_label_map(logits, ((56, 72),), slice(0, 56), slice(8, 72))
        assert torch.equal(labels, label_map(logits, (56, 72), columns=slice(8, 72)))
        assert not gathered._compiles


COMPILED = """
import torch
from sctnet.pipeline import argmax_cuda as gathered
from sctnet.pipeline import argmax_torch as planes
from sctnet.pipeline.label_map import label_map
logits = torch.randn(1, 19, 7, 9, generator=torch.Generator().manual_seed(0))
for sizes in ([(56, 72)], [(56, 72), (70, 61)], [(60, 80)]):
    down = planes.weights_on((7, *(h for h, _ in sizes)), 0, sizes[-1][0], logits.device)
    across = planes.weights_on((9, *(w for _, w in sizes)), 0, sizes[-1][1], logits.device)
    labels = gathered._compiled()(logits, down, across)
    print((labels == label_map(logits, *sizes)).all().item(), labels.dtype)
"""


@pytest.mark.slow
def test_the_gathering_compiles():
    assert in_a_process(COMPILED).split() == ["True", "torch.uint8"] * 3


def test_an_exported_graph_holds_the_label_map():
    class Step(torch.nn.Module):
        def forward(self, logits):
            return label_map(logits, (40, 56))

    logits = smooth_logits((1, 4, 5, 7), seed=0)
    exported = torch.export.export(Step(), (logits,)).module()
    assert torch.equal(exported(logits), label_map(logits, (40, 56)))


def test_a_network_that_overflows_is_refused():
    model = sctnet.create_model("sctnet-tiny", num_classes=3)
    torch.nn.init.constant_(model.head.classifier.bias, float("inf"))
    config = ModelConfig(network=model.config, classes=("a", "b", "c"))
    segmenter = sctnet.Segmenter.from_model(model, config, device="cpu")
    with pytest.raises(SctnetError, match="not finite"):
        segmenter(torch.zeros(40, 56, 3, dtype=torch.uint8).numpy())


MEMORY = """
import numpy as np, sctnet
from sctnet.checkpoints.model_folder import ModelConfig

def kilobytes(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key))

model = sctnet.create_model("sctnet-s", num_classes=19)
config = ModelConfig(network=model.config, classes=tuple(map(str, range(19))))
segmenter = sctnet.Segmenter.from_model(model, config, "cpu")
picture = np.random.default_rng(0).integers(0, 256, (1024, 2048, 3), np.uint8)
before = kilobytes("VmRSS")
segmenter(picture)
print((kilobytes("VmHWM") - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read as Linux tells it")
def test_a_large_picture_needs_little_memory():
    assert int(in_a_process(MEMORY)) < 400, "megabytes beside the loaded model"
