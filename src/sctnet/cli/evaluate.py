"""``sctnet eval``."""

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="A model folder or hub id.")],
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
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    device: Annotated[str | None, typer.Option(help="Default: a GPU if there is one.")] = None,
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

    Labels are compared at their original size, in one scale. Writes scores.json, confusion.png and,
    with --sheet, sheet.png. A split whose labels are not published can only be given
    --save-predictions, for the publishers' server.
    """
    from rich.console import Console

    from sctnet.cli.progress import counting_progress
    from sctnet.cli.tables import scores_table
    from sctnet.data.opening import open_dataset
    from sctnet.inference.scoring import (
        CONFUSION_FILE,
        PREDICTIONS_FOLDER,
        SCORES_FILE,
        SHEET_FILE,
        predict_split,
        score,
    )
    from sctnet.inference.segmenter import Segmenter

    segmenter = Segmenter(model, device, precision)
    print(f"{model}: {segmenter}")  # noqa: T201
    dataset = open_dataset(data, [split])
    target = out or _default_out(model) / split
    written = [PREDICTIONS_FOLDER] if save_predictions else []
    if save_predictions and not dataset.labelled:
        with counting_progress("predicting", len(dataset)) as progress:
            predict_split(segmenter, dataset, target, progress)
        print(f"{dataset.name} has no published labels: there is nothing to score.")  # noqa: T201
    else:
        with counting_progress("scoring", len(dataset)) as progress:
            evaluation = score(segmenter, dataset, target, batch, sheet, progress, save_predictions)
        Console().print(scores_table(evaluation))
        written = [SCORES_FILE, CONFUSION_FILE, *([SHEET_FILE] if sheet else []), *written]
    print(f"Written to {target}: {', '.join(written)}")  # noqa: T201


def _default_out(model: str) -> Path:
    from sctnet.weights import CONFIG_FILE

    folder = Path(model)
    if (folder / CONFIG_FILE).is_file():
        return folder / "evaluation"
    return Path("evaluation") / folder.name
