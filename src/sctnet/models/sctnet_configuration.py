"""What an SCTNet is made of, and the table of its variants."""

from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from sctnet.models.network import NetworkConfig

BlockKind = Literal["cfblock", "residual", "segformer", "gfa", "msca"]
"""The blocks compared in Table 4, any of which may stand where the CFBlocks stand."""

AttentionKernel = Literal["1x1", "1x1+1x1", "1x3+3x1", "1x5+5x1", "1x7+7x1", "1x9+9x1", "7x7"]
"""The forms of the learned attention kernels compared in Table 8."""


class SCTNetConfig(NetworkConfig):
    """Everything that decides the architecture of an SCTNet.

    The defaults are the released network's. Widths are 1, 2, 4 and 8 times ``base_channels`` in
    stages 1 to 4.
    """

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


BLOCK_KINDS: tuple[str, ...] = get_args(BlockKind)
