"""BiSeNet (Yu et al. 2018) on ResNet-18: a path of detail and one of context, a row of Table 1.

Computed as in CoinCheung's code. Maps are repeated to the size of the next finer one, so images of
any size work.
"""

from typing import Any

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from sctnet.models.context_path import ContextPath, FeatureFusion
from sctnet.models.heads import SegmentationHead
from sctnet.models.layers import ResidualBlock, conv_norm, initialise_convolutions
from sctnet.models.network import Features, NetworkConfig, SegmentationNetwork, Widths

AUXILIARY_CHANNELS = 64


class BiSeNetConfig(NetworkConfig):
    """Everything that decides the architecture of a BiSeNet on ResNet-18."""

    base_channels: int = Field(default=64, ge=4)
    context_channels: int = Field(default=128, ge=1)
    head_channels: int = Field(default=256, ge=1)
    auxiliary_head: bool = True


BISENET_VARIANTS: dict[str, dict[str, Any]] = {"bisenet-r18": {}}


class BiSeNet(SegmentationNetwork):
    """The two-path network; all its features are rectified.

    Stages 2 to 4 are those of ResNet-18. The decoder input is the fused map at stride 8, the
    decoder feature the output of the head's 3x3 convolution. In training, two auxiliary heads read
    the context at strides 8 and 16.
    """

    config: BiSeNetConfig
    folds_norms = True
    logits_stride = 8
    backbone_parts = ("stem", "stage1", "stage2", "stage3", "stage4")
    context_parts = ("context", "spatial")

    def __init__(self, config: BiSeNetConfig) -> None:
        super().__init__()
        self.config = config
        c, classes = config.base_channels, config.num_classes
        context, head = config.context_channels, config.head_channels
        self.widths = Widths(4 * c, 8 * c, head, head)
        self.stem = nn.Sequential(
            *conv_norm(3, c, 7, 2, activation=nn.ReLU), nn.MaxPool2d(3, stride=2, padding=1)
        )
        self.stage1 = _stage(c, c, stride=1)
        self.stage2 = _stage(c, 2 * c, stride=2)
        self.stage3 = _stage(2 * c, 4 * c, stride=2)
        self.stage4 = _stage(4 * c, 8 * c, stride=2)
        self.context = ContextPath(4 * c, 8 * c, context)
        self.spatial = nn.Sequential(
            conv_norm(3, c, 7, 2, activation=nn.ReLU),
            conv_norm(c, c, 3, 2, activation=nn.ReLU),
            conv_norm(c, c, 3, 2, activation=nn.ReLU),
            conv_norm(c, 2 * c, activation=nn.ReLU),
        )
        self.fusion = FeatureFusion(2 * c + context, head, conv_norm(head, head))
        self.head = _head(head, head, classes)
        self.auxiliary_head = (
            nn.ModuleDict(
                {
                    "context8": _head(context, AUXILIARY_CHANNELS, classes),
                    "context16": _head(context, AUXILIARY_CHANNELS, classes),
                }
            )
            if config.auxiliary_head
            else None
        )
        initialise_convolutions(self)

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        """Return all features; logits stay at stride 8."""
        stage2 = self.stage2(self.stage1(self.stem(images)))
        stage3 = self._stage(self.stage3, stage2)
        stage4 = self._stage(self.stage4, stage3)
        detail = self.spatial(images)
        context8, context16 = self.context(stage3, stage4, (detail.shape[2], detail.shape[3]))
        decoder_input = self.fusion(detail, context8)
        features = Features(stage2, stage3, stage4, decoder_input, *self.head(decoder_input))
        if self.auxiliary_head is None:
            return features
        heads = self.auxiliary_head
        return features._replace(
            auxiliary_logits=(heads["context8"](context8)[1], heads["context16"](context16)[1])
        )

    def decode(
        self, decoder_input: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n cf h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        feature, logits = self.head(decoder_input)
        return feature, logits


def _stage(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        ResidualBlock(in_channels, channels, stride, bias=False),
        ResidualBlock(channels, channels, bias=False),
    )


def _head(in_channels: int, channels: int, num_classes: int) -> SegmentationHead:
    return SegmentationHead(in_channels, channels, num_classes, bias=False, normalises=False)
