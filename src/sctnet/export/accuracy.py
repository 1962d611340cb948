"""The cost of int8 on labelled data: the mIoU before and after."""

from pathlib import Path

from sctnet.data.dataset import SegmentationDataset
from sctnet.errors import SctnetError
from sctnet.evaluation.evaluator import evaluate
from sctnet.inference.segmenter import Segmenter


def require_accuracy(
    folder: Path, written: Path, file: Path, dataset: SegmentationDataset, max_drop: float
) -> str:
    """Score a model folder and the int8 file made of it; return both in words.

    Raises :class:`SctnetError` for a file that lost more than ``max_drop`` points of mIoU;
    ``file`` is the name that it was to get.
    """
    segmenters = Segmenter(folder, "cpu"), Segmenter(written)
    if len(segmenters[0].classes) != len(dataset.classes):
        raise SctnetError(
            f"{dataset.name}: has {len(dataset.classes)} classes and the model "
            f"{len(segmenters[0].classes)}: give data with its own classes"
        )
    before, after = (
        100 * evaluate(segmenter.predict_labels, dataset).scores.miou for segmenter in segmenters
    )
    said = f"{before:.2f} % mIoU in fp32, {after:.2f} % in int8, on {dataset.name}"
    if before - after > max_drop:
        raise SctnetError(
            f"{file}: not written, it lost more than {max_drop:g} points ({said}): calibrate on "
            "pictures more like these, or allow more with --max-drop"
        )
    return said
