"""Base classes for the parts of all recipes."""

from pydantic import BaseModel, ConfigDict, Field


class RecipePart(BaseModel):
    """Frozen, strict fields: an unknown one is refused, and so are infinity and NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PicturesRecipe(RecipePart):
    """The pictures; ``--data`` replaces ``source``."""

    source: str | None = Field(default=None, description="root or YAML file of the data set")
    train: tuple[str, ...] = Field(default=("train",), description="splits to learn from")
    validation: tuple[str, ...] = Field(default=("val",), description="splits to validate on")
    workers: int = Field(default=2, ge=0, description="loader processes")
    skip_broken: bool = False
    """Whether a picture that cannot be read is replaced by the next one of the epoch."""
