"""Scores of a pre-trained classifier, and their file."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sctnet.checkpoints.classifier_folder import LoadedClassifier
from sctnet.checkpoints.model_folder import usable_device
from sctnet.data.classification.dataset import ClassificationDataset
from sctnet.data.classification.random_crops import resized_side
from sctnet.errors import SctnetError
from sctnet.evaluation.classification import ClassificationScores, evaluate_classifier
from sctnet.inference.scoring import SCORES_FILE
from sctnet.pipeline.precision import DTYPES, choose_precision, is_emulated, tell_of_emulation
from sctnet.pipeline.preprocessing import Preprocessing
from sctnet.processes import ALONE, Processes
from sctnet.provenance import environment
from sctnet.writing import write_text


def score_classifier(
    classifier: LoadedClassifier,
    name: str | os.PathLike[str],
    dataset: ClassificationDataset,
    out: Path,
    *,
    batch_size: int = 64,
    device: str | None = None,
    precision: str = "auto",
    progress: Callable[[int], None] | None = None,
    processes: Processes = ALONE,
) -> ClassificationScores:
    """Score a classifier by top-1 and top-5 accuracy; write scores.json. ``name`` is the model's.

    Raises :class:`SctnetError` where model and data have other classes, for a precision and a
    device that cannot be used, and for a folder that cannot be written.
    """
    model, config = classifier
    if config.classes != dataset.classes:
        raise SctnetError(
            f"{name}: its {len(config.classes)} classes ({config.classes[0]}, ...) are not the "
            f"{len(dataset.classes)} of {dataset.name} ({dataset.classes[0]}, ...): score it on "
            "data with the same classes in the same order"
        )
    place = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    chosen = choose_precision(precision, place, on_gpu="fp16")
    network = model.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    preprocessing = Preprocessing(config.preparation).to(place)

    def predict(images: Tensor, kind: torch.dtype | None = DTYPES[chosen.name]) -> Tensor:
        with torch.inference_mode(), torch.autocast(place.type, kind, enabled=kind is not None):
            prepared = preprocessing(images.to(place))
            logits: Tensor = network(prepared.contiguous(memory_format=torch.channels_last))
        return logits

    if is_emulated(chosen.name, place):
        picture = torch.zeros(1, 3, config.crop, config.crop, dtype=torch.uint8)
        tell_of_emulation(
            chosen.name, lambda: predict(picture).cpu(), lambda: predict(picture, None).cpu()
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SctnetError(f"{out}: cannot be written ({error.strerror})") from error
    scores = evaluate_classifier(predict, dataset, config.crop, batch_size, progress, processes)
    if processes.is_first:
        computed = f"{chosen.name} on {place}{chosen.because}"
        report = {
            "top1": scores.top1,
            "top5": scores.top5,
            "images": scores.images,
            "skipped": list(scores.skipped),
            "images_per_second": round(scores.images / scores.predict_seconds, 3),
            "images_per_second_with_reading": round(scores.images / scores.total_seconds, 3),
            "batch_size": batch_size,
            "processes": processes.count,
            "protocol": f"shorter side {resized_side(config.crop)}, centre crop {config.crop}",
            "model": f"{name}: {model.network.config.variant}, {computed}",
            "data": dataset.name,
            **environment(),
        }
        write_text(out / SCORES_FILE, json.dumps(report, indent=2) + "\n")
    return scores
