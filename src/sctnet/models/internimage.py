"""InternImage (Wang et al. 2023) with UPerNet's head: a teacher of Table 10.

Computed as in the authors' code and MMSegmentation's head, with the deformable convolution in plain
PyTorch. Maps of the encoder are N x H x W x C within its blocks.
"""

from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.layers import (
    DropPath,
    conv_norm,
    drop_path_rates,
    initialise_convolutions,
    resize,
)
from sctnet.models.network import Features, NetworkConfig, SegmentationNetwork, Widths
from sctnet.models.segformer import ChannelNorm

TAPS = 9
"""Of a deformable 3x3 convolution."""
EXPANSION = 4
POOLS = (1, 2, 3, 6)
"""Sides of the head's pooled maps."""


class InternImageConfig(NetworkConfig):
    """Everything that decides the architecture of an InternImage with UPerNet's head."""

    channels: int = Field(ge=2, multiple_of=2, description="of stage 1; each has twice as many")
    depths: tuple[int, int, int, int]
    groups: tuple[int, int, int, int]
    head_channels: int = Field(default=512, ge=1)
    auxiliary_channels: int = Field(default=256, ge=1)
    drop_path: float = Field(default=0.2, ge=0, lt=1, description="of the last block")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="before the classifiers")
    auxiliary_head: bool = True


INTERNIMAGE_VARIANTS: dict[str, dict[str, Any]] = {
    "internimage-t": {"channels": 64, "depths": (4, 4, 18, 4), "groups": (4, 8, 16, 32)},
}


class DeformableConvolution(nn.Module):
    """A 3x3 convolution whose taps move, and weigh, as each pixel and group decides (DCNv3)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.neighbours = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.offsets = nn.Linear(channels, groups * TAPS * 2)
        self.weights = nn.Linear(channels, groups * TAPS)
        self.project_in = nn.Linear(channels, channels)
        self.project_out = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "n h w c"]) -> Float[Tensor, "n h w c"]:
        """Return a map of the same size."""
        n, height, width, _ = x.shape
        seen = self.neighbours(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        seen = F.gelu(self.norm(seen))
        # Offsets are (right, down) in pixels; the taps of a group go down first, then right.
        offsets = self.offsets(seen).reshape(n, height, width, self.groups, TAPS, 2)
        weights = self.weights(seen).reshape(n, height, width, self.groups, TAPS).softmax(dim=4)
        moved = deformed_sum(self.project_in(x), offsets, weights)
        y: Tensor = self.project_out(moved)
        return y


class InternImageBlock(nn.Module):
    """Pre-norm: x + scale * convolution(norm(x)), then + scale * feed-forward(norm(.))."""

    def __init__(self, channels: int, groups: int, drop_path: float) -> None:
        super().__init__()
        self.convolution_norm = nn.LayerNorm(channels, eps=1e-6)
        self.convolution = DeformableConvolution(channels, groups)
        self.convolution_scale = nn.Parameter(torch.ones(channels))
        self.feed_forward_norm = nn.LayerNorm(channels, eps=1e-6)
        self.feed_forward = nn.Sequential(
            nn.Linear(channels, EXPANSION * channels),
            nn.GELU(),
            nn.Linear(EXPANSION * channels, channels),
        )
        self.feed_forward_scale = nn.Parameter(torch.ones(channels))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "n h w c"]) -> Float[Tensor, "n h w c"]:
        """Apply both branches."""
        convolved = self.convolution(self.convolution_norm(x))
        x = x + self.drop_path(self.convolution_scale * convolved)
        mixed = self.feed_forward(self.feed_forward_norm(x))
        y: Tensor = x + self.drop_path(self.feed_forward_scale * mixed)
        return y


class InternImageStage(nn.Module):
    """Convolutions of stride 2, blocks and a layer norm; the next stage reads what it gives."""

    def __init__(self, down: nn.Module, channels: int, groups: int, rates: list[float]) -> None:
        super().__init__()
        self.down = down
        self.blocks = nn.Sequential(*(InternImageBlock(channels, groups, rate) for rate in rates))
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Float[Tensor, "n ci h_in w_in"]) -> Float[Tensor, "n c h w"]:
        """Return the normalised map, N x C x H x W as it came."""
        x = self.down(x).permute(0, 2, 3, 1)
        y: Tensor = self.norm(self.blocks(x)).permute(0, 3, 1, 2)
        return y


class UPerHead(nn.Module):
    """A pyramid of pooled and of finer features, as MMSegmentation has it (Xiao et al. 2018)."""

    def __init__(self, widths: list[int], config: InternImageConfig) -> None:
        super().__init__()
        channels = config.head_channels
        self.pooled = nn.ModuleList(_convolution(widths[-1], channels, 1) for _ in POOLS)
        self.bottleneck = _convolution(widths[-1] + len(POOLS) * channels, channels, 3)
        self.laterals = nn.ModuleList(_convolution(width, channels, 1) for width in widths[:-1])
        self.smooth = nn.ModuleList(_convolution(channels, channels, 3) for _ in widths[:-1])
        self.fusion = _convolution(len(widths) * channels, channels, 3)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(channels, config.num_classes, 1)

    def pyramid(self, stages: list[Tensor]) -> Float[Tensor, "n d4 h w"]:
        """Return all levels, concatenated at the size of the first."""
        last = stages[-1]
        pools = [
            resize(convolve(pooled(last, side)), _size(last))
            for convolve, side in zip(self.pooled, POOLS, strict=True)
        ]
        coarser = self.bottleneck(torch.cat([last, *pools], dim=1))
        levels = [coarser]
        for lateral, smooth, stage in zip(
            reversed(self.laterals), reversed(self.smooth), stages[-2::-1], strict=True
        ):
            coarser = lateral(stage) + resize(coarser, _size(stage))
            levels.insert(0, smooth(coarser))
        return torch.cat([levels[0], *(resize(x, _size(stages[0])) for x in levels[1:])], dim=1)

    def decode(
        self, x: Float[Tensor, "n d4 h w"]
    ) -> tuple[Float[Tensor, "n d h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        feature = self.fusion(x)
        return feature, self.classifier(self.dropout(feature))


class InternImage(SegmentationNetwork):
    """The encoder of deformable convolutions and UPerNet's head.

    All stages leave the encoder layer normalised. The decoder input is the four levels of the
    pyramid, concatenated at stride 4; the decoder feature is what the classifier reads. In
    training, an auxiliary head reads stage 3.
    """

    config: InternImageConfig
    folds_norms = True
    logits_stride = 4
    backbone_parts = ("stages",)

    def __init__(self, config: InternImageConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels << stage for stage in range(4)]
        self.widths = Widths(widths[2], widths[3], 4 * config.head_channels, config.head_channels)
        downs = [_stem(widths[0]), *(_halved(width) for width in widths[:-1])]
        rates = drop_path_rates(config.depths, config.drop_path)
        self.stages = nn.ModuleList(
            InternImageStage(*parts)
            for parts in zip(downs, widths, config.groups, rates, strict=True)
        )
        self.head = UPerHead(widths, config)
        self.auxiliary_head = (
            nn.Sequential(
                _convolution(widths[2], config.auxiliary_channels, 3),
                nn.Dropout2d(config.dropout),
                nn.Conv2d(config.auxiliary_channels, config.num_classes, 1),
            )
            if config.auxiliary_head
            else None
        )
        self._initialise()

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        """Return all features; logits stay at stride 4."""
        x, stages = images, []
        for number, stage in enumerate(self.stages):
            x = self._stage(stage, x) if number >= 2 else stage(x)
            stages.append(x)
        decoder_input = self.head.pyramid(stages)
        _, second, third, fourth = stages
        feature, logits = self.decode(decoder_input)
        features = Features(second, third, fourth, decoder_input, feature, logits)
        if self.auxiliary_head is None:
            return features
        return features._replace(auxiliary_logits=(self.auxiliary_head(stages[2]),))

    def decode(
        self, decoder_input: Float[Tensor, "n d4 h w"]
    ) -> tuple[Float[Tensor, "n d h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        return self.head.decode(decoder_input)

    def _initialise(self) -> None:
        """Start with taps that rest and weigh the same."""
        initialise_convolutions(self)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, DeformableConvolution):
                nn.init.zeros_(module.offsets.weight)
                nn.init.zeros_(module.weights.weight)
                nn.init.xavier_uniform_(module.project_in.weight)
                nn.init.xavier_uniform_(module.project_out.weight)


def deformed_sum(
    x: Float[Tensor, "n h w c"],
    offsets: Float[Tensor, "n h w g 9 2"],
    weights: Float[Tensor, "n h w g 9"],
) -> Float[Tensor, "n h w c"]:
    """Return the weighted sum of what lies below nine moved taps, in each group of channels.

    Between pixels it is interpolated, outside of the map it is 0. In float32 at least.
    """
    n, height, width, channels = x.shape
    groups = offsets.shape[3]
    dtype = torch.promote_types(x.dtype, torch.float32)
    rows = torch.arange(height, device=x.device, dtype=dtype)[:, None, None, None]
    columns = torch.arange(width, device=x.device, dtype=dtype)[None, :, None, None]
    taps = torch.arange(TAPS, device=x.device)
    right = columns + (taps // 3 - 1) + offsets[..., 0].to(dtype)
    down = rows + (taps % 3 - 1) + offsets[..., 1].to(dtype)
    grid = torch.stack([(2 * right + 1) / width - 1, (2 * down + 1) / height - 1], dim=-1)
    grid = grid.permute(0, 3, 1, 2, 4, 5).reshape(n * groups, height * width, TAPS, 2)
    maps = x.to(dtype).permute(0, 3, 1, 2).reshape(n * groups, channels // groups, height, width)
    found = F.grid_sample(maps, grid, mode="bilinear", align_corners=False)
    shares = weights.to(dtype).permute(0, 3, 1, 2, 4).reshape(n * groups, 1, height * width, TAPS)
    summed = (found * shares).sum(3).reshape(n, channels, height, width)
    return summed.permute(0, 2, 3, 1).to(x.dtype)


def pooled(x: Float[Tensor, "n c h w"], side: int) -> Float[Tensor, "n c s s"]:
    """Return adaptive averages, as two products of matrices: maps of any size can be exported."""
    rows, columns = (_averages(length, side, x) for length in x.shape[2:])
    return rows @ x @ columns.mT


def _averages(length: int, side: int, like: Tensor) -> Float[Tensor, "s l"]:
    """Return the matrix that averages ``side`` overlapping parts of an axis."""
    part = torch.arange(side, device=like.device)[:, None]
    pixel = torch.arange(length, device=like.device)
    inside = (pixel >= part * length // side) & (pixel * side < (part + 1) * length)
    counted = inside.to(like.dtype)
    return counted / counted.sum(1, keepdim=True)


def _stem(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, channels // 2, 3, 2, padding=1),
        ChannelNorm(channels // 2),
        nn.GELU(),
        nn.Conv2d(channels // 2, channels, 3, 2, padding=1),
        ChannelNorm(channels),
    )


def _halved(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 2 * channels, 3, 2, padding=1, bias=False), ChannelNorm(2 * channels)
    )


def _convolution(in_channels: int, channels: int, kernel: int) -> nn.Sequential:
    return conv_norm(in_channels, channels, kernel, activation=nn.ReLU)


def _size(x: Float[Tensor, "n c h w"]) -> tuple[int, int]:
    return x.shape[2], x.shape[3]
