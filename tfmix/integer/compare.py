"""How far the integer network is from the fake-quant model it was converted from, node by node."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np
import tf_keras

from tfmix.errors import ConversionWarning
from tfmix.fakequant.apply import require_quantized
from tfmix.fakequant.layerwise import Layerwise, in_batches
from tfmix.integer.convert import COARSE_MULTIPLIER, kernel_order
from tfmix.integer.inference import IntegerModel
from tfmix.integer.model import IntegerNode, Kernel
from tfmix.ir.graph import Node
from tfmix.ir.quant import max_level, round_half_up

#: Error of a rounded bias, in LSB, that can move an output.
_NOTABLE_BIAS_ERROR = 0.1


@dataclass(frozen=True)
class NodeDifference:
    """One node on the same inputs in float and in integers: differences in LSB of its output.

    tensor: that output; channel: the one of its channels with the largest difference; reason: what
    of the node's integers explains a difference there of more than one LSB, else empty.
    """

    node: str
    tensor: str
    max_lsb: float
    fraction_different: float
    channel: int
    reason: str


def compare(
    model: tf_keras.Model, integer_model: IntegerModel, x: np.ndarray
) -> list[NodeDifference]:
    """Runs each node of the fake-quant model on the integer network's own inputs of that node.

    So each figure is that node's alone, and nothing accumulates. x: float inputs [n, ...].
    Softmax, which fake-quant leaves in float, is compared after rounding to its 8 bits.
    """
    require_quantized(model)
    layers = Layerwise(model)
    graph = layers.graph
    quant = integer_model.quantization
    values = integer_model.tensors(x)
    differences = []
    for node, integer in zip(graph.steps, integer_model.network.nodes, strict=True):
        feeds = [
            quant[graph.buffer_of(name)]
            .dequantize(values[graph.buffer_of(name)])
            .reshape(-1, *graph.tensors[name].shape)
            for name in node.inputs
        ]
        y = in_batches(partial(layers.run, node), feeds)
        q = quant[node.output]
        expected = round_half_up(y.astype(np.float64) / q.scale) + q.zero_point
        got = values[node.output].reshape(expected.shape)
        off = np.abs(np.minimum(expected, max_level(q.bits)) - got)
        by_channel = off.reshape(-1, off.shape[-1]).max(axis=0)
        channel, largest = int(by_channel.argmax()), float(by_channel.max())
        reason = _reason(layers, node, integer, channel) if largest > 1 else ""
        differences.append(
            NodeDifference(
                node=node.name,
                tensor=node.output,
                max_lsb=largest,
                fraction_different=float((off > 0).mean()),
                channel=channel,
                reason=reason,
            )
        )
    return differences


def warn_of_differences(
    model: tf_keras.Model, integer_model: IntegerModel, x: np.ndarray, stacklevel: int = 2
) -> None:
    """A ConversionWarning for each node that `compare` finds more than one LSB off."""
    for found in compare(model, integer_model, x):
        if found.max_lsb > 1:
            bits = integer_model.quantization[found.tensor].bits
            message = (
                f"{found.node}: integers and fake-quant differ by up to {found.max_lsb:.0f} LSB of "
                f"{found.tensor} ({bits} bits), {found.fraction_different:.2%} of its values at "
                f"all; most in channel {found.channel}: {found.reason}"
            )
            warnings.warn(ConversionWarning(message), stacklevel=stacklevel)


# -- reasons ----------------------------------------------------------------------------------


def _reason(layers: Layerwise, node: Node, integer: IntegerNode, channel: int) -> str:
    """What conversion gave up in one channel of a node, in words."""
    weights = integer.weights
    if weights is None:
        return (
            "the ratio of its scales does not fit its fixed-point multiplier; "
            "calibrate again, or give its inputs and output ranges that are closer"
        )
    centred = _channel(integer, weights.values, channel).astype(np.int64)
    centred -= int(weights.zero_point[channel % weights.zero_point.size])
    wanted = _centred_weights(layers, node, integer, channel)
    if wanted.any() and not centred.any():
        return (
            "the channel is a constant in integers: its multiplier is so small beside its bias "
            "that 32 bits do not hold both"
        )
    lost = _halvings(wanted, centred)
    if lost:
        return f"its weights gave up {lost} bit(s), so that its bias fits 32 bits"
    multiplier = abs(int(weights.multiplier[channel % weights.multiplier.size]))
    if multiplier < COARSE_MULTIPLIER:
        return (
            f"its multiplier has only {multiplier.bit_length()} bits, because it is small beside "
            f"those of the other channels, for which the left shift of {weights.left_shift} was "
            "chosen"
        )
    bias_error = multiplier * 2.0**-33
    if bias_error > _NOTABLE_BIAS_ERROR:
        return (
            f"its bias is rounded to steps of {2 * bias_error:.2g} LSB at a left shift of "
            f"{weights.left_shift}: more does not fit 32 bits"
        )
    return "its integers gave nothing up; float32 sums of this size are inexact in fake-quant"


def _channel(integer: IntegerNode, values: np.ndarray, channel: int) -> np.ndarray:
    """The weights of one output channel, flat."""
    depthwise = integer.kernel is Kernel.DEPTHWISE_CONV2D
    return (values[..., channel] if depthwise else values[channel]).reshape(-1)


def _centred_weights(
    layers: Layerwise, node: Node, integer: IntegerNode, channel: int
) -> np.ndarray:
    """q - zero_point as fake-quant has them, of one output channel."""
    bound = layers.quantizers.weights.get(node.name)
    if bound is None:  # a batch norm that stands alone
        return np.ones(1, np.int64)
    q, _, zero_point = bound.quantizer.quantize(bound.kernel, bound.variables)
    centred = kernel_order(node, (q - zero_point).numpy(), layers.graph)
    return _channel(integer, centred, channel).astype(np.int64)


def _halvings(wanted: np.ndarray, found: np.ndarray) -> int:
    """How often `wanted` was halved to give `found`; 0 where they are the same."""
    largest = np.abs(wanted).max(initial=0) / max(np.abs(found).max(initial=0), 1)
    return 0 if np.array_equal(wanted, found) else max(round(np.log2(max(largest, 1))), 1)
