"""The recipe of a run: one YAML file, strictly validated, that decides everything about it."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from sctnet.checkpoints.class_map import Rules, read_rules
from sctnet.data.augmentation import AugmentationConfig
from sctnet.errors import SctnetError, did_you_mean
from sctnet.pipeline.preprocessing import PreprocessingConfig, WorkingSize
from sctnet.training.classification.recipe import (
    ClassificationAugmentation,
    ClassificationDataRecipe,
    ClassificationLossRecipe,
    ClassifierTeacherRecipe,
    CosineScheduleRecipe,
)
from sctnet.training.recipe_part import PicturesRecipe, RecipePart
from sctnet.yaml_files import load_yaml


class ModelRecipe(RecipePart):
    """Which network."""

    variant: str = Field(description="a network's name; `sctnet models` lists them")
    options: dict[str, Any] = Field(
        default={}, description="further fields of the variant's configuration"
    )
    init: str | None = Field(default=None, description="folder, hub id or .pth file")

    @model_validator(mode="after")
    def _options_are_options(self) -> "ModelRecipe":
        for key in ("variant", "num_classes"):
            if key in self.options:
                raise ValueError(f"options cannot hold {key}: the variant and the data decide it")
        return self


class DataRecipe(PicturesRecipe):
    """The pictures, and whether they are cached."""

    validation_pictures: int | None = Field(default=None, ge=1)
    """At most so many validate, evenly spaced from a start that run.seed draws; null: all."""
    unlabelled: str | None = Field(
        default=None, description="a list of pictures without labels, one path a line"
    )
    repeat: int = Field(default=1, ge=1)
    """How often a labelled picture comes in an epoch, beside those without labels."""
    calibrate: bool = False
    """Whether the finished model gets the offsets of its classes' logits that maximise the mIoU on
    the validation pictures, which can then no longer score it."""
    cache: Literal["none", "memory"] = "none"
    """Whether decoded pictures are kept in memory, which the loader's workers share."""
    cache_gigabytes: float = Field(default=8.0, gt=0, description="at most, of each process")

    @model_validator(mode="after")
    def _calibrates_on_something(self) -> "DataRecipe":
        if not self.train and self.unlabelled is None:
            raise ValueError("train names no split: set data.train=[train]")
        if self.calibrate and not self.validation:
            raise ValueError("calibrate needs pictures to choose by: set data.validation=[val]")
        return self


class OHEM(RecipePart):
    """Online hard example mining: only pixels with an uncertain prediction are trained on.

    These are the pixels whose true class has a probability below ``threshold``, but at least the
    fraction ``minimal_share`` of the labelled pixels.
    """

    threshold: float = Field(default=0.7, gt=0, le=1)
    minimal_share: float = Field(default=0.1, gt=0, le=1)


_Weight = Annotated[float, Field(ge=0)]
_Beta = Annotated[float, Field(ge=0, lt=1)]


class LossRecipe(RecipePart):
    """Cross-entropy on the main head plus ``auxiliary_weight`` times that on auxiliary heads."""

    auxiliary_weight: float = Field(default=0.4, ge=0)
    boundary_weight: float = Field(default=20.0, ge=0, description="of a head for boundaries")
    class_weights: Literal["none", "balanced"] | tuple[_Weight, ...] = "none"
    """``balanced``: 1 / sqrt(fraction of the pixels of a class); the mean over all pixels is 1."""
    ohem: OHEM | None = None
    divide_by: Literal["labelled", "all"] = "labelled"
    """The released code divides by all pixels, also ignored ones."""


class TeacherCacheRecipe(RecipePart):
    """A file of the teacher's answers about fixed views (crop, scale, flip, colours) of pictures.

    It is asked once about each, and epochs take the views in turns.
    """

    views: int = Field(default=4, ge=1, description="of each picture")
    gigabytes: float = Field(default=20.0, gt=0, description="at most, 10^9 bytes")
    folder: str | None = Field(default=None, description="null for the run's own")


class AlignmentRecipe(RecipePart):
    """Semantic information alignment (SIAM): which teacher, and the weight of each term.

    ``logits``, ``decoder`` (the feature of the teacher's decoder head), ``stage4`` and ``stage3``
    are the terms' weights; 0 leaves a term out. The defaults are the released ones.
    """

    teacher: str = Field(description="folder or hub id; ours or of transformers")
    map: Annotated[Rules, BeforeValidator(read_rules)] | None = Field(
        default=None, description="of the teacher's classes: a YAML file, or its lines"
    )
    logits: float = Field(default=3.0, ge=0)
    decoder: float = Field(default=15.0, ge=0)
    stage4: float = Field(default=15.0, ge=0)
    stage3: float = Field(default=15.0, ge=0)
    loss: Literal["cwd", "kl", "l2", "vid"] = "cwd"
    """The rows of Table 9(a); vid is the mutual information."""
    temperature: float = Field(default=4.0, gt=0, description="of cwd and kl")
    decay: float = Field(default=0.0, ge=0)
    """The power of the weights' polynomial decay to zero over the run; 0 keeps them."""
    projections: Literal["random", "fitted"] = "random"
    """How the 1x1 convolutions between student and teacher begin. fitted: as the linear maps that
    explain the teacher's values best in the first batch, so that a student that was trained before
    keeps what it knows. The released code has random ones."""
    shared_head: bool = True
    """Whether the student's feature goes through the teacher's decoder head; not in Table 9."""
    cache: TeacherCacheRecipe | None = None

    @property
    def teaches(self) -> bool:
        """Whether some term has a weight."""
        return any((self.logits, self.decoder, self.stage4, self.stage3))


class DistillationRecipe(RecipePart):
    """What the student's own logits learn from its teacher's, pixel by pixel.

    A term is summed over the pixels and divided by their number, as the cross-entropy is. The
    teacher is that of ``alignment``.
    """

    soft: float = Field(default=1.0, ge=0)
    """Weight of the divergence from the teacher's probabilities, on every picture."""
    temperature: float = Field(default=2.0, gt=0, description="of soft")
    hard: float = Field(default=1.0, ge=0)
    """Weight of the cross-entropy with the teacher's labels, where nobody labelled the picture."""
    confidence: Literal["margin", "none"] = "margin"
    """How much a pixel weighs: the teacher's probability of its best class minus that of the next,
    or 1. Either is multiplied by the probability that the pixel is none of the dropped classes."""


class OptimizerRecipe(RecipePart):
    """AdamW; everything outside the backbone learns ``head_rate_factor`` times as fast."""

    rate: float = Field(gt=0, description="the backbone's learning rate after the warm-up")
    weight_decay: float = Field(default=0.0125, ge=0, description="AdamW's, decoupled")
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    """Decay of AdamW's averages of the gradient and of its square."""
    head_rate_factor: float = Field(default=10.0, gt=0)
    rate_batch_size: int | None = Field(default=None, ge=1)
    """The batch size for which all rates are given; they scale with run.batch_size. null: do not
    scale."""
    undecayed: Literal["nothing", "cfblock-norms", "norms"] = "nothing"
    """Parameters without weight decay; in the paper's runs on ADE20K and COCO-Stuff, the norms
    of the CFBlocks (released code)."""


class ClassificationOptimizerRecipe(OptimizerRecipe):
    """AdamW; head and backbone learn at one rate, unless ``head_rate_factor`` is not 1."""

    head_rate_factor: float = Field(default=1.0, gt=0)


class ScheduleRecipe(RecipePart):
    """Linear warm-up over ``warmup_iterations``, then polynomial decay to ``final_rate``.

    The decay is (1 - i / ``iterations``) to the ``power`` at iteration i.
    """

    iterations: int = Field(ge=1)
    warmup_iterations: int = Field(default=1500, ge=0)
    warmup_start: float = Field(default=1e-6, gt=0, le=1, description="factor at iteration 0")
    power: float = Field(default=1.0, gt=0)
    final_rate: float = Field(default=0.0, ge=0)


class RunRecipe(RecipePart):
    """How the run is carried out and what it leaves behind."""

    batch_size: int = Field(ge=1, description="images a step, over all processes")
    accumulate: int = Field(default=1, ge=1, description="parts that a step is computed in")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the machine multiplies it, else fp32. A run's recipe.yaml says which."""
    compile: bool = Field(default=False, description="torch.compile the network")
    activation_checkpointing: bool = False
    """Whether stages 3 and 4 are computed again for their gradients, which saves memory."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Of the moving average of the weights, which is then the model; null: the last weights."""
    seed: int = Field(default=0, ge=0, lt=2**63, description="of all that is random")
    log_every: int = Field(default=50, ge=1, description="iterations")
    validate_every: int = Field(default=2000, ge=1, description="iterations")
    checkpoint_every: int = Field(default=1000, ge=1, description="iterations")


class Recipe(RecipePart):
    """A whole run; every field can be set on the command line as ``part.field=value``.

    The fields of a recipe of any task; ``task`` says which task a file is for.
    """

    name: str
    """For people; by default the file's own."""
    task: str
    """Which kind of recipe a file is."""
    description: str = Field(default="", description="for people")
    model: ModelRecipe
    data: PicturesRecipe
    preparation: PreprocessingConfig = PreprocessingConfig()
    optimizer: OptimizerRecipe
    run: RunRecipe

    @model_validator(mode="after")
    def _batch_can_be_divided(self) -> "Recipe":
        if self.run.batch_size % self.run.accumulate:
            raise ValueError(
                f"run.batch_size ({self.run.batch_size}) must be a multiple of "
                f"run.accumulate ({self.run.accumulate})"
            )
        return self


class SegmentationRecipe(Recipe):
    """A run that learns to label pixels."""

    task: Literal["segmentation"] = "segmentation"
    published_miou: float | None = Field(default=None, gt=0, le=100, description="%, by the paper")
    data: DataRecipe = DataRecipe()
    augmentation: AugmentationConfig
    loss: LossRecipe = LossRecipe()
    alignment: AlignmentRecipe | None = None
    distillation: DistillationRecipe | None = None
    schedule: ScheduleRecipe

    @model_validator(mode="after")
    def _teacher_teaches(self) -> "SegmentationRecipe":
        told = self.distillation is not None and self.distillation.soft + self.distillation.hard > 0
        if self.alignment is None and self.distillation is not None:
            raise ValueError("distillation needs a teacher: name it as alignment.teacher")
        if self.alignment is not None and not (self.alignment.teaches or told):
            raise ValueError(
                "alignment: every weight is 0; set alignment=null to train without a teacher"
            )
        if self.data.unlabelled is not None and not told:
            raise ValueError(
                "data.unlabelled needs a teacher that labels its pictures: set alignment.teacher "
                "and distillation={}"
            )
        return self


class ClassificationRecipe(Recipe):
    """A run that learns to name whole pictures, and leaves a backbone to start others from."""

    task: Literal["classification"] = "classification"
    data: ClassificationDataRecipe = ClassificationDataRecipe()
    augmentation: ClassificationAugmentation
    loss: ClassificationLossRecipe = ClassificationLossRecipe()
    teacher: ClassifierTeacherRecipe | None = None
    optimizer: ClassificationOptimizerRecipe
    schedule: CosineScheduleRecipe

    @model_validator(mode="after")
    def _cached_crops_are_fixed(self) -> "ClassificationRecipe":
        cached = self.teacher is not None and self.teacher.cached
        if cached and self.augmentation.fixed_crops is None:
            raise ValueError("teacher.cached needs augmentation.fixed_crops: so that crops repeat")
        return self

    @model_validator(mode="after")
    def _crop_decides_test_size(self) -> "ClassificationRecipe":
        if self.preparation.working_size != WorkingSize():
            raise ValueError(
                "preparation.working_size follows augmentation.crop in a classification: "
                "leave it out"
            )
        return self


_TASKS: dict[str, type[SegmentationRecipe] | type[ClassificationRecipe]] = {
    "segmentation": SegmentationRecipe,
    "classification": ClassificationRecipe,
}


def shipped_recipes() -> list[str]:
    """Return the names of the recipes in the package, such as ``camvid/sctnet-s_360x480``."""
    root = _shipped_folder()
    names = (str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.yaml"))
    return sorted(name for name in names if not name.startswith("scales/"))


def shipped_scales() -> list[str]:
    """Return the names of the scales in the package, such as ``seg50`` and ``camvid``."""
    return sorted(path.stem for path in (_shipped_folder() / "scales").glob("*.yaml"))


def load_recipe(
    recipe: str | Path,
    settings: Sequence[str] = (),
    *,
    source: str | None = None,
    scale: str | None = None,
    student: str | None = None,
) -> SegmentationRecipe | ClassificationRecipe:
    """Read a recipe by its path or shipped name, and apply ``key=value`` settings.

    ``source`` replaces ``data.source``. A recipe may name one ``base`` recipe (a shipped one, or a
    path relative to its own file) and override its fields. A ``scale`` is a shipped set of fields
    (crop, sizes, schedule) that adapts a recipe to other pictures. ``student``, a variant, replaces
    the recipe's model with its options and its start. Settings are applied last. Raises
    :class:`SctnetError` that names every wrong key.
    """
    path = _find(recipe)
    fields = _read(path)
    base = fields.pop("base", None)
    if base is not None:
        if not isinstance(base, str):
            raise SctnetError(f"{path}: base: {base!r} is not a recipe; name one")
        beneath = _read(_find(base, beside=path.parent))
        if "base" in beneath:
            raise SctnetError(f"{path}: its base {base} has a base itself; one level is allowed")
        fields = merged(beneath, fields)
    fields.setdefault("name", str(recipe) if path.is_relative_to(_shipped_folder()) else path.stem)
    if scale is not None:
        if scale not in shipped_scales():
            raise SctnetError(
                f"--scale: there is no {scale}: choose from {', '.join(shipped_scales())}"
            )
        if fields.get("task") == "classification":
            raise SctnetError(f"--scale: {path} is a classification; set augmentation.crop instead")
        fields = merged(fields, _read(_shipped_folder() / "scales" / f"{scale}.yaml"))
    if student is not None:
        fields["model"] = {"variant": student}
    fields = merged(fields, settings_fields(settings))
    if source is not None:
        fields = merged(fields, {"data": {"source": source}})
    return validated(fields, str(path))


def settings_fields(settings: Sequence[str]) -> dict[str, Any]:
    """Return the fields that ``key=value`` settings set, later ones over earlier ones."""
    fields: dict[str, Any] = {}
    for setting in settings:
        fields = merged(fields, _parsed(setting))
    return fields


def validated(fields: Mapping[str, Any], origin: str) -> SegmentationRecipe | ClassificationRecipe:
    """Return the recipe of these fields; ``origin`` names them in an error."""
    task = fields.get("task", "segmentation")
    if not isinstance(task, str) or task not in _TASKS:
        raise SctnetError(
            f"{origin}: task: unknown task {task!r}; choose one of {', '.join(_TASKS)}"
        )
    try:
        return _TASKS[task].model_validate(fields)
    except ValidationError as error:
        mistakes = [_mistake(item, _TASKS[task]) for item in error.errors()]
        raise SctnetError(f"{origin}: {'; '.join(mistakes)}") from error


def _mistake(item: ErrorDetails, model: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] != "extra_forbidden":
        return f"{key or 'recipe'}: {item['msg'].removeprefix('Value error, ')}"
    last, known = str(item["loc"][-1]), list(_keys(model))
    # A field without its part of the recipe, or a name that is nearly one.
    meant = [name for name in known if name.endswith(f".{last}")]
    hint = f"; did you mean {meant[0]}?" if meant else did_you_mean(key, known)
    return f"{key}: there is no such field{hint}"


def _keys(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """Yield the dotted names of a recipe's fields."""
    for name, field in model.model_fields.items():
        inner = [
            each
            for each in (field.annotation, *get_args(field.annotation))
            if isinstance(each, type) and issubclass(each, BaseModel)
        ]
        yield f"{before}{name}"
        for each in inner:
            yield from _keys(each, f"{before}{name}.")


def to_yaml(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML; :func:`load_recipe` reads it back to an equal one."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _shipped_folder() -> Path:
    return Path(str(files("sctnet") / "recipes"))


def _find(recipe: str | Path, beside: Path = Path()) -> Path:
    for path in (_shipped_folder() / f"{recipe}.yaml", beside / recipe):
        if path.is_file():
            return path
    if Path(recipe).is_dir():
        raise SctnetError(f"{recipe}: a folder is no recipe: give a data set as --data {recipe}")
    raise SctnetError(
        f"{recipe}: neither a file nor a shipped recipe; the recipes are "
        f"{', '.join(shipped_recipes())}{did_you_mean(str(recipe), shipped_recipes())}"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = load_yaml(path.read_text(encoding="utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SctnetError(f"{path}: cannot be read as text; give a recipe's YAML file") from error
    if not isinstance(content, dict):
        raise SctnetError(f"{path}: a recipe is a mapping of fields, this file is not")
    if "images" in content and "classes" in content:
        raise SctnetError(f"{path}: describes a data set, not a recipe: give it as --data {path}")
    return content


def _parsed(setting: str) -> dict[str, Any]:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise SctnetError(f"{setting}: a setting is written key=value, such as run.seed=1")
    fields: Any = load_yaml(text, setting)
    for part in reversed(key.split(".")):
        fields = {part: fields}
    result: dict[str, Any] = fields
    return result


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the fields of ``over``, mapping by mapping."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            value = merged(below, value)
        result[key] = value
    return result
