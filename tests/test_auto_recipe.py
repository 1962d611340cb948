"""A recipe chosen from the data: what decides it, and that it trains."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from sctnet.data.registry import open_dataset
from sctnet.errors import SctnetError
from sctnet.pipeline.preprocessing import WorkingSize
from sctnet.training.auto_recipe import choose_recipe
from sctnet.training.recipe import Recipe
from sctnet.training.segmentation_task import open_segmentation
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


def reasons(source: str, *settings: str) -> tuple[Recipe, dict[str, str]]:
    recipe, choices = choose_recipe(source, settings, on_gpu=False)
    return recipe, {choice.field: choice.reason for choice in choices}


def test_what_follows_from_a_field_follows_from_the_given_one(tmp_path: Path) -> None:
    source = data_set(tmp_path, (60, 90), 120, 0.5)
    recipe, why = reasons(source, "schedule.iterations=2000", "run.batch_size=4")
    assert recipe.schedule.warmup_iterations == 100
    assert why["schedule.warmup_iterations"] == "a twentieth of the 2000 iterations"
    assert recipe.run.validate_every == 200
    assert recipe.run.ema_decay == 0.998
    recipe, why = reasons(source, "run.batch_size=4")
    assert recipe.schedule.iterations == 1800
    assert why["schedule.iterations"] == "120 pictures, 60 passes"
    recipe, _ = reasons(source, "run.accumulate=3")
    assert recipe.run.batch_size == 9


@pytest.mark.parametrize(
    ("given", "expected", "crop"),
    [
        ("{pixels: 40}", WorkingSize(rule="shorter-side", pixels=40), (40, 60)),
        ("{rule: longer-side}", WorkingSize(rule="longer-side", pixels=90), (60, 90)),
        ("{longest: 75}", WorkingSize(rule="shorter-side", pixels=60, longest=75), (50, 75)),
        ("{rule: as-is}", WorkingSize(), (60, 90)),
        ("{height: 48}", WorkingSize(rule="fixed", height=48, width=90), (48, 90)),
        ("{rule: fixed, height: 36, width: 64}",
         WorkingSize(rule="fixed", height=36, width=64), (36, 64)),
    ],
)  # fmt: skip
def test_a_given_part_of_the_working_size_is_completed_and_decides_the_crop(
    given: str, expected: WorkingSize, crop: tuple[int, int], tmp_path: Path
) -> None:
    source = data_set(tmp_path, (60, 90), 3, 0.5)
    recipe, why = reasons(source, f"preparation.working_size={given}")
    assert recipe.preparation.working_size == expected
    assert recipe.augmentation.crop == crop
    assert f"what fits of {crop[0]}x{crop[1]}" in why["augmentation.crop"]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("schedule.iterations=many", "schedule.iterations"),
        ("run.batch_size=0", "run.batch_size"),
        ("run=8", "run: "),
        ("run.sped=1", "run.sped: there is no such field"),
        ("preparation.working_size=512", "preparation.working_size"),
        ("preparation.working_size.rule=widest", "preparation.working_size.rule"),
        ("task=classification", "only a recipe for segmentation is chosen"),
    ],
)
def test_settings_are_refused_before_the_data_are_looked_at(setting: str, sentence: str) -> None:
    with pytest.raises(SctnetError, match=sentence):
        choose_recipe("/nowhere", [setting])


def test_the_run_starts_from_the_backbone_in_the_package(tmp_path: Path) -> None:
    source = data_set(tmp_path, (60, 90), 3, 0.5)
    recipe, why = reasons(source)
    assert recipe.model.init == "sctnet-s-tiny-imagenet"
    assert "research, non-commercial (ImageNet)" in why["model.init"]
    assert "research, non-commercial (ImageNet)" in recipe.description
    for settings in (
        ["model.init=null"],
        ["model.variant=sctnet-tiny"],
        ["model.options={attention_kernel: 7x7}"],
    ):
        recipe, why = reasons(source, *settings)
        assert recipe.model.init is None
        assert "model.init" not in why


def test_a_student_that_was_trained_before_is_taught_so_that_it_keeps_what_it_knows(
    tmp_path: Path,
) -> None:
    source = data_set(tmp_path, (60, 90), 3, 0.5)
    recipe, why = reasons(source, "alignment.teacher=runs/teacher", "alignment.decoder=0")
    assert recipe.alignment is not None
    assert recipe.alignment.projections == "fitted"
    assert (recipe.alignment.logits, recipe.alignment.stage3) == (0.3, 1.5)
    assert recipe.alignment.decoder == 0  # the given one
    assert "trained before" in why["alignment.projections"]
    recipe, why = reasons(source, "alignment.teacher=runs/teacher", "model.init=null")
    assert recipe.alignment is not None
    assert (recipe.alignment.projections, recipe.alignment.logits) == ("random", 3)
    assert "alignment.projections" not in why


def test_the_terms_of_a_start_are_told_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = data_set(tmp_path, (40, 48), 3, 0.4)
    settings = [
        "schedule.iterations=1", "run.batch_size=2", "data.workers=0", "run.precision=fp32",
        "data.validation=[]",
    ]  # fmt: skip
    with caplog.at_level("INFO", "sctnet"):
        train(choose_recipe(source, settings)[0], tmp_path / "run")
    sentence = "its terms hold for this model too: research, non-commercial (ImageNet)"
    (started,) = [r.getMessage() for r in caplog.records if "started from" in r.getMessage()]
    assert sentence in started
    assert sentence in (tmp_path / "run" / "README.md").read_text().replace("Its", "its")


def test_of_many_pictures_to_validate_on_some_are_chosen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = data_set(tmp_path, (40, 48), 3, 0.4)
    for kind in ("images", "masks"):
        folder = tmp_path / kind / "val"
        for number in range(2, 60):
            (folder / f"{number}.png").write_bytes((folder / "0.png").read_bytes())
    settings = ["schedule.iterations=10", "model.variant=sctnet-tiny"]
    recipe, why = reasons(source, *settings)
    assert recipe.data.validation_pictures == 50
    assert why["data.validation_pictures"].startswith("of 60, evenly spaced")
    assert reasons(source, "schedule.iterations=300")[0].data.validation_pictures is None
    capped = recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"validation_pictures": 7})}
    )
    with caplog.at_level("INFO", "sctnet"):
        task = open_segmentation(capped)
    assert "validates on 7 of the 60 pictures of data val, evenly spaced" in caplog.text
    assert task.validation is not None
    every = open_dataset(source, ["val"])
    names = [every.item_name(number) for number in range(60)]
    places = [names.index(task.validation.item_name(number)) for number in range(7)]
    assert set(np.diff(places)) <= {8, 9}
    again = open_segmentation(capped).validation
    assert again is not None
    assert again.item_name(0) == task.validation.item_name(0)


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
