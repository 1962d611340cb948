"""A taught run: what reaches the student, what stays with the teacher, and what is refused."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import sctnet
from sctnet.checkpoints.backbone import save_backbone
from sctnet.checkpoints.model_folder import save_model
from sctnet.data.augmentation import Sample
from sctnet.data.registry import open_dataset
from sctnet.errors import SctnetError
from sctnet.models import SCTNet
from sctnet.models.segformer import SegFormer, SegFormerConfig
from sctnet.pipeline.preprocessing import PreprocessingConfig
from sctnet.training.alignment import Alignment
from sctnet.training.optim import build_optimizer
from sctnet.training.projections import fit_projection
from sctnet.training.recipe import (
    AlignmentRecipe,
    LossRecipe,
    OptimizerRecipe,
    Recipe,
    load_recipe,
)
from sctnet.training.run_folder import read_metrics
from sctnet.training.segmentation_criterion import SegmentationCriterion
from sctnet.training.teachers import ForeignTeacher, NetworkTeacher, load_teacher
from sctnet.training.trainer import train

CLASSES = open_dataset("synthetic", ["train"]).classes
TERMS = ("logits", "decoder", "stage4", "stage3")
SETTINGS = [
    "augmentation.crop=[48, 64]",
    "run.precision=fp32",
    "schedule.iterations=4",
    "schedule.warmup_iterations=0",
    "run.batch_size=2",
    "run.log_every=1",
    "run.checkpoint_every=2",
    "data.validation=[]",
    "data.workers=0",
    "loss.class_weights=none",
]


def small_network(classes: int = len(CLASSES)) -> SegFormer:
    torch.manual_seed(0)
    return SegFormer(
        SegFormerConfig(
            variant="segformer-b0",
            num_classes=classes,
            widths=(8, 16, 40, 64),
            depths=(1, 1, 1, 1),
            decoder_channels=16,
        )
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(small_network(), tmp_path_factory.mktemp("teacher") / "small", CLASSES)


def recipe(*settings: str) -> Recipe:
    return load_recipe("synthetic/sctnet-tiny", [*SETTINGS, *settings])


def pair(**options: object) -> tuple[SCTNet, Alignment]:
    torch.manual_seed(1)
    model = sctnet.create_model("tiny", len(CLASSES), drop_path=0)
    chosen = AlignmentRecipe(teacher="small", **options)
    return model, Alignment(chosen, NetworkTeacher(small_network(), CLASSES), model.widths)


def batch() -> Sample:
    images = torch.randint(0, 256, (2, 3, 48, 64)).to(torch.uint8)
    labels = torch.randint(0, len(CLASSES), (2, 48, 64)).to(torch.uint8)
    return Sample(images, labels, torch.tensor([[48, 64]] * 2))


def task_of(model: SCTNet, alignment: Alignment) -> SegmentationCriterion:
    return SegmentationCriterion(
        model, PreprocessingConfig(), LossRecipe(), None, alignment
    ).train()


# What the gradient reaches

REACHED = {
    # (term, shared head): parts of the student that must learn from it
    ("stage3", True): ("stem", "stage3"),
    ("stage4", True): ("stem", "stage3", "stage4"),
    ("decoder", True): ("stage2", "stage3", "stage4", "dappm"),
    ("logits", True): ("stage2", "stage3", "stage4", "dappm"),
    ("decoder", False): ("stage2", "stage3", "stage4", "dappm", "head.conv"),
    ("logits", False): ("stage2", "stage3", "stage4", "dappm", "head.conv", "head.classifier"),
}


@pytest.mark.parametrize("loss", ["cwd", "kl", "l2", "vid"])
@pytest.mark.parametrize(("term", "shared"), REACHED)
def test_every_term_reaches_the_student(term: str, shared: bool, loss: str) -> None:
    weights = {name: float(name == term) for name in TERMS}
    model, alignment = pair(**weights, loss=loss, shared_head=shared)
    images = torch.randn(2, 3, 64, 96)
    terms = alignment(images, model.features(images))
    assert list(terms) == [term]
    terms[term].backward()
    for part in REACHED[term, shared]:
        gradients = [p.grad for p in model.get_submodule(part).parameters()]
        assert any(g is not None and bool(g.any()) for g in gradients), part
    assert all(p.grad is not None for p in alignment.learned_parameters())
    assert all(p.grad is None for p in alignment.teacher.parameters())


def test_all_terms_together_are_weighed() -> None:
    model, alignment = pair(logits=3, decoder=10, stage4=0.5, stage3=2)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features = model.features(images)
        terms, weighted = alignment(images, features), alignment.weighted(images, features)
    expected = {"logits": 3, "decoder": 10, "stage4": 0.5, "stage3": 2}
    assert set(terms) == set(TERMS)
    for name, weight in expected.items():
        assert float(weighted[name]) == pytest.approx(weight * float(terms[name]))


# What a step changes


def test_a_step_changes_the_student_and_nothing_of_the_teacher() -> None:
    model, alignment = pair()
    task = task_of(model, alignment)
    optimizer = build_optimizer(
        model, OptimizerRecipe(rate=1e-2), outside=alignment.learned_parameters()
    )
    before = {key: value.clone() for key, value in task.state_dict().items()}
    data = batch()
    losses = task(data, task.count(data).float())
    losses["loss"].backward()
    optimizer.step()
    names = {f"loss_alignment_{term}" for term in TERMS}
    assert names | {"loss_main", "loss_auxiliary", "loss"} == set(losses)
    changed = {
        key for key, value in task.state_dict().items() if not torch.equal(value, before[key])
    }
    assert not {key for key in changed if "teacher" in key}
    assert "model.stem.0.weight" in changed
    assert {f"alignment.projections.{name}.weight" for name in ("decoder", "stage4", "stage3")} <= (
        changed
    )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in alignment.teacher.parameters()}


def test_the_projections_learn_at_the_heads_rate() -> None:
    model, alignment = pair(loss="vid")
    chosen = OptimizerRecipe(rate=1e-3)
    optimizer = build_optimizer(model, chosen, outside=alignment.learned_parameters())
    rates = {id(p): group["base_rate"] for group in optimizer.param_groups for p in group["params"]}
    learned = alignment.learned_parameters()
    assert len(learned) == 3 * 2 + 4
    assert all(rates[id(parameter)] == pytest.approx(1e-2) for parameter in learned)


@torch.no_grad()
def test_the_terms_are_means_over_the_parts_of_a_step() -> None:
    task = task_of(*pair(logits=0, decoder=0)).eval()  # scale alignment sees one part only
    data = batch()
    pixels = task.count(data).float()
    whole = task(data, pixels)["loss"]
    parts = [task(Sample(*(t[i : i + 1] for t in data)), pixels, 2)["loss"] for i in (0, 1)]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_mixed_precision_is_finite(shared: bool) -> None:
    task, data = task_of(*pair(shared_head=shared)), batch()
    with torch.autocast("cpu", torch.bfloat16):
        losses = task(data, task.count(data).float())
    losses["loss"].backward()
    assert all(math.isfinite(float(loss.detach())) for loss in losses.values())
    assert losses["loss_alignment_decoder"].dtype == torch.float32
    gradients = [p.grad for p in task.parameters() if p.requires_grad and p.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


# Whole runs


@pytest.fixture(scope="module")
def taught(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "taught"
    train(recipe(f"alignment.teacher={teacher}"), folder)
    return folder


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_taught_student_looks_like_any_other(taught: Path, tmp_path: Path) -> None:
    train(recipe(), tmp_path)
    one, other = tensors(taught), tensors(tmp_path)
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in other.items()}
    configs = [(folder / "config.json").read_text() for folder in (taught, tmp_path)]
    assert configs[0] == configs[1]
    assert not torch.equal(one["stage3.0.conv1.weight"], other["stage3.0.conv1.weight"])
    sctnet.load_model(taught)
    # Before the first step, teacher or not, the students are the same.
    records = [read_metrics(folder / "metrics.jsonl")[0] for folder in (taught, tmp_path)]
    assert records[0]["loss_main"] == records[1]["loss_main"]
    assert all(records[0][f"loss_alignment_{term}"] > 0 for term in TERMS)


def test_the_checkpoint_holds_projections_and_no_teacher(taught: Path) -> None:
    checkpoint = torch.load(taught / "last.ckpt", weights_only=True)
    assert {key.split(".")[0] for key in checkpoint["companion"]} == {"projections"}
    assert not any("teacher" in key for key in checkpoint["model"])


@pytest.mark.parametrize("settings", [[], ["alignment.loss=vid"], ["alignment.projections=fitted"]])
def test_a_taught_run_is_resumed_exactly(
    settings: list[str], teacher: Path, tmp_path: Path
) -> None:
    chosen = recipe(f"alignment.teacher={teacher}", *settings)

    def crash(record: dict[str, float]) -> None:
        if record["step"] == 3:  # the last checkpoint is that of iteration 2
            raise InterruptedError

    train(chosen, tmp_path / "whole")
    with pytest.raises(InterruptedError):
        train(chosen, tmp_path / "crashed", observe=crash)
    train(chosen, tmp_path / "crashed", resume=True)
    whole, crashed = tensors(tmp_path / "whole"), tensors(tmp_path / "crashed")
    assert all(torch.equal(value, crashed[key]) for key, value in whole.items())
    states = [
        torch.load(tmp_path / name / "last.ckpt", weights_only=True)["companion"]
        for name in ("whole", "crashed")
    ]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_run_in_parts_and_bf16(teacher: Path, tmp_path: Path) -> None:
    settings = ["run.accumulate=2", "run.precision=bf16", "schedule.iterations=2"]
    train(recipe(f"alignment.teacher={teacher}", *settings), tmp_path)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert all(math.isfinite(value) for record in records for value in record.values())


def test_the_weights_decay_over_the_run(teacher: Path, tmp_path: Path) -> None:
    """In the second of four iterations, (3/4)^2 of the weights is left."""
    settings = ["schedule.iterations=4", "run.log_every=1", f"alignment.teacher={teacher}"]
    for decay in (0, 2):
        train(recipe(*settings, f"alignment.decay={decay}"), tmp_path / str(decay))
    kept, decayed = (read_metrics(tmp_path / str(decay) / "metrics.jsonl") for decay in (0, 2))
    terms = [f"loss_alignment_{term}" for term in TERMS]
    assert [kept[0][term] for term in terms] == [decayed[0][term] for term in terms]
    # The first step was the same, so the second one begins from the same weights.
    for term in terms:
        assert decayed[1][term] == pytest.approx(kept[1][term] * (3 / 4) ** 2, rel=1e-6), term


# Teachers on disk


def test_a_teacher_is_the_same_after_saving(teacher: Path) -> None:
    network, images = small_network().eval(), torch.randn(1, 3, 64, 96)
    loaded = load_teacher(teacher)
    assert loaded.classes == CLASSES
    with torch.inference_mode():
        answer = loaded.answer(loaded.encode(images, (8, 12)), (8, 12))
        torch.testing.assert_close(answer.logits, network.features(images).logits)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["alignment.teacher=nowhere"], "nowhere: does not exist"),
        (["alignment.teacher=SMALL", "augmentation.crop=[24, 64]"], "32 x 32 or more"),
        (["alignment.teacher=SMALL", "alignment.logits=-1"], "alignment.logits"),
        (["alignment.teacher=SMALL", "alignment.loss=cosine"], "alignment.loss"),
        (["alignment.logits=1"], "alignment.teacher"),
        (
            [f"alignment={{teacher: SMALL, {', '.join(f'{name}: 0' for name in TERMS)}}}"],
            "every weight is 0",
        ),
    ],
)
def test_mistakes_in_a_recipe(
    settings: list[str], named: str, teacher: Path, tmp_path: Path
) -> None:
    with pytest.raises(SctnetError) as caught:
        train(recipe(*(text.replace("SMALL", str(teacher)) for text in settings)), tmp_path / "run")
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "classes",
    [
        CLASSES[:-1],
        (*CLASSES[1:], CLASSES[0]),  # the same names in another order would teach nonsense
    ],
)
def test_a_teacher_of_other_classes_is_refused(classes: tuple[str, ...], tmp_path: Path) -> None:
    folder = save_model(small_network(len(classes)), tmp_path / "other", classes)
    with pytest.raises(SctnetError, match="name and order must agree") as caught:
        train(recipe(f"alignment.teacher={folder}"), tmp_path / "run")
    assert str(folder) in str(caught.value)
    assert not (tmp_path / "run").exists()


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _with_nan(folder: Path) -> None:
    values = load_file(folder / "model.safetensors")
    values["stages.2.2.0.attention.attention.in_proj_bias"][3] = math.nan
    save_file(values, folder / "model.safetensors")


def _without_a_tensor(folder: Path) -> None:
    values = load_file(folder / "model.safetensors")
    del values["head.fusion.0.weight"]
    save_file(values, folder / "model.safetensors")


def _of_another_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["network"]["decoder_channels"] = 8
    (folder / "config.json").write_text(json.dumps(config))


def _a_backbone_instead(folder: Path) -> None:
    save_backbone(small_network(), folder, with_context=False)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (_without_weights, "holds no model.safetensors"),
        (_cut_short, "not a whole safetensors file"),
        (_with_nan, "in_proj_bias holds NaN or infinity"),
        (_without_a_tensor, "lacks head.fusion.0.weight"),
        (_of_another_width, "has the shape"),
        (_a_backbone_instead, "a backbone to start training from"),
    ],
)
def test_a_spoiled_teacher_is_refused(spoil: object, named: str, tmp_path: Path) -> None:
    folder = save_model(small_network(), tmp_path / "teacher", CLASSES)
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(SctnetError) as caught:
        load_teacher(folder)
    assert named in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@torch.no_grad()
def test_maps_without_a_norm_teach_at_unit_scale() -> None:
    """However large a network's own values are, a softmax over a map sees more than one pixel."""
    torch.manual_seed(0)
    network = sctnet.create_model("tiny", len(CLASSES)).eval()
    images = torch.randn(2, 3, 64, 96)
    own = network.features(images)
    answer = (teacher := NetworkTeacher(network, CLASSES)).answer(
        teacher.encode(images, (8, 12)), (8, 12)
    )
    assert own.decoder_input is not None
    through_head, _ = teacher.decode(own.decoder_input)
    for shown, stage in (
        (answer.stage3, own.stage3),
        (answer.stage4, own.stage4),
        (answer.decoder_feature, own.decoder_feature),
        (through_head, own.decoder_feature),
    ):
        assert shown is not None
        assert stage is not None
        centred = stage - stage.mean(1, keepdim=True)
        expected = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        torch.testing.assert_close(shown, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared_head", [True, False])
def test_fitted_projections_explain_the_teacher_from_the_start(shared_head: bool) -> None:
    """However large the student's own values are; and they are fitted once."""
    torch.manual_seed(0)
    teacher = NetworkTeacher(small_network(), CLASSES).eval()
    student = sctnet.create_model("tiny", len(CLASSES)).train()
    images = torch.randn(4, 3, 64, 96)
    features = student.features(images)
    features = features._replace(stage4=50 * features.stage4)
    recipes = [
        AlignmentRecipe(teacher="x", shared_head=shared_head, projections=start)
        for start in ("random", "fitted")
    ]
    random, fitted = (Alignment(each, teacher, student.widths) for each in recipes)
    before, after = random(images, features), fitted(images, features)
    assert all(after[name] < before[name] for name in TERMS if shared_head or name != "logits")
    assert after["stage4"] < before["stage4"] / 100
    kept = {key: value.clone() for key, value in fitted.learned_state().items()}
    again = fitted(images.flip(0), features)
    assert torch.isfinite(torch.stack(list(again.values()))).all()
    assert all(torch.equal(value, kept[key]) for key, value in fitted.learned_state().items())


def test_a_fit_is_the_ridge_regression_in_any_division_into_pairs() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 5, 6, 7), torch.randn(3, 4, 6, 7)
    whole, parts = torch.nn.Conv2d(5, 4, 1), torch.nn.Conv2d(5, 4, 1)
    fit_projection(whole, [(student, teacher)])
    fit_projection(parts, ((student[n : n + 1], teacher[n : n + 1]) for n in range(3)))
    torch.testing.assert_close(whole.weight, parts.weight)
    x, y = (each.double().transpose(0, 1).flatten(1).T for each in (student, teacher))
    x, y = x - x.mean(0), y - y.mean(0)
    ridge = (0.3 * len(x) * x.var(0, unbiased=False).mean()).sqrt() * torch.eye(5)
    expected = torch.linalg.lstsq(
        torch.cat((x, ridge)), torch.cat((y, torch.zeros(5, 4).double()))
    ).solution.T.float()
    torch.testing.assert_close(whole.weight.detach()[:, :, 0, 0], expected)
    residual = whole(student) - teacher
    torch.testing.assert_close(residual.mean((0, 2, 3)), torch.zeros(4), atol=1e-6, rtol=0)


def test_a_constant_student_is_fitted_by_its_bias() -> None:
    projection = torch.nn.Conv2d(2, 3, 1)
    teacher = torch.randn(1, 3, 4, 4)
    fit_projection(projection, [(torch.ones(1, 2, 4, 4), teacher)])
    expected = teacher.mean((2, 3), keepdim=True).expand(1, 3, 4, 4)
    torch.testing.assert_close(projection(torch.ones(1, 2, 4, 4)), expected)


def test_a_larger_sctnet_can_teach(tmp_path: Path) -> None:
    torch.manual_seed(3)
    larger = sctnet.create_model("tiny", len(CLASSES), base_channels=16)
    folder = sctnet.save_model(larger, tmp_path / "larger", CLASSES)
    model = sctnet.create_model("tiny", len(CLASSES))
    alignment = Alignment(AlignmentRecipe(teacher=str(folder)), load_teacher(folder), model.widths)
    images = torch.randn(2, 3, 64, 96)
    terms = alignment(images, model.features(images))
    assert list(terms) == list(TERMS)
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None for p in model.stage4.parameters())


class _Dilated(torch.nn.Module):
    """A network from elsewhere: strides by choice, logits in a mapping."""

    def __init__(self, stride4: int = 2) -> None:
        super().__init__()
        self.stage3 = torch.nn.Conv2d(3, 12, 3, 16, padding=1)
        self.stage4 = torch.nn.Conv2d(12, 20, 3, stride4, padding=1)
        self.classifier = torch.nn.Conv2d(20, len(CLASSES), 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.classifier(self.stage4(self.stage3(images)))}


def foreign(network: torch.nn.Module, **names: str) -> ForeignTeacher:
    stages = {"stage3": "stage3", "stage4": "stage4", **names}
    return ForeignTeacher(network, CLASSES, **stages, logits=lambda output: output["out"])


def test_a_foreign_network_teaches_by_stages_and_logits(tmp_path: Path) -> None:
    teacher = foreign(_Dilated())
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    chosen = recipe(
        "alignment={teacher: elsewhere, decoder: 0, shared_head: false}",
    )
    train(chosen, tmp_path / "run", teacher=teacher)
    record = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert {key for key in record if "alignment" in key} == {
        "loss_alignment_logits",
        "loss_alignment_stage3",
        "loss_alignment_stage4",
    }
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_wrong_use_of_a_foreign_teacher_is_clear() -> None:
    model = sctnet.create_model("tiny", len(CLASSES))
    with pytest.raises(SctnetError, match="has no decoder to align"):
        Alignment(AlignmentRecipe(teacher="x"), foreign(_Dilated()), model.widths)
    with pytest.raises(SctnetError, match="stage4: the teacher has no submodule 'stage5'"):
        foreign(_Dilated(), stage4="stage5")
    with pytest.raises(SctnetError, match=r"stage3: .* gives no map"):
        foreign(_Dilated(), stage3="")
    without = AlignmentRecipe(teacher="x", decoder=0, shared_head=False)
    alignment = Alignment(without, foreign(_Dilated(stride4=1)), model.widths)
    images = torch.randn(1, 3, 64, 96)
    with pytest.raises(SctnetError, match=r"its stage 4 makes 4 of 64 pixels.*stride 32"):
        alignment(images, model.features(images))


def test_class_names_must_fit(tmp_path: Path) -> None:
    with pytest.raises(SctnetError, match="2 class names for a network with"):
        save_model(small_network(), tmp_path, ["road", "car"])
    with pytest.raises(SctnetError, match="stands twice"):
        save_model(small_network(2), tmp_path, ["road", "road"])
