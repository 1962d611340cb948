"""What makes a long run fit, fast and robust changes nothing that it computes."""

import copy
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import written
from torch import nn

from sctnet.checkpoints.model_folder import ModelConfig
from sctnet.data.augmentation import AugmentationConfig, Sample
from sctnet.data.caching import CachedDataset
from sctnet.data.dataset import FileDataset
from sctnet.data.loading import StepSampler, TrainingStream, training_loader
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.errors import SctnetError
from sctnet.inference.predictor import Predictor
from sctnet.inference.runtimes.torch_runtime import TorchRuntime
from sctnet.models import create_model
from sctnet.pipeline.image_to_labels import ImageToLabels
from sctnet.pipeline.preprocessing import PreprocessingConfig, WorkingSize
from sctnet.training.dry_run import dry_run
from sctnet.training.recipe import Recipe, load_recipe
from sctnet.training.run_folder import read_metrics
from sctnet.training.trainer import train

CONFIG = AugmentationConfig(crop=(32, 40))
STREETS = SyntheticStreets(0, 7, (48, 64))


class CountedStreets(SyntheticStreets):
    """Counts how often a picture is decoded in this process."""

    decoded = 0

    def pair(self, index):
        self.decoded += 1
        return super().pair(index)


def batches(dataset, workers: int, skip_broken: bool = False, **options) -> list[Sample]:
    stream = TrainingStream(dataset, CONFIG, 5, skip_broken=skip_broken)
    return list(training_loader(stream, StepSampler(4, 5), workers, **options))


def same(one: Sample, other: Sample) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# The cache


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("gigabytes", [1.0, 30e-6])
def test_a_cache_changes_no_batch(workers: int, gigabytes: float) -> None:
    """The smaller one holds two pictures of seven."""
    plain, cached = STREETS, CachedDataset(STREETS, gigabytes)
    for one, other in zip(batches(plain, 0), batches(cached, workers), strict=True):
        assert same(one, other)


def test_a_cache_that_cannot_be_had_is_named() -> None:
    with pytest.raises(SctnetError, match=r"data\.cache_gigabytes: 1e\+06 GB of shared memory"):
        CachedDataset(STREETS, 1e6)


def test_a_dry_run_refuses_what_a_run_refuses() -> None:
    chosen = load_recipe("synthetic/sctnet-tiny", ["data.validation=[nowhere]"], source="synthetic")
    with pytest.raises(SctnetError, match="nowhere"):
        dry_run(chosen)


@pytest.mark.slow
def test_a_cached_picture_is_decoded_once_also_by_a_fork() -> None:
    # In a process without the threads that other tests' libraries leave, which a fork may not bear.
    code = "import test_scaling; test_scaling.decode_in_a_fork()"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True, timeout=60)


def decode_in_a_fork() -> None:
    streets = CountedStreets(0, 7, (48, 64))
    cached = CachedDataset(streets, 1.0)
    child = os.fork()
    if child == 0:
        for index in range(7):
            cached.pair(index)
        os._exit(0)
    os.waitpid(child, 0)
    for index in range(7):
        image, labels = cached.pair(index)
        expected = STREETS.pair(index)
        assert np.array_equal(image, expected[0])
        assert np.array_equal(labels, expected[1])
        assert not image.flags.writeable
    assert streets.decoded == 0, "the child had decoded them all"


# Broken files


@pytest.fixture
def files(tmp_path: Path) -> FileDataset:
    return written(STREETS, 5, tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_picture_of_the_epoch_takes_a_broken_ones_place(
    files: FileDataset, workers: int
) -> None:
    whole = TrainingStream(files, CONFIG, 5)
    order = [whole.picture_number(k) for k in range(20)]
    position = order.index(2)
    expected = [order[position + 1]] if position < 4 else []
    mask = files.files[2].mask
    mask.write_bytes(mask.read_bytes()[:60])
    told: list[tuple[int, str]] = []
    found = batches(
        files, workers, skip_broken=True, on_skip=lambda number, why: told.append((number, why))
    )
    assert len(found) == 5
    assert {number for number, _ in told} == {2}
    assert len(told) == order.count(2)
    assert all(str(mask) in why for _, why in told)
    stream = TrainingStream(files, CONFIG, 5, skip_broken=True)
    for number in expected:
        sample, skipped = stream.load(position)
        assert set(skipped) == {2}
        assert same(sample, whole.draw(position, number))
    with pytest.raises(SctnetError, match="2_mask"):
        batches(files, workers)


def test_no_picture_at_all_is_a_mistake(files: FileDataset) -> None:
    for item in files.files:
        item.image.unlink()
    with pytest.raises(SctnetError, match="not one picture can be read"):
        batches(files, 0, skip_broken=True)


SETTINGS = [
    "augmentation.crop=[48, 64]",
    "run.precision=fp32",
    "schedule.iterations=3",
    "schedule.warmup_iterations=0",
    "run.batch_size=2",
    "run.log_every=1",
    "run.validate_every=100",
    "run.checkpoint_every=1",
    "data.validation=[]",
    "data.workers=0",
]


def recipe(*settings: str) -> Recipe:
    return load_recipe("synthetic/sctnet-tiny", [*SETTINGS, *settings])


def test_a_skipped_picture_is_named_once_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    readable = SyntheticStreets.pair

    def pair(dataset: SyntheticStreets, index: int):
        if index != 7:
            raise SctnetError(f"street {index}: unreadable")
        return readable(dataset, index)

    monkeypatch.setattr(SyntheticStreets, "pair", pair)
    settings = ["data.skip_broken=true", "loss.class_weights=none", "schedule.iterations=1"]
    train(recipe(*settings), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(set(summary["skipped_pictures"])) == len(summary["skipped_pictures"]) > 100
    lines = [record.getMessage() for record in caplog.records]
    assert sum("street 9: unreadable" in line for line in lines) == 1


def test_a_full_disk_leaves_the_last_whole_checkpoint(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(record: dict[str, float]) -> None:
        if record["step"] == 2:  # the checkpoint of 1 is there; no file may pass 100 kB from now
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))

    try:
        with pytest.raises(SctnetError) as caught:
            train(recipe("loss.class_weights=none"), tmp_path, observe=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "last.ckpt: cannot be written" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["iteration"] == 1
    assert not list(tmp_path.glob("*.beside"))


# Memory and compilation


@pytest.mark.parametrize("variant", ["sctnet-tiny", "segformer-b0"])
def test_recomputed_stages_change_neither_losses_gradients_nor_statistics(variant: str) -> None:
    torch.manual_seed(0)
    plain = create_model(variant, 5)
    again = copy.deepcopy(plain)
    again.checkpoints_stages = True
    images = torch.randn(2, 3, 64, 96)
    held = []
    for model in (plain, again):
        seen = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal seen
            seen += tensor.numel()
            return tensor

        torch.manual_seed(1)  # of stochastic depth
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model.train().features(images).logits.square().mean().backward()
        held.append(seen)
    assert held[1] < held[0], "fewer values are held for the backward pass"
    for (name, one), other in zip(plain.named_parameters(), again.parameters(), strict=True):
        if one.grad is not None:
            assert torch.equal(one.grad, other.grad), name
    for name, value in plain.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


COMPILED = """
import sys, torch
from sctnet.training.recipe import load_recipe
from sctnet.training.trainer import train
from sctnet.checkpoints.model_folder import ModelConfig

calls = []

def compiled(function):  # traced and run as traced: the compiler's backend is PyTorch's affair
    calls.append(function)
    return torch._dynamo.optimize("eager")(function)

torch.compile = compiled
train(load_recipe("synthetic/sctnet-tiny", sys.argv[2:]), sys.argv[1])
assert len(calls) == 1
"""


@pytest.mark.slow
def test_a_compiled_run_has_the_losses_of_a_plain_one(tmp_path: Path) -> None:
    """In a process of its own: checked annotations cannot be traced."""
    settings = ["loss.class_weights=none", "schedule.iterations=2", "run.ema_decay=0.9"]
    train(recipe(*settings), tmp_path / "plain")
    more = [*SETTINGS, *settings, "run.compile=true"]
    command = [sys.executable, "-c", COMPILED, str(tmp_path / "compiled"), *more]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    runs = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("plain", "compiled")]
    assert [r["loss"] for r in runs[0]] == pytest.approx([r["loss"] for r in runs[1]], rel=1e-4)


# The rehearsal


def test_a_dry_run_measures_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    needs = dry_run(recipe("loss.class_weights=none"))
    assert needs.step_images_per_second > 0
    assert needs.loader_images_per_second is not None
    slowest = min(needs.step_images_per_second, needs.loader_images_per_second)
    assert needs.seconds == pytest.approx(3 * 2 / slowest)
    assert 0.05 < needs.peak_gigabytes < 100
    drawn = dry_run(recipe("data.source=null", "model.variant=sctnet-tiny"), 23)
    assert "23 classes" in str(drawn)
    assert "not measured without --data" in str(drawn)
    assert not list(tmp_path.iterdir())


# Several scales


class Mirror(nn.Module):
    """A network without a sense of left and right, which is unsure of nothing."""

    def features(self, images: torch.Tensor):
        logits = torch.stack([images[:, 0], images[:, 1], images[:, 2]], dim=1) * 3
        return type("Features", (), {"logits": nn.functional.avg_pool2d(logits, 4)})


PICTURES = torch.from_numpy(np.stack([STREETS.image(k) for k in range(2)])).permute(0, 3, 1, 2)


def averaged(network, pictures, classes, preparation=None, **options):
    """Label pictures, N x 3 x H x W, as a segmenter does."""
    config = ModelConfig(
        network=create_model("sctnet-tiny", classes).config,
        classes=tuple("abcde"[:classes]),
        preparation=preparation or PreprocessingConfig(),
    )
    runtime = TorchRuntime(create_model("sctnet-tiny", classes), config.preparation, "cpu")
    runtime.labeller.network = network
    predictor = Predictor(runtime, config, None, None, **options)
    images = [np.ascontiguousarray(image) for image in pictures.permute(0, 2, 3, 1).numpy()]
    return torch.from_numpy(np.stack(predictor.labels([predictor.plan(image) for image in images])))


def test_one_scale_without_flip_is_plain() -> None:
    network = create_model("sctnet-tiny", 5).eval()
    plain = ImageToLabels(network.fuse(), PreprocessingConfig())
    with torch.inference_mode():
        assert torch.equal(plain(PICTURES), averaged(network, PICTURES, 5))


def test_a_mirrored_picture_of_a_symmetric_network_changes_nothing() -> None:
    plain = averaged(Mirror(), PICTURES, 3)
    assert (plain == averaged(Mirror(), PICTURES, 3, flip=True)).float().mean() > 0.999
    network = create_model("sctnet-tiny", 5).eval()
    labels, mirrored = (
        averaged(network, pictures, 5, scales=(0.5, 1.0), flip=True)
        for pictures in (PICTURES, PICTURES.flip(3))
    )
    assert (labels == mirrored.flip(2)).float().mean() > 0.999


def test_scales_average_probabilities_at_the_pictures_size() -> None:
    """Against the definition, written out."""
    network = create_model("sctnet-tiny", 5).eval()
    preparation = PreprocessingConfig(working_size=WorkingSize(rule="shorter-side", pixels=64))
    found = averaged(network, PICTURES, 5, preparation, scales=(0.75, 1.5))
    with torch.inference_mode():
        total = torch.zeros(2, 5, 48, 64)
        for height, width in ((48, 64), (96, 128)):
            pixels = nn.functional.interpolate(
                PICTURES.float(), (height, width), mode="bilinear", antialias=True
            )
            mean, std = (
                torch.tensor(values)[:, None, None]
                for values in (preparation.mean, preparation.std)
            )
            logits = network.features((pixels - mean) / std).logits
            for size in ((height, width), (48, 64)):
                logits = nn.functional.interpolate(logits, size, mode="bilinear")
            total += logits.softmax(1)
    assert (found == total.argmax(1)).float().mean() > 0.999
