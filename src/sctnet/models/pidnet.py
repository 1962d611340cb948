"""PIDNet (Xu et al. 2023): a branch of details, one of context and one of boundaries (Table 1).

Computed as in the authors' code. Maps are resized to the size of the detail branch, so images of
any size work.
"""

from typing import Any

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.dappm import PAPPM
from sctnet.models.heads import SegmentationHead
from sctnet.models.layers import (
    Bottleneck,
    ResidualBlock,
    conv_norm,
    initialise_convolutions,
    residual_pair,
    resize,
    strided_stem,
)
from sctnet.models.network import Features, NetworkConfig, SegmentationNetwork, Widths


class PIDNetConfig(NetworkConfig):
    """Everything that decides the architecture of a PIDNet-S or -M."""

    base_channels: int = Field(ge=4)
    context_channels: int = Field(default=96, ge=4, description="of each scale of the PAPPM")
    head_channels: int = Field(default=128, ge=4)
    auxiliary_head: bool = True


PIDNET_VARIANTS: dict[str, dict[str, Any]] = {
    "pidnet-s": {"base_channels": 32},
    "pidnet-m": {"base_channels": 64},
}


class PixelAttention(nn.Module):
    """Details, replaced by context where the two agree on a pixel."""

    def __init__(self, channels: int, compared: int) -> None:
        super().__init__()
        self.detail = conv_norm(channels, compared)
        self.context = conv_norm(channels, compared)

    def forward(
        self, detail: Float[Tensor, "n c h w"], context: Float[Tensor, "n c hc wc"]
    ) -> Float[Tensor, "n c h w"]:
        """Return a map of the size of ``detail``."""
        size = (detail.shape[2], detail.shape[3])
        product = self.detail(detail) * resize(self.context(context), size)
        agreement: Tensor = product.sum(dim=1, keepdim=True).sigmoid()
        return (1 - agreement) * detail + agreement * resize(context, size)


class BoundaryFusion(nn.Module):
    """Details at boundaries, context elsewhere."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.detail = conv_norm(channels, channels)
        self.context = conv_norm(channels, channels)

    def forward(
        self,
        detail: Float[Tensor, "n c h w"],
        context: Float[Tensor, "n c h w"],
        boundary: Float[Tensor, "n c h w"],
    ) -> Float[Tensor, "n c h w"]:
        """Return the fused map."""
        gate = boundary.sigmoid()
        with_context = self.detail((1 - gate) * context + detail)
        y: Tensor = with_context + self.context(context + gate * detail)
        return y


class PIDNet(SegmentationNetwork):
    """The network of three branches: stride 8 twice, and the strides 16, 32 and 64.

    Stages 3 and 4 are those of the context branch, before a ReLU; stage 2, where the branches
    separate, is rectified. The decoder input is the fused map, the decoder feature the output of
    the head's 3x3 convolution. In training, an auxiliary head reads the detail branch after stage
    3, and one for boundaries the boundary branch after stage 4. The authors also train the main
    head once more where boundaries are told; that loss is left out.
    """

    config: PIDNetConfig
    folds_norms = True
    logits_stride = 8
    backbone_parts = (
        *("stem", "stage1", "stage2", "stage3", "stage4", "context5"),
        *("detail3", "detail4", "detail5", "boundary3", "boundary4", "boundary5"),
        *("compression3", "compression4", "attention3", "attention4", "difference3", "difference4"),
    )
    context_parts = ("pappm",)

    def __init__(self, config: PIDNetConfig) -> None:
        super().__init__()
        self.config = config
        c, head, classes = config.base_channels, config.head_channels, config.num_classes
        self.widths = Widths(4 * c, 8 * c, 4 * c, head)
        self.stem = strided_stem(c)
        self.stage1 = residual_pair(c, c)
        self.stage2 = residual_pair(c, 2 * c, stride=2)
        self.stage3 = _stage(2 * c, 4 * c)
        self.stage4 = _stage(4 * c, 8 * c)
        self.context5 = nn.Sequential(Bottleneck(8 * c, 8 * c, stride=2), Bottleneck(16 * c, 8 * c))
        self.detail3, self.detail4 = residual_pair(2 * c, 2 * c), residual_pair(2 * c, 2 * c)
        self.detail5 = Bottleneck(2 * c, 2 * c)
        self.compression3, self.compression4 = conv_norm(4 * c, 2 * c), conv_norm(8 * c, 2 * c)
        self.attention3, self.attention4 = PixelAttention(2 * c, c), PixelAttention(2 * c, c)
        self.boundary3 = ResidualBlock(2 * c, c, final_relu=False, bias=False)
        self.boundary4, self.boundary5 = Bottleneck(c, c), Bottleneck(2 * c, 2 * c)
        self.difference3, self.difference4 = conv_norm(4 * c, c, 3), conv_norm(8 * c, 2 * c, 3)
        self.pappm = PAPPM(16 * c, config.context_channels, 4 * c)
        self.fusion = BoundaryFusion(4 * c)
        self.head = SegmentationHead(4 * c, head, classes, bias=False)
        self.auxiliary_head = (
            nn.ModuleDict(
                {
                    "detail": SegmentationHead(2 * c, head, classes, bias=False),
                    "boundary": SegmentationHead(2 * c, c, 1, bias=False),
                }
            )
            if config.auxiliary_head
            else None
        )
        initialise_convolutions(self)

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        """Return all features; logits stay at stride 8."""
        stage2 = F.relu(self.stage2(F.relu(self.stage1(self.stem(images)))))
        size = (stage2.shape[2], stage2.shape[3])
        stage3 = self.stage3(stage2)
        context = F.relu(stage3)
        detail = F.relu(self.attention3(self.detail3(stage2), self.compression3(context)))
        boundary = F.relu(self.boundary3(stage2) + resize(self.difference3(context), size))
        detail3 = detail  # rectified, as the authors' in-place ReLU leaves it for the head
        stage4 = self.stage4(context)
        context = F.relu(stage4)
        detail = F.relu(self.attention4(self.detail4(detail), self.compression4(context)))
        boundary = F.relu(self.boundary4(boundary) + resize(self.difference4(context), size))
        context = resize(self.pappm(self.context5(context)), size)
        decoder_input = self.fusion(self.detail5(detail), context, self.boundary5(boundary))
        features = Features(stage2, stage3, stage4, decoder_input, *self.head(decoder_input))
        if self.auxiliary_head is None:
            return features
        return features._replace(
            auxiliary_logits=(self.auxiliary_head["detail"](detail3)[1],),
            boundary_logits=self.auxiliary_head["boundary"](boundary)[1],
        )

    def decode(
        self, decoder_input: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n cf h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        feature, logits = self.head(decoder_input)
        return feature, logits


def _stage(in_channels: int, channels: int) -> nn.Sequential:
    """Build three blocks; the last has no final ReLU."""
    return nn.Sequential(
        ResidualBlock(in_channels, channels, stride=2, bias=False),
        ResidualBlock(channels, channels, bias=False),
        ResidualBlock(channels, channels, final_relu=False, bias=False),
    )
