"""The YAML file that describes a user's data set."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from sctnet.data.dataset import IGNORE
from sctnet.data.published_layouts import UNKNOWN
from sctnet.errors import SctnetError, did_you_mean
from sctnet.yaml_files import load_yaml

RAW_VALUE_LIMIT = 1 << 16
"""A mask of numbers holds 0 to 65535, what 16 bits hold."""

ALL = "all"
"""The one split of pictures that the YAML leaves undivided."""

LIST_ENDINGS = (".txt", ".lst", ".csv", ".tsv")
"""A place that ends so is a list of files, in a text with one on a line."""

Listed = tuple[Path | tuple[Path, Path], ...]
"""A list in the YAML itself: paths, or pairs of a picture and its mask."""

_Place = Path | Listed
_Byte = Annotated[int, Field(ge=0, le=255)]
_Value = Annotated[int, Field(ge=0, lt=RAW_VALUE_LIMIT)]


class FolderConfig(BaseModel):
    """The YAML file; its folders are relative to it.

    A mask holds class numbers and ``ignore``; with ``ids``, raw values, of which those not
    listed are ignored; with ``rgb_masks``, ``colours`` and ``ignored_colours``; with ``mixed``
    ones, either. The mask of an
    image has its path below the mask folder, and its stem, in which ``mask_suffix`` takes the
    place of ``image_suffix``. A LabelMe file (.json) is as good as a mask, and a split of
    ``polygons`` has one COCO file of instances in place of a folder; shapes bear the names of
    ``classes`` or of ``ignored_labels``.

    In the place of a folder may stand a list of files. Where no split is named, ``images`` and
    ``masks`` are of all pictures, and these are divided (:mod:`sctnet.data.folds`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: dict[str, _Place] = Field(min_length=1)
    masks: dict[str, _Place] = {}
    polygons: dict[str, Path] = {}
    classes: tuple[str, ...] = Field(min_length=2, max_length=UNKNOWN)
    colours: tuple[tuple[_Byte, _Byte, _Byte], ...] | None = None
    rgb_masks: bool | Literal["mixed"] = False
    ignore: _Value = IGNORE
    ids: dict[_Value, int] | None = None
    ignored_colours: tuple[tuple[_Byte, _Byte, _Byte], ...] = ()
    mask_suffix: str = ""
    image_suffix: str = ""
    ignored_labels: tuple[str, ...] = ()
    unlabelled: Literal["refused", "allowed"] = "refused"
    folds: int = Field(default=5, ge=2, le=100)
    split_seed: int = Field(default=0, ge=0)

    @field_validator("images", "masks", "polygons", mode="before")
    @classmethod
    def _all_where_no_split_is_named(cls, value: Any) -> Any:
        return {ALL: value} if isinstance(value, (str, list, tuple, Path)) else value

    @property
    def is_undivided(self) -> bool:
        """Whether the pictures are to be divided into training and validation."""
        return list(self.images) == [ALL]

    @property
    def holds_numbers(self) -> bool:
        """Whether masks may hold numbers."""
        return self.rgb_masks is not True

    @property
    def holds_colours(self) -> bool:
        """Whether masks may hold colours."""
        return self.rgb_masks is not False

    @model_validator(mode="after")
    def _places_agree(self) -> "FolderConfig":
        labelled = [*self.masks, *self.polygons]
        # The lines of a list may hold the masks too.
        needless = {split for split, place in self.images.items() if is_list(place)}
        if len(set(labelled)) < len(labelled) or not (
            set(self.images) - needless <= set(labelled) <= set(self.images)
        ):
            raise ValueError("images and masks (or polygons) must name the same splits")
        for split, place in self.images.items():
            if is_list(place) and split in self.polygons:
                raise ValueError(
                    f"polygons.{split} lists its pictures itself: give their folder under images"
                )
            if is_list(self.masks.get(split)) and not is_list(place):
                raise ValueError(f"masks.{split} is a list, so images.{split} must be one too")
        return self

    @model_validator(mode="after")
    def _lists_agree(self) -> "FolderConfig":
        number = len(self.classes)
        if len(set(self.classes)) < number:
            raise ValueError("classes must not name a class twice")
        if set(self.classes) & set(self.ignored_labels):
            raise ValueError("ignored_labels must not name a class")
        if self.colours is not None and len(self.colours) != number:
            raise ValueError(f"colours has {len(self.colours)} entries for {number} classes")
        if self.ids is not None and not all(0 <= label < number for label in self.ids.values()):
            raise ValueError(f"ids must lead to class numbers, 0 to {number - 1}")
        if self.ids is None and self.ignore < number:
            raise ValueError(f"ignore is {self.ignore}, which is the class number of a class")
        if self.ids and self.ignore in self.ids and "ignore" in self.model_fields_set:
            raise ValueError(f"ignore is {self.ignore}, which ids makes a class: drop one of them")
        return self

    @model_validator(mode="after")
    def _suffixes_end_names(self) -> "FolderConfig":
        for key in ("mask_suffix", "image_suffix"):
            if "/" in getattr(self, key):
                raise ValueError(f"{key} is the end of a file's stem and cannot hold a /")
        return self

    @model_validator(mode="after")
    def _masks_are_of_one_kind(self) -> "FolderConfig":
        if not self.rgb_masks:
            if self.ignored_colours:
                raise ValueError("ignored_colours needs rgb_masks: true")
            return self
        if self.colours is None:
            raise ValueError("rgb_masks needs colours, the code of the masks")
        if self.ids is not None and not self.holds_numbers:
            raise ValueError("ids is for masks of numbers, not for rgb_masks")
        known = [*self.colours, *self.ignored_colours]
        if len(set(known)) < len(known):
            raise ValueError("colours and ignored_colours must not name a colour twice")
        return self


def is_list(place: _Place | None) -> bool:
    """Say whether a place is a list of files, or else a folder."""
    if isinstance(place, Path):
        return place.suffix.lower() in LIST_ENDINGS
    return place is not None


def is_yaml(path: Path) -> bool:
    """Say whether a path is that of a YAML file, by its name."""
    return path.suffix.lower() in {".yaml", ".yml"}


def read_config(yaml_path: Path) -> FolderConfig:
    """Read and validate the YAML file; raises :class:`SctnetError` for a mistake in it."""
    try:
        text = yaml_path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SctnetError(f"{yaml_path}: cannot be read: give the data set's YAML file") from error
    except UnicodeDecodeError as error:
        raise SctnetError(f"{yaml_path}: not UTF-8 text: save it as UTF-8") from error
    fields = load_yaml(text, str(yaml_path))
    if not isinstance(fields, dict):
        raise SctnetError(f"{yaml_path}: expected the keys images, masks and classes at the top")
    try:
        return FolderConfig(**{str(key): value for key, value in fields.items()})
    except ValidationError as error:
        raise SctnetError(f"{yaml_path}: {_first_mistake(error)}") from error


def _first_mistake(error: ValidationError) -> str:
    # A key that is misspelt is missing too, and the misspelling says more.
    first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    message = first["msg"].removeprefix("Value error, ")
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "string_type":
        return f"{key}: {first['input']!r} is not text: put names such as yes, no or 1 in quotes"
    if first["type"] == "extra_forbidden":
        fields = FolderConfig.model_fields
        return f"unknown key {key!r}: the keys are {', '.join(fields)}{did_you_mean(key, fields)}"
    return f"{key}: {message}" if key else message
