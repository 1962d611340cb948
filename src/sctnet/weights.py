"""A model on disk: a folder with config.json, model.safetensors and README.md."""

import contextlib
import os
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sctnet.errors import SctnetError
from sctnet.models import SCTNet, SCTNetConfig
from sctnet.models.fusing import is_fused
from sctnet.preparation import PreparationConfig

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"

BUNDLED = Path(__file__).parent / "bundled"
"""The models that come with the package, a folder each."""

Colour = tuple[int, int, int]


class Source(BaseModel):
    """The file that a model was converted from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str


class ModelConfig(BaseModel):
    """config.json: all that is needed to build a network and to read what it says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = Field(default=1, ge=1, le=1)
    network: SCTNetConfig
    classes: tuple[str, ...]
    colours: tuple[Colour, ...] | None = None
    preparation: PreparationConfig = PreparationConfig()
    source: Source | None = None
    terms: str | None = None
    """What the weights may be used for, where the pictures they learned from limit it."""
    backbone_only: bool = False
    """The weights hold stem to stage 4 and perhaps the DAPPM: a start for training, not a model."""

    @model_validator(mode="after")
    def _one_name_per_class(self) -> "ModelConfig":
        if self.backbone_only:
            return self
        if len(self.classes) != self.network.num_classes:
            raise ValueError(
                f"{len(self.classes)} class names for a network with "
                f"{self.network.num_classes} classes"
            )
        twice = [name for name, count in Counter(self.classes).items() if count > 1]
        if twice:
            raise ValueError(f"the class name {twice[0]!r} stands twice, every class needs its own")
        if self.colours is not None and len(self.colours) != len(self.classes):
            raise ValueError(f"{len(self.colours)} colours for {len(self.classes)} classes")
        return self


def save_model(
    model: SCTNet,
    folder: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
    *,
    colours: Sequence[Colour] | None = None,
    preparation: PreparationConfig | None = None,
    source: Source | None = None,
    card: str | None = None,
) -> Path:
    """Write a model folder and return its path; files of an earlier model there are replaced.

    ``classes`` and ``colours`` (RGB, 0-255) have one entry per class; names default to
    ``class 0``, ``class 1`` and so on. Each file is written beside and renamed. Raises
    :class:`SctnetError` for names that do not fit the network and for a fused network, whose
    weights have another shape.
    """
    if is_fused(model):
        raise SctnetError("a fused network cannot be saved: save the one that fuse() was called on")
    names = [f"class {index}" for index in range(model.config.num_classes)]
    try:
        config = ModelConfig(
            network=model.config,
            classes=tuple(names if classes is None else classes),
            colours=None if colours is None else tuple(colours),
            preparation=preparation or PreparationConfig(),
            source=source,
        )
    except ValidationError as error:
        raise SctnetError(f"cannot save the model: {_first_message(error)}") from error
    return write_folder(Path(folder), config, model.state_dict(), card or _plain_card(config))


def load_model(folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> SCTNet:
    """Return the model of a bundled name, a folder or a Hugging Face hub id, in eval mode.

    Loading is strict: a missing, additional or differently shaped tensor raises
    :class:`SctnetError`, as do missing and broken files.
    """
    path = find_model(folder)
    config = load_config(path)
    if config.backbone_only:
        raise SctnetError(f"{path}: a backbone to start training from (init), not a model")
    tensors = read_tensors(path / WEIGHTS_FILE)
    model = SCTNet(config.network)
    load_strictly(model, tensors, str(path / WEIGHTS_FILE))
    return model.to(device).eval()


def write_folder(
    target: Path, config: ModelConfig, tensors: Mapping[str, Tensor], card: str
) -> Path:
    """Write the three files of a model folder, each beside and renamed."""
    beside = target / f".{WEIGHTS_FILE}.{os.getpid()}"
    try:
        target.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in tensors.items()}, beside)
        beside.chmod(0o644)  # safetensors writes for the owner alone
        write_text(target / CARD_FILE, card)
        write_text(target / CONFIG_FILE, config.model_dump_json(indent=2) + "\n")
        beside.replace(target / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        reason = getattr(error, "strerror", None) or error
        raise SctnetError(f"{target}: cannot be written ({reason})") from error
    return target


def load_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """Return the configuration of a bundled name, a model folder or a hub id."""
    file = find_model(folder) / CONFIG_FILE
    try:
        return ModelConfig.model_validate_json(file.read_bytes())
    except OSError as error:
        raise SctnetError(f"{file}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise SctnetError(f"{file}: {_first_message(error)}") from error


def find_model(name: str | os.PathLike[str]) -> Path:
    """Return the local folder of a model: a bundled name's, the folder itself or a download.

    A folder of the user's comes before a bundled model of the same name.
    """
    path = Path(name)
    if str(name) in bundled_models() and not path.exists():
        path = BUNDLED / str(name)
    if path.is_dir():
        missing = [file for file in (CONFIG_FILE, WEIGHTS_FILE) if not (path / file).is_file()]
        if missing:
            raise SctnetError(f"{path}: not a model folder, it holds no {' and no '.join(missing)}")
        return path
    text = str(name)
    if path.exists() or not _looks_like_hub_id(text):
        what = "is not a folder" if path.exists() else "does not exist"
        raise SctnetError(
            f"{text}: {what}; give a model folder, a hub id such as "
            f"owner/name, or a bundled name ({', '.join(bundled_models()) or 'there is none'})"
        )
    return _download(text)


def bundled_models() -> list[str]:
    """Return the names of the models that come with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{CONFIG_FILE}"))


def load_strictly(model: SCTNet, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copy tensors into a model that has exactly these keys and shapes, or change nothing."""
    check_tensors(tensors, model.state_dict(), origin, model.config.variant)
    model.load_state_dict(dict(tensors))


def check_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], origin: str, variant: str
) -> None:
    """Raise :class:`SctnetError` unless tensors have exactly the expected keys and shapes."""
    missing = [key for key in expected if key not in tensors]
    extra = [key for key in tensors if key not in expected]
    if missing or extra:
        parts = [
            f"{text} {_shortened(keys)}"
            for text, keys in (("lacks", missing), ("has in addition", extra))
            if keys
        ]
        raise SctnetError(
            f"{origin}: {' and '.join(parts)}; it is not a {variant} of this configuration"
        )
    for key, tensor in tensors.items():
        check_shape(key, tensor, expected[key], origin)


def check_shape(key: str, tensor: Tensor, expected: Tensor, origin: str) -> None:
    """Raise :class:`SctnetError` unless a tensor has the expected shape and kind of number."""
    if tensor.shape != expected.shape:
        raise SctnetError(
            f"{origin}: {key} has the shape {tuple(tensor.shape)}, "
            f"this network needs {tuple(expected.shape)}; is it another variant's file?"
        )
    if tensor.is_floating_point() != expected.is_floating_point():
        raise SctnetError(
            f"{origin}: {key} holds {tensor.dtype}, this network needs {expected.dtype}"
        )


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file, which can hold nothing but tensors."""
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except OSError as error:
        raise SctnetError(f"{file}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, struct.error, ValueError) as error:
        raise SctnetError(f"{file}: not a whole safetensors file ({error})") from error
    return tensors


def write_text(file: Path, text: str) -> None:
    """Write a text file beside and rename it."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    files = [CONFIG_FILE, WEIGHTS_FILE, CARD_FILE]
    try:
        path = Path(snapshot_download(hub_id, allow_patterns=files))
    except Exception as error:
        # Bad names, HTTP statuses, and whatever its transport raises: the client has no one family.
        raise SctnetError(
            f"{hub_id}: no such folder here, and it could not be had from the hub "
            f"({type(error).__name__}); check the name and the network"
        ) from error
    return find_model(path)


def _looks_like_hub_id(text: str) -> bool:
    owner, slash, name = text.partition("/")
    return bool(slash and owner and name) and "/" not in name and not text.startswith((".", "~"))


def _shortened(keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:3])
    return shown if len(keys) <= 3 else f"{shown} and {len(keys) - 3} more"


def _first_message(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def _plain_card(config: ModelConfig) -> str:
    return (
        f"# {config.network.variant}\n\n"
        f"A segmentation model with {len(config.classes)} classes: {', '.join(config.classes)}.\n\n"
        '```python\nimport sctnet\n\nresult = sctnet.Segmenter("this-folder")("street.jpg")\n'
        'result.overlay().save("out.png")\n```\n'
    )
