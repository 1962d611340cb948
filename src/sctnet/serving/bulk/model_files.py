"""A model's files as bytes, to be sent to machines that do not see the folder."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from sctnet.checkpoints.exported_file import EXPORTED_SUFFIXES
from sctnet.checkpoints.model_folder import CONFIG_FILE, WEIGHTS_FILE, find_model
from sctnet.errors import SctnetError

_EXPORTED = {suffixes[0]: suffixes for suffixes in EXPORTED_SUFFIXES.values()}


class ModelFiles(NamedTuple):
    """The files of a model."""

    name: str
    """The name of the model's file, or "" for a folder."""
    contents: dict[str, bytes]

    @property
    def sha256(self) -> str:
        """Return the hash of the weights: of model.safetensors, .onnx or .bin."""
        return hashlib.sha256(list(self.contents.values())[-1]).hexdigest()

    @property
    def description_sha256(self) -> str:
        """Return the hash of the model's description: config.json, or the graph."""
        return hashlib.sha256(next(iter(self.contents.values()))).hexdigest()

    def write(self, folder: Path) -> Path:
        """Write the files, and return what a :class:`Segmenter` takes."""
        for name, content in self.contents.items():
            (folder / name).write_bytes(content)
        return folder / self.name


def read_model_files(model: str) -> ModelFiles:
    """Return the files of a bundled name, a folder, a hub id or an exported file."""
    path = Path(model)
    name = path.name if path.suffix.lower() in _EXPORTED and path.is_file() else ""
    if name:
        suffixes = _EXPORTED[path.suffix.lower()]
        files = [path, *(path.with_suffix(suffix) for suffix in suffixes[1:])]
    else:
        folder = find_model(model)
        files = [folder / CONFIG_FILE, folder / WEIGHTS_FILE]
    try:
        return ModelFiles(name, {file.name: file.read_bytes() for file in files})
    except OSError as error:
        raise SctnetError(f"{error.filename}: cannot be read ({error.strerror})") from error
