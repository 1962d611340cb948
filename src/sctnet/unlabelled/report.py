"""Student and teacher side by side: what they cost, and how far they agree."""

from pathlib import Path
from typing import Any

import numpy as np

from sctnet.checkpoints.exported_file import EXPORTED_SUFFIXES
from sctnet.checkpoints.model_folder import (
    CARD_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    find_model,
    load_config,
    load_model,
)
from sctnet.checkpoints.transformers_folder import is_transformers_folder
from sctnet.data.registry import open_dataset
from sctnet.errors import SctnetError
from sctnet.evaluation.evaluator import evaluate
from sctnet.inference.runtimes.runtime import exported_file
from sctnet.inference.runtimes.transformers_runtime import TransformersRuntime
from sctnet.inference.scoring import comparison_sheet, evenly_spread
from sctnet.inference.segmenter import Segmenter
from sctnet.inference.timing import time_predictions
from sctnet.pictures.encoding import write_picture
from sctnet.training.recipe import SegmentationRecipe
from sctnet.training.run_folder import RunFolder
from sctnet.unlabelled.teacher import Labeller
from sctnet.writing import write_text

HELD_BACK_FILE = "held_back.yaml"
SHEET_FILE = "sheet.jpg"

_SHOWN = 6
_TIMED = 4  # pictures
_ROUNDS = 3


def write_report(folder: RunFolder, recipe: SegmentationRecipe, teacher: str) -> dict[str, Any]:
    """Compare a finished student with its teacher, into summary.json, the card and sheet.jpg.

    Both are timed in turns on the pictures that were held back. Agreement is the mIoU of the
    student's labels against the teacher's there. Where the run validated on labels, both are scored
    by them.
    """
    assert recipe.alignment is not None
    held_back = open_dataset(folder.path / HELD_BACK_FILE, ["val"])
    labeller = Labeller(teacher, recipe.alignment.map)
    student = Segmenter(folder.path)
    kept: dict[int, np.ndarray] = {}
    shown = evenly_spread(_SHOWN, len(held_back))

    def keep(index: int, labels: np.ndarray) -> None:
        if index in shown:
            kept[index] = labels

    agreement = evaluate(student.predict_labels, held_back, on_image=keep).scores
    pictures = [held_back.image(number) for number in range(min(_TIMED, len(held_back)))]
    timings = time_predictions([student, labeller.segmenter], pictures, 1, _ROUNDS)
    compared: dict[str, Any] = {
        "teacher": _described(teacher, labeller.segmenter, timings[1].best),
        "student": _described(str(folder.path), student, timings[0].best),
        "agreement_miou": agreement.miou,
        "agreement_pixels": agreement.pixel_accuracy,
        "agreement_by_class": agreement.iou,
        "held_back_pictures": len(held_back),
    }
    if recipe.data.train and recipe.data.validation:
        labelled = open_dataset(str(recipe.data.source), recipe.data.validation)
        compared["validation_miou"] = {
            "teacher": evaluate(labeller, labelled).scores.miou,
            "student": evaluate(student.predict_labels, labelled).scores.miou,
        }
    folder.save_summary({**folder.summary(), "distillation": compared})
    _write_card(folder.path, recipe, teacher, compared)
    sheet = comparison_sheet(student, held_back, kept, ("picture", "teacher", "student"))
    write_picture(sheet, folder.path / SHEET_FILE)
    return compared


def _described(name: str, segmenter: Segmenter, milliseconds: float) -> dict[str, Any]:
    """Return parameters, bytes on the disk and milliseconds for a picture."""
    file = exported_file(name)
    parameters: int | None = None
    if file is not None:
        files = [file.with_suffix(suffix) for suffix in (file.suffix, *_beside(file))]
    else:
        folder = find_model(name)
        files = list(folder.glob("*.safetensors"))
        runtime = getattr(segmenter.runtime, "inner", segmenter.runtime)
        if isinstance(runtime, TransformersRuntime):
            parameters = sum(each.numel() for each in runtime.model.parameters())
        elif not is_transformers_folder(folder):
            parameters = sum(each.numel() for each in load_model(folder).parameters())
            files = [folder / WEIGHTS_FILE]
    return {
        "model": name,
        "parameters": parameters,
        "bytes": sum(each.stat().st_size for each in files if each.exists()),
        "milliseconds": round(milliseconds, 2),
    }


def _beside(file: Path) -> tuple[str, ...]:
    return next(each[1:] for each in EXPORTED_SUFFIXES.values() if file.suffix.lower() == each[0])


def _write_card(
    folder: Path, recipe: SegmentationRecipe, teacher: str, compared: dict[str, Any]
) -> None:
    """Add the comparison, and the terms of the teacher's weights, to card and config.json."""
    terms = _terms(teacher)
    if terms is not None:
        config = load_config(folder).model_copy(update={"terms": terms})
        write_text(folder / CONFIG_FILE, config.model_dump_json(indent=2) + "\n")
    own, other = compared["student"], compared["teacher"]
    lines = [
        f"\nDistilled from {teacher} ({other['bytes'] / 1e6:.1f} MB), on the pictures without "
        f"labels that {recipe.data.unlabelled} lists; this model has {own['bytes'] / 1e6:.1f} MB. "
        f"On {compared['held_back_pictures']} pictures held back it agrees with its teacher by "
        f"{100 * compared['agreement_miou']:.1f} % mIoU.\n",
        f"Terms of the teacher's weights: {terms or 'not stated; see its own card'}. They may also "
        "apply to this model.\n",
    ]
    card = (folder / CARD_FILE).read_text(encoding="utf-8")
    write_text(folder / CARD_FILE, card + "\n".join(lines))


def _terms(teacher: str) -> str | None:
    try:
        file = exported_file(teacher)
        if file is not None:
            return Segmenter(file).config.terms
        return load_config(teacher).terms
    except SctnetError:  # of transformers: in its card, if anywhere
        return None
