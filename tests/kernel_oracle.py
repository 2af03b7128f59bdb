"""docs/arithmetic.md in plain Python integers, a loop per sum: no NumPy, no packing, no overflow.

A third opinion beside the NumPy reference and the C++ one, small enough to be checked by eye.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from tfmix.integer.model import IntegerNode, IntegerTensor, Kernel

#: A tensor as nested lists: [rows][columns][channels].
Image = Sequence[Sequence[Sequence[int]]]


def run(node: IntegerNode, inputs: Sequence[Image], tensors: Mapping[str, IntegerTensor]) -> list:
    """Output values in the order of memory."""
    in_quants = [tensors[name].quant for name in node.inputs]
    return list(_RUN[node.kernel](node, inputs, in_quants, tensors[node.output].quant))


def requantize(value: int, multiplier: int) -> int:
    return (value * multiplier + 2**31) // 2**32


def clamp(value: int, bits: int) -> int:
    return max(0, min(value, 2**bits - 1))


def window(node: IntegerNode, oy: int, ox: int) -> Iterator[tuple[int, int, int, int]]:
    """(y, x, i, j): element (i, j) of the window of output (oy, ox) lies at (y, x)."""
    (kh, kw), (sh, sw) = node.window.kernel, node.window.strides
    top, _, left, _ = node.window.padding
    for i, j in product(range(kh), range(kw)):
        yield oy * sh - top + i, ox * sw - left + j, i, j


def _inside(node: IntegerNode, y: int, x: int) -> bool:
    rows, columns, _ = node.input_shapes[0]
    return 0 <= y < rows and 0 <= x < columns


def _positions(node: IntegerNode) -> Iterator[tuple[int, ...]]:
    return product(*map(range, node.output_shape))


def _at(array, index: int) -> int:
    """Entry of an array that has one entry per channel or a single one."""
    return int(array[0 if len(array) == 1 else index])


def _layer_output(node: IntegerNode, channel: int, acc: int, out) -> int:
    w = node.weights
    value = (acc << w.left_shift) + int(w.bias[channel])
    return clamp(out.zero_point + requantize(value, _at(w.multiplier, channel)), out.bits)


def _conv2d(node, inputs, quants, out):
    w = node.weights
    for oy, ox, oc in _positions(node):
        acc = 0
        for y, x, i, j in window(node, oy, ox):
            for c in range(node.input_shapes[0][2]):
                q = inputs[0][y][x][c] if _inside(node, y, x) else quants[0].zero_point
                acc += q * (int(w.values[oc, i, j, c]) - _at(w.zero_point, oc))
        yield _layer_output(node, oc, acc, out)


def _depthwise_conv2d(node, inputs, quants, out):
    w = node.weights
    for oy, ox, oc in _positions(node):
        c = oc // (node.output_shape[2] // node.input_shapes[0][2])
        acc = 0
        for y, x, i, j in window(node, oy, ox):
            q = inputs[0][y][x][c] if _inside(node, y, x) else quants[0].zero_point
            acc += q * (int(w.values[i, j, oc]) - _at(w.zero_point, oc))
        yield _layer_output(node, oc, acc, out)


def _fully_connected(node, inputs, quants, out):
    w = node.weights
    features = [q for row in inputs[0] for pixel in row for q in pixel]
    for oc in range(node.output_shape[2]):
        acc = sum(
            q * (int(value) - _at(w.zero_point, oc))
            for q, value in zip(features, w.values[oc], strict=True)
        )
        yield _layer_output(node, oc, acc, out)


def _add(node, inputs, quants, out):
    (m_a, m_b), p = node.add.multipliers, node.add
    for y, x, c in _positions(node):
        value = (inputs[0][y][x][c] * m_a + inputs[1][y][x][c] * m_b + p.offset) // 2**p.shift
        yield clamp(out.zero_point + value, out.bits)


def _multiply(node, inputs, quants, out):
    (rescale,) = node.rescales
    whole = node.input_shapes[1] == node.output_shape
    for y, x, c in _positions(node):
        a = inputs[0][y][x][c] - quants[0].zero_point
        b = (inputs[1][y][x][c] if whole else inputs[1][0][0][c]) - quants[1].zero_point
        value = requantize(a * b * 2**rescale.left_shift, rescale.multiplier)
        yield clamp(out.zero_point + value, out.bits)


def _lookup(node, inputs, quants, out):
    for y, x, c in _positions(node):
        yield int(node.table[inputs[0][y][x][c]])


def _rescale_each(node, inputs, quants, out):
    rows, columns, _ = node.output_shape
    for y, x in product(range(rows), range(columns)):
        for image, quant, rescale in zip(inputs, quants, node.rescales, strict=True):
            for q in image[y][x]:
                value = (q - quant.zero_point) * 2**rescale.left_shift
                yield clamp(out.zero_point + requantize(value, rescale.multiplier), out.bits)


def _average_pool(node, inputs, quants, out):
    (rescale,) = node.rescales
    for oy, ox, c in _positions(node):
        seen = [
            inputs[0][y][x][c] - quants[0].zero_point
            for y, x, *_ in window(node, oy, ox)
            if _inside(node, y, x)
        ]
        multiplier = (rescale.multiplier + len(seen) // 2) // len(seen)
        value = sum(seen) * 2**rescale.left_shift
        yield clamp(out.zero_point + requantize(value, multiplier), out.bits)


def _max_pool(node, inputs, quants, out):
    for oy, ox, c in _positions(node):
        yield max(inputs[0][y][x][c] for y, x, *_ in window(node, oy, ox) if _inside(node, y, x))


def _pad(node, inputs, quants, out):
    top, _, left, _ = node.padding
    for y, x, c in _positions(node):
        inside = _inside(node, y - top, x - left)
        yield inputs[0][y - top][x - left][c] if inside else quants[0].zero_point


def _softmax(node, inputs, quants, out):
    for pixel in (pixel for row in inputs[0] for pixel in row):
        distances = [max(pixel) - q for q in pixel]
        e = [int(node.table[d]) if d < len(node.table) else 0 for d in distances]
        for term in e:
            yield min(255, (512 * term + sum(e)) // (2 * sum(e)))


_RUN = {
    Kernel.CONV2D: _conv2d,
    Kernel.DEPTHWISE_CONV2D: _depthwise_conv2d,
    Kernel.FULLY_CONNECTED: _fully_connected,
    Kernel.ADD: _add,
    Kernel.MULTIPLY: _multiply,
    Kernel.CONCATENATE: _rescale_each,
    Kernel.REQUANTIZE: _rescale_each,
    Kernel.LOOKUP: _lookup,
    Kernel.AVERAGE_POOL: _average_pool,
    Kernel.MAX_POOL: _max_pool,
    Kernel.PAD: _pad,
    Kernel.SOFTMAX: _softmax,
}
