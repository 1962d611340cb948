"""SCTNet as steps: Figure 3 once more, for :mod:`.loop`."""

from typing import Any, cast

import torch
from torch import nn

from sctnet.kernels.network.memory import Buffer
from sctnet.kernels.network.packing import Weights
from sctnet.kernels.network.steps import GELU, LINEAR, RELU
from sctnet.kernels.network.writer import Norm, Program, Statistics, Writer
from sctnet.models.cfblock import TransformerBlock
from sctnet.models.dappm import DAPPM
from sctnet.models.layers import ResidualBlock
from sctnet.models.sctnet import SCTNet


def write_program(
    network: SCTNet,
    weights: Weights,
    height: int,
    width: int,
    statistics: Statistics | None,
    threads: int,
) -> Program:
    """Write the steps of a fused network for pictures of this size.

    The first one that is more than a clearing reads the picture, height x width x 3: bytes, where
    there are ``statistics`` to normalise them by, else what is prepared.
    """
    writer = Writer(weights, threads)
    picture = writer.picture(height, width, statistics)
    stem = _sequence(writer, "stem", network.stem, picture)
    stage1 = _sequence(writer, "stage1", network.stage1, stem, rectify=True, multiplied=True)
    stage2 = _sequence(writer, "stage2", network.stage2, stage1)
    channels = stage2.channels
    decoder = writer.plane(stage2.height, stage2.width, 2 * channels)
    own, context = decoder.part(0, channels), decoder.part(channels, channels)
    head = network.head
    assert head.norm1 is not None
    writer.affine(stage2, Norm("head.norm1", head.norm1), own)
    rectified = writer.plane(*stage2.shape, short=True)
    writer.affine(stage2, Norm("stage2.relu", nn.Identity()), rectified)
    writer.release(stage2)
    stage3 = _sequence(writer, "stage3", network.stage3, rectified, multiplied=True)
    stage4 = _sequence(writer, "stage4", network.stage4, stage3)
    aggregated = _dappm(writer, network.dappm, stage4)
    writer.resize(aggregated, Norm("head.norm1", head.norm1, channels), context)
    writer.release(aggregated)
    feature = writer.plane(*decoder.shape, short=True)
    writer.convolution("head.conv", head.conv, decoder, feature, activation=RELU)
    logits = writer.plane(decoder.height, decoder.width, head.classifier.out_channels)
    writer.convolution("head.classifier", head.classifier, feature, logits)
    return writer.program(logits)


def _sequence(
    writer: Writer,
    name: str,
    modules: nn.Sequential,
    x: Buffer,
    rectify: bool = False,
    multiplied: bool = False,
) -> Buffer:
    """Write modules one after the other; a ReLU is a part of what stands before it.

    ``rectify`` says whether one follows, ``multiplied`` whether only products read the result.
    """
    kept = [
        (f"{name}.{index}", module)
        for index, module in enumerate(modules)
        if not isinstance(module, nn.Identity)
    ]
    for index, (part, module) in enumerate(kept):
        if isinstance(module, nn.ReLU):
            continue
        following = [each for _, each in kept[index + 1 :]]
        rectified = isinstance(following[0], nn.ReLU) if following else rectify
        activation = RELU if rectified else LINEAR
        readers = [each for each in following if not isinstance(each, nn.ReLU)]
        short = isinstance(readers[0], nn.Conv2d) if readers else multiplied
        if isinstance(module, nn.Conv2d):
            y = writer.strided(module, x, short)
            writer.convolution(part, module, x, y, activation)
            writer.release(x)
        elif isinstance(module, ResidualBlock):
            y = _residual(writer, part, module, x, activation, short)
        else:
            assert isinstance(module, TransformerBlock)
            y = _transformer(writer, part, module, x, activation, short)
        x = y
    return x


def _residual(
    writer: Writer, name: str, block: ResidualBlock, x: Buffer, activation: int, short: bool
) -> Buffer:
    if isinstance(block.final_relu, nn.ReLU):
        activation = RELU
    between = writer.strided(block.conv1, x)
    writer.convolution(f"{name}.conv1", block.conv1, x, between, RELU)
    shortcut = x
    if isinstance(block.shortcut, nn.Sequential):
        shortcut = writer.strided(block.conv1, x)
        projection = cast(nn.Conv2d, block.shortcut[0])
        writer.convolution(f"{name}.shortcut", projection, x, shortcut)
        writer.release(x)
    y = writer.sum(shortcut, short)
    writer.convolution(f"{name}.conv2", block.conv2, between, y, activation, shortcut)
    writer.release(between)
    writer.release_term(shortcut, y)
    return y


def _transformer(
    writer: Writer, name: str, block: TransformerBlock, x: Buffer, activation: int, short: bool
) -> Buffer:
    x = _attention(writer, name, block, x)
    norm, between = writer.plane(*x.shape), writer.plane(*x.shape)
    writer.affine(x, Norm(f"{name}.norm2", block.feed_forward_norm), norm, rectify=False)
    feed_forward: Any = block.feed_forward
    first, second = feed_forward.conv1, feed_forward.conv2
    writer.convolution(f"{name}.conv1", first, norm, between, GELU)
    writer.release(norm)
    y = writer.sum(x, short)
    writer.convolution(f"{name}.conv2", second, between, y, activation, x)
    writer.release(between)
    writer.release_term(x, y)
    return y


def _attention(writer: Writer, name: str, block: TransformerBlock, x: Buffer) -> Buffer:
    stripes: list[Any] = list(cast(Any, block.attention).stripes)
    frame = max(max(stripe.padding) for stripe in stripes)
    norm = writer.plane(*x.shape, frame=frame, short=True)
    writer.affine(x, Norm(f"{name}.norm1", block.attention_norm), norm, rectify=False)
    number = len(stripes[0].kernels)
    shape = x.height, x.width, number * len(stripes)
    similarity, attention = writer.plane(*shape), writer.plane(*shape, frame=frame, short=True)
    for index, stripe in enumerate(stripes):
        maps = similarity.part(number * index, number)
        writer.convolve(f"{name}.kernels{index}", stripe.kernels, None, norm, maps)
    how = stripes[0].normalisation
    writer.normalise(similarity, how.kernels // how.groups, how.norm == "l2", attention)
    writer.release(norm, similarity)
    for index, stripe in enumerate(stripes):
        maps = attention.part(number * index, number)
        kernels = stripe.kernels.transpose(0, 1)
        writer.convolve(f"{name}.transposed{index}", kernels, None, maps, x, plus=x)
    writer.release(attention)
    return x


def _dappm(writer: Writer, dappm: DAPPM, x: Buffer) -> Buffer:
    """Write the pyramid; the compression and the shortcut are one product."""
    height, width, channels = x.shape
    parts: Any = dappm
    scales = parts.compression[2].in_channels
    inner = scales // len(parts.pools)
    together = writer.plane(height, width, scales + channels, short=True)
    writer.affine(x, Norm("dappm.shortcut", parts.shortcut[0]), together.part(scales, channels))
    output: Buffer | None = None
    for index, (pool, scale) in enumerate(zip(parts.pools, parts.scales, strict=True)):
        name = f"dappm.{index}"
        pooled = _pooled(writer, pool, Norm(f"{name}.scale", scale[0]), x)
        made = writer.plane(pooled.height, pooled.width, inner)
        writer.convolution(f"{name}.scale", scale[2], pooled, made)
        writer.release(pooled)
        if output is not None:
            process = parts.processes[index - 1]
            summed = writer.plane(height, width, inner)
            norm = Norm(f"{name}.process", process[0])
            writer.resize(made, norm, summed, plus=output)
            writer.release(made, output)
            made = writer.plane(height, width, inner)
            writer.convolution(f"{name}.process", process[2], summed, made)
            writer.release(summed)
        norm = Norm("dappm.compression", parts.compression[0], inner * index)
        writer.affine(made, norm, together.part(inner * index, inner))
        output = made
    compression, shortcut = parts.compression[2], parts.shortcut[2]
    aggregated = writer.plane(height, width, compression.out_channels)
    writer.convolve(
        "dappm.together",
        *_side_by_side(compression, shortcut),
        together,
        aggregated,
    )
    writer.release(x, together)
    return aggregated


def _side_by_side(first: nn.Conv2d, second: nn.Conv2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight and bias of the sum of two convolutions, whose inputs lie side by side.

    Of tensors without values only the shapes: to compute with them, PyTorch imports its compiler,
    which takes seconds.
    """
    assert first.bias is not None
    assert second.bias is not None
    if first.weight.is_meta:
        inputs = first.in_channels + second.in_channels
        shape = first.out_channels, inputs, *first.kernel_size
        return first.weight.new_empty(shape), first.bias
    return torch.cat([first.weight, second.weight], 1), first.bias + second.bias


def _pooled(writer: Writer, pool: nn.Module, norm: Norm, x: Buffer) -> Buffer:
    if isinstance(pool, nn.Identity):
        pooled = writer.plane(*x.shape, short=True)
        writer.affine(x, norm, pooled)
    elif isinstance(pool, nn.AvgPool2d):
        size, stride = cast(int, pool.kernel_size), cast(int, pool.stride)
        height, width = ((side - 1) // stride + 1 for side in (x.height, x.width))
        pooled = writer.plane(height, width, x.channels, short=True)
        writer.pool(x, size, stride, norm, pooled)
    else:
        pooled = writer.plane(1, 1, x.channels, short=True)
        writer.pool(x, 0, 0, norm, pooled)
    return pooled
