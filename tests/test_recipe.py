"""Recipes: what they allow, what they refuse, and what the shipped ones say."""

from pathlib import Path

import pytest

from sctnet.errors import SctnetError
from sctnet.training.recipe import load_recipe, shipped_recipes, to_yaml

MINIMAL = """
model: {variant: sctnet-tiny}
augmentation: {crop: [64, 64]}
optimizer: {rate: 1.0e-3}
schedule: {iterations: 10}
run: {batch_size: 4}
"""


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "minimal.yaml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_survive_being_written_out(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_settings_override_fields(minimal: Path) -> None:
    settings = ["run.seed=7", "optimizer.rate=4e-4", "data.train=[train, val]", "loss.ohem={}"]
    recipe = load_recipe(minimal, settings)
    assert recipe.run.seed == 7
    assert recipe.optimizer.rate == 4e-4
    assert recipe.data.train == ("train", "val")
    assert recipe.loss.ohem is not None
    assert recipe.run.batch_size == 4
    assert recipe.name == "minimal"


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("run.speed=3", "run.speed"),
        ("schedule.iterations=0", "schedule.iterations"),
        ("schedule.iterations=many", "schedule.iterations"),
        ("loss.class_weights=equal", "loss.class_weights"),
        ("augmentation.scale=[2.0, 0.5]", "augmentation"),
        ("run.accumulate=3", "run.batch_size (4) must be a multiple of run.accumulate (3)"),
        ("run.seed", "a setting is written key=value"),
        ("run.seed=[1", "not valid YAML"),
        ("model=sctnet-s", "model"),
        ("preparation.working_size={rule: fixed, height: 3}", "takes height and width"),
    ],
)
def test_wrong_settings_are_named(minimal: Path, setting: str, named: str) -> None:
    with pytest.raises(SctnetError) as caught:
        load_recipe(minimal, [setting])
    assert named in str(caught.value)


@pytest.mark.parametrize("source", ["a #1/data.yaml", "a: b", "null", "2024-99-99", "no"])
def test_a_source_is_taken_as_it_is(minimal: Path, source: str) -> None:
    """It is a path, not YAML."""
    assert load_recipe(minimal, source=source).data.source == source


def test_every_mistake_is_told_at_once(minimal: Path) -> None:
    with pytest.raises(SctnetError, match=r"run\.seed.*optimizer\.rate|optimizer\.rate.*run\.seed"):
        load_recipe(minimal, ["run.seed=-1", "optimizer.rate=0"])


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[1, 2]", "mapping"),
        ("a: [1", "line"),
        ("base: nowhere", "nowhere"),
        ("model: {variant: sctnet-s}", "augmentation: Field required"),
        ("\x00", "YAML"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: str, named: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(SctnetError, match=named):
        load_recipe(path)


def test_unknown_recipe_lists_the_shipped_ones() -> None:
    with pytest.raises(SctnetError, match="camvid/sctnet-s_360x480"):
        load_recipe("camvid/sctnet-x")


def test_a_base_is_one_level_deep(minimal: Path, tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text(f"base: {minimal.name}\nrun: {{seed: 3}}\n")  # beside its own file
    recipe = load_recipe(child)
    assert (recipe.run.seed, recipe.run.batch_size, recipe.name) == (3, 4, "child")
    grandchild = tmp_path / "grandchild.yaml"
    grandchild.write_text(f"base: {child}\n")
    with pytest.raises(SctnetError, match="one level"):
        load_recipe(grandchild)
