"""``sctnet train``."""

import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sctnet.errors import SctnetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sctnet.training.recipe import Recipe
    from sctnet.training.trainer import Observer


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A shipped recipe's name or a YAML file; without one, it is chosen from the data."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="Fields of the recipe as key=value, such as run.seed=1."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; it becomes a model folder.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A data set's root or YAML, or the word synthetic.")
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(help="Adapt the recipe to other pictures: seg50, seg75 or camvid."),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            help="Train this variant by the recipe: model.variant is set, model.options and "
            "model.init, which were for another network, are emptied; key=value may fill them."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out from its last checkpoint.")
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(help="Do this many runs below --out, of one seed after another."),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Divide the training pictures into this many folds, and do a run for each, which "
            "validates on it and trains on the others."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Do a few steps, say what the run needs, write nothing."),
    ] = False,
    classes: Annotated[
        int, typer.Option(min=2, max=254, help="Of --dry-run's drawn pictures, without --data.")
    ] = 19,
) -> None:
    """Train a network by a recipe, or by one that is chosen from the data and explained.

    The folder --out then holds the model (config.json, model.safetensors, README.md), the resolved
    recipe.yaml, last.ckpt, metrics.jsonl, summary.json and a TensorBoard log; best/ holds the model
    with the best validation mIoU, where there is a validation split. Started by torchrun or srun,
    the processes share each step. With --seeds or --folds, --out holds a folder for each run, and
    repetitions.json their scores with mean and spread; --resume keeps the finished ones.
    """
    from sctnet.other_programs import wait_passively_beside_others

    passive = wait_passively_beside_others()  # before PyTorch is imported
    from sctnet.cli.progress import console, training_progress
    from sctnet.processes import launched_processes
    from sctnet.training.dry_run import dry_run as rehearse
    from sctnet.training.trainer import train as run

    speaks = launched_processes().is_first
    if passive is not None and speaks:
        console.print(passive, highlight=False, soft_wrap=True)
    settings = settings or []
    if recipe is not None and "=" in recipe:
        settings = [recipe, *settings]  # it is the first of them
        recipe = None
    if seeds is not None or folds is not None:
        if out is None or dry_run:
            raise SctnetError("--seeds, --folds: name the folder of the runs by --out")
        of_recipe = partial(_recipe, recipe, data=data, scale=scale, student=student)
        _repeat(of_recipe, settings, seeds, folds, out, resume)
        return
    loaded = _recipe(
        recipe, settings, out, data=data, scale=scale, student=student, resume=resume, speaks=speaks
    )
    if dry_run:
        needs = rehearse(loaded, classes)
        if speaks:
            print(needs)  # noqa: T201
        return
    if out is None:
        raise SctnetError("--out: name the run's folder (only --dry-run does without)")
    try:
        with training_progress() as observe:
            folder = run(loaded, out, resume=resume, observe=observe)
    except KeyboardInterrupt:
        if speaks:
            print(  # noqa: T201
                f"Stopped; what was done is in {out}, continue it with --resume", file=sys.stderr
            )
        raise
    if speaks:
        print(f"Trained {loaded.name}: the model is in {folder.path}")  # noqa: T201


def _repeat(
    of_recipe: "Callable[..., Recipe]",
    settings: list[str],
    seeds: int | None,
    folds: int | None,
    out: Path,
    resume: bool,
) -> None:
    """Do several runs, and print their scores."""
    from rich.console import Console

    from sctnet.cli.progress import console, training_progress
    from sctnet.cli.tables import repetitions_table
    from sctnet.training.repetitions import SUMMARY, Repetition, repetitions, train_repeatedly

    first_seed = 0
    if seeds is not None:
        first_seed = of_recipe(settings, None, resume=False, speaks=False).run.seed
    wanted = repetitions(seeds, folds, first_seed, settings)

    def recipe_of(repetition: Repetition, run: Path) -> "Recipe":
        speaks = repetition == wanted[0]
        return of_recipe([*settings, *repetition.settings], run, resume=resume, speaks=speaks)

    @contextmanager
    def observing(repetition: Repetition) -> "Iterator[Observer]":
        number = wanted.index(repetition) + 1
        console.print(f"{repetition.name} ({number} of {len(wanted)})", highlight=False)
        with training_progress() as observe:
            yield observe

    try:
        found = train_repeatedly(wanted, recipe_of, out, resume, observing)
    except KeyboardInterrupt:
        print(  # noqa: T201
            f"Stopped; what was done is in {out}, continue it with --resume", file=sys.stderr
        )
        raise
    Console().print(repetitions_table(found))
    print(f"Trained {len(wanted)} runs: models and {SUMMARY} are in {out}")  # noqa: T201


def _recipe(
    name: str | None,
    settings: list[str],
    out: Path | None,
    *,
    data: str | None,
    scale: str | None,
    student: str | None,
    resume: bool,
    speaks: bool,
) -> "Recipe":
    """Return the named recipe, a resumed run's own, or one chosen from the data."""
    from sctnet.training.auto_recipe import choose_recipe
    from sctnet.training.recipe import load_recipe

    if name is None and resume and out is not None and (out / "recipe.yaml").is_file():
        name = str(out / "recipe.yaml")
    if name is not None:
        return load_recipe(name, settings, source=data, scale=scale, student=student)
    if data is None:
        raise SctnetError("train: name a recipe, or data (--data) to choose one for")
    if scale is not None:
        raise SctnetError("--scale: goes with a named recipe; this one is chosen from the data")
    of_student = [] if student is None else [f"model.variant={student}"]
    recipe, choices = choose_recipe(data, [*of_student, *settings])
    for choice in choices if speaks else []:
        print(f"{choice.field} = {choice.value}  ({choice.reason})")  # noqa: T201
    return recipe
