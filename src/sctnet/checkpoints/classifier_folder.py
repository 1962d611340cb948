"""A pre-trained classifier on disk: a backbone's folder with the head of its training.

A start from the folder uses only the backbone; resuming and scoring need the head.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sctnet.checkpoints.backbone import save_backbone
from sctnet.checkpoints.model_folder import (
    CLASSIFIER_FILE,
    WEIGHTS_FILE,
    check_tensors,
    find_model,
    first_message,
    load_config,
    read_tensors,
)
from sctnet.errors import SctnetError
from sctnet.models import build
from sctnet.models.classifier import Classifier
from sctnet.pipeline.preprocessing import PreprocessingConfig
from sctnet.writing import write_whole

_KEY = "classifier"
"""Of the file's metadata."""
_NETWORK = "network."


class ClassifierConfig(BaseModel):
    """The classes of a head, and the preprocessing of its pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[str, ...] = Field(min_length=2)
    crop: int = Field(ge=32, description="of the test's centre crop, pixels a side")
    preparation: PreprocessingConfig


class LoadedClassifier(NamedTuple):
    """A classifier in eval mode, and its configuration."""

    model: Classifier
    config: ClassifierConfig


def is_classifier_folder(folder: str | os.PathLike[str]) -> bool:
    """Say whether a folder holds a head beside its backbone."""
    return (Path(folder) / CLASSIFIER_FILE).is_file()


def save_classifier(
    classifier: Classifier,
    folder: str | os.PathLike[str],
    classes: Sequence[str],
    crop: int,
    preparation: PreprocessingConfig,
    card: str,
) -> Path:
    """Write the backbone as a start (``init``), and the head beside it; each file whole."""
    config = ClassifierConfig(classes=tuple(classes), crop=crop, preparation=preparation)
    path = save_backbone(classifier.network, folder, with_context=False, card=card)
    write_whole(path / CLASSIFIER_FILE, save(_head(classifier), {_KEY: config.model_dump_json()}))
    return path


def load_classifier(folder: str | os.PathLike[str]) -> LoadedClassifier:
    """Return the classifier of a run's folder, strictly.

    Raises :class:`SctnetError` for a folder without a head, and for a backbone or head that is not
    whole or not finite.
    """
    path = find_model(folder)
    file = path / CLASSIFIER_FILE
    if not file.is_file():
        raise SctnetError(
            f"{path}: holds no {CLASSIFIER_FILE}; name the folder of a classification's run"
        )
    config = _read_config(file)
    network = load_config(path).network
    classifier = Classifier(build(network), len(config.classes))
    backbone, head = read_tensors(path / WEIGHTS_FILE), read_tensors(file)
    expected = classifier.network.state_dict()
    check_tensors(backbone, expected, str(path / WEIGHTS_FILE), network.variant)
    check_tensors(head, _head(classifier), str(file), network.variant)
    of_network = {f"{_NETWORK}{key}": value for key, value in backbone.items()}
    classifier.load_state_dict({**of_network, **head})
    return LoadedClassifier(classifier.eval(), config)


def _head(classifier: Classifier) -> dict[str, Tensor]:
    """Return the tensors outside the network."""
    tensors = classifier.state_dict()
    return {key: value for key, value in tensors.items() if not key.startswith(_NETWORK)}


def _read_config(file: Path) -> ClassifierConfig:
    try:
        with safe_open(file, "pt") as stream:
            text = (stream.metadata() or {}).get(_KEY, "")
        return ClassifierConfig.model_validate_json(text)
    except ValidationError as error:
        raise SctnetError(
            f"{file}: {first_message(error)}; this is not the head of a run"
        ) from error
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise SctnetError(f"{file}: not a whole safetensors file ({error})") from error
