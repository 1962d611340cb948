"""The paper's runs and ablations: every resolved value against the design's tables."""

import pytest
import torch

from sctnet.errors import SctnetError
from sctnet.models import build, create_model, model_configuration
from sctnet.pipeline.preprocessing import Preprocessing, PreprocessingConfig, WorkingSize
from sctnet.training.optim import build_optimizer
from sctnet.training.recipe import OptimizerRecipe, load_recipe, shipped_recipes, shipped_scales

CITYSCAPES = {
    # recipe: crop, scale, shorter side at test, published mIoU plain and with SIAM, teacher
    "sctnet-s_seg50": ((512, 1024), (0.25, 1.5), 512, None, 72.8, "b2"),
    "sctnet-s_seg75": ((512, 1024), (0.25, 1.5), 768, None, 76.1, "b2"),
    "sctnet-b_seg50": ((512, 1024), (0.25, 1.5), 512, 75.2, 76.5, "b3"),
    "sctnet-b_seg75": ((512, 1024), (0.25, 1.5), 768, 77.5, 79.8, "b3"),
    "sctnet-b_seg100": ((1024, 1024), (0.5, 2.0), 1024, 78.5, 80.5, "b3"),
    "sctnet-l_seg100": ((1024, 1024), (0.5, 2.0), 1024, None, None, "b3"),
}
OTHERS = {
    # recipe: crop, scaled from, rate, batch, published mIoU with SIAM, teacher
    "ade20k/sctnet-s": (512, (2048, 512), 5e-4, 32, 37.7, "b2"),
    "ade20k/sctnet-b": (512, (2048, 512), 5e-4, 32, 43.0, "b3"),
    "cocostuff/sctnet-b": (640, (2560, 640), 6e-5, 16, 35.9, "b3"),
}


@pytest.mark.parametrize("name", CITYSCAPES)
def test_cityscapes(name: str) -> None:
    crop, scale, side, plain, aligned, teacher = CITYSCAPES[name]
    recipe = load_recipe(f"cityscapes/{name}")
    assert recipe.model.variant == name.split("_")[0]
    assert recipe.augmentation.crop == crop
    assert recipe.augmentation.scale == scale
    assert recipe.augmentation.scaled_from == (2048, 1024)
    assert recipe.preparation.working_size.apply(1024, 2048) == (side, 2 * side)
    assert not recipe.preparation.antialias
    assert (recipe.optimizer.rate, recipe.optimizer.weight_decay) == (4e-4, 0.0125)
    assert recipe.optimizer.undecayed == "nothing"
    assert recipe.run.batch_size == 16
    assert recipe.schedule.final_rate == 1e-6
    assert recipe.published_miou == plain
    _check_what_all_share(recipe)
    taught = load_recipe(f"cityscapes/{name}_siam")
    _check_alignment(taught, recipe, teacher, aligned)


@pytest.mark.parametrize("name", OTHERS)
def test_ade20k_and_cocostuff(name: str) -> None:
    crop, scaled_from, rate, batch, aligned, teacher = OTHERS[name]
    recipe = load_recipe(name)
    assert recipe.augmentation.crop == (crop, crop)
    assert recipe.augmentation.scale == (0.5, 2.0)
    assert recipe.augmentation.scaled_from == scaled_from
    size = recipe.preparation.working_size
    assert size.apply(crop // 2, crop) == (crop, 2 * crop)
    assert size.apply(100, 1000) == (round(scaled_from[0] / 10), scaled_from[0])
    assert (recipe.optimizer.rate, recipe.optimizer.weight_decay) == (rate, 0.01)
    assert recipe.optimizer.undecayed == "cfblock-norms"
    assert recipe.run.batch_size == batch
    assert recipe.schedule.final_rate == 0
    _check_what_all_share(recipe)
    _check_alignment(load_recipe(f"{name}_siam"), recipe, teacher, aligned)


def _check_what_all_share(recipe) -> None:  # type: ignore[no-untyped-def]
    assert recipe.alignment is None
    assert recipe.optimizer.betas == (0.9, 0.999)
    assert recipe.optimizer.head_rate_factor == 10
    schedule = recipe.schedule
    assert (schedule.iterations, schedule.warmup_iterations) == (160_000, 1500)
    assert (schedule.warmup_start, schedule.power) == (1e-6, 1.0)
    assert recipe.loss.auxiliary_weight == 0.4
    assert recipe.augmentation.max_class_share == 0.75
    assert recipe.augmentation.crop_tries == 10
    assert recipe.augmentation.flip == 0.5
    assert recipe.augmentation.photometric


def _check_alignment(taught, plain, teacher: str, published: float | None) -> None:  # type: ignore[no-untyped-def]
    terms = taught.alignment
    assert (terms.logits, terms.decoder, terms.stage4, terms.stage3) == (3, 15, 15, 15)
    assert (terms.temperature, terms.loss, terms.shared_head) == (4, "cwd", True)
    folder = taught.name.split("/")[0]
    assert terms.teacher == f"runs/{folder}/teacher_segformer-{teacher}"
    of_teacher = load_recipe(f"{folder}/teacher_segformer-{teacher}")
    assert of_teacher.model.variant == f"segformer-{teacher}"
    assert taught.published_miou == published
    changed = {"name", "description", "published_miou", "alignment"}
    assert taught.model_dump(exclude=changed) == plain.model_dump(exclude=changed)


ROWS = {
    # ablation: published mIoU at Seg100, and what the row changes
    "table4_residual": (77.9, {"model.options.stage3_block": "residual"}),
    "table4_segformer": (77.7, {"model.options.stage4_block": "segformer"}),
    "table4_gfa": (78.5, {"model.options.stage4_block": "gfa"}),
    "table4_msca": (79.3, {"model.options.stage4_block": "msca"}),
    "table4_cfblock": (79.4, {"model.options.stage4_block": "cfblock"}),
    "table5_segnext-t": (79.8, {"model.variant": "segnext-t", "alignment": None}),
    "table5_segnext-t_siam": (80.1, {"model.variant": "segnext-t"}),
    "table5_seaformer-b": (77.7, {"model.variant": "seaformer-b", "alignment": None}),
    "table5_seaformer-b_siam": (78.1, {"model.variant": "seaformer-b"}),
    "table5_ddrnet-23": (79.5, {"model.variant": "ddrnet-23", "alignment": None}),
    "table5_ddrnet-23_siam": (79.6, {"model.variant": "ddrnet-23"}),
    "table5_segformer-b0": (74.7, {"model.variant": "segformer-b0", "alignment": None}),
    "table5_segformer-b0_siam": (77.3, {"model.variant": "segformer-b0"}),
    "table5_sctnet-b": (78.5, {"model.variant": "sctnet-b", "alignment": None}),
    "table5_sctnet-b_siam": (80.5, {"model.variant": "sctnet-b"}),
    "table6_1_baseline": (76.4, {"model.options.stage3_block": "residual", "alignment": None}),
    "table6_2_cfblock": (78.5, {"model.options": {}, "alignment": None}),
    "table6_3_backbone-alignment": (79.7, {"alignment.shared_head": False}),
    "table6_4_shared-head": (80.5, {"alignment.shared_head": True}),
    "table8_1x1": (78.4, {"model.options.attention_kernel": "1x1"}),
    "table8_1x1+1x1": (78.7, {"model.options.attention_kernel": "1x1+1x1"}),
    "table8_1x3+3x1": (79.0, {"model.options.attention_kernel": "1x3+3x1"}),
    "table8_1x5+5x1": (79.1, {"model.options.attention_kernel": "1x5+5x1"}),
    "table8_1x7+7x1": (79.4, {"model.options.attention_kernel": "1x7+7x1"}),
    "table8_1x9+9x1": (79.3, {"model.options.attention_kernel": "1x9+9x1"}),
    "table8_7x7": (78.8, {"model.options.attention_kernel": "7x7"}),
    "table9a_baseline": (78.5, {"alignment": None}),
    "table9a_l2": (77.8, {"alignment.loss": "l2", "alignment.shared_head": False}),
    "table9a_kl": (78.6, {"alignment.loss": "kl", "alignment.shared_head": False}),
    "table9a_vid": (79.7, {"alignment.loss": "vid", "alignment.shared_head": False}),
    "table9a_cwd": (79.7, {"alignment.loss": "cwd", "alignment.shared_head": False}),
    "table9b_0_none": (78.2, {"alignment": None}),
    "table9b_1_logits": (78.8, {"alignment.logits": 3, "alignment.decoder": 0}),
    "table9b_2_decoder": (79.1, {"alignment.decoder": 15, "alignment.stage4": 0}),
    "table9b_3_stage4": (79.3, {"alignment.stage4": 15, "alignment.stage3": 0}),
    "table9b_4_stage3": (79.7, {"alignment.stage3": 15, "alignment.shared_head": False}),
    "table9c_0": (78.5, {"alignment": None}),
    "table9c_3_0": (78.8, {"alignment.logits": 3, "alignment.stage4": 0}),
    "table9c_3_10": (79.5, {"alignment.decoder": 10, "alignment.stage3": 10}),
    "table9c_3_15": (79.7, {"alignment.decoder": 15, "alignment.stage3": 15}),
    "table9c_3_20": (79.1, {"alignment.decoder": 20, "alignment.stage3": 20}),
    "table10_ocrnet": (80.0, {"alignment.teacher": "runs/cityscapes/teacher_ocrnet-hrnet-w48"}),
    "table10_internimage": (80.5, {"alignment.teacher": "runs/cityscapes/teacher_internimage-t"}),
    "table10_swin": (79.8, {"alignment.teacher": "runs/cityscapes/teacher_upernet-swin-tiny"}),
    "table10_segformer": (80.5, {"alignment.teacher": "runs/cityscapes/teacher_segformer-b3"}),
}


def test_every_ablation_is_listed() -> None:
    shipped = {name for name in shipped_recipes() if name.startswith("ablation/table")}
    assert shipped == {f"ablation/{row}" for row in ROWS}


@pytest.mark.parametrize("row", ROWS)
def test_ablation(row: str) -> None:
    published, changes = ROWS[row]
    base, recipe = load_recipe("ablation/base"), load_recipe(f"ablation/{row}")
    assert recipe.published_miou == published
    fields = recipe.model_dump()
    for key, value in changes.items():
        found = fields
        for part in key.split("."):
            found = found[part]
        assert found == value, key
    # Nothing else differs from the base, which is SCTNet-B-Seg100 with SIAM.
    may_differ = {"name", "description", "published_miou", "model", "alignment"}
    assert recipe.model_dump(exclude=may_differ) == base.model_dump(exclude=may_differ)
    model_configuration(recipe.model.variant, 19, **recipe.model.options)


@pytest.mark.parametrize("row", [row for row in ROWS if row.startswith("table10")])
def test_a_recipe_trains_each_teacher_of_table_10(row: str) -> None:
    folder = load_recipe(f"ablation/{row}").alignment.teacher
    if "swin" in row:  # on CamVid
        folder = folder.replace("cityscapes", "camvid")
    recipe = load_recipe(folder.removeprefix("runs/"))
    assert recipe.alignment is None
    assert recipe.model.variant == folder.split("teacher_")[1]


def test_the_base_is_b_seg100_with_siam() -> None:
    base, recipe = load_recipe("ablation/base"), load_recipe("cityscapes/sctnet-b_seg100_siam")
    names = {"name", "description"}
    assert base.model_dump(exclude=names) == recipe.model_dump(exclude=names)


@pytest.mark.parametrize("scale", shipped_scales())
@pytest.mark.parametrize("row", ["table4_gfa", "table9a_l2", "table5_sctnet-b"])
def test_a_scale_carries_a_row_to_other_pictures(row: str, scale: str) -> None:
    recipe = load_recipe(f"ablation/{row}", scale=scale)
    example = {"camvid": "camvid/sctnet-s_360x480"}.get(scale, f"cityscapes/sctnet-b_{scale}")
    expected = load_recipe(example)
    same = ("preparation", "augmentation", "schedule", "data", "loss")
    for part in same:
        assert getattr(recipe, part) == getattr(expected, part)
    assert recipe.model == load_recipe(f"ablation/{row}").model
    assert recipe.alignment == load_recipe(f"ablation/{row}").alignment
    assert recipe.published_miou is None
    assert load_recipe(f"ablation/{row}", ["run.seed=5"], scale=scale).run.seed == 5


def test_an_unknown_scale_is_refused() -> None:
    with pytest.raises(SctnetError, match="--scale: there is no seg33: choose from camvid, seg50"):
        load_recipe("ablation/base", scale="seg33")


@pytest.mark.parametrize("undecayed", ["nothing", "cfblock-norms", "norms"])
def test_what_weight_decay_spares(undecayed: str) -> None:
    model = create_model("tiny", 3)
    recipe = OptimizerRecipe(rate=1e-3, undecayed=undecayed)
    groups = build_optimizer(model, recipe).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    grouped = [names[id(p)] for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(names.values())
    spared = {names[id(p)] for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    every_norm = {
        f"{name}.{parameter}"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
        for parameter in ("weight", "bias")
    }
    # As the released rule finds them: the norms of attention and feed-forward network.
    of_blocks = {n for n in every_norm if n.startswith(("stage3.3.", "stage4.3.", "stage4.5."))}
    assert len(of_blocks) == 3 * 2 * 2
    expected = {"nothing": set(), "cfblock-norms": of_blocks, "norms": every_norm}
    assert spared == expected[undecayed]


def test_the_longer_side_can_be_bounded() -> None:
    size = WorkingSize(rule="shorter-side", pixels=512, longest=2048)
    assert size.apply(1024, 2048) == (512, 1024)
    assert size.apply(3000, 300) == (2048, 205)
    assert str(size) == "shorter-side 512, at most 2048"
    with pytest.raises(ValueError, match="longest goes with the rule 'shorter-side'"):
        WorkingSize(rule="longer-side", pixels=512, longest=2048)


def test_resizing_without_antialiasing_samples_as_the_released_protocol() -> None:
    pixels = torch.randint(0, 256, (1, 3, 40, 64)).to(torch.uint8)
    size = WorkingSize(rule="shorter-side", pixels=10)
    prepared = Preprocessing(PreprocessingConfig(working_size=size, antialias=False))(pixels)
    halves = torch.nn.functional.interpolate(
        pixels.float(), (10, 16), mode="bilinear", align_corners=False
    )
    expected = (halves - torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)) / torch.tensor(
        [58.395, 57.12, 57.375]
    ).view(1, 3, 1, 1)
    assert torch.allclose(prepared, expected, atol=1e-6)


def test_a_teacher_of_every_recipe_can_be_built() -> None:
    for name in shipped_recipes():
        if "teacher_segformer" in name:
            recipe = load_recipe(name)
            with torch.device("meta"):
                network = build(model_configuration(recipe.model.variant, 19))
            assert network.widths.stage3 in (160, 320)
