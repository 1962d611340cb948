"""Networks of other authors against their own code: checkpoints read, features equal."""

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from reference_weights import fill, normals
from released import REFERENCE
from torch import Tensor

from sctnet.checkpoints.authors_checkpoint import authors_start, convert_authors_checkpoint
from sctnet.checkpoints.authors_names import AUTHORS_NAMES
from sctnet.checkpoints.backbone import load_start
from sctnet.checkpoints.model_folder import load_config, load_model
from sctnet.errors import SctnetError
from sctnet.models import create_model
from sctnet.models.registry import family_of

EXACT = 1e-9


class Case(NamedTuple):
    """How a variant's arrays are to be met; tests/reference/README.md tells what they are."""

    limit: float = EXACT
    prefix: str = ""
    small_gains: str = r"$^"
    """Norms whose gains are an eighth of the rule's: residuals that do not outgrow the map."""


CASES = {
    # In-place norms add their epsilon to the gain, which is here rounded to float32.
    "stdc1": Case(2e-6),
    "pidnet-s": Case(prefix="model."),
    "bisenetv2": Case(),
    "bisenet-r18": Case(),
    "ocrnet-hrnet-w18": Case(small_gains=r"\.bn[23]\.weight$"),
}
LARGE = {
    "stdc2": CASES["stdc1"],
    "pidnet-m": CASES["pidnet-s"],
    "ocrnet-hrnet-w48": CASES["ocrnet-hrnet-w18"],
    "internimage-t": Case(),
}
each_case = pytest.mark.parametrize(
    "variant", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
)


@cache
def authors_checkpoint(variant: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a checkpoint as the authors name it, filled by the rule, and what they compute."""
    case = {**CASES, **LARGE}[variant]
    names = AUTHORS_NAMES[family_of(variant).network]
    with np.load(REFERENCE / f"{variant}.npz") as arrays:
        outputs = {key: arrays[key] for key in arrays.files}
    size = tuple(outputs.pop("size").tolist())
    tensors = {}
    for line in outputs.pop("keys").tolist():
        key, shape = line.split(" ")
        sides = [int(side) for side in shape.split("x") if side]
        values = np.asarray(fill(names.original(key), sides))
        factor = 0.125 if re.search(case.small_gains, key) else 1  # exact
        tensors[case.prefix + key] = torch.from_numpy(values) * factor
    images = normals("images", 3 * size[0] * size[1]).reshape(1, 3, *size)
    found = {key: torch.from_numpy(array) for key, array in outputs.items()}
    return tensors, {"images": torch.from_numpy(images.astype(np.float32)).double(), **found}


@each_case
def test_features_equal_those_of_the_authors(variant: str, tmp_path: Path) -> None:
    tensors, outputs = authors_checkpoint(variant)
    outputs = dict(outputs)
    torch.save({"state_dict": tensors}, tmp_path / "theirs.pth")
    report = convert_authors_checkpoint(tmp_path / "theirs.pth", tmp_path / "ours", variant)
    assert len(report.used) + len(report.ignored) == len(tensors)
    assert (report.missing, report.num_classes, report.backbone_only) == ((), 5, False)
    model = load_model(tmp_path / "ours").double().eval()
    with torch.no_grad():
        features = model.features(outputs.pop("images"))
        fused = model.fuse()
    found = {"logits": features.logits}
    found |= {f"auxiliary_{i}": one for i, one in enumerate(features.auxiliary_logits)}
    if features.boundary_logits is not None:
        found["boundary"] = features.boundary_logits
    assert found.keys() == outputs.keys()
    limit = {**CASES, **LARGE}[variant].limit
    for name, theirs in outputs.items():
        atol = limit * float(theirs.abs().max().clamp(min=1))
        torch.testing.assert_close(found[name], theirs, rtol=0, atol=atol)
    assert fused.is_fused == model.folds_norms


def test_what_a_checkpoint_holds_decides(tmp_path: Path) -> None:
    tensors, _ = authors_checkpoint("pidnet-s")
    alone = {key: value for key, value in tensors.items() if "seghead" not in key}
    file = tmp_path / "theirs.pth"
    torch.save({**alone, "sem_loss.criterion.weight": torch.ones(5)}, file)
    report = convert_authors_checkpoint(file, tmp_path / "ours", "pidnet-s", list("abcde"))
    assert report.ignored == {"sem_loss.criterion.weight": "loss"}
    assert load_model(tmp_path / "ours").auxiliary_head is None
    assert load_config(tmp_path / "ours").classes == tuple("abcde")
    started = authors_start(file, create_model("pidnet-s", 3).config)
    assert "head.conv.weight" in started
    assert "head.classifier.weight" not in started


@pytest.mark.parametrize(
    ("spoil", "variant", "told"),
    [
        ({"model.dfm.conv_p.0.weight": None}, "pidnet-s", r"lacks 1 tensors.*dfm\.conv_p\.0\.w"),
        ({"model.spp.scale5.1.weight": torch.ones(3)}, "pidnet-s", "scale5.1.weight is not a key"),
        ({"model.pag3.f_x.0.weight": torch.ones(3)}, "pidnet-s", "pag3.f_x.0.weight has the shape"),
        ({"model.layer1.0.bn1.weight": torch.full((32,), torch.nan)}, "pidnet-s", "NaN"),
        ({}, "pidnet-m", "has the shape"),
        ({}, "stdc1", "is not a key of the authors' stdc1"),
    ],
)
def test_what_does_not_fit_is_told(
    spoil: dict[str, Tensor | None], variant: str, told: str, tmp_path: Path
) -> None:
    tensors, _ = authors_checkpoint("pidnet-s")
    spoilt = {key: value for key, value in {**tensors, **spoil}.items() if value is not None}
    torch.save(spoilt, tmp_path / "theirs.pth")
    with pytest.raises(SctnetError, match=told):
        convert_authors_checkpoint(tmp_path / "theirs.pth", tmp_path / "ours", variant)
    assert not (tmp_path / "ours").exists()


def test_an_stdc_backbone_starts_a_training(tmp_path: Path) -> None:
    """As the authors' classifier is saved: bare names, without the segmentation's parts."""
    tensors, _ = authors_checkpoint("stdc1")
    start = "cp.backbone."
    bare = {key.removeprefix(start): one for key, one in tensors.items() if key.startswith(start)}
    torch.save({"state_dict": bare}, tmp_path / "theirs.pth")
    report = convert_authors_checkpoint(tmp_path / "theirs.pth", tmp_path / "ours", "stdc1")
    assert report.backbone_only
    assert set(report.ignored.values()) == {"classifier of the pre-training", "repetitions"}
    model = create_model("stdc1", 3)
    new = load_start(model, tmp_path / "ours", list("abc"))
    assert {key.split(".")[0] for key in new} == {"context", "fusion", "head", "auxiliary_head"}
    name = "stage4.7.further.2.0.weight"
    assert torch.equal(model.get_parameter(name), bare["features.7.conv_list.3.conv.weight"])
