"""The segmentation head of SCTNet and DDRNet."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.folding import FoldsNorms, fold
from sctnet.models.layers import BatchNorm


class SegmentationHead(FoldsNorms):
    """BN, ReLU, 3x3 convolution, BN, ReLU, 1x1 classifier."""

    def __init__(
        self, in_channels: int, channels: int, num_classes: int, bias: bool = True
    ) -> None:
        super().__init__()
        self.norm1 = BatchNorm(in_channels)
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=bias)
        self.norm2: nn.Module = BatchNorm(channels)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(
        self, x: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature (before its norm) and the logits."""
        feature = self.conv(F.relu(self.norm1(x)))
        return feature, self.classifier(F.relu(self.norm2(feature)))

    def fold_norms(self) -> None:
        """Fold the second norm; a ReLU keeps the first."""
        self.conv, self.norm2 = fold(self.conv, self.norm2)
