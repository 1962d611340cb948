"""Activation checkpointing: the backward pass computes a stage again instead of storing it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpointed(
    stage: nn.Module, x: Float[Tensor, "n c_in h_in w_in"]
) -> Float[Tensor, "n c h w"]:
    """Return ``stage(x)``; the backward pass computes its activations a second time.

    The second pass uses the same random numbers and does not update running statistics, so losses
    and gradients are those of a plain call.
    """
    contexts = partial(_contexts, stage)
    y: Tensor = checkpoint(stage, x, use_reentrant=False, context_fn=contexts)
    return y


def _contexts(
    stage: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _without_new_statistics(stage)


@contextmanager
def _without_new_statistics(stage: nn.Module) -> Iterator[None]:
    """Keep batch norms from updating their running statistics."""
    norms = [module for module in stage.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
