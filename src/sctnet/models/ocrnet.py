"""OCRNet (Yuan et al. 2020) on HRNet (Wang et al. 2020): a teacher of Table 10, and a student.

Computed as in MMSegmentation; a coarse map is resized at once to the size of a finer one, so images
of any size work.
"""

from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.layers import (
    Bottleneck,
    ResidualBlock,
    conv_norm,
    initialise_convolutions,
    resize,
)
from sctnet.models.network import Features, NetworkConfig, SegmentationNetwork, Widths

EXPANSION = 4
"""Of the bottlenecks of stage 1."""


class OCRNetConfig(NetworkConfig):
    """Everything that decides the architecture of an OCRNet.

    The branches of the HRNet have ``base_channels``, two, four and eight times as many.
    """

    base_channels: int = Field(ge=1)
    stem_channels: int = Field(default=64, ge=1)
    modules: tuple[int, int, int] = Field(default=(1, 4, 3), description="of stages 2 to 4")
    blocks: int = Field(default=4, ge=1, description="of stage 1, and of each branch of a module")
    head_channels: int = Field(default=512, ge=1)
    object_channels: int = Field(default=256, ge=1)


OCRNET_VARIANTS: dict[str, dict[str, Any]] = {
    "ocrnet-hrnet-w18": {"base_channels": 18},
    "ocrnet-hrnet-w48": {"base_channels": 48},
}


class HighResolutionModule(nn.Module):
    """Residual blocks in each branch; then each branch adds all others, brought to its size."""

    def __init__(self, widths: list[int], blocks: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width, width, bias=False) for _ in range(blocks)))
            for width in widths
        )
        self.exchange = nn.ModuleList(
            nn.ModuleList(_exchange(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return the rectified maps of all branches, finest first."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        return [F.relu(self._sum(maps, target, ways)) for target, ways in enumerate(self.exchange)]

    def _sum(self, maps: list[Tensor], target: int, ways: nn.Module) -> Tensor:
        size = (maps[target].shape[2], maps[target].shape[3])
        assert isinstance(ways, nn.ModuleList)
        brought = [way(x) for way, x in zip(ways, maps, strict=True)]
        # The coarser ones come last.
        total: Tensor = brought[0]
        for number, x in enumerate(brought[1:], start=1):
            total = total + (resize(x, size) if number > target else x)
        return total


class ObjectContextHead(nn.Module):
    """A coarse segmentation; what each of its classes looks like; pixels, compared with that."""

    def __init__(self, in_channels: int, config: OCRNetConfig) -> None:
        super().__init__()
        channels, objects = config.head_channels, config.object_channels
        self.regions = conv_norm(in_channels, in_channels, activation=nn.ReLU)
        self.region_classifier = nn.Conv2d(in_channels, config.num_classes, 1)
        self.pixels = conv_norm(in_channels, channels, 3, activation=nn.ReLU)
        self.query = nn.Sequential(_pointwise(channels, objects), _pointwise(objects, objects))
        self.key = nn.Sequential(_pointwise(channels, objects), _pointwise(objects, objects))
        self.value = _pointwise(channels, objects)
        self.expand = _pointwise(objects, channels)
        self.fusion = _pointwise(2 * channels, channels)
        self.classifier = nn.Conv2d(channels, config.num_classes, 1)

    def forward(
        self, x: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n k h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature, the logits and the logits of the coarse segmentation."""
        coarse = self.region_classifier(self.regions(x))
        pixels = self.pixels(x)
        shares = coarse.flatten(2).softmax(dim=2)
        objects = (pixels.flatten(2) @ shares.mT)[..., None]  # n x c x k x 1
        queries = self.query(pixels).flatten(2)
        keys, values = self.key(objects).flatten(2), self.value(objects).flatten(2)
        likeness = (queries.mT @ keys * queries.shape[1] ** -0.5).softmax(dim=2)
        context = (values @ likeness.mT).unflatten(2, pixels.shape[2:])
        feature = self.fusion(torch.cat([self.expand(context), pixels], dim=1))
        return feature, self.classifier(feature), coarse


class OCRNet(SegmentationNetwork):
    """HRNet, whose branches keep the strides 4 to 32, and the object-contextual head.

    Stages 2 to 4 of the features are HRNet's last maps at strides 8 to 32, rectified. The decoder
    input is all four maps, concatenated at stride 4; the decoder feature is what the classifier
    reads. The auxiliary logits are those of the coarse segmentation, which prediction needs too.
    """

    config: OCRNetConfig
    folds_norms = True
    logits_stride = 4
    backbone_parts = (
        *("stem", "stage1", "transition1", "stage2", "transition2", "stage3"),
        *("transition3", "stage4"),
    )

    def __init__(self, config: OCRNetConfig) -> None:
        super().__init__()
        self.config = config
        stem = config.stem_channels
        widths = [config.base_channels << branch for branch in range(4)]
        self.widths = Widths(widths[2], widths[3], sum(widths), config.head_channels)
        self.stem = nn.Sequential(
            *conv_norm(3, stem, 3, 2, activation=nn.ReLU),
            *conv_norm(stem, stem, 3, 2, activation=nn.ReLU),
        )
        sides = (stem, *[EXPANSION * stem] * (config.blocks - 1))
        self.stage1 = nn.Sequential(
            *(Bottleneck(side, stem, EXPANSION, final_relu=True) for side in sides)
        )
        self.transition1 = nn.ModuleList(
            [
                conv_norm(EXPANSION * stem, widths[0], 3, activation=nn.ReLU),
                conv_norm(EXPANSION * stem, widths[1], 3, 2, activation=nn.ReLU),
            ]
        )
        self.stage2 = _stage(widths[:2], config.modules[0], config.blocks)
        self.transition2 = conv_norm(widths[1], widths[2], 3, 2, activation=nn.ReLU)
        self.stage3 = _stage(widths[:3], config.modules[1], config.blocks)
        self.transition3 = conv_norm(widths[2], widths[3], 3, 2, activation=nn.ReLU)
        self.stage4 = _stage(widths, config.modules[2], config.blocks)
        self.head = ObjectContextHead(sum(widths), config)
        initialise_convolutions(self)

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        """Return all features; logits stay at stride 4."""
        x = self.stage1(self.stem(images))
        maps = self.stage2([branch(x) for branch in self.transition1])
        maps = self.stage3([*maps, self.transition2(maps[-1])])
        maps = self.stage4([*maps, self.transition3(maps[-1])])
        size = (maps[0].shape[2], maps[0].shape[3])
        decoder_input = torch.cat([maps[0], *(resize(x, size) for x in maps[1:])], dim=1)
        feature, logits, coarse = self.head(decoder_input)
        _, second, third, fourth = maps
        return Features(second, third, fourth, decoder_input, feature, logits, (coarse,))

    def decode(
        self, decoder_input: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n cf h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        feature, logits, _ = self.head(decoder_input)
        return feature, logits


def _stage(widths: list[int], modules: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(HighResolutionModule(widths, blocks) for _ in range(modules)))


def _exchange(widths: list[int], source: int, target: int) -> nn.Module:
    """Build what brings a branch's map to another branch; a coarser one is resized later."""
    if source >= target:
        same = source == target
        return nn.Identity() if same else conv_norm(widths[source], widths[target])
    halvings = target - source
    steps = [
        conv_norm(widths[source], widths[source], 3, 2, activation=nn.ReLU)
        for _ in range(halvings - 1)
    ]
    return nn.Sequential(*steps, conv_norm(widths[source], widths[target], 3, 2))


def _pointwise(in_channels: int, channels: int) -> nn.Sequential:
    return conv_norm(in_channels, channels, activation=nn.ReLU)
