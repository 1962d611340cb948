"""What the parts of all recipes are made of."""

from pydantic import BaseModel, ConfigDict, Field


class RecipePart(BaseModel):
    """Frozen, strict fields: an unknown one is refused, and so are infinity and NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PicturesRecipe(RecipePart):
    """Which pictures; ``source`` is what ``--data`` takes, and is replaced by it."""

    source: str | None = None
    train: tuple[str, ...] = ("train",)
    validation: tuple[str, ...] = ("val",)
    workers: int = Field(default=2, ge=0, description="loader processes")
    skip_broken: bool = False
    """Whether the next picture of the epoch takes the place of one that cannot be read."""
