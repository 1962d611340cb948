"""Checkpoints as the released code would write them, filled by the naming rule."""

import json
from pathlib import Path

import torch
from reference_weights import fill_state_dict
from torch import Tensor

REFERENCE = Path(__file__).parent / "reference"


def released_checkpoint(
    variant: str = "S", num_classes: int = 19, whole: bool = False
) -> dict[str, Tensor]:
    """Return a released state dict; ``whole`` adds the teacher and the projections."""
    description = json.loads((REFERENCE / "official_checkpoint_shapes.json").read_text())
    shapes = {
        key: [num_classes if size == "K" else size for size in shape]
        for key, shape in description["models"][variant]
        if whole or not key.startswith("auxiliary_head.1.")
    }
    return {key: torch.from_numpy(value) for key, value in fill_state_dict(shapes).items()}
