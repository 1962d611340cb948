"""SegNeXt (Guo et al. 2022): convolutional attention and a light Hamburger, a row of Table 5.

Computed as in the authors' code, with one difference. There the factorisation of the Hamburger
starts from random bases at every call, also in evaluation. Here evaluation uses bases that were
drawn once and are saved with the weights, so it always gives the same logits.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.layers import BatchNorm, drop_path_rates, initialise_convolutions, resize
from sctnet.models.msca import MSCABlock
from sctnet.models.network import Features, NetworkConfig, SegmentationNetwork, Widths
from sctnet.models.segformer import ChannelNorm

EXPANSIONS = (8, 8, 4, 4)
"""How much wider the feed-forward networks of the four stages are than the stages."""
NORM_GROUPS = 32
TRAINING_UPDATES, EVALUATION_UPDATES = 6, 7


class SegNeXtConfig(NetworkConfig):
    """Everything that decides the architecture of a SegNeXt."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    # Two channels a group at least: one value alone, in a 1 x 1 map, has no variance.
    decoder_channels: int = Field(default=256, ge=2 * NORM_GROUPS, multiple_of=NORM_GROUPS)
    rank: int = Field(default=16, ge=1, description="bases of the factorisation")
    drop_path: float = Field(default=0.1, ge=0, lt=1, description="of the last block")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="before the classifier")


SEGNEXT_VARIANTS: dict[str, dict[str, Any]] = {
    "segnext-t": {"widths": (32, 64, 160, 256), "depths": (3, 3, 5, 2)},
}


class NonNegativeFactorisation(nn.Module):
    """A map as a product of few bases and their coefficients (Geng et al. 2021).

    C x HW is approximated by (C x R) (R x HW), all without negative values, by multiplicative
    updates (Lee and Seung 2001), through which gradients flow. In training the bases start from
    PyTorch's generator, again for every image.
    """

    bases: Tensor

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        self.register_buffer("bases", _random_bases(1, channels, rank))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return the approximation of a map without negative values, computed in float32."""
        with _full_precision(x.device.type):
            pixels = x.to(torch.promote_types(x.dtype, torch.float32)).flatten(2)
            approximation = self._approximated(pixels)
        return approximation.reshape(x.shape).to(x.dtype)

    def _approximated(self, x: Float[Tensor, "n c p"]) -> Float[Tensor, "n c p"]:
        n, channels, _ = x.shape
        bases = self.bases.to(x.dtype).expand(n, -1, -1)
        if self.training:
            bases = _random_bases(n, channels, bases.shape[2], x.device).to(x.dtype)
        coefficients = (x.mT @ bases).softmax(dim=2)
        for _ in range(TRAINING_UPDATES if self.training else EVALUATION_UPDATES):
            coefficients = _updated(coefficients, x.mT, bases)
            bases = _updated(bases, x, coefficients)
        return bases @ _updated(coefficients, x.mT, bases).mT


class HamburgerHead(nn.Module):
    """Three stages, squeezed, factorised for their global context, and classified."""

    def __init__(self, config: SegNeXtConfig) -> None:
        super().__init__()
        channels = config.decoder_channels
        self.squeeze = _conv_norm(sum(config.widths[1:]), channels)
        self.bread_in = nn.Conv2d(channels, channels, 1)
        self.ham = NonNegativeFactorisation(channels, config.rank)
        self.bread_out = _conv_norm(channels, channels)
        self.align = _conv_norm(channels, channels)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(channels, config.num_classes, 1)

    def forward(
        self, x: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        x = F.relu(self.squeeze(x))
        context = self.bread_out(self.ham(F.relu(self.bread_in(x))))
        feature = F.relu(self.align(F.relu(x + context)))
        return feature, self.classifier(self.dropout(feature))


class SegNeXt(SegmentationNetwork):
    """The multi-scale convolutional attention network (MSCAN) and its light Hamburger head.

    The stages leave it behind their layer norm. The decoder input is stages 2 to 4, concatenated
    at stride 8; the decoder feature is what the classifier reads.
    """

    config: SegNeXtConfig
    folds_norms = True
    logits_stride = 8
    backbone_parts = ("stages",)

    def __init__(self, config: SegNeXtConfig) -> None:
        super().__init__()
        self.config = config
        self.widths = Widths(*config.widths[2:], sum(config.widths[1:]), config.decoder_channels)
        sizes = zip(
            (3, *config.widths[:-1]),
            config.widths,
            drop_path_rates(config.depths, config.drop_path),
            strict=True,
        )
        self.stages = nn.ModuleList(_stage(number, *size) for number, size in enumerate(sizes))
        self.head = HamburgerHead(config)
        initialise_convolutions(self)
        nn.init.normal_(self.head.classifier.weight, std=0.01)

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        """Return all features; logits stay at stride 8."""
        x, stages = images, []
        for stage in self.stages:
            x = stage(x)
            stages.append(x)
        _, second, third, fourth = stages
        size = (second.shape[2], second.shape[3])
        decoder_input = torch.cat([second, resize(third, size), resize(fourth, size)], dim=1)
        decoder_feature, logits = self.head(decoder_input)
        return Features(second, third, fourth, decoder_input, decoder_feature, logits)

    def decode(
        self, decoder_input: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n cf h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        feature, logits = self.head(decoder_input)
        return feature, logits


def _stage(number: int, in_channels: int, channels: int, rates: list[float]) -> nn.Sequential:
    """Build overlapping patches, attention blocks and a layer norm."""
    patches = _strided_convolution(in_channels, channels)
    if number == 0:
        half = channels // 2
        patches = [
            *_strided_convolution(in_channels, half),
            nn.GELU(),
            *_strided_convolution(half, channels),
        ]
    return nn.Sequential(
        nn.Sequential(*patches),
        nn.Sequential(*(MSCABlock(channels, EXPANSIONS[number], rate) for rate in rates)),
        ChannelNorm(channels, eps=1e-5),
    )


def _strided_convolution(in_channels: int, channels: int) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, channels, 3, 2, padding=1), BatchNorm(channels)]


def _conv_norm(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 1, bias=False), nn.GroupNorm(NORM_GROUPS, channels)
    )


def _random_bases(
    n: int, channels: int, rank: int, device: torch.device | None = None
) -> Float[Tensor, "n c r"]:
    """Draw non-negative bases of length 1 from PyTorch's generator."""
    return F.normalize(torch.rand(n, channels, rank, device=device), dim=1)


def _updated(
    factor: Float[Tensor, "n i r"], x: Float[Tensor, "n i j"], other: Float[Tensor, "n j r"]
) -> Float[Tensor, "n i r"]:
    """Update one factor of x ~ factor other^T, multiplicatively, so that it stays non-negative."""
    return factor * (x @ other) / (factor @ (other.mT @ other) + 1e-6)


def _full_precision(device: str) -> AbstractContextManager[Any]:
    """Disable mixed precision: sums over all pixels overflow float16."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
