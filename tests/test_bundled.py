"""The models that come with the package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sctnet
from sctnet.checkpoints.initialisation import start
from sctnet.checkpoints.model_folder import (
    BUNDLED,
    WEIGHTS_FILE,
    bundled_models,
    bundled_names,
    load_config,
)
from sctnet.data.camvid import CLASSES, open_camvid
from sctnet.errors import SctnetError
from sctnet.inference.scoring import score
from sctnet.inference.segmenter import Segmenter

RESULTS = Path(__file__).parents[1] / "results"


def test_the_camvid_model_is_there_and_says_its_terms() -> None:
    assert "sctnet-s-camvid" in bundled_models()
    config = load_config("sctnet-s-camvid")
    assert config.classes == CLASSES
    assert config.terms == "research, non-commercial (CamVid, ImageNet)"
    card = (BUNDLED / "sctnet-s-camvid" / "README.md").read_text()
    assert "Research, non-commercial".lower() in card.lower()
    assert (BUNDLED / "sctnet-s-camvid" / WEIGHTS_FILE).stat().st_size < 10e6
    assert not sctnet.load_model("sctnet-s-camvid").training


def test_the_backbone_is_a_start_for_recipes_and_no_model() -> None:
    assert "sctnet-s-tiny-imagenet" in {*bundled_names()} - {*bundled_models()}
    assert load_config("sctnet-s-tiny-imagenet").terms == "research, non-commercial (ImageNet)"
    assert (BUNDLED / "sctnet-s-tiny-imagenet" / WEIGHTS_FILE).stat().st_size < 10e6
    model = sctnet.create_model("sctnet-s", 11)
    began = start(model, "sctnet-s-tiny-imagenet", CLASSES)
    assert {key.split(".")[0] for key in began.new} == {"dappm", "head", "auxiliary_head"}
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    with pytest.raises(SctnetError, match="a backbone to start training from"):
        Segmenter("sctnet-s-tiny-imagenet")


def test_a_folder_comes_before_a_bundled_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sctnet.save_model(sctnet.create_model("tiny", 3), "sctnet-s-camvid")
    assert load_config("sctnet-s-camvid").network.variant == "sctnet-tiny"


@pytest.mark.slow
def test_the_bundled_model_scores_what_its_card_says(real_data: Path, tmp_path: Path) -> None:
    """On the 233 test pictures, stored in float16, against the run's own scores in float32."""
    camvid = _unpacked(real_data, tmp_path)
    result = score(Segmenter("sctnet-s-camvid"), open_camvid(camvid, ["test"]), tmp_path / "out")
    published = json.loads((RESULTS / "camvid_sctnet-s" / "scores.json").read_text())
    assert result.images == 233
    assert result.scores.miou == pytest.approx(published["miou"], abs=5e-4)


def _unpacked(real_data: Path, tmp_path: Path) -> Path:
    """Unpack the test pictures by the script that lies beside them."""
    script = real_data / "data" / "unpack.py"
    subprocess.run([sys.executable, script, tmp_path, "--only", "test"], check=True)
    return tmp_path / "camvid"
