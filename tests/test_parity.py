"""Ours computes what the released code computes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from released import REFERENCE, released_checkpoint
from shared import deviation
from torch import Tensor

import sctnet
from sctnet.kernels.network import CpuNetwork
from sctnet.models import SCTNet
from sctnet.models.layers import resize


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    """Return the released code's arrays (computed in float64, stored in float32)."""
    with np.load(REFERENCE / "sctnet_s_reference_part.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SCTNet:
    """Return SCTNet-S, filled by the rule and passed through our converter."""
    folder = tmp_path_factory.mktemp("converted")
    torch.save(released_checkpoint("S"), folder / "official.pth")
    sctnet.convert_checkpoint(folder / "official.pth", folder / "model")
    return sctnet.load_model(folder / "model")


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.float64, 1e-6)])
def test_features_equal_the_released_ones(
    model: SCTNet, reference: dict[str, Tensor], dtype: torch.dtype, limit: float
) -> None:
    """Only float64 sees a wrong epsilon."""
    with torch.inference_mode():
        features = model.to(dtype).features(reference["input"].to(dtype))
    pairs = {
        "x2": features.stage2,
        "stage3": features.stage3,
        "stage4": features.stage4,
        "x_out": features.decoder_input,
        "decoder_feature": features.decoder_feature,
        "logits": features.logits,
        "aux_logits": features.auxiliary_logits[0],
    }
    deviations = {name: deviation(ours, reference[name]) for name, ours in pairs.items()}
    assert max(deviations.values()) < limit, deviations


def test_loops_of_our_own_equal_the_released_code(
    model: SCTNet, reference: dict[str, Tensor]
) -> None:
    """What predicts on a CPU, at the network's own limit."""
    logits = CpuNetwork(model.float().fuse(), (0.0,) * 3, (1.0,) * 3)(reference["input"])
    assert deviation(logits, reference["logits"]) < 1e-4


def test_forward_resizes_the_logits(model: SCTNet, reference: dict[str, Tensor]) -> None:
    model = model.float()
    with torch.inference_mode():
        full = model(reference["input"])
    assert deviation(full, resize(reference["logits"], (128, 192))) < 1e-4


def test_whole_reference(model: SCTNet, real_data: Path) -> None:
    """The array too large for the repository."""
    with np.load(real_data / "reference" / "sctnet_s_reference.npz") as arrays:
        images, full = torch.from_numpy(arrays["input"]), torch.from_numpy(arrays["logits_full"])
    with torch.inference_mode():
        assert deviation(model.double()(images.double()), full) < 1e-6


def test_fused_network_keeps_the_logits(model: SCTNet, reference: dict[str, Tensor]) -> None:
    with torch.inference_mode():
        fused = model.float().fuse().features(reference["input"])
    assert fused.auxiliary_logits == ()
    assert deviation(fused.logits, reference["logits"]) < 1e-4
