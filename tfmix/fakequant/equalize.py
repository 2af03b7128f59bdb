"""Cross-layer equalization: channels of one tensor get like ranges, the next layer undoes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import tf_keras

from tfmix.fakequant.apply import init_ranges, require_quantized
from tfmix.fakequant.calibrate import MAX_SAMPLES, inputs_from
from tfmix.fakequant.layerwise import Layerwise, activate, walk
from tfmix.ir.graph import WEIGHTED_OPS, Graph, Node, Op

#: Ops that scaling a channel passes through unchanged.
_HOMOGENEOUS = frozenset({Op.MAX_POOL, Op.AVERAGE_POOL, Op.PAD})
#: A channel is scaled by at most this, either way.
_MOST = 16.0


def equalize(
    model: tf_keras.Model, data: Any, *, samples: int = MAX_SAMPLES
) -> tuple[tuple[str, str], ...]:
    """Scales channels between pairs of layers, so that quantization wastes fewer levels on them.

    Where only layer B reads the output of layer A, and there is at most a ReLU between them, A's
    channel c may be divided by any s > 0 and B's weights of input c multiplied by it: the float
    network computes the same. M. Nagel et al. 2019, "Data-Free Quantization Through Weight
    Equalization and Bias Correction", section 4.1, takes s = sqrt(r_A / r_B) to make the ranges of
    both layers' weights alike. But weights with a range per output channel, or with a batch norm
    that takes A's scale, do not mind it; what all channels do share is the range of the activation
    between. So r_A is the greatest value of the channel in `data`, and A's greatest weight only
    where its channels share a range and it has no batch norm. r_B is the greatest weight of input
    c, relative to its output channel's range. A depthwise B with ranges per channel takes any
    scale: there s = r_A. s is kept within [1/16, 16] of the mean channel's.

    A's scale goes into its batch norm's gamma and beta, or else into kernel and bias. ReLU6 and
    other bounded ReLUs are no longer the same after scaling, so such pairs are left alone, as are
    those where batch norm has no gamma or no beta. The grids of all weights are fitted anew;
    activation ranges must be set again.

    Args:
      model: a fake-quant model; it changes in place.
      data: inputs, as `calibrate` takes them.
      samples: at most this many of them are used.

    Returns the pairs of layers equalized.
    """
    require_quantized(model)
    layers = Layerwise(model, quantized=False)
    pairs = {a.name: b for a, b in _pairs(layers.graph) if _can_scale(layers, a)}
    if not pairs:
        return ()
    x = inputs_from(data, layers.graph, samples)
    reach = {
        node.name: np.abs(activate(node, y)).max(tuple(range(y.ndim - 1)))
        for node, y in walk(layers, x)
        if node.name in pairs
    }
    per_channel = {name: q.quantizer.per_channel for name, q in layers.bound.weights.items()}
    done = []
    for a in layers.graph.weighted_nodes:
        b = pairs.get(a.name)
        if b is None:
            continue
        shared = not per_channel[a.name] and a.batch_norm is None
        r_a = _by_output(a, layers) if shared else reach[a.name]
        r_b = None
        if b.op is not Op.DEPTHWISE_CONV2D or not per_channel[b.name]:
            r_b = _by_input(b, layers, per_channel[b.name])
        s = _scales(r_a, r_b)
        if np.allclose(s, 1):
            continue
        _scale_output(layers, a, 1 / s)
        _scale_input(layers, b, s)
        done.append((a.name, b.name))
    init_ranges(model)
    return tuple(done)


def _pairs(graph: Graph) -> list[tuple[Node, Node]]:
    """Weighted nodes, and the weighted node that alone reads what each gives."""
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)

    def reader(tensor: str) -> Node | None:
        found = readers.get(tensor, [])
        return found[0] if len(found) == 1 and tensor != graph.output else None

    pairs = []
    for a in graph.weighted_nodes:
        b = reader(a.output)
        while b is not None and b.op in _HOMOGENEOUS and b.relu_max is None:
            b = reader(b.output)
        if b is not None and b.op in WEIGHTED_OPS and a.relu_max is None:
            pairs.append((a, b))
    return pairs


def _can_scale(layers: Layerwise, node: Node) -> bool:
    batch_norm = layers.batch_norm_layer(node)
    return batch_norm is None or (batch_norm.gamma is not None and batch_norm.beta is not None)


def _scales(r_a: np.ndarray, r_b: np.ndarray | None) -> np.ndarray:
    """float32 [channels] > 0 with geometric mean 1; channels of zeros keep theirs."""
    alive = r_a > 1e-6 * r_a.max(initial=0)
    if r_b is not None:
        alive &= r_b > 0
    if not alive.any():
        return np.ones_like(r_a, np.float32)
    r_a = np.where(alive, r_a, 1)
    log_s = np.log(r_a) if r_b is None else 0.5 * (np.log(r_a) - np.log(np.where(alive, r_b, 1)))
    log_s -= log_s[alive].mean()
    limit = np.log(_MOST)
    return np.where(alive, np.exp(np.clip(log_s, -limit, limit)), 1).astype(np.float32)


def _by_output(node: Node, layers: Layerwise) -> np.ndarray:
    """Greatest weight of each output channel."""
    kernel = np.abs(layers.kernel(node))
    channels = layers.graph.output_channels(node)
    return kernel.reshape(-1, channels).max(axis=0)


def _by_input(node: Node, layers: Layerwise, per_channel: bool) -> np.ndarray:
    """Greatest weight of each input channel; of ranges per channel relative to them."""
    kernel = np.abs(layers.kernel(node))
    if node.op is Op.DEPTHWISE_CONV2D:  # [rows, columns, in, multiplier]
        return kernel.max(axis=(0, 1, 3))
    kernel = kernel.reshape(-1, *kernel.shape[-2:])  # [window, in, out]
    if per_channel:
        kernel = kernel / np.maximum(kernel.max(axis=(0, 1)), 1e-30)
    return kernel.max(axis=(0, 2))


def _scale_output(layers: Layerwise, node: Node, factor: np.ndarray) -> None:
    batch_norm = layers.batch_norm_layer(node)
    if batch_norm is not None:
        batch_norm.gamma.assign(batch_norm.gamma * factor)
        batch_norm.beta.assign(batch_norm.beta * factor)
        return
    kernel = layers.bound.weights[node.name].kernel
    shape = kernel.shape[-2:] if node.op is Op.DEPTHWISE_CONV2D else factor.shape
    kernel.assign(kernel * factor.reshape(shape))
    if node.use_bias:
        layers.bias(node).assign(layers.bias(node) * factor)


def _scale_input(layers: Layerwise, node: Node, factor: np.ndarray) -> None:
    kernel = layers.bound.weights[node.name].kernel
    kernel.assign(kernel * factor[:, None])  # the input channel is the last axis but one
