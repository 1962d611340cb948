"""Scores of a segmenter and their files, and label maps for benchmark servers."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sctnet.data.dataset import SegmentationDataset
from sctnet.data.views import RecordedPictures
from sctnet.errors import SctnetError
from sctnet.evaluation.evaluator import Evaluation, LabelMap, evaluate
from sctnet.inference.segmenter import Segmenter
from sctnet.inference.submission import save_prediction
from sctnet.pictures.contact_sheet import contact_sheet
from sctnet.pictures.encoding import write_picture
from sctnet.pictures.overlay import overlay
from sctnet.pictures.plots import class_scores_picture, confusion_picture
from sctnet.processes import ALONE, Processes
from sctnet.provenance import environment
from sctnet.writing import write_text

_LOG = logging.getLogger(__name__)

SCORES_FILE, SHEET_FILE = "scores.json", "sheet.png"
CONFUSION_FILE, CLASSES_FILE = "confusion.png", "classes.png"
PREDICTIONS_FOLDER = "predictions"

PROTOCOL = "labels at their original size, single scale, no flip, counts summed over all pictures"
"""The protocol of a segmenter with default options; see :func:`protocol`."""


def protocol(segmenter: Segmenter) -> str:
    """Return the protocol by which a segmenter is scored, in words."""
    if segmenter.scales == (1.0,) and not segmenter.mirrors:
        return PROTOCOL
    scales = ", ".join(f"{scale:g}" for scale in segmenter.scales)
    flip = "and mirrored" if segmenter.mirrors else "no flip"
    return (
        f"labels at their original size, scales {scales} of the working size, {flip}, "
        "probabilities averaged at the picture's size, counts summed over all pictures"
    )


def score(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    out: Path,
    batch_size: int = 1,
    sheet_pictures: int = 0,
    progress: Callable[[int], None] | None = None,
    save_predictions: bool = False,
    processes: Processes = ALONE,
) -> Evaluation:
    """Score a segmenter; write scores.json, confusion.png, classes.png and, if asked, sheet.png.

    The sheet shows ``sheet_pictures`` pictures, spread evenly, each beside its truth and its
    prediction. ``save_predictions`` writes all label maps into ``predictions``, with the data set's
    own values. ``processes`` divide the pictures; the first process writes all other files. Raises
    :class:`SctnetError` if the model and the data set have different classes, for a data set
    without labels, and for a folder that cannot be written.
    """
    require_same_classes(segmenter.classes, dataset)
    dataset.require_labels()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SctnetError(f"{out}: cannot be written ({error.strerror})") from error
    shown = evenly_spread(sheet_pictures, len(dataset))
    predictions: dict[int, LabelMap] = {}

    def keep(index: int, prediction: LabelMap) -> None:
        if index in shown:
            predictions[index] = prediction
        if save_predictions:
            folder = out / PREDICTIONS_FOLDER
            save_prediction(dataset, index, prediction, segmenter.colours, folder)

    calibration = segmenter.config.calibration
    seen = dataset if calibration is None else RecordedPictures(dataset)
    evaluation = evaluate(segmenter.predict_labels, seen, batch_size, keep, progress, processes)
    shown_predictions = processes.gather(predictions)
    digests = processes.gather(seen.digests if isinstance(seen, RecordedPictures) else set())
    if not processes.is_first:
        return evaluation
    predictions = {k: labels for part in shown_predictions for k, labels in part.items()}
    report = _report(segmenter, dataset, evaluation, batch_size, processes)
    if calibration is not None:
        chosen_by = calibration.chosen_by(set().union(*digests))
        report["images_that_calibrated"] = chosen_by
        if chosen_by:
            _LOG.warning(
                "%s of these %s pictures chose the model's offsets and scale (sctnet calibrate), "
                "so this score flatters it: score it on others.",
                chosen_by,
                evaluation.images,
            )
    write_text(out / SCORES_FILE, json.dumps(report, indent=2) + "\n")
    scores = evaluation.scores
    confusion_picture(scores.counts, segmenter.classes, out / CONFUSION_FILE)
    class_scores_picture(scores.iou, scores.precision, scores.recall, out / CLASSES_FILE)
    if predictions:
        write_picture(comparison_sheet(segmenter, dataset, predictions), out / SHEET_FILE)
    return evaluation


def predict_split(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    out: Path,
    progress: Callable[[int], None] | None = None,
    processes: Processes = ALONE,
) -> None:
    """Write the label maps of a split into ``predictions``, as ``score`` does, without its labels.

    ``progress`` receives the number of finished pictures; ``processes`` divide the pictures. Raises
    :class:`SctnetError` if the model and the data set have different classes, and for a folder that
    cannot be written.
    """
    require_same_classes(segmenter.classes, dataset)
    for done, index in enumerate(processes.own_part(len(dataset)), start=1):
        (labels,) = segmenter.predict_labels([dataset.image(index)])
        save_prediction(dataset, index, labels, segmenter.colours, out / PREDICTIONS_FOLDER)
        if progress is not None:
            progress(done * processes.count)


def _report(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    evaluation: Evaluation,
    batch_size: int,
    processes: Processes,
) -> dict[str, Any]:
    return {
        **evaluation.scores.to_json(),
        "images": evaluation.images,
        "images_per_second": round(evaluation.images_per_second, 3),
        "images_per_second_with_reading": round(evaluation.images / evaluation.total_seconds, 3),
        "batch_size": batch_size,
        "processes": processes.count,
        "protocol": protocol(segmenter),
        "model": str(segmenter),
        "data": dataset.name,
        **environment(),
    }


def comparison_sheet(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    predictions: dict[int, LabelMap],
    titles: tuple[str, str, str] = ("image", "truth", "prediction"),
) -> np.ndarray:
    """Return pictures of a data set beside its labels and predicted ones, by their numbers."""
    rows = []
    for index, prediction in sorted(predictions.items()):
        image, truth = dataset.pair(index)
        tinted = [
            overlay(image, labels, segmenter.colours, segmenter.classes, alpha=0.7, legend=False)
            for labels in (truth, prediction)
        ]
        rows.append([image, *tinted])
    return contact_sheet(rows, titles)


def evenly_spread(count: int, total: int) -> set[int]:
    """Return the numbers of so many of all, from the first to the last."""
    count = min(count, total)
    return {round(number) for number in np.linspace(0, total - 1, count)} if count else set()


def require_same_classes(classes: Sequence[str], dataset: SegmentationDataset) -> None:
    """Raise :class:`SctnetError` unless a model's classes are those of the data set, in order."""
    ours, theirs = len(classes), len(dataset.classes)
    if ours != theirs:
        raise SctnetError(
            f"the model knows {ours} classes and {dataset.name} has {theirs}: "
            "score it on data with its own classes"
        )
    differing = [
        f"{index}: {mine} / {other}"
        for index, (mine, other) in enumerate(zip(classes, dataset.classes, strict=True))
        if mine.casefold() != other.casefold() and not mine.startswith("class ")
    ]
    if differing:
        raise SctnetError(
            f"the model's classes are not those of {dataset.name} ({differing[0]}): "
            "score it on data with the same classes in the same order"
        )
