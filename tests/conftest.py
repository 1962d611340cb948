"""Shapes are checked in every test, in all modules of the package."""

import os
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

import sctnet

sys.path.insert(0, str(Path(__file__).parent / "reference"))
# A busy machine is no failure: speed is measured by benchmarks.
settings.register_profile("any speed", deadline=None)
settings.load_profile("any speed")


def checked_modules() -> list[str]:
    """Return all modules of the package that annotate shapes, found by walking it."""
    root = Path(sctnet.__file__).parent
    paths = [path for path in root.rglob("*.py") if "from jaxtyping" in path.read_text()]
    names = [".".join(path.relative_to(root.parent).with_suffix("").parts) for path in paths]
    return sorted({name.removesuffix(".__init__") for name in names} - {"sctnet"})


install_import_hook(checked_modules(), "shapes.checked")
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
