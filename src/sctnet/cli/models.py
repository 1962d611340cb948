"""``sctnet models``."""


def models() -> None:
    """List the networks (parameters, multiply-adds, stride) and the bundled models."""
    from rich.console import Console
    from rich.text import Text

    from sctnet.cli.tables import listing
    from sctnet.comparison.network_counts import CLASSES, SIZE, known_networks

    networks = known_networks()
    table = listing(
        ["network"], figures=["parameters", "multiply-adds", "stride"], remarks=["extra"]
    )
    for group, members in networks.groups().items():
        table.add_section()
        table.add_row(Text(group, style="bold"))
        for name, counts in members.items():
            table.add_row(
                f"  {name}",
                f"{counts.parameters / 1e6:.2f} M",
                f"{counts.multiply_adds / 1e9:.2f} G",
                str(counts.stride),
                counts.needs,
            )
    bundled = listing(
        ["bundled model", "network"], figures=["classes"], remarks=["working size", "terms"]
    )
    for name, model in networks.bundled.items():
        classes = "a start" if model.classes is None else str(model.classes)
        bundled.add_row(name, model.network, classes, model.working_size, model.terms)
    table.padding = bundled.padding = (0, 1, 0, 0)
    height, width = SIZE
    explained = (
        f"{CLASSES} classes; multiply-adds of one picture of {height}x{width}; stride of the "
        "logits. Real-time peers are those of the paper's tables (sctnet table 1). An extra is "
        "installed by pip install sctnet[EXTRA]."
    )
    Console().print(table, Text(explained), "", bundled, sep="\n", highlight=False)
