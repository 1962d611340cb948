"""SCTNet (Figure 3): a single CNN branch, without anything of the teacher."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.blocks import BLOCKS
from sctnet.models.dappm import DAPPM
from sctnet.models.heads import SegmentationHead
from sctnet.models.layers import BatchNorm, ResidualBlock, initialise_convolutions, resize
from sctnet.models.network import Features, SegmentationNetwork, Widths
from sctnet.models.sctnet_configuration import SCTNetConfig


class SCTNet(SegmentationNetwork):
    """The single-branch network of the paper, as the released code computes it.

    Stages 1 to 4 have 1, 2, 4 and 8 times ``config.base_channels`` channels at strides 4, 8, 16
    and 32. ``model(images)`` returns logits at the size of the images; ``model.features(images)``
    what the losses need.
    """

    config: SCTNetConfig
    folds_norms = True
    can_classify = True
    logits_stride = 8
    backbone_parts = ("stem", "stage1", "stage2", "stage3", "stage4")
    context_parts = ("dappm",)  # as released

    def __init__(self, config: SCTNetConfig) -> None:
        super().__init__()
        self.config = config
        c = config.base_channels
        self.widths = Widths(4 * c, 8 * c, 4 * c, 4 * c)
        self.stem = nn.Sequential(*_conv_norm_relu(3, c), *_conv_norm_relu(c, c))
        self.stage1 = nn.Sequential(*_residual_pair(c, c, stride=1))
        self.stage2 = nn.Sequential(*_residual_pair(c, 2 * c, stride=2))
        self.stage3 = nn.Sequential(
            *_residual_pair(2 * c, 4 * c, stride=2),
            nn.ReLU(),
            *_context_blocks(config.stage3_block, config.stage3_depth, 4 * c, config),
        )
        self.stage4 = nn.Sequential(
            *_conv_norm_relu(4 * c, 8 * c),
            *_context_blocks(config.stage4_block, config.stage4_depth, 8 * c, config),
        )
        self.dappm = DAPPM(8 * c, config.dappm_channels, 2 * c)
        self.head = SegmentationHead(4 * c, 4 * c, config.num_classes)
        self.auxiliary_head = (
            SegmentationHead(2 * c, 2 * c, config.num_classes) if config.auxiliary_head else None
        )
        self._initialise()

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k h w"]:
        """Map normalised RGB images of any size to logits of that size."""
        stage2, _, stage4 = self._stages(images)
        _, logits = self.head(self._decoder_input(stage2, stage4))
        return resize(logits, (images.shape[2], images.shape[3]))

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        """Map normalised RGB images to all features; logits stay at stride 8."""
        stage2, stage3, stage4 = self._stages(images)
        decoder_input = self._decoder_input(stage2, stage4)
        decoder_feature, logits = self.head(decoder_input)
        auxiliary = () if self.auxiliary_head is None else (self.auxiliary_head(stage2)[1],)
        return Features(stage2, stage3, stage4, decoder_input, decoder_feature, logits, auxiliary)

    def encode(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c8 h32 w32"]:
        """Return stage 4 alone."""
        return self._stages(images)[2]

    def decode(
        self, decoder_input: Float[Tensor, "n c4 h w"]
    ) -> tuple[Float[Tensor, "n c4 h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        feature, logits = self.head(decoder_input)
        return feature, logits

    def fuse(self) -> "SCTNet":
        """Return a new inference network: norms folded into convolutions, no auxiliary head.

        Same logits up to rounding; ``self`` is left as it was. Fusing twice changes nothing.
        """
        fused = super().fuse()
        assert isinstance(fused, SCTNet)
        for module in fused.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = True  # nothing else reads the input of these ReLUs
        return fused

    def _stages(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stage1 = self.stage1(self.stem(images))
        stage2 = self.stage2(F.relu(stage1))
        stage3 = self._stage(self.stage3, F.relu(stage2))
        stage4 = self._stage(self.stage4, stage3)
        return stage2, stage3, stage4

    def _decoder_input(self, stage2: Tensor, stage4: Tensor) -> Tensor:
        context = resize(self.dappm(stage4), (stage2.shape[2], stage2.shape[3]))
        return torch.cat([stage2, context], dim=1)

    def _initialise(self) -> None:
        """Initialise as the authors intended; the attention kernels are initialised already."""
        initialise_convolutions(self)
        for head in (self.head, self.auxiliary_head):
            if head is not None:
                nn.init.normal_(head.classifier.weight, std=0.01)


def _conv_norm_relu(in_channels: int, channels: int) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, channels, 3, 2, padding=1), BatchNorm(channels), nn.ReLU()]


def _residual_pair(in_channels: int, channels: int, stride: int) -> list[nn.Module]:
    return [
        ResidualBlock(in_channels, channels, stride),
        ResidualBlock(channels, channels, final_relu=False),
    ]


def _context_blocks(kind: str, depth: int, channels: int, config: SCTNetConfig) -> list[nn.Module]:
    """Return ``depth`` blocks of the kind, with a ReLU between two of them."""
    modules: list[nn.Module] = []
    for index in range(depth):
        modules += [nn.ReLU()] if index else []
        modules.append(BLOCKS[kind].build(channels, config))
    return modules
