"""``sctnet train``."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name or a YAML file.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="Fields of the recipe as key=value, such as run.seed=1."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The run's folder; it becomes a model folder.")] = ...,  # type: ignore[assignment]
    data: Annotated[
        str | None, typer.Option(help="A data set's root or YAML, or the word synthetic.")
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(help="Carry the recipe to other pictures: seg50, seg75 or camvid."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out from its last checkpoint.")
    ] = False,
) -> None:
    """Train a network by a recipe.

    The folder --out then holds the model (config.json, model.safetensors, README.md), the resolved
    recipe.yaml, last.ckpt, metrics.jsonl, summary.json and a TensorBoard log; best/ holds the model
    with the best validation mIoU, where there is a validation split.
    """
    from sctnet.cli.progress import training_progress
    from sctnet.training.recipe import load_recipe
    from sctnet.training.trainer import train as run

    loaded = load_recipe(recipe, settings or [], source=data, scale=scale)
    try:
        with training_progress(loaded.schedule.iterations) as observe:
            folder = run(loaded, out, resume=resume, observe=observe)
    except KeyboardInterrupt:
        print(f"Stopped; what was done is in {out}, continue it with --resume", file=sys.stderr)  # noqa: T201
        raise
    print(f"Trained {loaded.name}: the model is in {folder.path}")  # noqa: T201
