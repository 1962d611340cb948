"""The segmentation head of SCTNet, DDRNet, PIDNet and the BiSeNets."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.folding import FoldsNorms, fold
from sctnet.models.layers import BatchNorm


class SegmentationHead(FoldsNorms):
    """BN, ReLU, 3x3 convolution, BN, ReLU, 1x1 classifier.

    Without ``normalises`` the first two are left out: the map that it reads is rectified already.
    ``bias`` is that of the 3x3 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_classes: int,
        bias: bool = True,
        normalises: bool = True,
        dropout: float = 0,
    ) -> None:
        super().__init__()
        self.norm1 = BatchNorm(in_channels) if normalises else None
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=bias)
        self.norm2: nn.Module = BatchNorm(channels)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(
        self, x: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature (before its norm) and the logits."""
        if self.norm1 is not None:
            x = F.relu(self.norm1(x))
        feature = self.conv(x)
        return feature, self.classifier(self.dropout(F.relu(self.norm2(feature))))

    def fold_norms(self) -> None:
        """Fold the second norm; a ReLU keeps the first."""
        self.conv, self.norm2 = fold(self.conv, self.norm2)
