"""How often classes occur, what rare ones should weigh, and whether there is enough to learn."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sctnet.data.dataset import SegmentationDataset
from sctnet.errors import SctnetError
from sctnet.processes import ALONE, Processes


def count_class_pixels(
    data: SegmentationDataset, processes: Processes = ALONE, skip_broken: bool = False
) -> Int[np.ndarray, " k"]:
    """Return how many pixels of each class a data set has (int64, without ignored ones).

    Every process must call this. With ``skip_broken``, masks that cannot be read count nothing.
    """
    counts = np.zeros(256, np.int64)
    for index in processes.own_part(len(data)):
        try:
            counts += np.bincount(data.labels(index).ravel(), minlength=256)
        except SctnetError:
            if not skip_broken:
                raise
    total: np.ndarray = np.sum(processes.gather(counts), axis=0)
    return total[: len(data.classes)]


def balanced_weights(counts: Int[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Return class weights 1 / sqrt(share of the pixels), with a mean of 1 over the pixels.

    The square root lies between leaving rare classes to their share and giving every class the
    same; a class that never occurs gets the weight of the rarest that does.
    """
    share = counts.double() / counts.sum().clamp(min=1)
    occurring = share[share > 0]
    if occurring.numel() == 0:
        return torch.ones(counts.numel())
    weights = share.clamp(min=float(occurring.min())).rsqrt()
    return (weights / (weights * share).sum()).float()


def refuse_unlearnable(data: SegmentationDataset, skip_broken: bool = False) -> None:
    """Raise :class:`SctnetError` where all labelled pixels are of one class, or none is labelled.

    A loss would fall to 0 or stay there, and the model would know one answer. That is what 0/255
    masks look like while 255 is ignored. Reads masks until two classes have been seen: one or two
    of healthy data, all of those that are refused. With ``skip_broken``, masks that cannot be read
    say nothing.
    """
    seen = np.zeros(256, bool)
    for index in range(len(data)):
        try:
            seen |= np.bincount(data.labels(index).ravel(), minlength=256) > 0
        except SctnetError:
            if not skip_broken:
                raise
        if seen[: len(data.classes)].sum() > 1:
            return
    found = [name for name, occurs in zip(data.classes, seen, strict=False) if occurs]
    what = f"every labelled pixel is {found[0]!r}" if found else "no pixel is labelled"
    raise SctnetError(
        f"{data.name}: {what}, there is nothing to learn: check the masks and the ignored value "
        "(sctnet data check tells more)"
    )
