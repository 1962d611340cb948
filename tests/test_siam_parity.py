"""SIAM is what the released code computes: the teacher, the terms, their gradients, a step."""

from pathlib import Path

import numpy as np
import pytest
import torch
from released import REFERENCE, released_checkpoint
from shared import deviation
from torch import Tensor
from torch.nn import functional as F

import sctnet
from sctnet.checkpoints.released_checkpoint import released_names
from sctnet.checkpoints.teacher_conversion import convert_teacher
from sctnet.models import SCTNet, model_configuration
from sctnet.models.counting import count_parameters
from sctnet.models.layers import DropPath, resize
from sctnet.models.segformer import SegFormer
from sctnet.training.alignment import Alignment
from sctnet.training.losses import cross_entropy
from sctnet.training.recipe import AlignmentRecipe
from sctnet.training.teachers import load_teacher

TERMS = ("logits", "decoder", "stage4", "stage3")
PROJECTIONS = {"decoder": "feature_transforms", "stage4": "convstage4", "stage3": "convstage3"}
STUDENT = (6, 10)  # the student's decoder input of the crop
PRECISIONS = [(torch.float32, 1e-4), (torch.float64, 1e-6)]


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    """Return the released code's arrays (computed in float64, stored in float32)."""
    arrays: dict[str, Tensor] = {}
    for part in ("sctnet_s_reference_part.npz", "sctnet_s_siam_part.npz"):
        with np.load(REFERENCE / part) as stored:
            arrays |= {name: torch.from_numpy(stored[name]) for name in stored.files}
    return arrays


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a whole released checkpoint, and the student and the teacher converted from it."""
    folder = tmp_path_factory.mktemp("siam")
    torch.save(released_checkpoint("S", whole=True), folder / "official.pth")
    sctnet.convert_checkpoint(folder / "official.pth", folder / "student")
    convert_teacher(folder / "official.pth", folder / "teacher")
    return folder


@pytest.fixture(scope="module")
def projections(folder: Path) -> dict[str, Tensor]:
    tensors = torch.load(folder / "official.pth", weights_only=True)
    return {
        f"{ours}.{part}": tensors[f"auxiliary_head.1.{theirs}.{part}"]
        for ours, theirs in PROJECTIONS.items()
        for part in ("weight", "bias")
    }


@pytest.fixture
def pair(folder: Path, projections: dict[str, Tensor]) -> tuple[SCTNet, Alignment]:
    """Return SCTNet-S and its alignment, filled by the rule and passed through our converters."""
    model = sctnet.load_model(folder / "student")
    teacher = load_teacher(folder / "teacher")
    alignment = Alignment(AlignmentRecipe(teacher="B2"), teacher, model.widths).eval()
    alignment.projections.load_state_dict(projections)
    return model, alignment


def crop(reference: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    return reference["input"][:, :, :48, :80].to(dtype)


@pytest.mark.parametrize(("dtype", "limit"), PRECISIONS)
def test_teacher(
    pair: tuple[SCTNet, Alignment],
    reference: dict[str, Tensor],
    dtype: torch.dtype,
    limit: float,
) -> None:
    teacher, images = pair[1].to(dtype).teacher, crop(reference, dtype)
    with torch.inference_mode():
        features = teacher.network.features(images)
        answer = teacher.answer(teacher.encode(images, STUDENT), STUDENT)
    pairs = {f"teacher_stage{n}": features[n - 2] for n in (2, 3, 4)}
    for taught in (features, answer):
        pairs |= {
            "teacher_decoder_feature": taught.decoder_feature,
            "teacher_logits": taught.logits,
        }
        deviations = {name: deviation(ours, reference[name]) for name, ours in pairs.items()}
        assert max(deviations.values()) < limit, deviations
    pairs = {"teacher_stage3": answer.stage3, "teacher_stage4": answer.stage4}
    deviations = {name: deviation(ours, reference[name]) for name, ours in pairs.items()}
    assert max(deviations.values()) < limit, deviations


@pytest.mark.parametrize(("dtype", "limit"), PRECISIONS)
def test_terms_and_gradients(
    pair: tuple[SCTNet, Alignment],
    reference: dict[str, Tensor],
    dtype: torch.dtype,
    limit: float,
) -> None:
    model, alignment = (module.to(dtype) for module in pair)
    images = crop(reference, dtype)
    features = model.features(images)
    terms = alignment(images, features)
    ours = torch.stack([terms[name] for name in TERMS]).double()
    assert deviation(ours, reference["siam_terms"]) < min(limit, 1e-5)
    loss = torch.stack(list(alignment.weighted(images, features).values())).sum()
    assert float(loss.detach()) == pytest.approx(
        float(reference["siam_loss"]), rel=min(limit, 1e-5)
    )
    parameters = dict(model.named_parameters())
    wanted = {
        "backbone.layer3_2.attn_l.kv": "stage3.3.attention.stripes.0.kernels",
        "backbone.layer4.mlp_l.norm.weight": "stage4.3.feed_forward_norm.weight",
        "backbone.conv1.0.weight": "stem.0.weight",
    }
    gradients = torch.autograd.grad(loss, [parameters[name] for name in wanted.values()])
    deviations = {
        theirs: deviation(gradient, reference[f"siam_grad__{theirs}"])
        for theirs, gradient in zip(wanted, gradients, strict=True)
    }
    assert max(deviations.values()) < limit, deviations


def test_student_side(pair: tuple[SCTNet, Alignment], reference: dict[str, Tensor]) -> None:
    model, alignment = (module.double() for module in pair)
    images = crop(reference, torch.float64)
    with torch.inference_mode():
        features = model.features(images)
        maps = alignment._pairs(features, alignment.ask(images, STUDENT))
        expanded = alignment.projections["decoder"](features.decoder_input)
    pairs = {
        "student_stage3_projected": maps["stage3"][0],
        "student_stage4_projected": maps["stage4"][0],
        "student_expanded": expanded,
        "student_decoder_feature_shared": maps["decoder"][0],
        "student_logits_shared": maps["logits"][0],
    }
    deviations = {name: deviation(ours, reference[name]) for name, ours in pairs.items()}
    assert max(deviations.values()) < 1e-6, deviations


def test_a_training_step(pair: tuple[SCTNet, Alignment], reference: dict[str, Tensor]) -> None:
    """Batch statistics in the student, running ones in the teacher; sums over all pixels."""
    model, alignment = (module.double().train() for module in pair)
    for module in model.modules():
        if isinstance(module, DropPath):
            module.rate = 0
    before = {key: value.clone() for key, value in alignment.teacher.state_dict().items()}
    images, labels = reference["input"].double(), reference["label"].long()
    features = model.features(images)
    main, auxiliary = (
        cross_entropy(resize(logits, (128, 192)), labels) / labels.numel()
        for logits in (features.logits, *features.auxiliary_logits)
    )
    siam = torch.stack(list(alignment.weighted(images, features).values())).sum()
    losses = {
        "train_loss_ce_main": main,
        "train_loss_ce_aux_weighted": 0.4 * auxiliary,
        "train_loss_siam_weighted": siam,
        "train_loss_total": main + 0.4 * auxiliary + siam,
    }
    for name, loss in losses.items():
        assert float(loss.detach()) == pytest.approx(float(reference[name]), rel=1e-6), name
    losses["train_loss_total"].backward()
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, expected in reference.items():
        kind, _, key = name.partition("__")
        if kind == "train_grad":
            assert deviation(_ours(state, key).grad, expected) < 1e-6, name
        if kind == "train_stat" and "teacher" not in key:
            assert deviation(_ours(state, key), expected) < 1e-6, name
    after = alignment.teacher.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def _ours(state: dict[str, Tensor], key: str) -> Tensor:
    module, _, last = key.rpartition(".")
    return state[f"{released_names()[module]}.{last}"]


def test_whole_input(
    pair: tuple[SCTNet, Alignment], reference: dict[str, Tensor], real_data: Path
) -> None:
    """The arrays too large for the repository."""
    model, alignment = (module.double() for module in pair)
    with np.load(real_data / "reference" / "sctnet_s_reference.npz") as stored:
        concatenated = torch.from_numpy(stored["teacher_concat"])
        expected = torch.from_numpy(stored["siam_terms_full_input"])
    with torch.inference_mode():
        images = crop(reference, torch.float64)
        ours = alignment.teacher.network.features(images).decoder_input
        assert deviation(ours, concatenated) < 1e-6
        found = alignment.teacher.answer(
            alignment.teacher.encode(images, STUDENT), STUDENT
        ).decoder_input.of_batch()
        for statistic, ours in zip((torch.mean, torch.std), found, strict=True):
            assert deviation(ours, statistic(concatenated.double(), (0, 2, 3))) < 1e-6
        images = reference["input"].double()
        terms = alignment(images, model.features(images))
    assert deviation(torch.stack([terms[name] for name in TERMS]), expected) < 1e-6


@pytest.mark.parametrize(("variant", "encoder"), [("b2", 24_196_288), ("b3", 44_072_128)])
def test_parameters(variant: str, encoder: int) -> None:
    with torch.device("meta"):
        network = SegFormer(model_configuration(f"segformer-{variant}", 19))
    assert count_parameters(network.stages) == encoder
    assert count_parameters(network.head) == 531_731


@pytest.fixture
def small() -> SegFormer:
    torch.manual_seed(0)
    config = model_configuration("segformer-b0", 5, depths=(1, 1, 1, 1), decoder_channels=16)
    return SegFormer(config)


def test_a_teacher_can_learn(small: SegFormer) -> None:
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(0, 5, (2, 64, 64))
    optimizer = torch.optim.AdamW(small.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(small(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
