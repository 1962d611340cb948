"""Shapes are checked in every test: jaxtyping's annotations are enforced by beartype."""

import os
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

sys.path.insert(0, str(Path(__file__).parent / "reference"))
# A busy machine is no failure: speed is measured by benchmarks.
settings.register_profile("any speed", deadline=None)
settings.load_profile("any speed")

install_import_hook(
    [
        "sctnet.models",
        "sctnet.preparation",
        "sctnet.labelling",
        "sctnet.labels.label_map",
        "sctnet.labels.compiled",
        "sctnet.labels.planes",
        "sctnet.labels.taps",
        "sctnet.data.random_crops",
        "sctnet.training.batch_augmentation",
        "sctnet.training.classification_criterion",
        "sctnet.training.classifier_teachers",
        "sctnet.training.losses",
        "sctnet.training.mixing",
        "sctnet.training.rand_augment",
        "sctnet.training.teaching",
        "sctnet.training.distillation",
        "sctnet.training.teachers",
        "sctnet.training.alignment",
        "sctnet.training.shared_head",
        "sctnet.training.teacher_cache",
        "sctnet.evaluation",
        "sctnet.inference",
    ],
    "beartype.beartype",
)
_checked_export = torch.export.export


def _export(*arguments, **options):
    """Trace without checking shapes: sizes are symbols then, and no ints."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        return _checked_export(*arguments, **options)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


torch.export.export = _export
torch.set_num_threads(1)  # two threads on a busy machine wait for each other


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real data, or skip."""
    folder = os.environ.get("SCTNET_TEST_DATA")
    if not folder:
        pytest.skip("SCTNET_TEST_DATA does not name the folder of real data")
    return Path(folder)
