"""SCTNet: real-time semantic segmentation. The public names load when they are first used."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sctnet.forking import make_forks_safe

if TYPE_CHECKING:
    from sctnet.checkpoints.model_folder import load_model as load_model
    from sctnet.checkpoints.model_folder import save_model as save_model
    from sctnet.checkpoints.released_checkpoint import convert_checkpoint as convert_checkpoint
    from sctnet.errors import SctnetError as SctnetError
    from sctnet.export.exporting import export_model as export_model
    from sctnet.inference.calibration import calibrate as calibrate
    from sctnet.inference.segmenter import Segmentation as Segmentation
    from sctnet.inference.segmenter import Segmenter as Segmenter
    from sctnet.models import create_model as create_model
    from sctnet.unlabelled.distill import distill as distill

_HOMES = {
    "Segmentation": "sctnet.inference.segmenter",
    "Segmenter": "sctnet.inference.segmenter",
    "SctnetError": "sctnet.errors",
    "calibrate": "sctnet.inference.calibration",
    "convert_checkpoint": "sctnet.checkpoints.released_checkpoint",
    "create_model": "sctnet.models",
    "distill": "sctnet.unlabelled.distill",
    "export_model": "sctnet.export.exporting",
    "load_model": "sctnet.checkpoints.model_folder",
    "save_model": "sctnet.checkpoints.model_folder",
}

make_forks_safe()

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("sctnet")
    if name not in _HOMES:
        raise AttributeError(f"module 'sctnet' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
