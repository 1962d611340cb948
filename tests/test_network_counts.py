"""The facts that `sctnet models` prints, held against the networks themselves."""

import importlib.util
from pathlib import Path

import pytest

from sctnet.checkpoints.model_folder import bundled_names
from sctnet.comparison.measuring import comparable_tables
from sctnet.comparison.network_counts import known_networks
from sctnet.comparison.published_tables import published_table
from sctnet.models.registry import FAMILIES

TOOL = Path(__file__).parents[1] / "tools" / "count_networks.py"
MADE_ANEW = "run python tools/count_networks.py"

spec = importlib.util.spec_from_file_location("count_networks", TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

VARIANTS = [name for family in FAMILIES for name in family.variants]
HEAVY = {name for name in VARIANTS if tool.NEEDS.get(name) == "teachers"} | {
    "ocrnet-hrnet-w18", "ocrnet-hrnet-w48", "segformer-b3", "segformer-b4", "segformer-b5",
}  # fmt: skip


def test_the_file_has_all_networks_and_no_other():
    assert list(known_networks().variants) == VARIANTS, MADE_ANEW


@pytest.mark.parametrize(
    "variant",
    [pytest.param(name, marks=pytest.mark.slow if name in HEAVY else ()) for name in VARIANTS],
)
def test_a_network_counts_what_the_file_says(variant: str):
    extra = tool.NEEDS.get(variant)
    if extra is not None:
        pytest.importorskip(
            {"teachers": "transformers", "efficientnet": "efficientnet_lite_pytorch"}[extra]
        )
    assert tool.counted(variant) == known_networks().variants[variant], MADE_ANEW


def test_the_bundled_models_are_described():
    found = {name: tool.described(name) for name in bundled_names()}
    assert found == known_networks().bundled, MADE_ANEW


def test_the_published_tables_name_networks_that_there_are():
    for table in comparable_tables():
        assert set(published_table(table).networks.values()) <= set(VARIANTS)


def test_groups_hold_every_network_once():
    groups = known_networks().groups()
    assert sorted(name for group in groups.values() for name in group) == sorted(VARIANTS)
    assert set(groups["ours"]) == {"sctnet-s", "sctnet-b", "sctnet-l", "sctnet-tiny"}
    assert {"ddrnet-23", "segnext-t", "segformer-b0", "bisenetv2"} <= set(groups["real-time peers"])
    assert {"segformer-b3", "efficientnet-lite2", "upernet-swin-tiny"} <= set(groups["teachers"])
