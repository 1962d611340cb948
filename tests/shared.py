"""What many tests build: small networks, model folders and descriptions of exports."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sctnet
from sctnet.checkpoints.exported_file import ExportedConfig
from sctnet.checkpoints.model_folder import load_config
from sctnet.models import SegmentationNetwork
from sctnet.pipeline.preprocessing import PreprocessingConfig, WorkingSize

CLASSES = ("road", "car", "tree", "pole", "sky")
THREE_CLASSES = CLASSES[:3]


def network(
    variant: str = "sctnet-tiny", num_classes: int = 5, seed: int = 0, **options: Any
) -> SegmentationNetwork:
    """Return a network with the random weights of a seed."""
    torch.manual_seed(seed)
    return sctnet.create_model(variant, num_classes, **options)


def decided_network(num_classes: int = 5, seed: int = 0) -> SegmentationNetwork:
    """Return a tiny network whose label maps show several classes."""
    model = network("sctnet-tiny", num_classes, seed)
    torch.nn.init.normal_(model.head.classifier.weight, std=1)
    return model


def saved(
    folder: Path,
    working_size: WorkingSize | None = None,
    classes: tuple[str, ...] = CLASSES,
    seed: int = 0,
) -> Path:
    """Save a :func:`decided_network` as a model folder."""
    preparation = PreprocessingConfig(working_size=working_size or WorkingSize())
    model = decided_network(len(classes), seed)
    return sctnet.save_model(model, folder, classes=classes, preparation=preparation)


def described(folder: Path, **changes: Any) -> ExportedConfig:
    """Return the description of an export of a folder: labels in fp32, unless changed."""
    values = {
        "model": load_config(folder),
        "output": "labels",
        "precision": "fp32",
        "size": None,
        "batch": None,
        "weights_sha256": "0" * 64,
        "sctnet": "0.1.0",
        **changes,
    }
    return ExportedConfig(**values)


_EXPORT = """
import sys
from pathlib import Path
from sctnet.export.onnx_format import onnx_model
from sctnet.checkpoints.exported_file import ExportedConfig
from sctnet.checkpoints.model_folder import load_model

config = ExportedConfig.from_text(sys.stdin.read(), "stdin")
model = onnx_model(load_model(sys.argv[1]), config)
Path(sys.argv[2]).write_bytes(model.SerializeToString())
"""


def write_graph(folder: Path, file: Path, **changes: Any) -> Path:
    """Write the ONNX graph of a folder, logits included; in a process without checked shapes."""
    command = [sys.executable, "-c", _EXPORT, str(folder), str(file)]
    description = described(folder, **changes).model_dump_json()
    subprocess.run(command, input=description, text=True, check=True)
    return file


def deviation(ours: Tensor, reference: Tensor) -> float:
    """Return the largest difference over the largest reference value."""
    assert ours.shape == reference.shape
    return float((ours.detach() - reference).abs().max() / reference.abs().max())
