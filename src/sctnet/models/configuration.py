"""What an SCTNet is made of: a frozen, validated configuration, and the table of variants."""

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sctnet.errors import SctnetError

BlockKind = Literal["cfblock", "residual", "segformer", "gfa", "msca"]
"""The blocks compared in Table 4, any of which may stand where the CFBlocks stand."""

AttentionKernel = Literal["1x1", "1x1+1x1", "1x3+3x1", "1x5+5x1", "1x7+7x1", "1x9+9x1", "7x7"]
"""The forms of the learned attention kernels compared in Table 8."""


class SCTNetConfig(BaseModel):
    """Everything that decides the architecture of an SCTNet; saved beside its weights.

    The defaults are the released network's. Widths are 1, 2, 4 and 8 times ``base_channels`` in
    stages 1 to 4.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    variant: str
    num_classes: int = Field(ge=2, le=65535)
    base_channels: int = Field(ge=4, multiple_of=4)
    dappm_channels: int = Field(ge=4)
    stage3_block: BlockKind = "cfblock"
    stage4_block: BlockKind = "cfblock"
    stage3_depth: int = Field(default=1, ge=1, description="blocks after the two residual ones")
    stage4_depth: int = Field(default=2, ge=1, description="blocks after the stride-2 convolution")
    attention_kernel: AttentionKernel = "1x7+7x1"
    attention_kernels: int = Field(default=64, ge=1, description="N of equation 2")
    attention_groups: int = Field(default=8, ge=1, description="groups of the double normalisation")
    attention_norm: Literal["l1", "l2"] = "l1"
    attention_init_std: float = Field(default=0.001, ge=0)
    norm_position: Literal["pre", "post"] = "pre"
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    auxiliary_head: bool = True

    @model_validator(mode="after")
    def _groups_divide_kernels(self) -> "SCTNetConfig":
        if self.attention_kernels % self.attention_groups:
            raise ValueError(
                f"attention_kernels ({self.attention_kernels}) must be a multiple of "
                f"attention_groups ({self.attention_groups})"
            )
        return self

    @model_validator(mode="after")
    def _blocks_know_post_norm(self) -> "SCTNetConfig":
        for kind in (self.stage3_block, self.stage4_block):
            if self.norm_position == "post" and kind not in ("cfblock", "gfa"):
                raise ValueError(
                    f"norm_position 'post' is for cfblock and gfa, {kind} has one form"
                )
        return self


VARIANTS: dict[str, dict[str, Any]] = {
    # The two of the paper; widths from the released code.
    "sctnet-s": {"base_channels": 32, "dappm_channels": 64},
    "sctnet-b": {"base_channels": 64, "dappm_channels": 128},
    # The paper's future work; 1.5 times B's width and a second CFBlock in stage 3, where the map
    # is large enough for long-range context and a block costs a quarter of stage 4's parameters.
    "sctnet-l": {"base_channels": 96, "dappm_channels": 192, "stage3_depth": 2},
    # For tests and demos.
    "sctnet-tiny": {"base_channels": 8, "dappm_channels": 16, "attention_kernels": 32},
}


def model_configuration(variant: str, num_classes: int, **options: Any) -> SCTNetConfig:
    """Return the configuration of a named variant, with ``options`` in place of its defaults.

    ``variant`` is a key of :data:`VARIANTS`, with or without its ``sctnet-``. Raises
    :class:`SctnetError` for an unknown variant, option or value.
    """
    name = variant if variant in VARIANTS else f"sctnet-{variant}"
    if name not in VARIANTS:
        raise SctnetError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    fields = {"variant": name, "num_classes": num_classes, **VARIANTS[name], **options}
    try:
        return SCTNetConfig(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "options"
        known = ", ".join(SCTNetConfig.model_fields)
        hint = f"; the options are {known}" if first["type"] == "extra_forbidden" else ""
        message = first["msg"].removeprefix("Value error, ")
        raise SctnetError(f"{name}: {key}: {message}{hint}") from error


BLOCK_KINDS: tuple[str, ...] = get_args(BlockKind)
