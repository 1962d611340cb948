"""The configuration of SCTNet's blocks."""

from typing import Literal

from pydantic import Field, model_validator

from sctnet.models.network import NetworkConfig

AttentionKernel = Literal["1x1", "1x1+1x1", "1x3+3x1", "1x5+5x1", "1x7+7x1", "1x9+9x1", "7x7"]
"""The forms of the learned attention kernels compared in Table 8."""


class BlockConfig(NetworkConfig):
    """The part of an SCTNet's configuration that its blocks read.

    The defaults are the released network's.
    """

    attention_kernel: AttentionKernel = "1x7+7x1"
    attention_kernels: int = Field(default=64, ge=1, description="N of equation 2")
    attention_groups: int = Field(default=8, ge=1, description="groups of the double normalisation")
    attention_norm: Literal["l1", "l2"] = "l1"
    attention_init_std: float = Field(default=0.001, ge=0)
    norm_position: Literal["pre", "post"] = "pre"
    drop_path: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _groups_divide_kernels(self) -> "BlockConfig":
        if self.attention_kernels % self.attention_groups:
            raise ValueError(
                f"attention_kernels ({self.attention_kernels}) must be a multiple of "
                f"attention_groups ({self.attention_groups})"
            )
        return self
