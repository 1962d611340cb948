"""A model on disk: a folder with config.json, model.safetensors and README.md."""

import codecs
import contextlib
import json
import logging
import os
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    model_validator,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sctnet.checkpoints.calibration import Calibration, with_section
from sctnet.errors import SctnetError
from sctnet.models import NetworkConfig, SegmentationNetwork, build
from sctnet.models.registry import read_configuration
from sctnet.pipeline.preprocessing import PreprocessingConfig
from sctnet.writing import cache_folder, write_text

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
CLASSIFIER_FILE = "classifier.safetensors"
"""Only in the run of a classification: the head beside the backbone."""
PREPROCESSOR_FILE = "preprocessor_config.json"
"""Only in folders of transformers: the preprocessing of images."""
INDEX_FILE = "model.safetensors.index.json"
"""Only in folders of transformers, in place of the weights: which of several files holds what."""
_OF_TRANSFORMERS = (
    PREPROCESSOR_FILE, "processor_config.json", INDEX_FILE, "model-*.safetensors", "vocab.json",
    "merges.txt", "tokenizer*.json", "special_tokens_map.json",
)  # fmt: skip
"""What its models need beside; no code, and no pickle."""

_LOG = logging.getLogger(__name__)

BUNDLED = Path(__file__).parents[1] / "bundled"
"""The models that come with the package, a folder each."""

Channel = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Channel, Channel, Channel]
"""RGB."""


class WeightsSource(BaseModel):
    """The file that a model was converted from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str


class ModelConfig(BaseModel):
    """config.json: everything that is needed to build a network and to understand its output."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = Field(default=1, ge=1, le=1)
    network: Annotated[SerializeAsAny[NetworkConfig], BeforeValidator(read_configuration)]
    classes: tuple[str, ...]
    colours: tuple[Colour, ...] | None = None
    preparation: PreprocessingConfig = PreprocessingConfig()
    flip: bool = False
    """Whether the probabilities of the mirrored picture are averaged in."""
    calibration: Calibration | None = None
    """The offsets of the classes that :func:`load_model` adds, and how they were chosen."""
    source: WeightsSource | None = None
    terms: str | None = None
    """The terms of use of the weights, if their training pictures restrict it."""
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
            raise ValueError(f"the class name {twice[0]!r} stands twice: give every class its own")
        if self.colours is not None and len(self.colours) != len(self.classes):
            raise ValueError(f"{len(self.colours)} colours for {len(self.classes)} classes")
        if self.calibration is not None and len(self.calibration.offsets) != len(self.classes):
            raise ValueError(
                f"{len(self.calibration.offsets)} offsets for {len(self.classes)} classes"
            )
        return self

    @property
    def trained(self) -> "ModelConfig":
        """The same without what a calibration chose."""
        if self.calibration is None:
            return self
        size = self.calibration.trained_size
        preparation = self.preparation.model_copy(update={"working_size": size})
        changes = {"preparation": preparation, "flip": False, "calibration": None}
        return self.model_copy(update=changes)


def save_model(
    model: SegmentationNetwork,
    folder: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
    *,
    colours: Sequence[Colour] | None = None,
    preparation: PreprocessingConfig | None = None,
    source: WeightsSource | None = None,
    card: str | None = None,
) -> Path:
    """Write a model folder and return its path; files of an earlier model there are replaced.

    ``classes`` and ``colours`` (RGB, 0-255) have one entry per class; names default to
    ``class 0``, ``class 1`` and so on. Each file is written beside and renamed. Raises
    :class:`SctnetError` for names that do not fit the network, for a fused network, whose weights
    have another shape, and for a folder whose README.md or config.json is not a model's.
    """
    if model.is_fused:
        raise SctnetError("a fused network cannot be saved: save the one that fuse() was called on")
    names = [f"class {index}" for index in range(model.config.num_classes)]
    try:
        config = ModelConfig(
            network=model.config,
            classes=tuple(names if classes is None else classes),
            colours=None if colours is None else tuple(colours),
            preparation=preparation or PreprocessingConfig(),
            source=source,
        )
    except ValidationError as error:
        raise SctnetError(f"cannot save the model: {first_message(error)}") from error
    return write_folder(Path(folder), config, model.state_dict(), card or _plain_card(config))


def load_model(
    folder: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> SegmentationNetwork:
    """Return the model of a bundled name, a folder or a Hugging Face hub id, in eval mode.

    The offsets of a calibrated model are in its classifier's bias. Loading is strict: a missing,
    additional or differently shaped tensor raises :class:`SctnetError`, as do values that are not
    finite, missing and broken files and a device that cannot be used.
    """
    chosen = usable_device(device)
    path = find_model(folder)
    return load_configured(path, load_config(path)).to(chosen)


def load_configured(path: Path, config: ModelConfig) -> SegmentationNetwork:
    """Return the model of a local folder with the offsets of ``config``, in eval mode on the CPU.

    Raises :class:`SctnetError` as :func:`load_model` does.
    """
    if config.backbone_only:
        raise SctnetError(f"{path}: a backbone to start training from (init), not a model")
    tensors = read_tensors(path / WEIGHTS_FILE)
    model = build(config.network)
    load_strictly(model, tensors, str(path / WEIGHTS_FILE))
    if config.calibration is not None:
        model.add_offsets(config.calibration.offsets)
    return model.eval()


def usable_device(device: str | torch.device) -> torch.device:
    """Return a device on which a number can be stored and read back.

    Raises :class:`SctnetError` for every other, a name that PyTorch does not know included.
    """
    try:
        chosen = torch.device(device)
        float(torch.ones(1, device=chosen))
    except Exception as error:
        # Each backend has its own way to be absent: RuntimeError, AssertionError, ImportError.
        raise SctnetError(f"device {str(device)!r} cannot be used here: try 'cpu'") from error
    return chosen


def write_folder(target: Path, config: BaseModel, tensors: Mapping[str, Tensor], card: str) -> Path:
    """Write the three files of a model folder, each beside and renamed.

    Refuses to overwrite a README.md or config.json of something else, and changes nothing then.
    """
    _refuse_foreign_files(target)
    beside = target / f".{WEIGHTS_FILE}.{os.getpid()}"
    try:
        target.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in tensors.items()}, beside)
        beside.chmod(0o644)  # safetensors writes for the owner alone
        # Written before the card, so that an interrupted folder is recognised as a model's.
        write_text(target / CONFIG_FILE, config.model_dump_json(indent=2) + "\n")
        write_text(target / CARD_FILE, card)
        beside.replace(target / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SctnetError(f"{target}: cannot be written ({reason})") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
    return target


def write_calibration(folder: Path, config: ModelConfig) -> None:
    """Replace config.json of a model folder, and the section of its card that tells of it.

    Every file appears whole or not at all, and config.json alone decides: whenever this is stopped,
    the model is the old or the new one. Raises :class:`SctnetError` where it cannot be written.
    """
    section = None
    if config.calibration is not None:
        size = config.preparation.working_size
        section = config.calibration.card_section(config.classes, size, config.flip)
    write_text(folder / CONFIG_FILE, config.model_dump_json(indent=2) + "\n")
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):  # a card of nobody's making
        card = (folder / CARD_FILE).read_text(encoding="utf-8")
        write_text(folder / CARD_FILE, with_section(card, section))


def load_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """Return the configuration of a bundled name, a model folder or a hub id."""
    file = find_model(folder) / CONFIG_FILE
    try:
        content = file.read_bytes().removeprefix(codecs.BOM_UTF8)
        content.decode()
        return ModelConfig.model_validate_json(content)
    except OSError as error:
        raise SctnetError(f"{file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise SctnetError(f"{file}: not UTF-8 text: save it as UTF-8") from error
    except ValidationError as error:
        if b'"model_type"' in content and b'"network"' not in content:
            raise SctnetError(
                f"{file}: a folder of transformers; it can label pictures, teach "
                "(alignment.teacher) or start training (model.init), but not be used as a network "
                "of this package"
            ) from error
        raise SctnetError(f"{file}: {first_message(error)}") from error


def find_model(name: str | os.PathLike[str]) -> Path:
    """Return the local folder of a model: a bundled name's, the folder itself or a download.

    A user's folder comes before a bundled model or a hub id of the same name. A folder without a
    config.json does not count, so an empty folder of a run hides nothing.
    """
    path, text = Path(name), str(name)
    bundled, is_hub_id, there = text in bundled_names(), _looks_like_hub_id(text), exists(path)
    is_folder = there and path.is_dir()
    if is_folder and (exists(path / CONFIG_FILE) or not (bundled or is_hub_id)):
        return _checked_folder(path)
    if bundled:
        return _checked_folder(BUNDLED / text)
    if not is_hub_id or (there and not is_folder):
        what = "is not a folder" if there else "does not exist"
        raise SctnetError(
            f"{text}: {what}; give a model folder, a hub id such as "
            f"owner/name, or a bundled name ({', '.join(bundled_names()) or 'there is none'})"
        )
    return _download(text)


def bundled_names() -> list[str]:
    """Return the names of the models and backbones that come with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{CONFIG_FILE}"))


def bundled_models() -> list[str]:
    """Return the names of the models that come with the package, without those of backbones."""
    return [name for name in bundled_names() if not load_config(BUNDLED / name).backbone_only]


def load_strictly(model: SegmentationNetwork, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copy tensors into a model that has exactly these keys and shapes, or change nothing."""
    check_tensors(tensors, model.state_dict(), origin, model.config.variant)
    model.load_state_dict(dict(tensors))


def check_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], origin: str, variant: str
) -> None:
    """Raise :class:`SctnetError` unless all keys, shapes and values are as they must be."""
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
        check_tensor(key, tensor, expected[key], origin)


def check_tensor(key: str, tensor: Tensor, expected: Tensor, origin: str) -> None:
    """Raise :class:`SctnetError` unless shape and kind of number are as expected, and finite."""
    if tensor.shape != expected.shape:
        raise SctnetError(
            f"{origin}: {key} has the shape {tuple(tensor.shape)}, "
            f"this network needs {tuple(expected.shape)}; is it another variant's file?"
        )
    if tensor.is_floating_point() != expected.is_floating_point():
        raise SctnetError(
            f"{origin}: {key} holds {tensor.dtype}, this network needs {expected.dtype}"
        )
    check_finite(key, tensor.to(expected.dtype), origin)  # 1e39 is infinite in float32


def check_finite(key: str, tensor: Tensor, origin: str) -> None:
    """Raise :class:`SctnetError` for NaN and infinity."""
    if not tensor.isfinite().all():
        raise SctnetError(
            f"{origin}: {key} holds NaN or infinity; take an earlier checkpoint, "
            "the training that wrote this one had failed"
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


def _download(hub_id: str) -> Path:
    """Return the folder of a download, and say before what is missing here and how large it is."""
    if not (os.environ.get("HF_HOME") or os.environ.get("HF_HUB_CACHE")):
        cache_folder()  # without a home folder, the client makes one that is named "~" here
    from huggingface_hub import snapshot_download

    files = [CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, CLASSIFIER_FILE, *_OF_TRANSFORMERS]
    try:
        listed = snapshot_download(hub_id, allow_patterns=files, dry_run=True)
        wanted = {each.filename: each.file_size or 0 for each in listed if each.will_download}
        if wanted:
            megabytes = sum(wanted.values()) / 1e6
            names = ", ".join(sorted(wanted))
            _LOG.info("%s: downloads %.1f MB from the hub: %s", hub_id, megabytes, names)
        path = Path(snapshot_download(hub_id, allow_patterns=files))
    except Exception as error:
        # The client has no common exception for bad names, HTTP statuses and network errors.
        raise SctnetError(
            f"{hub_id}: no such model folder here, and it could not be downloaded from the hub "
            f"({type(error).__name__}); check the name and the network"
        ) from error
    return _checked_folder(path)


def _checked_folder(path: Path) -> Path:
    weights = INDEX_FILE if exists(path / INDEX_FILE) else WEIGHTS_FILE
    missing = [file for file in (CONFIG_FILE, weights) if not exists(path / file)]
    if missing:
        pickled = exists(path / "pytorch_model.bin")
        hint = "; pytorch_model.bin may hold code: save it as safetensors" if pickled else ""
        raise SctnetError(
            f"{path}: not a model folder, it holds no {' and no '.join(missing)}{hint}"
        )
    return path


def exists(path: Path) -> bool:
    """Say whether a path exists and may be looked at."""
    try:
        return path.exists()
    except OSError:  # a name that is too long, or a folder without permission
        return False


def _refuse_foreign_files(target: Path) -> None:
    there = [file for file in (CARD_FILE, CONFIG_FILE) if exists(target / file)]
    if there and not _is_ours(target / CONFIG_FILE):
        raise SctnetError(
            f"{target}: holds a {there[0]} that is not a model's and would be overwritten; "
            "choose another folder"
        )


def _is_ours(config_file: Path) -> bool:
    """Say whether a config.json belongs to a model, even to one of a newer version."""
    try:
        content = json.loads(config_file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"format_version", "network"} <= content.keys()


def _looks_like_hub_id(text: str) -> bool:
    owner, slash, name = text.partition("/")
    return bool(slash and owner and name) and "/" not in name and not text.startswith((".", "~"))


def _shortened(keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:3])
    return shown if len(keys) <= 3 else f"{shown} and {len(keys) - 3} more"


def first_message(error: ValidationError) -> str:
    """Return the key and the message of the first mistake that pydantic found."""
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
