"""``sctnet eval`` of a classification's run."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from sctnet.errors import SctnetError


def evaluate_classification(
    model: str,
    data: str,
    split: str,
    out: Path | None,
    batch: int,
    precision: str,
    device: str | None,
    unsuited: Sequence[str],
) -> None:
    """Score a classifier: top-1 and top-5 accuracy, speed; ``unsuited`` options are refused."""
    from rich.console import Console

    from sctnet.checkpoints.classifier_folder import load_classifier
    from sctnet.cli.progress import counting_progress
    from sctnet.cli.tables import classification_table
    from sctnet.data.classification.registry import open_classified
    from sctnet.inference.classification_scoring import score_classifier
    from sctnet.inference.scoring import SCORES_FILE
    from sctnet.processes import launched_processes

    if unsuited:
        raise SctnetError(f"{unsuited[0]}: only for segmentation; {model} is a classifier")
    processes = launched_processes()
    classifier = load_classifier(model)
    dataset = open_classified(data, [split])
    target = out or default_out(model) / split
    processes.connect()
    show = processes.is_first
    with counting_progress("scoring", len(dataset)) if show else nullcontext() as progress:
        scores = score_classifier(
            classifier,
            model,
            dataset,
            target,
            batch_size=batch,
            device=processes.device() if device is None and processes.count > 1 else device,
            precision=precision,
            progress=progress,
            processes=processes,
        )
    processes.disconnect()
    if show:
        Console().print(classification_table(scores))
        for reason in scores.skipped:
            print(f"not counted: {reason}")  # noqa: T201
        print(f"Written to {target}: {SCORES_FILE}")  # noqa: T201


def default_out(model: str) -> Path:
    """Return the folder of a model's evaluations."""
    from sctnet.checkpoints.model_folder import CONFIG_FILE

    folder = Path(model)
    if (folder / CONFIG_FILE).is_file():
        return folder / "evaluation"
    return Path("evaluation") / folder.name
