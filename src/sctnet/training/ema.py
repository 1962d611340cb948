"""The exponential moving average (EMA) of a network's weights."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def ema_weights(model: nn.Module, decay: float) -> AveragedModel:
    """Return an average of weights and running statistics, updated by ``update_parameters``.

    After n updates the decay is at most (1 + n) / (10 + n), so that the average soon forgets the
    random initial weights.
    """

    def update(averages: Sequence[Tensor], currents: Sequence[Tensor], count: Tensor | int) -> None:
        keep = min(decay, (1 + int(count)) / (10 + int(count)))
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current.to(average.dtype), 1 - keep)
            else:
                average.copy_(current)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)
