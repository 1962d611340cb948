"""The initialisation of a run: loads what ``model.init`` names, and records it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sctnet.checkpoints.authors_checkpoint import authors_start
from sctnet.checkpoints.authors_names import AUTHORS_NAMES
from sctnet.checkpoints.backbone import IMAGENET, fill, load_start
from sctnet.checkpoints.model_folder import WEIGHTS_FILE, find_model, load_config
from sctnet.checkpoints.paddle_checkpoint import PADDLE_SUFFIX
from sctnet.checkpoints.released_checkpoint import released_start
from sctnet.checkpoints.teacher_conversion import load_encoder
from sctnet.checkpoints.transformers_folder import is_transformers_folder
from sctnet.errors import SctnetError
from sctnet.models import SCTNet, SegmentationNetwork


@dataclass(frozen=True)
class Initialisation:
    """Which tensors of a network were loaded before its first step, and which were not."""

    origin: str
    """What ``model.init`` named."""
    sha256: str | None
    """Of the file that was read; None for weights that come with a package."""
    loaded: int
    """Tensors."""
    new: tuple[str, ...]
    """The tensors that are initialised, not loaded."""
    terms: str | None = None
    """The terms of what was loaded, if it is known to have any."""

    def __str__(self) -> str:
        """Say it in a sentence."""
        file = "" if self.sha256 is None else f" (sha256 {self.sha256})"
        parts = sorted({_part(key) for key in self.new})
        new = f"; new: {', '.join(parts)}" if parts else ", nothing is new"
        terms = "" if self.terms is None else f"; its terms hold for this model too: {self.terms}"
        return f"started from {self.origin}{file}: {self.loaded} tensors loaded{new}{terms}"


def require_start(init: str) -> None:
    """Raise :class:`SctnetError` where there is no such start, before anything slow is done."""
    if init.endswith((".pth", PADDLE_SUFFIX)):
        if not Path(init).is_file():
            raise SctnetError(f"{init}: there is no such file; give model.init a start that exists")
    elif init != IMAGENET:
        find_model(init)


def start(model: SegmentationNetwork, init: str, classes: Sequence[str]) -> Initialisation:
    """Initialise a network from a folder, a hub id, a .pth or .pdparams file or ``imagenet``.

    A released ImageNet backbone (``.pth``) of an SCTNet must fill stem to stage 4, and may hold
    only a DAPPM and its classifier in addition; for other networks such a file is one of their
    authors. From a released segmentation network everything is
    loaded but the classifiers, because the file does not name their classes. From a model of this
    package with other classes than ``classes``, the classifiers are not loaded. Raises
    :class:`SctnetError`, and changes nothing, for a file that does not fit.
    """
    if init.endswith((".pth", PADDLE_SUFFIX)):
        file: Path | None = Path(init)
        new, terms = _from_file(model, Path(init)), None
    else:
        new = load_start(model, init, classes)
        folder = None if init == IMAGENET else find_model(init)
        file = None if folder is None else folder / WEIGHTS_FILE
        is_ours = folder is not None and not is_transformers_folder(folder)
        terms = load_config(folder).terms if is_ours and folder is not None else None
    loaded = len(model.state_dict()) - len(new)
    return Initialisation(init, _sha256(file), loaded, tuple(new), terms)


def _from_file(model: SegmentationNetwork, path: Path) -> list[str]:
    if isinstance(model, SCTNet):
        return fill(model, released_start(path, model), str(path))
    if type(model) in AUTHORS_NAMES:
        return fill(model, authors_start(path, model.config), str(path))
    return load_encoder(model, path)


def _sha256(file: Path | None) -> str | None:
    if file is None:
        return None
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _part(key: str) -> str:
    """Return what a key belongs to, such as stage4, dappm or head.classifier."""
    names = key.split(".")
    return ".".join(names[:2]) if "classifier" in names[1:2] else names[0]
