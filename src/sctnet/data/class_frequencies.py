"""Frequencies of classes, balanced class weights, and a check for labels that teach nothing."""

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

    The square root is a compromise between no weights and equal weight for every class. A class
    that never occurs gets the weight of the rarest class that occurs.
    """
    share = counts.double() / counts.sum().clamp(min=1)
    occurring = share[share > 0]
    if occurring.numel() == 0:
        return torch.ones(counts.numel())
    weights = share.clamp(min=float(occurring.min())).rsqrt()
    return (weights / (weights * share).sum()).float()


def refuse_unlearnable(data: SegmentationDataset, skip_broken: bool = False) -> None:
    """Raise :class:`SctnetError` if all labelled pixels have one class, or none is labelled.

    The loss would fall to 0, and the model would always predict the same class. Masks of 0 and 255
    give such labels while 255 is ignored. Reads masks until two classes have been seen: one or two
    masks of healthy data. With ``skip_broken``, masks that cannot be read are skipped.
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
