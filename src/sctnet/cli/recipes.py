"""``sctnet recipes``."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sctnet.training.recipe import ClassificationRecipe, SegmentationRecipe

_ROOM_FOR_DESCRIPTIONS = 110  # columns

app = typer.Typer(help="List the shipped recipes, or show one.", invoke_without_command=True)


@app.callback()
def recipes(context: typer.Context) -> None:
    """List the shipped recipes with crop, iterations and published mIoU; `show NAME` prints one.

    In a terminal of 110 columns or more the list has networks and descriptions too.
    """
    if context.invoked_subcommand is not None:
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console

    from sctnet.cli.tables import table_of
    from sctnet.training.recipe import load_recipe, shipped_recipes

    console = Console()
    described = console.width >= _ROOM_FOR_DESCRIPTIONS
    table = table_of(
        "recipe",
        figures=["crop", "iterations", "mIoU"],
        remarks=["network", "description"] if described else [],
        box=SIMPLE_HEAD,
    )
    table.caption = "crop: height x width; mIoU: as published"
    for name in shipped_recipes():
        recipe = load_recipe(name)
        further = [recipe.model.variant, recipe.description] if described else []
        table.add_row(name, *_figures(recipe), *further)
    console.print(table)
    if not described:
        print("sctnet recipes show NAME prints one whole.")  # noqa: T201


def _figures(recipe: "SegmentationRecipe | ClassificationRecipe") -> tuple[str, str, str]:
    """Return crop, length and published mIoU."""
    if recipe.task == "classification":
        side, schedule = recipe.augmentation.crop, recipe.schedule
        length = f"{schedule.epochs:g} epochs" if schedule.epochs else f"{schedule.iterations:,}"
        return f"{side}x{side}", length, ""
    height, width = recipe.augmentation.crop
    published = recipe.published_miou
    return (
        f"{height}x{width}",
        f"{recipe.schedule.iterations:,}",
        "" if published is None else f"{published:.1f} %",
    )


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A shipped recipe's name or a YAML file.")],
) -> None:
    """Print the full resolved recipe."""
    from sctnet.training.recipe import load_recipe, to_yaml

    print(to_yaml(load_recipe(name)), end="")  # noqa: T201
