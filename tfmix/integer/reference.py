"""The normative executor: docs/arithmetic.md in NumPy, plain and slow.

Every other implementation must give the same bytes. Sums of products run in float64, where they
are exact: conversion proves that they stay below 2^31, and float64 holds integers to 2^53.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tfmix.integer.model import IntegerNetwork, IntegerNode, IntegerTensor, Kernel
from tfmix.ir.graph import Window
from tfmix.ir.quant import max_level

Array = np.ndarray


def requantize(value: Array, multiplier: Array | int) -> Array:
    """(value * multiplier + 2^31) >> 32, in int64: eq. (2) of docs/arithmetic.md."""
    return (np.asarray(value, np.int64) * np.asarray(multiplier, np.int64) + (1 << 31)) >> 32


def _store(values: Array, out: IntegerTensor) -> Array:
    """Adds the output's zero point and saturates to its bits."""
    return np.clip(values + out.quant.zero_point, 0, max_level(out.quant.bits)).astype(np.uint8)


def patches(x: Array, window: Window, output_size: tuple[int, int], fill: int) -> Array:
    """[n, h, w, c] -> [n, oh, ow, kh, kw, c]: what the window sees; `fill` outside the image."""
    (kh, kw), (sh, sw) = window.kernel, window.strides
    (oh, ow), (top, _, left, _) = output_size, window.padding
    n, h, w, c = x.shape
    rows, columns = (oh - 1) * sh + kh, (ow - 1) * sw + kw
    canvas = np.full((n, max(rows, top + h), max(columns, left + w), c), fill, x.dtype)
    canvas[:, top : top + h, left : left + w] = x
    view = np.lib.stride_tricks.sliding_window_view(canvas, (kh, kw), axis=(1, 2))
    view = view[:, : (oh - 1) * sh + 1 : sh, : (ow - 1) * sw + 1 : sw]
    return view.transpose(0, 1, 2, 4, 5, 3)


def _weighted_output(node: IntegerNode, products: Array, out: IntegerTensor) -> Array:
    """Sums of x * (w - zero_point), [..., oc] -> requantized output."""
    w = node.weights
    return _store(requantize((products << w.left_shift) + w.bias, w.multiplier), out)


def _conv2d(node: IntegerNode, xs: list[Array], ins: list[IntegerTensor], out: IntegerTensor):
    seen = patches(xs[0], node.window, node.output_shape[:2], ins[0].quant.zero_point)
    w = node.weights
    oc = node.output_shape[2]
    centred = w.values.reshape(oc, -1).astype(np.float64) - w.zero_point.astype(np.float64)[:, None]
    acc = seen.reshape(-1, centred.shape[1]).astype(np.float64) @ centred.T
    acc = acc.astype(np.int64).reshape(len(xs[0]), *node.output_shape)
    return _weighted_output(node, acc, out)


def _depthwise_conv2d(
    node: IntegerNode, xs: list[Array], ins: list[IntegerTensor], out: IntegerTensor
):
    seen = patches(xs[0], node.window, node.output_shape[:2], ins[0].quant.zero_point)
    w = node.weights
    # Output channel o reads input channel o // depth_multiplier.
    seen = np.repeat(seen, node.output_shape[2] // node.input_shapes[0][2], axis=-1)
    centred = w.values.astype(np.int64) - w.zero_point.astype(np.int64)
    acc = (seen.astype(np.int64) * centred).sum(axis=(3, 4))
    return _weighted_output(node, acc, out)


def _fully_connected(
    node: IntegerNode, xs: list[Array], ins: list[IntegerTensor], out: IntegerTensor
):
    w = node.weights
    centred = w.values.astype(np.float64) - w.zero_point.astype(np.float64)[:, None]
    features = xs[0].reshape(len(xs[0]), centred.shape[1]).astype(np.float64)
    acc = (features @ centred.T).astype(np.int64)
    return _weighted_output(node, acc.reshape(-1, *node.output_shape), out)


def _add(node: IntegerNode, xs: list[Array], ins: list[IntegerTensor], out: IntegerTensor):
    (m_a, m_b), p = node.add.multipliers, node.add
    a, b = (x.astype(np.int64) for x in xs)
    return _store((a * m_a + b * m_b + p.offset) >> p.shift, out)


def _multiply(node: IntegerNode, xs: list[Array], ins: list[IntegerTensor], out: IntegerTensor):
    # The second factor may be [n, 1, 1, channels].
    a, b = (x.astype(np.int64) - i.quant.zero_point for x, i in zip(xs, ins, strict=True))
    (rescale,) = node.rescales
    return _store(requantize((a * b) << rescale.left_shift, rescale.multiplier), out)


def _requantize_each(
    node: IntegerNode, xs: list[Array], ins: list[IntegerTensor], out: IntegerTensor
):
    """requantize and concatenate: each input by its own scale ratio, side by side."""
    parts = [
        requantize((x.astype(np.int64) - i.quant.zero_point) << r.left_shift, r.multiplier)
        for x, i, r in zip(xs, ins, node.rescales, strict=True)
    ]
    return _store(np.concatenate(parts, axis=-1), out)


def _lookup(node: IntegerNode, xs: list[Array], ins: list[IntegerTensor], out: IntegerTensor):
    return node.table[xs[0]]


def _average_pool(node: IntegerNode, xs: list[Array], ins: list[IntegerTensor], out: IntegerTensor):
    size = node.output_shape[:2]
    centred = xs[0].astype(np.int64) - ins[0].quant.zero_point
    total = patches(centred, node.window, size, 0).sum(axis=(3, 4))
    ones = np.ones_like(centred[:1, :, :, :1])
    count = patches(ones, node.window, size, 0).sum(axis=(3, 4))
    rescale = node.rescales[0]
    multiplier = (rescale.multiplier + count // 2) // count
    return _store(requantize(total << rescale.left_shift, multiplier), out)


def _max_pool(node: IntegerNode, xs: list[Array], ins: list[IntegerTensor], out: IntegerTensor):
    # 0 is the least value there is, and every window sees at least one element of the image.
    return patches(xs[0], node.window, node.output_shape[:2], 0).max(axis=(3, 4))


def _pad(node: IntegerNode, xs: list[Array], ins: list[IntegerTensor], out: IntegerTensor):
    top, bottom, left, right = node.padding
    widths = ((0, 0), (top, bottom), (left, right), (0, 0))
    return np.pad(xs[0], widths, constant_values=ins[0].quant.zero_point)


def _softmax(node: IntegerNode, xs: list[Array], ins: list[IntegerTensor], out: IntegerTensor):
    table = np.zeros(256, np.int64)
    table[: len(node.table)] = node.table
    q = xs[0].astype(np.int64)
    e = table[q.max(axis=-1, keepdims=True) - q]
    total = e.sum(axis=-1, keepdims=True)
    return np.minimum(255, (512 * e + total) // (2 * total)).astype(np.uint8)


_EXECUTE: dict[Kernel, Callable[..., Array]] = {
    Kernel.CONV2D: _conv2d,
    Kernel.DEPTHWISE_CONV2D: _depthwise_conv2d,
    Kernel.FULLY_CONNECTED: _fully_connected,
    Kernel.ADD: _add,
    Kernel.MULTIPLY: _multiply,
    Kernel.CONCATENATE: _requantize_each,
    Kernel.REQUANTIZE: _requantize_each,
    Kernel.LOOKUP: _lookup,
    Kernel.AVERAGE_POOL: _average_pool,
    Kernel.MAX_POOL: _max_pool,
    Kernel.PAD: _pad,
    Kernel.SOFTMAX: _softmax,
}


def run_node(
    node: IntegerNode, values: Mapping[str, Array], tensors: Mapping[str, IntegerTensor]
) -> Array:
    """Executes one node on a batch.

    values: the node's inputs by name, uint8 [n, ...]. Returns uint8 [n, *tensor shape].
    """
    xs = [
        values[name].reshape(-1, *shape)
        for name, shape in zip(node.inputs, node.input_shapes, strict=True)
    ]
    out = tensors[node.output]
    y = _EXECUTE[node.kernel](node, xs, [tensors[name] for name in node.inputs], out)
    return y.reshape(-1, *out.shape)


def run(model: IntegerNetwork, q: Array) -> dict[str, Array]:
    """Every activation tensor of `model` for inputs q, uint8 [n, *input_shape]."""
    values = {model.input: q.reshape(-1, *model.tensors[model.input].shape)}
    for node in model.nodes:
        values[node.output] = run_node(node, values, model.tensors)
    return values
