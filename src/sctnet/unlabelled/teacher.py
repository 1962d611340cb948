"""The teacher of a distillation: the label maps of whole pictures, and answers about crops."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sctnet.checkpoints.class_map import EVERYTHING_ELSE, ClassMap, Rules
from sctnet.data.dataset import IGNORE, Labels, Picture
from sctnet.errors import SctnetError
from sctnet.inference.runtimes.exported_runtime import ExportedRuntime
from sctnet.inference.runtimes.runtime import exported_file
from sctnet.inference.segmenter import Segmenter
from sctnet.models.layers import resize
from sctnet.pipeline.preprocessing import PreprocessingConfig
from sctnet.training.teachers import LogitsTeacher, load_teacher

_MOST_CLASSES = 254
_DROPPED = "(dropped)"


class Labeller:
    """A model that labels whole pictures by its map; pixels of dropped classes become 255."""

    def __init__(self, model: str, rules: Rules | None) -> None:
        segmenter = Segmenter(model)
        self.dropped = False
        if rules is not None:
            self.dropped = ClassMap(rules, segmenter.classes, f"map of {model}").dropped
            all_rules = {**rules, _DROPPED: (EVERYTHING_ELSE,)} if self.dropped else rules
            segmenter = segmenter.mapped(all_rules)
        self.segmenter = segmenter
        known = len(segmenter.classes) - self.dropped
        self.classes, self.colours = segmenter.classes[:known], segmenter.colours[:known]
        if known > _MOST_CLASSES:
            raise SctnetError(
                f"{model}: has {known} classes, and a student learns {_MOST_CLASSES} at most: "
                "merge or drop some (--map)"
            )

    def __call__(self, pictures: Sequence[Picture]) -> list[Labels]:
        """Return the label map of each picture."""
        found = self.segmenter.predict_labels(pictures)
        known = len(self.classes)
        return [np.where(each < known, each, IGNORE).astype(np.uint8) for each in found]


def open_teacher(model: str, preparation: PreprocessingConfig) -> Any:
    """Return a model as a teacher: of an exported file its logits, of others all that it shows.

    ``preparation`` is that of the student.
    """
    file = exported_file(model)
    if file is None:
        return load_teacher(model, preparation)
    runtime = Segmenter(file).runtime
    assert isinstance(runtime, ExportedRuntime)
    runtime.require_logits("a teacher")
    return LogitsTeacher(
        _Asked(runtime), runtime.config.model.classes, preparation, _identity(file, runtime)
    ).eval()


class _Asked:
    """An exported file that is asked about crops, as about whole pictures."""

    def __init__(self, runtime: ExportedRuntime) -> None:
        self._runtime = runtime

    def __call__(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        taken, images = self._runtime.size, pixels.cpu()
        if taken is not None and taken != tuple(images.shape[2:]):
            resized = F.interpolate(images.float(), taken, mode="bilinear", antialias=True)
            images = resized.round().clamp(0, 255).to(torch.uint8)
        images = images.contiguous(memory_format=torch.channels_last)
        found = self._runtime(list(torch.split(images, 1)))
        # A copy, because what was made in inference mode cannot take part in a training step.
        return (
            torch.cat([resize(logits.float(), size) for logits in found]).clone().to(pixels.device)
        )


def _identity(file: Path, runtime: ExportedRuntime) -> str:
    config = runtime.config
    return f"{file.suffix} {config.weights_sha256} {config.precision} {config.output}"
