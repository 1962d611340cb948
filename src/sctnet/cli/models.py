"""``sctnet models``."""


def models() -> None:
    """List the networks (parameters, multiply-adds, stride) and the bundled models."""
    from rich.console import Console
    from rich.markup import escape

    from sctnet.checkpoints.model_folder import bundled_names, load_config
    from sctnet.cli.tables import table_of
    from sctnet.errors import SctnetError
    from sctnet.models.counting import count_multiply_adds, count_parameters
    from sctnet.models.registry import FAMILIES, abstract_network
    from sctnet.models.transformers_configuration import SEGFORMER_SIZES, UPERNET_SIZES

    table = table_of(
        "variant",
        figures=["parameters", "multiply-adds", "stride"],
        title="19 classes; multiply-adds at 1024x2048; stride of the logits",
    )
    missing, named = [], []
    for variant in (name for family in FAMILIES for name in family.variants):
        if variant in {**SEGFORMER_SIZES, **UPERNET_SIZES}:  # to build them all takes ten seconds
            named.append(variant)
            continue
        try:
            model = abstract_network(variant, 19)
        except SctnetError as error:  # of an optional package
            table.add_row(variant, "?", "?", "?")
            missing.append(str(error))
            continue
        table.add_row(
            variant,
            f"{count_parameters(model) / 1e6:.2f} M",
            f"{count_multiply_adds(model, 1024, 2048) / 1e9:.2f} G",
            str(model.logits_stride),
        )
    further = f"With transformers (sctnet[teachers]), as teachers: {', '.join(named)}."
    Console().print(table, *map(escape, [*missing, further]), sep="\n")
    bundled = table_of(
        "bundled model", "network", figures=["classes"], remarks=["working size", "terms"]
    )
    for name in bundled_names():
        config = load_config(name)
        is_start = config.backbone_only
        rule = "" if is_start else str(config.preparation.working_size)
        classes = "a start" if is_start else str(len(config.classes))
        bundled.add_row(name, config.network.variant, classes, rule, config.terms or "")
    if bundled.row_count:
        Console().print(bundled)
