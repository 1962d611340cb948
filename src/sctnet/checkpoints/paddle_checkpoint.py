"""Reads the tensors of a Paddle checkpoint (``.pdparams``) without executing anything in it."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sctnet.checkpoints.released_checkpoint import MAX_BYTES
from sctnet.errors import SctnetError

PADDLE_SUFFIX = ".pdparams"
_REMARKS = "StructuredToParameterName@@"
"""The one key of such a file that is no tensor: the framework's own names of the others."""

_KNOWN: dict[str, Any] = {
    # All that a file of arrays alone calls; numpy 2 moved the first.
    "numpy.core.multiarray._reconstruct": np.zeros(1).__reduce__()[0],
    "numpy._core.multiarray._reconstruct": np.zeros(1).__reduce__()[0],
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
}


def read_paddle_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file that ``paddle.save`` wrote from a state dict.

    Raises :class:`SctnetError` for a file that cannot be read, or holds anything but arrays.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SctnetError(f"{path}: larger than {MAX_BYTES >> 30} GiB, no network is so large")
        with path.open("rb") as stream:
            content = _ArraysAlone(stream).load()
    except SctnetError:
        raise
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise SctnetError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:
        # A damaged pickle fails anywhere: EOFError, ValueError, KeyError, MemoryError.
        raise SctnetError(
            f"{path}: not a whole Paddle checkpoint of arrays alone ({error}); download or copy it "
            "again"
        ) from error
    if not isinstance(content, dict) or not content:
        raise SctnetError(f"{path}: holds no state dict")
    arrays = {str(key): value for key, value in content.items() if key != _REMARKS}
    for key, value in arrays.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
            raise SctnetError(f"{path}: {key} is not an array of numbers, this is no state dict")
    return {key: torch.from_numpy(value.copy()) for key, value in arrays.items()}


class _ArraysAlone(pickle.Unpickler):
    """Refuses every name but those of arrays, so that a file cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get(f"{module}.{name}")
        if known is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return known
