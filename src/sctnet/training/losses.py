"""Losses as pure functions, and the class weights of a recipe."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from sctnet.data.class_frequencies import balanced_weights, count_class_pixels
from sctnet.data.dataset import IGNORE, SegmentationDataset
from sctnet.errors import SctnetError
from sctnet.kernels.cross_entropy import cpu_cross_entropy
from sctnet.kernels.library import instruction_set
from sctnet.models.layers import resize
from sctnet.processes import ALONE, Processes
from sctnet.training.recipe import LossRecipe


def cross_entropy(
    logits: Float[Tensor, "n k h w"],
    labels: Int[Tensor, "n h w"],
    class_weights: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """Return the cross-entropy summed over the labelled pixels; 255 is ignored."""
    return F.cross_entropy(logits, labels, class_weights, ignore_index=IGNORE, reduction="sum")


def resized_cross_entropy(
    logits: Float[Tensor, "n k h w"],
    labels: Int[Tensor, "n height width"],
    class_weights: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """Return the :func:`cross_entropy` of logits that are resized (bilinear) to the labels.

    On a CPU the compiled library computes it without the map at the labels' size.
    """
    on_cpu = logits.device.type == "cpu" and logits.dtype == torch.float32
    if on_cpu and instruction_set() is not None:
        return cpu_cross_entropy(logits, labels, class_weights, IGNORE)
    return cross_entropy(resize(logits, (labels.shape[1], labels.shape[2])), labels, class_weights)


def hard_example_cross_entropy(
    logits: Float[Tensor, "n k h w"],
    labels: Int[Tensor, "n h w"],
    class_weights: Float[Tensor, " k"] | None,
    threshold: float,
    minimal_share: float,
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of the hard pixels, times the number of labelled ones (OHEM).

    Hard pixels are those whose true class has a probability below ``threshold``, but at least the
    fraction ``minimal_share`` of the labelled pixels with the lowest probability. With this scale,
    sums over several parts of a batch can be divided by their labelled pixels, like the plain
    cross-entropy.
    """
    losses = F.cross_entropy(
        logits, labels, class_weights, ignore_index=IGNORE, reduction="none"
    ).flatten()
    flat = labels.flatten()
    labelled = flat != IGNORE
    count = int(labelled.sum())
    if count == 0:
        return losses.sum()
    with torch.no_grad():
        probability = logits.softmax(dim=1).gather(1, _inside(labels)[:, None]).flatten()[labelled]
        fewest = max(1, round(minimal_share * count))
        limit = max(float(probability.kthvalue(fewest).values), threshold)
        hard = torch.zeros_like(labelled)
        hard[labelled] = probability <= limit
    return losses[hard].mean() * count


def boundary_cross_entropy(
    logits: Float[Tensor, "n 1 h w"], labels: Int[Tensor, "n h w"]
) -> Float[Tensor, ""]:
    """Return the balanced cross-entropy of boundaries (Xu et al. 2023), a mean over the images.

    Within an image, boundary pixels weigh as much as the share of all others, and the others as
    much as the share of boundary pixels. The mean is that of the labelled pixels.
    """
    labelled = labels != IGNORE
    boundary = boundaries(labels)
    counts = labelled.sum((1, 2)).clamp(min=1)
    share = (boundary.sum((1, 2)) / counts)[:, None, None]
    weights = torch.where(boundary, 1 - share, share) * labelled
    losses = F.binary_cross_entropy_with_logits(
        logits[:, 0], boundary.to(logits.dtype), reduction="none"
    )
    return ((losses * weights).sum((1, 2)) / counts).mean()


def boundaries(labels: Int[Tensor, "n h w"]) -> Bool[Tensor, "n h w"]:
    """Return the labelled pixels with another class at most two pixels away: four pixels wide."""
    labelled = labels != IGNORE
    highest = labels.masked_fill(~labelled, -1).float()
    lowest = labels.masked_fill(~labelled, 2**16).float()
    spread = F.max_pool2d(torch.stack([highest, -lowest], dim=1), 5, stride=1, padding=2).sum(1)
    return labelled & (spread > 0)


def _inside(labels: Tensor) -> Tensor:
    """Return labels that can be used as an index: ignored ones become 0."""
    return labels.masked_fill(labels == IGNORE, 0)


def class_weights(
    recipe: LossRecipe,
    data: SegmentationDataset,
    processes: Processes = ALONE,
    skip_broken: bool = False,
) -> Tensor | None:
    """Return the weight of each class (float32, one a class), or None where all weigh the same.

    For balanced weights the processes together read every mask once.
    """
    given = recipe.class_weights
    if given == "none":
        return None
    if given == "balanced":
        counts = count_class_pixels(data, processes, skip_broken)
        return balanced_weights(torch.from_numpy(counts))
    if len(given) != len(data.classes):
        raise SctnetError(
            f"loss.class_weights: {len(given)} weights for {len(data.classes)} classes"
        )
    return torch.tensor(given)
