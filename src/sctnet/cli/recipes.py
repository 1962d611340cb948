"""``sctnet recipes``."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sctnet.training.recipe import ClassificationRecipe, SegmentationRecipe

app = typer.Typer(help="List the shipped recipes, or show one.", invoke_without_command=True)


@app.callback()
def recipes(context: typer.Context) -> None:
    """List the shipped recipes with crop, iterations and published mIoU; `show NAME` prints one."""
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console
    from rich.table import Table

    from sctnet.training.recipe import load_recipe, shipped_recipes

    table = Table("recipe", "network", "crop", "iterations", "published mIoU", "description")
    for name in shipped_recipes():
        recipe = load_recipe(name)
        table.add_row(name, recipe.model.variant, *_figures(recipe), recipe.description)
    Console().print(table)


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
