"""Quantisation to int8: calibrates the ranges of the activations on pictures.

Only the part between the first and the last convolution is quantised; preprocessing, resizing and
argmax do not change. Which parts can be int8 is measured: the parts that may need floats are tried
one after the other, until few labels differ.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, overload

import cv2
import numpy as np
import torch

from sctnet.checkpoints.exported_file import ExportedConfig
from sctnet.data.dataset import SegmentationDataset
from sctnet.data.images import read_image
from sctnet.errors import SctnetError
from sctnet.evaluation.evaluator import LabelMap, Picture, evaluate
from sctnet.export.parity import Batch, Run
from sctnet.inference.files import find_pictures
from sctnet.inference.segmenter import Segmenter
from sctnet.pipeline.label_map import label_map

MAX_PICTURES = 300
"""To calibrate on."""
SEARCH_PICTURES = 32
"""To calibrate on while parts are tried."""
HELD_OUT = 8
"""To see what a trial does to labels."""
ENOUGH = 0.01
"""The share of differing labels below which no further part is tried."""
WORTH = 0.2
"""The share of the differing labels that a part in floats has to make equal, to stay in floats."""

_NORMALISATION = ".normalisation/"
"""In the names of the nodes of :class:`~sctnet.models.cfblock.GroupedDoubleNormalisation`."""

LogitsOf = Callable[[Batch], np.ndarray]
Predict = Callable[[Sequence[Picture]], Sequence[LabelMap]]

# By OpenVINO's and ONNX's names.
CONVOLUTIONS = frozenset({"Conv", "Convolution", "GroupConvolution"})


class Node(NamedTuple):
    """An operator of a graph."""

    name: str
    kind: str
    sources: tuple[str, ...]
    """The names of the nodes that it reads."""


class Quantiser(Protocol):
    """Quantises a model of one format."""

    model: Any
    """In floats, with the logits as its last output."""

    def nodes(self) -> list[Node]:
        """Return the operators of the float model in topological order."""

    def quantised(self, pictures: Sequence[Batch], floats: Sequence[str]) -> Any:
        """Return the quantised model; the nodes ``floats`` stay in floats."""

    def run(self, model: Any) -> LogitsOf:
        """Return what maps pictures to logits, N x K x h x w, by a model of this format."""


class CalibrationPictures(Sequence[Batch]):
    """Up to 300 pictures of a folder, chosen at random, read one by one as a model takes them.

    Raises :class:`SctnetError` for a folder without pictures, and where one cannot be read.
    """

    def __init__(self, folder: Path, config: ExportedConfig, seed: int = 0) -> None:
        found, failures = find_pictures([str(folder)], Path())
        if failures:
            raise SctnetError(failures[0])
        chosen = random.Random(seed).sample(found, min(MAX_PICTURES, len(found)))  # noqa: S311
        self._paths = [picture.path for picture in chosen]
        self._config = config

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> CalibrationPictures: ...
    def __getitem__(self, index: int | slice) -> Batch | CalibrationPictures:
        if isinstance(index, slice):
            part = copy.copy(self)
            part._paths = self._paths[index]
            return part
        picture, config = read_image(self._paths[index]), self._config
        if config.size is not None and picture.shape[:2] != config.size:
            size = config.size[::-1]
            picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
        return np.ascontiguousarray(np.repeat(picture[None], config.batch or 1, axis=0))


def quantise(quantiser: Quantiser, pictures: Sequence[Batch], say: Callable[[str], None]) -> Any:
    """Return the quantised model; ``say`` receives a line for each trial on the way.

    The parts are tried on a few pictures in turn, each together with those that were worth it; the
    model is then quantised with all pictures.
    """
    held_out = pictures[:HELD_OUT]
    few = pictures[HELD_OUT : HELD_OUT + SEARCH_PICTURES] or pictures
    nodes = quantiser.nodes()
    wanted = _labels(quantiser, quantiser.model, held_out)

    def differing(floats: set[str]) -> float:
        found = _labels(quantiser, quantiser.quantised(few, sorted(floats)), held_out)
        return float(np.mean([(a != b).mean() for a, b in zip(found, wanted, strict=True)]))

    floats = _outside(nodes)
    least = differing(floats)
    say(f"int8 throughout: {100 * least:.2f} % of labels differ")
    for part, names in _parts(nodes).items():
        if least <= ENOUGH:
            break
        candidate = floats | names
        share = differing(candidate)
        worth = share < (1 - WORTH) * least
        say(f"{part} in floats: {100 * share:.2f} % differ, {'kept' if worth else 'not worth it'}")
        if worth:
            floats, least = candidate, share
    return quantiser.quantised(pictures, sorted(floats))


def _labels(quantiser: Quantiser, model: Any, pictures: Sequence[Batch]) -> list[np.ndarray]:
    run = quantiser.run(model)
    return [run(picture).argmax(1) for picture in pictures]


def _parts(nodes: Sequence[Node]) -> dict[str, set[str]]:
    """Return the nodes of what may have to stay in floats, in the order in which it is tried."""
    normalisation = {node.name for node in nodes if _NORMALISATION in node.name}
    convolutions = [node.name for node in nodes if node.kind in CONVOLUTIONS]
    convolutions = [name for name in convolutions if name not in normalisation]
    return {
        "attention normalisation": normalisation,
        "all but convolutions": {node.name for node in nodes} - {*convolutions},
        "first convolution": {*convolutions[:1]},
        "classifier": {*convolutions[-1:]},
    }


def _outside(nodes: Sequence[Node]) -> set[str]:
    """Return the nodes before the first convolutions and behind the last."""
    behind: set[str] = set()
    for node in nodes:
        if node.kind in CONVOLUTIONS or behind.intersection(node.sources):
            behind.add(node.name)
    before: set[str] = set()
    for node in reversed(nodes):
        if node.kind in CONVOLUTIONS or node.name in before:
            before.update((node.name, *node.sources))
    return {node.name for node in nodes if not (node.name in behind and node.name in before)}


def labels_by_logits(run: Run, config: ExportedConfig) -> Predict:
    """Return what labels pictures by a file that this package does not open itself.

    ``run`` gives its logits. A file of one size sees every picture at that size.
    """
    working_size = config.model.preparation.working_size

    def predict(pictures: Sequence[Picture]) -> list[LabelMap]:
        found = []
        for picture in pictures:
            seen, size = picture, config.size or picture.shape[:2]
            if picture.shape[:2] != size:
                resized = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)
                seen = np.asarray(resized)
            logits = run(np.ascontiguousarray(np.repeat(seen[None], config.batch or 1, axis=0)))[1]
            sizes = working_size.apply(*size), size, picture.shape[:2]
            found.append(label_map(torch.from_numpy(logits[:1]), *sizes)[0].numpy())
        return found

    return predict


def require_accuracy(
    folder: Path, predict: Predict, file: Path, dataset: SegmentationDataset, max_drop: float
) -> str:
    """Score a model folder and the int8 file made of it; return both in words.

    ``predict`` labels pictures by the file. Raises :class:`SctnetError` for a file that lost more
    than ``max_drop`` points of mIoU; ``file`` is the name that it was to get.
    """
    segmenter = Segmenter(folder, "cpu")
    if len(segmenter.classes) != len(dataset.classes):
        raise SctnetError(
            f"{dataset.name}: has {len(dataset.classes)} classes and the model "
            f"{len(segmenter.classes)}: give data with its own classes"
        )
    before, after = (
        100 * evaluate(each, dataset).scores.miou for each in (segmenter.predict_labels, predict)
    )
    said = f"{before:.2f} % mIoU in fp32, {after:.2f} % in int8, on {dataset.name}"
    if before - after > max_drop:
        raise SctnetError(
            f"{file}: not written, it lost more than {max_drop:g} points ({said}): calibrate on "
            "pictures more like these, or allow more with --max-drop"
        )
    return said
