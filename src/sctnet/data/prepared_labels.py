"""Converts labels that are slow to read to PNGs, once."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sctnet.data.cocostuff import (
    LABEL_OF_RAW_VALUE,
    SPLITS,
    annotation_file,
    label_file,
    names_of,
)
from sctnet.data.dataset import Labels
from sctnet.data.images import MAX_PIXELS
from sctnet.data.published_layouts import UNKNOWN
from sctnet.errors import SctnetError
from sctnet.writing import write_whole

_END_OF_PNG = b"IEND\xaeB`\x82"
_MAX_BYTES = 1 << 28  # of a .mat file; those of COCO-Stuff-10K are far below a hundredth


@dataclass(frozen=True)
class PreparedLabels:
    """The result of a conversion."""

    written: int
    present: int
    """Label maps that were there from before."""
    failures: tuple[str, ...]
    """One sentence for each label map that could not be made."""


def prepare_cocostuff(
    root: str | Path, observe: Callable[[int, int], None] | None = None
) -> PreparedLabels:
    """Write the label maps ``labels/*.png`` of a COCO-Stuff-10K from its ``annotations/*.mat``.

    Whole files from before are kept, so that an interrupted preparation goes on where it was.
    ``observe`` receives how many pictures are done, and of how many. A broken .mat file is told
    in the result, and the others are done all the same. Raises :class:`SctnetError` where the
    lists are missing, the folder cannot be written or SciPy is not installed.
    """
    root = Path(root)
    loadmat, whosmat = _scipy_readers()
    lists = [split for split in SPLITS if (root / "imageLists" / f"{split}.txt").is_file()]
    if not lists:
        raise SctnetError(
            f"{root}: imageLists/train.txt and test.txt are missing: give a COCO-Stuff-10K's root"
        )
    names = list(dict.fromkeys(name for split in lists for name in names_of(root, split)))
    present, failures = 0, []
    for done, name in enumerate(names, start=1):
        target = label_file(root, name)
        if _is_whole_png(target):
            present += 1
        else:
            try:
                labels = _read_mat(annotation_file(root, name), loadmat, whosmat)
            except SctnetError as error:
                failures.append(str(error))
            else:
                _write_labels(labels, target)
        if observe is not None:
            observe(done, len(names))
    return PreparedLabels(len(names) - present - len(failures), present, tuple(failures))


def _scipy_readers() -> tuple[Callable[..., Any], Callable[..., Any]]:
    try:
        from scipy.io import loadmat, whosmat
    except ImportError as error:
        raise SctnetError(
            'reading .mat files needs SciPy: pip install "sctnet[cocostuff]"'
        ) from error
    return loadmat, whosmat


def _is_whole_png(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(-len(_END_OF_PNG), 2)
            return file.read() == _END_OF_PNG
    except OSError:  # it is absent, or shorter than that
        return False


def _read_mat(path: Path, loadmat: Callable[..., Any], whosmat: Callable[..., Any]) -> Labels:
    """Return the labels of the field S."""
    broken = f"{path}: not a whole COCO-Stuff annotation: copy it again from its source"
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise SctnetError(broken)
        # The sizes first: a small file can say that it unpacks to any size.
        shapes = {name: shape for name, shape, _ in whosmat(path)}
        if "S" not in shapes or np.prod(shapes["S"], dtype=float) > MAX_PIXELS:
            raise SctnetError(broken)
        values = np.asarray(loadmat(path, variable_names=["S"])["S"])
    except FileNotFoundError as error:
        raise SctnetError(f"{path}: no such file: unpack the annotations again") from error
    except SctnetError:
        raise
    except Exception as error:  # what SciPy raises for damage has no common family
        raise SctnetError(broken) from error
    if values.ndim != 2 or not values.size or not np.issubdtype(values.dtype, np.integer):
        raise SctnetError(broken)
    labels = LABEL_OF_RAW_VALUE.take(values, mode="clip")
    wrong = (labels == UNKNOWN) | (values < 0) | (values > 255)
    if wrong.any():
        raise SctnetError(
            f"{path}: the value {values[wrong][0]} is not a label of COCO-Stuff (0-182): "
            "copy it again from its source"
        )
    return labels


def _write_labels(labels: Labels, target: Path) -> None:
    content = BytesIO()
    Image.fromarray(labels).save(content, format="PNG")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SctnetError(f"{target.parent}: cannot be written ({error.strerror})") from error
    write_whole(target, content.getvalue())
