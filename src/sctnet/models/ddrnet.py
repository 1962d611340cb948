"""DDRNet (Pan et al. 2022): two branches that exchange features, a row of Table 5.

Computed as in the authors' code. Only the stem and the classifiers have biases. Maps are resized
before they are added, so images of any size work.
"""

from typing import Any

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.dappm import DAPPM
from sctnet.models.heads import SegmentationHead
from sctnet.models.layers import (
    Bottleneck,
    conv_norm,
    initialise_convolutions,
    residual_pair,
    resize,
    strided_stem,
)
from sctnet.models.network import Features, NetworkConfig, SegmentationNetwork, Widths


class DDRNetConfig(NetworkConfig):
    """Everything that decides the architecture of a DDRNet-23.

    The high-resolution branch stays twice as wide as the stem; the other one doubles its width in
    every stage.
    """

    base_channels: int = Field(ge=4)
    dappm_channels: int = Field(default=128, ge=4)
    head_channels: int = Field(ge=4)
    auxiliary_head: bool = True


DDRNET_VARIANTS: dict[str, dict[str, Any]] = {
    "ddrnet-23-slim": {"base_channels": 32, "head_channels": 64},
    "ddrnet-23": {"base_channels": 64, "head_channels": 128},
}


class BilateralStage(nn.Module):
    """Two residual blocks in each branch; then each branch adds the features of the other.

    ``halvings`` stride-2 convolutions reduce the high-resolution map; the low-resolution map is
    compressed and resized.
    """

    def __init__(self, low_in: int, low: int, high: int, halvings: int) -> None:
        super().__init__()
        self.low = residual_pair(low_in, low, stride=2)
        self.high = residual_pair(high, high)
        self.compression = conv_norm(low, high)
        down: list[nn.Module] = []
        for remaining in reversed(range(halvings)):
            before = low >> (remaining + 1) if down else high
            down += [nn.ReLU(), *conv_norm(before, low >> remaining, 3, 2)]
        self.down = nn.Sequential(*down)

    def forward(
        self, low: Float[Tensor, "n ci hi wi"], high: Float[Tensor, "n ch h8 w8"]
    ) -> tuple[Float[Tensor, "n cl h w"], Float[Tensor, "n ch h8 w8"]]:
        """Return both unrectified maps."""
        low, high = self.low(F.relu(low)), self.high(F.relu(high))
        upwards = resize(self.compression(F.relu(low)), (high.shape[2], high.shape[3]))
        return low + self.down(high), high + upwards


class DDRNet(SegmentationNetwork):
    """The dual-resolution network: strides 8 and, beside it, 16, 32 and 64.

    Its features, all before a ReLU: stage 2, where the branches separate; stages 3 and 4 of the
    low-resolution branch at strides 16 and 32, with the features of the other branch added. The
    stage at stride 64 has no counterpart in a teacher. The decoder input is the sum of the
    high-resolution branch and the resized DAPPM output; the decoder feature is the output of the
    head's 3x3 convolution. In training, an auxiliary head reads the high-resolution branch after
    stage 3.
    """

    config: DDRNetConfig
    folds_norms = True
    logits_stride = 8
    backbone_parts = ("stem", "stage1", "stage2", "stage3", "stage4", "low5", "high5")
    context_parts = ("dappm",)

    def __init__(self, config: DDRNetConfig) -> None:
        super().__init__()
        self.config = config
        c, classes = config.base_channels, config.num_classes
        self.widths = Widths(4 * c, 8 * c, 4 * c, config.head_channels)
        self.stem = strided_stem(c)
        self.stage1 = residual_pair(c, c)
        self.stage2 = residual_pair(c, 2 * c, stride=2)
        self.stage3 = BilateralStage(2 * c, 4 * c, high=2 * c, halvings=1)
        self.stage4 = BilateralStage(4 * c, 8 * c, high=2 * c, halvings=2)
        self.low5 = Bottleneck(8 * c, 8 * c, stride=2)
        self.high5 = Bottleneck(2 * c, 2 * c)
        self.dappm = DAPPM(16 * c, config.dappm_channels, 4 * c, bias=False)
        self.head = SegmentationHead(4 * c, config.head_channels, classes, bias=False)
        self.auxiliary_head = (
            SegmentationHead(2 * c, config.head_channels, classes, bias=False)
            if config.auxiliary_head
            else None
        )
        initialise_convolutions(self)

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        """Return all features; logits stay at stride 8."""
        stage2 = self.stage2(F.relu(self.stage1(self.stem(images))))
        stage3, high3 = self.stage3(stage2, stage2)
        stage4, high4 = self.stage4(stage3, high3)
        context = self.dappm(self.low5(F.relu(stage4)))
        high5 = self.high5(F.relu(high4))
        decoder_input = high5 + resize(context, (high5.shape[2], high5.shape[3]))
        decoder_feature, logits = self.head(decoder_input)
        auxiliary = () if self.auxiliary_head is None else (self.auxiliary_head(high3)[1],)
        return Features(stage2, stage3, stage4, decoder_input, decoder_feature, logits, auxiliary)

    def decode(
        self, decoder_input: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n cf h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        feature, logits = self.head(decoder_input)
        return feature, logits
