"""``sctnet models``."""


def models() -> None:
    """List the variants (parameters, multiply-adds, stride, recipes) and the bundled models."""
    from rich.console import Console
    from rich.table import Table

    from sctnet.models import VARIANTS, create_model
    from sctnet.models.counting import count_multiply_adds, count_parameters
    from sctnet.training.recipe import load_recipe, shipped_recipes
    from sctnet.weights import bundled_models, load_config

    recipes = {name: load_recipe(name).model.variant for name in shipped_recipes()}
    table = Table(title="19 classes; multiply-adds of one image")
    for column in ("variant", "parameters", "512x1024", "1024x2048", "stride", "recipes"):
        table.add_column(column, justify="left" if column in {"variant", "recipes"} else "right")
    for variant in VARIANTS:
        model = create_model(variant, 19, auxiliary_head=False)
        table.add_row(
            variant,
            f"{count_parameters(model) / 1e6:.2f} M",
            f"{count_multiply_adds(model, 512, 1024) / 1e9:.2f} G",
            f"{count_multiply_adds(model, 1024, 2048) / 1e9:.2f} G",
            "8",
            "\n".join(name for name, used in recipes.items() if used == variant),
        )
    Console().print(table)
    bundled = Table("bundled model", "network", "classes", "working size", "terms")
    for name in bundled_models():
        config = load_config(name)
        rule = str(config.preparation.working_size)
        terms = config.terms or ""
        bundled.add_row(name, config.network.variant, str(len(config.classes)), rule, terms)
    if bundled.row_count:
        Console().print(bundled)
