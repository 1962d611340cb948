"""The first convolution in int8, on the bytes of a picture as they are.

A normalised picture would be quantised in steps that do not match its bytes, and be written and
read as floats. But int8 can compute with the bytes directly. With mean m and deviation s of a
channel, and z the byte next to m, the first convolution of (p - m) / s by weights w is that of the
bytes p - z by w / s, and (z - m) / s by w, which is constant: it joins the bias. (Outside of the
picture, where there are zeros, a z now stands for an m.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int8, UInt8
from numpy.lib.stride_tricks import sliding_window_view

from sctnet.inference.runtimes.openvino_engine import shared_core

if TYPE_CHECKING:
    import openvino

_LARGEST = 64
"""Of the weights: where a processor multiplies int8 in pairs, as those without VNNI do, two
products of a byte and a larger one would not fit into 16 bits."""
_APART = 7
"""Pixels between the places at which pictures are looked at."""


class FirstConvolution(NamedTuple):
    """The operators between a picture's pixels and the first convolution."""

    pixels: openvino.Output
    """Bytes as a picture has them, channels last, or, where it is resized before, floats."""
    mean: np.ndarray
    deviation: np.ndarray
    order: openvino.Output | None
    """Of the axes, where the channels are put first behind the division."""
    convolution: openvino.Node


def find_first_convolution(model: openvino.Model) -> FirstConvolution | None:
    """Return normalisation and first convolution of a model; None if it begins differently."""
    nodes = model.get_ordered_ops()
    first = next((node for node in nodes if node.get_type_name() == "Convolution"), None)
    if first is None:
        return None
    node, order = first.input_value(0).get_node(), None
    if node.get_type_name() == "Transpose":
        order, node = node.input_value(1), node.input_value(0).get_node()
    if node.get_type_name() != "Divide":
        return None
    subtract = node.input_value(0).get_node()
    if subtract.get_type_name() != "Subtract":
        return None
    pixels = subtract.input_value(0)
    if pixels.get_node().get_type_name() == "Convert":
        pixels = pixels.get_node().input_value(0)
    return FirstConvolution(pixels, _constant(subtract), _constant(node), order, first)


def convolve_bytes(model: openvino.Model, pictures: Iterable[UInt8[np.ndarray, "n h w 3"]]) -> None:
    """Make the convolution of :func:`find_first_convolution` multiply bytes by int8 weights.

    Resized pixels are rounded to bytes first. The weights are rounded together, to minimise the
    error on ``pictures``.
    """
    from openvino import opset13 as operators

    start = find_first_convolution(model)
    assert start is not None
    convolution = start.convolution
    weights = convolution.input_value(1).get_node().data.astype(np.float32)
    weights = weights / start.deviation.reshape(1, -1, 1, 1)
    near = start.mean.round()
    seen, covariance = _seen(_pixels(start, model, pictures), *weights.shape[2:])
    flat = weights.reshape(len(weights), -1).astype(np.float64)
    integers, scales = _rounded(flat, covariance)
    zeros, means = (np.repeat(each.ravel(), weights[0, 0].size) for each in (near, start.mean))
    # The output for the pictures' mean does not change.
    moved = flat @ (seen - means) - (integers * scales) @ (seen - zeros)

    pixels = operators.convert(start.pixels, "f32")  # nothing where they are floats
    planes = pixels if start.order is None else operators.transpose(pixels, start.order)
    # Bytes are not changed by it, but OpenVINO takes nothing else for quantised, and that only
    # with zeros and scale right before the convolution.
    ends = np.float32(0), np.float32(255)
    bytes_ = operators.fake_quantize(planes, *ends, *ends, 256)
    # A scale of 1 would be taken out, and with it what tells OpenVINO that these are quantised.
    scale = np.float32(1 / 64)
    centred = operators.multiply(operators.subtract(bytes_, near.reshape(1, -1, 1, 1)), scale)
    convolution.input(0).replace_source_output(centred.output(0))
    held = operators.convert(operators.constant(integers.reshape(weights.shape)), "f32")
    scales = (scales / scale).astype(np.float32).reshape(-1, 1, 1, 1)
    convolution.input(1).replace_source_output(operators.multiply(held, scales).output(0))
    readers = convolution.output(0).get_target_inputs()
    shifted = operators.add(convolution, moved.reshape(1, -1, 1, 1).astype(np.float32))
    for reader in readers:
        reader.replace_source_output(shifted.output(0))
    model.validate_nodes_and_infer_types()


def _pixels(
    start: FirstConvolution, model: openvino.Model, pictures: Iterable[UInt8[np.ndarray, "n h w 3"]]
) -> Iterator[np.ndarray]:
    """Yield what the convolution will see of the pictures before it is centred, channels last."""
    if start.order is not None:
        yield from pictures
        return
    import openvino

    resizing = openvino.Model([start.pixels], model.get_parameters())
    compiled = shared_core().compile_model(resizing, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for picture in pictures:
        yield compiled(picture)[0].round().transpose(0, 2, 3, 1)


def _constant(node: openvino.Node) -> np.ndarray:
    """Return the constant that an operator has as its second operand."""
    found: np.ndarray = node.input_value(1).get_node().data
    return found.astype(np.float32)


def _seen(
    pictures: Iterable[np.ndarray], height: int, width: int
) -> tuple[Float[np.ndarray, " taps"], Float[np.ndarray, "taps taps"]]:
    """Return mean and covariance of what the taps of a convolution see, as its weights lie."""
    count, total, products = 0, np.zeros(()), np.zeros(())
    for batch in pictures:
        # Repeated at their borders: a picture may be smaller than the convolution.
        padded = np.pad(batch, ((0, 0), (0, height - 1), (0, width - 1), (0, 0)), "edge")
        windows = sliding_window_view(padded, (height, width), axis=(1, 2))[:, ::_APART, ::_APART]
        taps = windows.reshape(-1, windows[0, 0, 0].size).astype(np.float64)
        count, total, products = count + len(taps), total + taps.sum(0), products + taps.T @ taps
    mean = total / count
    return mean, products / count - np.outer(mean, mean)


def _rounded(
    weights: Float[np.ndarray, "o taps"], covariance: Float[np.ndarray, "taps taps"]
) -> tuple[Int8[np.ndarray, "o taps"], Float[np.ndarray, "o 1"]]:
    """Round weights to integers, and return these and the scale of each output.

    Neighbouring pixels are similar, so the sum of the errors matters: later weights compensate the
    error of each weight, as far as the pixels' covariance allows (GPTQ, Frantar et al. 2023). Of
    several scales the one with the smallest error is used.
    """
    largest = np.abs(weights).max(1, keepdims=True).clip(min=1e-12)
    # A little noise on every tap: the pictures may be of one colour.
    noise = (1 + 1e-4 * covariance.trace() / len(covariance)) * np.eye(len(covariance))
    # What later taps can make good is read from the inverse's Cholesky factor, row after row.
    factor = np.linalg.cholesky(np.linalg.inv(covariance + noise)).T
    best = np.full(largest.shape, np.inf)
    integers, scales = np.zeros(weights.shape, np.int8), largest.copy()
    for share in np.linspace(0.7, 1, 31):
        scale = share * largest / _LARGEST
        tried = _compensated(weights / scale, factor)
        error = tried * scale - weights
        loss = np.einsum("ot,tu,ou->o", error, covariance, error)[:, None]
        better = loss < best
        best = np.where(better, loss, best)
        scales = np.where(better, scale, scales)
        integers = np.where(better, tried, integers).astype(np.int8)
    return integers, scales


def _compensated(
    weights: Float[np.ndarray, "o taps"], factor: Float[np.ndarray, "taps taps"]
) -> Float[np.ndarray, "o taps"]:
    left = weights.copy()
    for tap in range(left.shape[1]):
        integer = left[:, tap].round().clip(-_LARGEST, _LARGEST)
        error = (left[:, tap] - integer) / factor[tap, tap]
        left[:, tap + 1 :] -= error[:, None] * factor[tap, tap + 1 :]
        left[:, tap] = integer
    return left
