"""``sctnet models``."""


def models() -> None:
    """List the variants (parameters, multiply-adds, stride, recipes) and the bundled models."""
    from rich.console import Console
    from rich.table import Table

    from sctnet.errors import SctnetError
    from sctnet.models.building import FAMILIES, abstract_network
    from sctnet.models.counting import count_multiply_adds, count_parameters
    from sctnet.training.recipe import load_recipe, shipped_recipes
    from sctnet.weights import bundled_models, load_config

    recipes = {name: load_recipe(name).model.variant for name in shipped_recipes()}
    table = Table(
        title="19 classes; multiply-adds of an image of 1024 x 2048; stride of the logits"
    )
    for column in ("variant", "parameters", "multiply-adds", "stride", "recipes"):
        table.add_column(column, justify="left" if column in {"variant", "recipes"} else "right")
    missing = []
    for variant in (name for family in FAMILIES for name in family.variants):
        used = "\n".join(name for name, its in recipes.items() if its == variant)
        try:
            model = abstract_network(variant, 19)
        except SctnetError as error:  # of an optional package
            table.add_row(variant, "?", "?", "?", used)
            missing.append(str(error))
            continue
        table.add_row(
            variant,
            f"{count_parameters(model) / 1e6:.2f} M",
            f"{count_multiply_adds(model, 1024, 2048) / 1e9:.2f} G",
            str(model.logits_stride),
            used,
        )
    Console().print(table, *missing, sep="\n")
    bundled = Table("bundled model", "network", "classes", "working size", "terms")
    for name in bundled_models():
        config = load_config(name)
        rule = str(config.preparation.working_size)
        terms = config.terms or ""
        bundled.add_row(name, config.network.variant, str(len(config.classes)), rule, terms)
    if bundled.row_count:
        Console().print(bundled)
