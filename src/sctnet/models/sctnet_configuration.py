"""The configuration of an SCTNet, and the table of its variants."""

from typing import Any

from pydantic import Field, field_validator, model_validator

from sctnet.models.block_configuration import BlockConfig
from sctnet.models.blocks import BLOCKS


class SCTNetConfig(BlockConfig):
    """Everything that decides the architecture of an SCTNet.

    The defaults are the released network's. Widths are 1, 2, 4 and 8 times ``base_channels`` in
    stages 1 to 4.
    """

    base_channels: int = Field(ge=4, multiple_of=4)
    dappm_channels: int = Field(ge=4)
    stage3_block: str = "cfblock"
    stage4_block: str = "cfblock"
    stage3_depth: int = Field(default=1, ge=1, description="blocks after the two residual ones")
    stage4_depth: int = Field(default=2, ge=1, description="blocks after the stride-2 convolution")
    auxiliary_head: bool = True

    @field_validator("stage3_block", "stage4_block")
    @classmethod
    def _block_exists(cls, kind: str) -> str:
        if kind not in BLOCKS:
            raise ValueError(f"unknown block {kind!r}: choose one of {', '.join(BLOCKS)}")
        return kind

    @model_validator(mode="after")
    def _blocks_have_post_norm(self) -> "SCTNetConfig":
        for kind in (self.stage3_block, self.stage4_block):
            if self.norm_position == "post" and not BLOCKS[kind].has_post_norm:
                both = [name for name, block in BLOCKS.items() if block.has_post_norm]
                raise ValueError(
                    f"norm_position 'post' is for {' and '.join(both)}, {kind} has one form"
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
