"""Write what every network counts, and the bundled models, for `sctnet models`.

    python tools/count_networks.py        (with all extras; half a minute)

To be run after a network or a bundled model was added or changed; the tests say when.
"""

from pathlib import Path

import yaml

import sctnet
from sctnet.checkpoints.model_folder import bundled_names, load_config
from sctnet.comparison.network_counts import CLASSES, FILE, SIZE, Bundled, Counts, Networks
from sctnet.models.counting import count_multiply_adds, count_parameters
from sctnet.models.efficientnet import EFFICIENTNET_VARIANTS
from sctnet.models.registry import FAMILIES, abstract_network
from sctnet.models.transformers_configuration import SEGFORMER_SIZES, UPERNET_SIZES
from sctnet.writing import write_text

NEEDS = {
    **dict.fromkeys((*SEGFORMER_SIZES, *UPERNET_SIZES), "teachers"),
    **dict.fromkeys(EFFICIENTNET_VARIANTS, "efficientnet"),
}
"""The extra that a variant is built with."""


def counted(variant: str) -> Counts:
    """Build a network without values, and count it."""
    network = abstract_network(variant, CLASSES)
    return Counts(
        parameters=count_parameters(network),
        multiply_adds=count_multiply_adds(network, *SIZE),
        stride=network.logits_stride,
        needs=NEEDS.get(variant),
    )


def described(name: str) -> Bundled:
    """Return what `sctnet models` tells of a bundled model."""
    config = load_config(name)
    start = config.backbone_only
    return Bundled(
        network=config.network.variant,
        classes=None if start else len(config.classes),
        working_size="" if start else str(config.preparation.working_size),
        terms=config.terms or "",
    )


def all_networks() -> Networks:
    """Return the content of the file, made anew."""
    variants = (name for family in FAMILIES for name in family.variants)
    return Networks(
        variants={name: counted(name) for name in variants},
        bundled={name: described(name) for name in bundled_names()},
    )


def main() -> None:
    """Write the file."""
    content = all_networks().model_dump(exclude_none=True)
    text = yaml.safe_dump(content, sort_keys=False, width=100, default_flow_style=None)
    head = (
        f"# Made by tools/count_networks.py: {CLASSES} classes, pictures of "
        f"{SIZE[0]}x{SIZE[1]}, no auxiliary head.\n"
    )
    write_text(Path(sctnet.__file__).parent / "comparison" / FILE, head + text)


if __name__ == "__main__":
    main()
