"""``sctnet recipes``."""

from typing import Annotated

import typer

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
        height, width = recipe.augmentation.crop
        table.add_row(
            name,
            recipe.model.variant,
            f"{height}x{width}",
            f"{recipe.schedule.iterations:,}",
            "" if recipe.published_miou is None else f"{recipe.published_miou:.1f} %",
            recipe.description,
        )
    Console().print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A shipped recipe's name or a YAML file.")],
) -> None:
    """Print the full resolved recipe."""
    from sctnet.training.recipe import load_recipe, to_yaml

    print(to_yaml(load_recipe(name)), end="")  # noqa: T201
