"""The precision that a network is computed in: what is asked for, and what this machine is fast in.

bfloat16 halves the memory traffic and, where the processor multiplies it, the time. Where it does
not, PyTorch emulates it, ten to a hundred times slower than float32. So ``auto`` is bf16 only where
the machine multiplies it itself.
"""

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch.nn import functional as F

from sctnet.errors import SctnetError
from sctnet.machine import instruction_limits, processor_features

PrecisionName = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[PrecisionName, torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Of a network under autocast; None: as its weights are, in float32."""

_LOG = logging.getLogger(__name__)

_NATIVE: dict[PrecisionName, set[str]] = {
    "bf16": {"AVX-512 BF16", "AMX BF16"},
    "fp16": {"AVX-512 FP16"},
}
# Without one of these no processor multiplies short floats; with one it may (SVE's or NEON's with
# BF16), or may at least convert them quickly.
_IN_DOUBT = {"AVX-512", "AVX-NE-CONVERT", "NEON", "SVE", "BF16"}

_WORTH_IT = 0.9  # short floats round more, so that they have to be clearly faster


class Precision(NamedTuple):
    """A precision, and why it was taken."""

    name: PrecisionName
    reason: str | None = None
    """Of ``auto``; None where the precision was asked for by name."""

    @property
    def because(self) -> str:
        """The reason in brackets, behind a space; empty without one."""
        return f" ({self.reason})" if self.reason else ""


def choose_precision(
    asked: str, device: torch.device, on_gpu: Literal["bf16", "fp16"] = "bf16"
) -> Precision:
    """Return the precision for a device; ``asked`` is ``auto`` or the name of one.

    ``on_gpu`` is what ``auto`` prefers on a CUDA GPU that multiplies it: bf16 to train in, whose
    range is float32's, fp16 to predict in, which rounds less. Raises :class:`SctnetError` for an
    unknown name.
    """
    if asked not in {"auto", *DTYPES}:
        raise SctnetError(f"precision {asked!r}: choose one of auto, {', '.join(DTYPES)}")
    for name in DTYPES:
        if asked == name:
            return Precision(name)
    if device.type == "cuda":
        if on_gpu == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision(on_gpu, f"this GPU multiplies {on_gpu}")
        return Precision("fp32", "this GPU does not multiply bf16")
    if device.type != "cpu":
        return Precision("fp32", f"bf16 is not tried on {device.type}")
    native, reason = _on_cpu("bf16")
    return Precision("bf16" if native else "fp32", reason)


def is_emulated(precision: str, device: torch.device) -> bool:
    """Say whether the device computes a precision by converting it, slower than float32."""
    if precision not in ("bf16", "fp16"):  # int8 is never emulated, auto never chosen so
        return False
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return precision == "bf16" and not native
    return device.type == "cpu" and not _on_cpu(precision)[0]


def tell_of_emulation(
    precision: PrecisionName, in_precision: Callable[[], object], in_fp32: Callable[[], object]
) -> None:
    """Log one sentence: how many times slower an emulated precision is here, by measurement."""
    times = _seconds(in_precision, 1) / _seconds(in_fp32, 3)
    _LOG.warning(
        "%s is emulated on this processor and takes %s times as long as fp32: leave the "
        "precision out, or give auto",
        precision,
        f"{times:.0f}" if times >= 10 else f"{times:.1f}",
    )


@cache
def _on_cpu(precision: PrecisionName) -> tuple[bool, str]:
    """Say whether this processor multiplies a precision itself, and how that is known."""
    features = set(processor_features())
    known = bool(features) and not instruction_limits()
    if known and (own := sorted(_NATIVE[precision] & features)):
        return True, f"this processor multiplies {precision}: {own[0]}"
    if known and not _IN_DOUBT & features:
        return False, f"this processor does not multiply {precision}"
    ratio = _measured_ratio(precision)
    return ratio < _WORTH_IT, f"a convolution in {precision} takes {ratio:.2f} of fp32's time here"


def _measured_ratio(precision: PrecisionName) -> float:
    """Return the time of a 3x3 convolution relative to float32's; some ten milliseconds."""
    # Constant weights: drawn ones would move the random numbers of a run.
    x, weight = torch.ones(1, 128, 16, 32), torch.ones(128, 128, 3, 3)
    x, weight = (each.to(memory_format=torch.channels_last) for each in (x, weight))

    def run(short: bool) -> Callable[[], object]:
        @torch.inference_mode()
        def call() -> object:
            with torch.autocast("cpu", DTYPES[precision]) if short else nullcontext():
                return F.conv2d(x, weight, padding=1)

        return call

    return _seconds(run(True), 5) / _seconds(run(False), 5)


def _seconds(call: Callable[[], object], times: int) -> float:
    """Return the shortest time of a call, after one that is not counted."""
    best = float("inf")
    for number in range(1 + times):
        began = time.perf_counter()
        call()
        if number:
            best = min(best, time.perf_counter() - began)
    return best
