"""``sctnet eval``."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from sctnet.cli.evaluate_classification import default_out, evaluate_classification
from sctnet.cli.options import FLIP, MAP, PRECISIONS, SCALES, TILE, numbers


def evaluate(
    model: Annotated[str, typer.Argument(help="A model folder, hub id, .onnx or .xml file.")],
    data: Annotated[
        str, typer.Option(help="A data set's root or YAML, or the word synthetic.")
    ] = ...,  # type: ignore[assignment]
    split: Annotated[str, typer.Option(help="Which pictures.")] = "val",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Default: evaluation/SPLIT in the model folder, or, for a bundled or a hub model, "
            "evaluation/NAME/SPLIT here."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures of equal size at a time.")] = 1,
    precision: Annotated[str, typer.Option(help=PRECISIONS)] = "auto",
    device: Annotated[str | None, typer.Option(help="Default: a GPU if there is one.")] = None,
    scales: Annotated[str, typer.Option(help=SCALES)] = "1.0",
    flip: Annotated[bool | None, typer.Option("--flip/--no-flip", help=FLIP)] = None,
    tile: Annotated[int | None, typer.Option(min=32, help=TILE)] = None,
    class_map: Annotated[str | None, typer.Option("--map", help=MAP)] = None,
    sheet: Annotated[
        int, typer.Option(min=0, help="Draw this many pictures with truth and prediction.")
    ] = 0,
    save_predictions: Annotated[
        bool,
        typer.Option(
            "--save-predictions",
            help="Write every label map into predictions, in the codes of the data's publishers.",
        ),
    ] = False,
) -> None:
    """Score a model: mIoU, IoU by class, pixel and mean accuracy, speed.

    Labels are compared at their original size. Writes scores.json, confusion.png, classes.png (IoU,
    precision and recall by class) and, with --sheet, sheet.png. A split whose labels are not
    published can only be given --save-predictions, for the publishers' server. Under torchrun the
    processes share the pictures and sum their counts.

    The run of a classification is scored by top-1 and top-5 accuracy instead, on centre crops.
    """
    from sctnet.checkpoints.classifier_folder import is_classifier_folder

    if is_classifier_folder(model):
        asked = {
            "--scales": scales != "1.0", "--flip": flip is not None, "--tile": tile is not None,
            "--map": class_map is not None, "--sheet": sheet > 0,
            "--save-predictions": save_predictions,
        }  # fmt: skip
        evaluate_classification(
            model,
            data,
            split,
            out,
            batch,
            precision,
            device,
            [k for k, v in asked.items() if v],
        )
        return
    from rich.console import Console

    from sctnet.cli.progress import counting_progress
    from sctnet.cli.tables import scores_table
    from sctnet.data.registry import open_dataset
    from sctnet.inference.scoring import (
        CLASSES_FILE,
        CONFUSION_FILE,
        PREDICTIONS_FOLDER,
        SCORES_FILE,
        SHEET_FILE,
        predict_split,
        score,
    )
    from sctnet.inference.segmenter import Segmenter
    from sctnet.processes import launched_processes

    processes = launched_processes()
    segmenter = Segmenter(
        model,
        processes.device() if device in (None, "cuda") and processes.count > 1 else device,
        precision,
        tile=tile,
        scales=numbers("--scales", scales),
        flip=flip,
        class_map=class_map,
    )
    dataset = open_dataset(data, [split])
    target = out or default_out(model) / split
    processes.connect()
    show = processes.is_first
    written = [PREDICTIONS_FOLDER] if save_predictions else []
    if show:
        print(f"{model}: {segmenter}")  # noqa: T201
    with counting_progress("scoring", len(dataset)) if show else nullcontext() as progress:
        if save_predictions and not dataset.labelled:
            predict_split(segmenter, dataset, target, progress, processes)
            evaluation = None
        else:
            evaluation = score(
                segmenter, dataset, target, batch, sheet, progress, save_predictions, processes
            )
            sheets = [SHEET_FILE] if sheet else []
            written = [SCORES_FILE, CONFUSION_FILE, CLASSES_FILE, *sheets, *written]
    processes.disconnect()
    if not show:
        return
    if evaluation is None:
        print(f"{dataset.name} has no published labels: there is nothing to score.")  # noqa: T201
    else:
        Console().print(scores_table(evaluation))
    print(f"Written to {target}: {', '.join(written)}")  # noqa: T201
