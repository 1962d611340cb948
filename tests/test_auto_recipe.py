"""A recipe chosen from the data: what decides it, and that it trains."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from sctnet.errors import SctnetError
from sctnet.training.auto_recipe import choose_recipe
from sctnet.training.recipe import Recipe
from sctnet.training.trainer import train


def data_set(
    root: Path, size: tuple[int, int], pictures: int, share: float, *, val: bool = True
) -> str:
    """Make a data set of two classes, of which the second has ``share`` of the pixels."""
    generator = np.random.default_rng(0)
    splits = {"train": pictures, **({"val": 2} if val else {})}
    for split, number in splits.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(number):
            image = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
            mask = np.zeros(size, np.uint8)
            mask[:, : round(share * size[1])] = 1
            cv2.imwrite(str(root / "images" / split / f"{index}.png"), image)
            cv2.imwrite(str(root / "masks" / split / f"{index}.png"), mask)
    description = {
        "images": {split: f"images/{split}" for split in splits},
        "masks": {split: f"masks/{split}" for split in splits},
        "classes": ["road", "car"],
    }
    (root / "data.yaml").write_text(yaml.safe_dump(description))
    return str(root / "data.yaml")


def chosen(source: str, **options: bool) -> Recipe:
    recipe, choices = choose_recipe(source, **options)
    dumped = recipe.model_dump(mode="json")
    for choice in choices:  # what is said is what is done
        part, _, field = choice.field.partition(".")
        value = dumped[part][field]
        if isinstance(value, dict):
            value = {key: entry for key, entry in value.items() if entry is not None}
        assert value == choice.value
        assert choice.reason
    return recipe


def test_pictures_decide_crop_and_size(tmp_path: Path) -> None:
    wide = chosen(data_set(tmp_path / "wide", (600, 900), 3, 0.5), on_gpu=False)
    assert wide.preparation.working_size.pixels == 512
    assert wide.augmentation.crop == (384, 512)
    upright = chosen(data_set(tmp_path / "upright", (900, 600), 3, 0.5), on_gpu=False)
    assert upright.augmentation.crop == (512, 384)
    small = chosen(data_set(tmp_path / "small", (100, 200), 3, 0.5), on_gpu=False)
    assert small.preparation.working_size.pixels == 100
    assert small.augmentation.crop == (100, 200)
    on_gpu = chosen(str(tmp_path / "wide" / "data.yaml"), on_gpu=True)
    assert on_gpu.preparation.working_size.pixels == 600
    assert on_gpu.augmentation.crop == (512, 900)


def test_the_amount_of_data_decides_the_iterations(tmp_path: Path) -> None:
    few = chosen(data_set(tmp_path / "few", (40, 40), 4, 0.5), on_gpu=False)
    many = chosen(data_set(tmp_path / "many", (40, 40), 120, 0.5), on_gpu=False)
    assert few.schedule.iterations == 500
    assert many.schedule.iterations == 900
    assert many.schedule.warmup_iterations == 45


@pytest.mark.parametrize(("share", "expected"), [(0.5, "none"), (0.025, "balanced")])
def test_uneven_classes_are_weighted(tmp_path: Path, share: float, expected: str) -> None:
    assert chosen(data_set(tmp_path, (40, 40), 2, share)).loss.class_weights == expected


def test_validation_is_used_where_there_is_one(tmp_path: Path) -> None:
    assert chosen(data_set(tmp_path / "a", (40, 40), 2, 0.5)).data.validation == ("val",)
    without = data_set(tmp_path / "b", (40, 40), 2, 0.5, val=False)
    assert chosen(without).data.validation == ()
    assert chosen(str(tmp_path / "a" / "data.yaml")).data.calibrate
    assert not chosen(without).data.calibrate


def test_unlabelled_masks_are_refused(tmp_path: Path) -> None:
    source = data_set(tmp_path, (40, 40), 2, 0.5)
    for mask in (tmp_path / "masks" / "train").iterdir():
        cv2.imwrite(str(mask), np.full((40, 40), 255, np.uint8))
    with pytest.raises(SctnetError, match="no pixel is labelled, there is nothing to learn"):
        choose_recipe(source)


def test_the_chosen_recipe_trains(tmp_path: Path) -> None:
    source = data_set(tmp_path, (40, 48), 3, 0.4)
    settings = [
        "schedule.iterations=2",
        "schedule.warmup_iterations=0",
        "run.batch_size=2",
        "model.variant=sctnet-tiny",
        "data.workers=0",
    ]
    recipe, choices = choose_recipe(source, settings)
    assert "run.batch_size" not in [choice.field for choice in choices]
    folder = train(recipe, tmp_path / "run")
    assert (folder.path / "model.safetensors").is_file()
    assert "40x48" in (folder.path / "recipe.yaml").read_text()


def test_other_splits_can_be_named(tmp_path: Path) -> None:
    source = data_set(tmp_path, (40, 48), 3, 0.4)
    description = Path(source).read_text().replace("train:", "early:").replace("val:", "late:")
    Path(source).write_text(description)
    settings = ["data.train=[early]", "data.validation=[late]"]
    recipe, _ = choose_recipe(source, settings)
    assert (recipe.data.train, recipe.data.validation) == (("early",), ("late",))
    with pytest.raises(SctnetError, match="there is no split 'train'"):
        choose_recipe(source)


def test_a_broken_validation_split_is_not_taken_for_none(tmp_path: Path) -> None:
    source = data_set(tmp_path, (40, 48), 3, 0.4)
    (tmp_path / "masks" / "val" / "0.png").unlink()
    with pytest.raises(SctnetError, match=r"0\.png"):
        choose_recipe(source)


def test_broken_masks_can_be_skipped(tmp_path: Path) -> None:
    source = data_set(tmp_path, (40, 48), 3, 0.4)
    (tmp_path / "masks" / "train" / "1.png").write_bytes(b"broken")
    with pytest.raises(SctnetError, match=r"1\.png"):
        choose_recipe(source)
    assert choose_recipe(source, ["data.skip_broken=true"])[0].data.skip_broken
