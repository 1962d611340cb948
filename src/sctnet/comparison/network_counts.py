"""What the networks count, and the bundled models: facts from ``networks.yaml``.

``tools/count_networks.py`` writes them, and ``tests/test_network_counts.py`` proves them, so that
nobody waits until every network is built. Imports nothing heavy.
"""

from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict

from sctnet.comparison.published_tables import published_table, table_names
from sctnet.yaml_files import load_yaml

FILE = "networks.yaml"
SIZE = 1024, 2048
"""Height, width of the pictures whose multiply-adds are counted."""
CLASSES = 19


_FURTHER_PEERS = {"bisenetv2"}
"""Real-time networks of which the paper's tables have another variant."""


class Counts(BaseModel):
    """What a network counts, without its auxiliary head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: int
    multiply_adds: int
    """For one picture of :data:`SIZE`."""
    stride: int
    """Of the logits."""
    needs: str | None = None
    """The extra of this package that it is built with."""


class Bundled(BaseModel):
    """A model that comes with the package."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str
    classes: int | None = None
    """None for a start of training, which has no classes."""
    working_size: str
    terms: str


class Networks(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: dict[str, Counts]
    bundled: dict[str, Bundled]

    def groups(self) -> dict[str, dict[str, Counts]]:
        """Return ours, those that the paper's tables compare with ours, and all others.

        The latter are too large for real time: they teach.
        """
        compared = {
            name for table in table_names() for name in published_table(table).networks.values()
        }
        groups: dict[str, dict[str, Counts]] = {"ours": {}, "real-time peers": {}, "teachers": {}}
        for name, counts in self.variants.items():
            ours, peer = name.startswith("sctnet-"), name in compared | _FURTHER_PEERS
            group = "ours" if ours else "real-time peers" if peer else "teachers"
            groups[group][name] = counts
        return groups


@cache
def known_networks() -> Networks:
    """Return what the file says."""
    file = files("sctnet.comparison") / FILE
    return Networks.model_validate(load_yaml(file.read_text("utf-8"), FILE))
