"""A teacher that is asked once: what is kept, what is refused, and what no accident may spoil."""

import errno
import logging
import math
import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import sctnet
from sctnet.data.augmentation import ViewedSample
from sctnet.data.loading import StepSampler, training_loader
from sctnet.data.registry import open_dataset
from sctnet.errors import SctnetError
from sctnet.models.segformer import SegFormer, SegFormerConfig
from sctnet.training.dry_run import dry_run
from sctnet.training.recipe import SegmentationRecipe, load_recipe
from sctnet.training.run_folder import read_metrics
from sctnet.training.segmentation_task import open_segmentation
from sctnet.training.teacher_cache import FILE, TeacherCache
from sctnet.training.teachers import ForeignTeacher, NetworkTeacher
from sctnet.training.trainer import train

ABOUT = {"data set": "streets", "augmentation": "crops", "teacher": "large"}
PAGE = 4096
FORK = multiprocessing.get_context("fork")


def drawn(view: int) -> tuple[Tensor, Tensor]:
    """Return what the teacher says about a view: a map, and a vector that is large."""
    generator = torch.Generator().manual_seed(view)
    return (
        torch.randn(5, 4, 6, generator=generator),
        torch.randn(7, generator=generator) * 1e6,
    )


class Teacher:
    """Answers about views, and counts them."""

    def __init__(self, views: Sequence[int]) -> None:
        self.views = views
        self.asked: list[int] = []

    def __call__(self, rows: Tensor) -> tuple[Tensor, ...]:
        chosen = [self.views[row] for row in rows.tolist()]
        self.asked += chosen
        maps, vectors = zip(*map(drawn, chosen), strict=True)
        in_layout = torch.stack(maps).contiguous(memory_format=torch.channels_last)
        return in_layout, torch.stack(vectors)


def ask(cache: TeacherCache, *views: int) -> list[int]:
    """Ask about views, check the answers, and return the views that the teacher was asked about."""
    teacher = Teacher(views)
    numbers = torch.tensor(views)
    maps, vectors = cache.encoded(numbers, numbers + 1000, teacher)
    for row, view in enumerate(views):
        expected_map, expected_vector = drawn(view)
        assert torch.equal(maps[row], expected_map.half().float())
        assert torch.equal(vectors[row], expected_vector)
    assert maps.is_contiguous(memory_format=torch.channels_last)
    return teacher.asked


def opened(folder: Path, views: int = 8, gigabytes: float = 1.0, **about: str) -> TeacherCache:
    return TeacherCache(folder / FILE, views, gigabytes, {**ABOUT, **about})


def test_a_view_is_asked_about_once(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    assert not (tmp_path / FILE).exists()
    assert ask(cache, 3, 1) == [3, 1]
    assert ask(cache, 1, 2, 3) == [2]
    assert ask(opened(tmp_path), 2, 1, 3, 0) == [0]


def test_the_file_is_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = opened(tmp_path, gigabytes=3 * PAGE / 1e9)
    assert ask(cache, *range(8)) == list(range(8))
    assert ask(cache, *range(8)) == [3, 4, 5, 6, 7]
    assert (tmp_path / FILE).stat().st_size <= 5 * PAGE
    assert "3 of 8 views fit" in caplog.text
    assert ask(opened(tmp_path), *range(8)) == [3, 4, 5, 6, 7]  # a larger bound goes on


def test_values_beyond_float16_are_cut(tmp_path: Path) -> None:
    views = torch.tensor([0])
    (found,) = opened(tmp_path).encoded(views, views, lambda _: (torch.full((1, 1, 1, 1), 1e9),))
    assert float(found) == 65504


@pytest.mark.parametrize("place", [PAGE + 4, 2 * PAGE, 2 * PAGE + 300])
def test_a_damaged_record_is_asked_about_again(place: int, tmp_path: Path) -> None:
    """One byte of the table or of the record of view 0."""
    ask(opened(tmp_path), 0, 1)
    data = bytearray((tmp_path / FILE).read_bytes())
    data[place] ^= 1
    (tmp_path / FILE).write_bytes(data)
    assert ask(opened(tmp_path), 0, 1) == [0]


@pytest.mark.parametrize("changed", ABOUT)
def test_a_file_for_something_else_is_refused(changed: str, tmp_path: Path) -> None:
    ask(opened(tmp_path), 0)
    with pytest.raises(SctnetError, match=f"holds answers for another {changed}; delete it"):
        opened(tmp_path, **{changed: "new"})
    with pytest.raises(SctnetError, match="another views"):
        opened(tmp_path, views=9)
    assert ask(opened(tmp_path), 0) == []


def test_a_changed_crop_is_refused(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    ask(cache, 0, 5)
    with pytest.raises(SctnetError, match="view 5 was another crop") as caught:
        cache.encoded(torch.tensor([5]), torch.tensor([7]), Teacher([5]))
    assert str(tmp_path / FILE) in str(caught.value)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("[1, 2]")
    with pytest.raises(SctnetError, match="not a file of a teacher's answers"):
        opened(tmp_path)


def test_a_full_disk_ends_the_keeping_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = opened(tmp_path)
    assert ask(cache, 0, 1) == [0, 1]
    whole, left = os.pwrite, [PAGE + 8 + 100]

    def pwrite(stream: int, data: memoryview, offset: int) -> int:
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = whole(stream, data[: left[0]], offset)
        left[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", pwrite)
    with caplog.at_level(logging.WARNING):
        assert ask(cache, 2, 3, 4) == [2, 3, 4]
        assert ask(cache, 1, 2, 3, 4) == [3, 4]
    assert caplog.text.count("No space left on device") == 1
    monkeypatch.undo()
    assert ask(opened(tmp_path), *range(5)) == [3, 4]


def fill(folder: Path, told: Connection, first: int, last: int) -> None:
    """Ask about four views after four others, in a process of its own."""
    cache = opened(folder, views=last)
    for view in range(first, last, 4):
        ask(cache, *range(view, view + 4))
        told.send(view)


def filling(folder: Path, first: int, last: int) -> tuple[BaseProcess, Connection]:
    told, telling = FORK.Pipe(duplex=False)
    process = FORK.Process(target=fill, args=(folder, telling, first, last))
    process.start()
    return process, told


def test_a_process_killed_while_filling_leaves_what_it_kept(tmp_path: Path) -> None:
    process, told = filling(tmp_path, 0, 4000)
    while told.recv() < 40:
        pass
    process.kill()
    process.join()
    cache = opened(tmp_path, views=4000)
    assert ask(cache, *range(44)) == []
    asked = ask(cache, *range(4000))
    assert asked == list(range(asked[0], 4000))


def test_two_processes_fill_one_file(tmp_path: Path) -> None:
    processes = [filling(tmp_path, 100, 500)[0] for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert ask(opened(tmp_path, views=500), *range(100, 500)) == []


# Whole runs

CLASSES = open_dataset("synthetic", ["train"]).classes
SETTINGS = [
    "augmentation.crop=[48, 64]",
    "schedule.iterations=6",
    "schedule.warmup_iterations=0",
    "run.batch_size=4",
    "run.log_every=1",
    "run.checkpoint_every=2",
    "data.validation=[]",
    "data.workers=0",
    "loss.class_weights=none",
]


class FewPictures(NetworkTeacher):
    """A teacher that counts the pictures that it looks at."""

    looked_at = 0

    def encode(self, images: Tensor, student: tuple[int, int]) -> tuple[Tensor, ...]:
        self.looked_at += len(images)
        return super().encode(images, student)


def small_teacher(seed: int = 0) -> FewPictures:
    torch.manual_seed(seed)
    config = SegFormerConfig(
        variant="segformer-b0",
        num_classes=len(CLASSES),
        widths=(8, 16, 40, 64),
        depths=(1, 1, 1, 1),
        decoder_channels=16,
    )
    return FewPictures(SegFormer(config), CLASSES)


def recipe(*settings: str, cache: str = "{views: 2}") -> SegmentationRecipe:
    alignment = f"alignment={{teacher: given, cache: {cache}}}"
    chosen = load_recipe("synthetic/sctnet-tiny", [*SETTINGS, alignment, *settings])
    assert isinstance(chosen, SegmentationRecipe)
    return chosen


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four alone, so that six steps of four crops see the two views of each three times."""
    from sctnet.data.synthetic.streets import SyntheticStreets

    monkeypatch.setattr(SyntheticStreets, "__len__", lambda _: 4)


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_run_asks_about_each_view_once(tmp_path: Path) -> None:
    teacher = small_teacher()
    train(recipe(), tmp_path / "first", teacher=teacher)
    assert teacher.looked_at == 4 * 2
    # With room for nothing it is asked each time, and answers the same.
    other = small_teacher()
    train(recipe(cache="{views: 2, gigabytes: 1.0e-9}"), tmp_path / "asked", teacher=other)
    assert other.looked_at == 6 * 4
    first, asked = (tensors(tmp_path / name) for name in ("first", "asked"))
    assert all(torch.equal(value, asked[key]) for key, value in first.items())


def test_a_run_in_parts_and_bf16(tmp_path: Path) -> None:
    teacher = small_teacher()
    settings = ["run.accumulate=2", "run.precision=bf16", "schedule.iterations=3"]
    train(recipe(*settings, cache="{views: 1}"), tmp_path, teacher=teacher)
    assert teacher.looked_at == 4
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert all(math.isfinite(value) for record in records for value in record.values())


def test_a_foreign_teacher_is_asked_once(tmp_path: Path) -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 12, 3, 16, padding=1),
        torch.nn.Conv2d(12, 20, 3, 2, padding=1),
        torch.nn.Conv2d(20, len(CLASSES), 1),
    )
    looked_at = []
    network.register_forward_hook(lambda _module, _inputs, output: looked_at.append(len(output)))
    teacher = ForeignTeacher(network, CLASSES, stage3="0", stage4="1")
    chosen = recipe("alignment.decoder=0", "alignment.shared_head=false", cache="{views: 1}")
    train(chosen, tmp_path, teacher=teacher)
    assert sum(looked_at) == 1 + 4  # one to measure its widths


def test_runs_share_a_folder(tmp_path: Path) -> None:
    cache = f"{{views: 2, folder: {tmp_path}}}"
    train(recipe(cache=cache), tmp_path / "one", teacher=small_teacher())
    teacher = small_teacher()
    train(recipe("optimizer.rate=1e-3", cache=cache), tmp_path / "two", teacher=teacher)
    assert teacher.looked_at == 0


def test_a_run_with_kept_answers_is_resumed_exactly(tmp_path: Path) -> None:
    def crash(record: dict[str, float]) -> None:
        if record["step"] == 5:
            raise InterruptedError

    train(recipe(), tmp_path / "whole", teacher=small_teacher())
    with pytest.raises(InterruptedError):
        train(recipe(), tmp_path / "crashed", teacher=small_teacher(), observe=crash)
    teacher = small_teacher()
    larger = recipe(cache="{views: 2, gigabytes: 30}")  # which a resume may change
    train(larger, tmp_path / "crashed", teacher=teacher, resume=True)
    assert teacher.looked_at == 0
    whole, crashed = (tensors(tmp_path / name) for name in ("whole", "crashed"))
    assert all(torch.equal(value, crashed[key]) for key, value in whole.items())


@pytest.mark.parametrize(
    ("settings", "seed", "named"),
    [
        ([], 1, "another teacher"),
        (["augmentation.flip=0.25"], 0, "another augmentation"),
        (["data.train=[val]"], 0, "another data set"),
        (["run.seed=3"], 0, "another seed"),
    ],
)
def test_what_has_changed_is_said(
    settings: list[str], seed: int, named: str, tmp_path: Path
) -> None:
    cache = f"{{views: 2, folder: {tmp_path}}}"
    train(recipe("schedule.iterations=1", cache=cache), tmp_path / "one", teacher=small_teacher())
    with pytest.raises(SctnetError, match=named) as caught:
        train(recipe(*settings, cache=cache), tmp_path / "two", teacher=small_teacher(seed))
    assert "\n" not in str(caught.value)


def test_a_rehearsal_keeps_nothing(tmp_path: Path) -> None:
    dry_run(recipe(cache=f"{{folder: {tmp_path}}}"), teacher=small_teacher())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["segformer", "sctnet"])
def test_losses_and_gradients_are_those_without_the_cache(kind: str, tmp_path: Path) -> None:
    """Of the same views, to the rounding of float16 (2^-11 a value, which a sum averages)."""
    chosen = recipe()
    task = open_segmentation(chosen, folder=tmp_path)
    torch.manual_seed(1)
    teacher = small_teacher()
    if kind == "sctnet":
        network = sctnet.create_model("tiny", len(CLASSES), base_channels=16)
        teacher = FewPictures(network, CLASSES)
    model, _ = task.build(from_start=False)
    criterion = task.criterion(model, teacher).eval()
    assert criterion.alignment is not None
    cache = criterion.alignment.cache
    batch = next(iter(training_loader(task.stream(), StepSampler(4, 1), 0)))
    assert isinstance(batch, ViewedSample)
    losses, gradients = [], []
    for kept in (None, cache, cache):
        criterion.alignment.cache = kept
        found = criterion(batch, criterion.count(batch).float())
        losses.append({name: float(value.detach()) for name, value in found.items()})
        parameters = [p for p in model.stage3.parameters() if p.requires_grad]
        gradients.append(torch.autograd.grad(found["loss"], parameters, allow_unused=True))
    assert teacher.looked_at == 8
    assert losses[1] == losses[2]
    for name, value in losses[0].items():
        assert losses[1][name] == pytest.approx(value, rel=1e-3), name
    for exact, rounded in zip(gradients[0], gradients[1], strict=True):
        assert float((exact - rounded).norm() / exact.norm()) < 5e-3
    assert all(math.isfinite(value) for value in losses[1].values())


def test_views_return_with_their_epochs() -> None:
    stream = open_segmentation(recipe()).stream()
    epochs = [
        {int(sample.view): sample for sample in map(stream.__getitem__, range(4 * e, 4 * e + 4))}
        for e in range(3)
    ]
    assert set(epochs[0]) == {0, 1, 2, 3}
    assert set(epochs[1]) == {4, 5, 6, 7}
    for view, sample in epochs[0].items():
        assert torch.equal(epochs[2][view].image, sample.image)
        assert torch.equal(epochs[2][view].labels, sample.labels)
        assert epochs[2][view].checksum == sample.checksum != epochs[1][view + 4].checksum
