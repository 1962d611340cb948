"""Parity of an exported file: compares it with PyTorch on the same pictures."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from sctnet.checkpoints.exported_file import ExportedConfig, Precision
from sctnet.data.images import read_image
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.errors import SctnetError
from sctnet.export.graph import SMALLEST
from sctnet.inference.files import find_pictures
from sctnet.models import SegmentationNetwork
from sctnet.pipeline.argmax_torch import resize_logits
from sctnet.pipeline.image_to_labels import ImageToLabels
from sctnet.pipeline.label_map import label_map

Batch = UInt8[np.ndarray, "n h w 3"]
Run = Callable[[Batch], tuple[np.ndarray, np.ndarray]]
"""Gives the answer of an exported file, and the logits at the network's own stride behind it."""

Quantise = Callable[[Any], Any]
"""Turns a float model of some format into an int8 one."""

SIZES = ((181, 243), (240, 97), (360, 480))
"""Height and width of the drawn streets that stand in for missing pictures."""
MAX_PICTURES = 20
"""Of a folder, evenly spread."""


class Limit(NamedTuple):
    """The limits for an export."""

    equal_labels: float
    """The least fraction of pixels with PyTorch's label."""
    difference: float
    """The largest difference of a logit, as a fraction of the largest logit."""


LIMITS: dict[Precision, Limit] = {
    "fp32": Limit(0.9999, 1e-4),
    "fp16": Limit(0.995, 0.05),
    "bf16": Limit(0.97, 0.25),
    "int8": Limit(0.85, 1.0),  # what it costs in mIoU tells more, where there are labels
}
"""Several times what was measured of our networks, trained and with random weights."""


class Parity(NamedTuple):
    """How an exported file compares with PyTorch in float32."""

    equal_labels: float
    """The fraction of pixels with the same label."""
    largest_difference: float
    """Of the logits (and of the probabilities, where they are the answer)."""
    largest_logit: float
    pictures: int

    def __str__(self) -> str:
        """Say it in a line."""
        return (
            f"{100 * self.equal_labels:.4f} % equal labels, largest logit difference "
            f"{self.largest_difference:.2g} (of {self.largest_logit:.3g}), {self.pictures} pictures"
        )


class Reference:
    """PyTorch's own answer: the network as it was saved, prepared and resized without a graph."""

    def __init__(self, network: SegmentationNetwork, config: ExportedConfig) -> None:
        self.whole = ImageToLabels(network.eval(), config.model.preparation)
        self.output, self.mirrors = config.output, config.mirrors

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the answer, the labels, and the logits at the network's own stride."""
        images = torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous()
        with torch.inference_mode():
            prepared = self.whole.preprocessing(images)
            logits = self.whole.logits(prepared)
            if self.output == "logits8":
                return logits, logits.argmax(1), logits
            sizes = [(size[2], size[3]) for size in (prepared.shape, images.shape)]
            if self.mirrors:
                mirrored = self.whole.logits(prepared.flip(3)).flip(3)
                resized = [resize_logits(each.float(), tuple(sizes)) for each in (logits, mirrored)]
                likely = torch.stack([each.softmax(1) for each in resized]).mean(0)
                labels = likely.argmax(1)
                answers = {"labels": labels, "probabilities": likely}
                return answers.get(self.output, likely.clamp(min=SMALLEST).log()), labels, logits
            labels = label_map(logits, *sizes)
            if self.output == "labels":
                return labels, labels, logits
            answer = logits
            for size in sizes:
                answer = F.interpolate(answer, size, mode="bilinear", align_corners=False)
            return (answer.softmax(1) if self.output == "probabilities" else answer), labels, logits


def compare(run: Run, reference: Reference, batches: Iterable[Batch]) -> Parity:
    """Run an exported file and PyTorch on the same pictures."""
    equal = pixels = pictures = 0
    difference = largest = 0.0
    for batch in batches:
        answer, labels, logits = reference(batch)
        theirs, their_logits = (torch.from_numpy(array) for array in _ran(run, batch))
        is_labels = reference.output == "labels"
        their_labels = theirs if is_labels else theirs.argmax(1)
        if their_labels.shape != labels.shape:
            raise SctnetError(
                f"the exported file gives {tuple(their_labels.shape)} labels instead of "
                f"{tuple(labels.shape)}: report this, and use --format torch until then"
            )
        equal += int((their_labels.long() == labels.long()).sum())
        pixels += labels.numel()
        pictures += len(batch)
        gaps = [their_logits.float() - logits] + ([] if is_labels else [theirs.float() - answer])
        # NaN stays NaN: it is never within a limit, so it fails every comparison.
        difference = float(np.max([difference, *(float(gap.abs().max()) for gap in gaps)]))
        largest = max(largest, float(logits.abs().max()))
    return Parity(equal / pixels, difference, largest, pictures)


def _ran(run: Run, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    try:
        return run(batch)
    except Exception as error:  # each runtime has errors of its own kind
        raise SctnetError(
            f"the exported file cannot be run on pictures of {batch.shape[1]}x{batch.shape[2]} "
            f"({str(error).strip().splitlines()[0][:200]}): try --size, or --format torch"
        ) from error


def refuse_difference(parity: Parity, limit: Limit, file: Path) -> None:
    """Raise :class:`SctnetError` unless the limit is held."""
    reached = parity.equal_labels >= limit.equal_labels
    if not (reached and parity.largest_difference <= limit.difference * parity.largest_logit):
        raise SctnetError(
            f"{file}: not written, it differs from PyTorch ({parity}; needed are "
            f"{100 * limit.equal_labels:g} % and {100 * limit.difference:g} % of the largest "
            "logit): choose another precision or format"
        )


def batches_for(config: ExportedConfig, folder: Path | None) -> Iterator[Batch]:
    """Give the pictures to compare on: of a folder, or drawn streets.

    A file for any size sees each picture at its own, one for a fixed size at that; one for any
    number of pictures sees them alone and in pairs. Raises :class:`SctnetError` at once for a
    folder without pictures, and where one cannot be read.
    """
    return _batches(config, _drawn(config) if folder is None else _of_folder(folder))


def _batches(
    config: ExportedConfig, pictures: Iterable[UInt8[np.ndarray, "h w 3"]]
) -> Iterator[Batch]:
    for number, picture in enumerate(pictures):
        if config.size is not None and picture.shape[:2] != config.size:
            size = config.size[::-1]
            picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
        # The second picture of a pair is the first one's mirror image, the third the first again.
        count = config.batch or 1 + (number + 1) % 2
        mirrored = [picture if place % 2 == 0 else picture[:, ::-1] for place in range(count)]
        yield np.ascontiguousarray(np.stack(mirrored))


def _drawn(config: ExportedConfig) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    sizes = SIZES if config.size is None else [config.size]
    for number, size in enumerate(sizes):
        yield SyntheticStreets(7, number + 1, size).image(number)


def _of_folder(folder: Path) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    found, failures = find_pictures([str(folder)], Path())
    if failures:
        raise SctnetError(failures[0])
    chosen = found[:: -(-len(found) // MAX_PICTURES)]
    for picture in chosen:
        read_image(picture.path)  # which may raise, now and not at the end
    return (read_image(picture.path) for picture in chosen)
