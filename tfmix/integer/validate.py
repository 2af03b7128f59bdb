"""`check_model`: everything that must hold of an `IntegerNetwork` before a kernel may run blind.

The kernels trust their parameters, so a model that comes from a file passes through here first, and
so does one that is about to be written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from tfmix.errors import TfmixError
from tfmix.integer.model import (
    BINARY_KERNELS,
    TABLE_KERNELS,
    WEIGHTED_KERNELS,
    WINDOW_KERNELS,
    IntegerNetwork,
    IntegerNode,
    IntegerTensor,
    IntegerWeights,
    Kernel,
    Rescale,
    canonical_window,
)
from tfmix.integer.schedule import schedule_of
from tfmix.ir.graph import FIXED_BITS, SOFTMAX_SCALE
from tfmix.ir.quant import QuantParams, max_level

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
#: Elements of a tensor; the kernels count in int32.
MAX_ELEMENTS = 1 << 30
#: Softmax sums stay in uint32 up to here.
MAX_CLASSES = 32_767
#: A softmax table has at most one entry per difference of two 8-bit values.
MAX_TABLE = 256


def check_model(model: IntegerNetwork) -> None:
    """TfmixError naming the first node or tensor that is wrong, what was found and expected."""
    for name, tensor in model.tensors.items():
        _check_tensor(name, tensor)
    if not model.nodes:
        raise TfmixError("the model has no nodes")
    _check_order(model)
    for what, name, shape in (
        ("input", model.input, model.input_shape),
        ("output", model.output, model.output_shape),
    ):
        _check_elements(f"{what}_shape", shape, model.tensors[name])
    for node in model.nodes:
        check_node(node, model.tensors)
    _check_chains(model)


def check_node(node: IntegerNode, tensors: Mapping[str, IntegerTensor]) -> None:
    """TfmixError unless the node's own fields agree with each other and with its tensors."""
    _expect(node, "inputs", len(node.inputs), _arity(node))
    _expect(node, "input_shapes", len(node.input_shapes), len(node.inputs))
    for name, shape in zip(
        (*node.inputs, node.output), (*node.input_shapes, node.output_shape), strict=True
    ):
        _check_elements(node.name, shape, tensors[name])
    _check_presence(node)
    if node.window is not None:
        _check_window(node)
    for rescale in node.rescales:
        _check_rescale(node, rescale)
    quants = tuple(tensors[name].quant for name in node.inputs)
    _CHECKS[node.kernel](node, quants, tensors[node.output].quant)


# -- model --------------------------------------------------------------------------------------


def _check_tensor(name: str, tensor: IntegerTensor) -> None:
    if not name or tensor.name != name:
        raise TfmixError(f"tensor {tensor.name!r} is filed under the name {name!r}")
    if not tensor.shape or min(tensor.shape) < 1 or math.prod(tensor.shape) > MAX_ELEMENTS:
        raise TfmixError(
            f"tensor {name!r}: shape {tensor.shape}; dimensions of at least 1 and up to "
            f"{MAX_ELEMENTS} elements expected"
        )


def _check_order(model: IntegerNetwork) -> None:
    """Each tensor is the input or written once, before it is read; nothing else is listed."""
    defined = {model.input}
    for node in model.nodes:
        if not node.name:
            raise TfmixError(f"the node that writes {node.output!r} has no name")
        for name in node.inputs:
            if name not in defined:
                raise TfmixError(f"{node.name}: reads {name!r} before it is written")
        if node.output in defined:
            raise TfmixError(f"{node.name}: writes {node.output!r}, which is already defined")
        defined.add(node.output)
    if defined != set(model.tensors):
        raise TfmixError(f"tensors without a use or a definition: {defined ^ set(model.tensors)}")
    if model.output not in defined - {model.input}:
        raise TfmixError(f"the output {model.output!r} is written by no node")


def _check_chains(model: IntegerNetwork) -> None:
    """Chains can run row by row, and bands are of their nodes."""
    rows = {node.name: node.output_shape[0] for node in model.nodes}
    inside = {name for chain in model.chains for name in chain}
    for name, band in model.bands.items():
        if name not in inside:
            raise TfmixError(f"bands: {name!r} is in no chain")
        if not 1 <= band <= rows[name]:
            raise TfmixError(f"bands: {name} makes {band} rows a call, [1, {rows[name]}] expected")
    schedule_of(model)


def _check_elements(what: str, shape: tuple[int, ...], tensor: IntegerTensor) -> None:
    if min(shape, default=1) < 1 or math.prod(shape) != math.prod(tensor.shape):
        raise TfmixError(
            f"{what}: shape {shape} does not fit tensor {tensor.name!r} of shape {tensor.shape}"
        )


# -- any node -----------------------------------------------------------------------------------


def _expect(node: IntegerNode, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise TfmixError(
            f"{node.name}: {node.kernel.value} with {what} {found}, {expected} expected"
        )


def _expect_range(node: IntegerNode, what: str, found: int, low: int, high: int) -> None:
    if not low <= found <= high:
        raise TfmixError(f"{node.name}: {what} is {found}, [{low}, {high}] expected")


def _arity(node: IntegerNode) -> int:
    if node.kernel is Kernel.CONCATENATE:
        return max(1, len(node.inputs))
    return 2 if node.kernel in BINARY_KERNELS else 1


def _check_presence(node: IntegerNode) -> None:
    """Exactly the optional fields of the node's kernel are there."""
    kernel = node.kernel
    _expect(node, "window", node.window is not None, kernel in WINDOW_KERNELS)
    _expect(node, "padding", node.padding is not None, kernel is Kernel.PAD)
    _expect(node, "weights", node.weights is not None, kernel in WEIGHTED_KERNELS)
    _expect(node, "add", node.add is not None, kernel is Kernel.ADD)
    _expect(node, "table", node.table is not None, kernel in TABLE_KERNELS)
    rescales = {
        Kernel.REQUANTIZE: 1,
        Kernel.AVERAGE_POOL: 1,
        Kernel.MULTIPLY: 1,
        Kernel.CONCATENATE: len(node.inputs),
    }.get(kernel, 0)
    _expect(node, "rescales", len(node.rescales), rescales)


def _check_window(node: IntegerNode) -> None:
    """The window is canonical, and wherever it stands it sees an element of the image."""
    window, image, output = node.window, node.input_shapes[0], node.output_shape
    for axis, before in ((0, window.padding[0]), (1, window.padding[2])):
        kernel, stride = window.kernel[axis], window.strides[axis]
        _expect_range(node, "kernel", kernel, 1, INT32_MAX)
        _expect_range(node, "stride", stride, 1, INT32_MAX)
        _expect_range(node, "padding", before, 0, kernel - 1)
        last = (output[axis] - 1) * stride - before
        _expect_range(node, "start of the last window", last, -before, image[axis] - 1)
    _expect(node, "output size", output[:2], window.output_size(*image[:2]))
    _expect(node, "window", window, canonical_window(window, *image[:2]))


def _check_rescale(node: IntegerNode, rescale: Rescale) -> None:
    _expect_range(node, "multiplier", rescale.multiplier, INT32_MIN, INT32_MAX)
    _expect_range(node, "left_shift", rescale.left_shift, 0, 31)


def _check_same_quant(node: IntegerNode, found: QuantParams, expected: QuantParams) -> None:
    _expect(node, "output quantization", found, expected)


# -- kernel by kernel: (node, quantization of the inputs, quantization of the output) -------------

_Quants = tuple[QuantParams, ...]


def _check_array(
    node: IntegerNode, what: str, array: np.ndarray, dtype: type, shape: tuple[int, ...]
) -> None:
    _expect(node, f"{what} dtype", array.dtype, np.dtype(dtype))
    _expect(node, f"{what} shape", array.shape, shape)


def _check_weights(node: IntegerNode, shape: tuple[int, ...], oc: int) -> None:
    w: IntegerWeights = node.weights
    _check_array(node, "weights", w.values, np.uint8, shape)
    _check_array(node, "zero point", w.zero_point, np.uint8, (oc if w.per_channel else 1,))
    _check_array(node, "bias", w.bias, np.int32, (oc,))
    one_multiplier = not w.per_channel and w.multiplier.shape == (1,)
    _check_array(node, "multiplier", w.multiplier, np.int32, (1 if one_multiplier else oc,))
    _expect_range(node, "weight", int(w.values.max()), 0, max_level(w.bits))
    _expect_range(node, "weight zero point", int(w.zero_point.max()), 0, max_level(w.bits))
    _expect_range(node, "left_shift", w.left_shift, 0, 31)


def _check_sums(node: IntegerNode, values: np.ndarray, input_bits: int) -> None:
    """Whatever the input, (acc << left_shift) + bias fits int32. values: [oc, products]."""
    w: IntegerWeights = node.weights
    factors = values.astype(np.int32) - w.zero_point.astype(np.int32).reshape(-1, 1)
    largest = max_level(input_bits) << w.left_shift
    highest = np.maximum(factors, 0).sum(axis=1, dtype=np.int64)
    lowest = np.minimum(factors, 0).sum(axis=1, dtype=np.int64)
    for sums in (lowest, highest):
        for channel, (total, bias) in enumerate(zip(sums.tolist(), w.bias.tolist(), strict=True)):
            what = f"sum of output channel {channel}"
            _expect_range(node, what, total * largest + bias, INT32_MIN, INT32_MAX)


def _check_conv2d(node: IntegerNode, inputs: _Quants, output: QuantParams) -> None:
    ic, oc = node.input_shapes[0][2], node.output_shape[2]
    _check_weights(node, (oc, *node.window.kernel, ic), oc)
    _check_sums(node, node.weights.values.reshape(oc, -1), inputs[0].bits)


def _check_depthwise(node: IntegerNode, inputs: _Quants, output: QuantParams) -> None:
    ic, oc = node.input_shapes[0][2], node.output_shape[2]
    _expect(node, "output channels modulo input channels", oc % ic, 0)
    _check_weights(node, (*node.window.kernel, oc), oc)
    _check_sums(node, node.weights.values.reshape(-1, oc).T, inputs[0].bits)


def _check_fully_connected(node: IntegerNode, inputs: _Quants, output: QuantParams) -> None:
    oc = node.output_shape[2]
    _expect(node, "output shape", node.output_shape, (1, 1, oc))
    _check_weights(node, (oc, math.prod(node.input_shapes[0])), oc)
    _check_sums(node, node.weights.values, inputs[0].bits)


def _check_add(node: IntegerNode, inputs: _Quants, output: QuantParams) -> None:
    _expect(node, "input shapes", node.input_shapes, (node.output_shape,) * 2)
    for value in (*node.add.multipliers, node.add.offset):
        _expect_range(node, "add multiplier or offset", value, INT32_MIN, INT32_MAX)
    _expect_range(node, "shift", node.add.shift, 1, 31)


def _check_multiply(node: IntegerNode, inputs: _Quants, output: QuantParams) -> None:
    shape = node.output_shape
    _expect(node, "shape of the first input", node.input_shapes[0], shape)
    if node.input_shapes[1] != (1, 1, shape[2]):
        _expect(node, "shape of the second input", node.input_shapes[1], shape)
    (rescale,) = node.rescales
    _expect_range(node, "multiplier", rescale.multiplier, 1, INT32_MAX)
    largest = math.prod(max(q.zero_point, max_level(q.bits) - q.zero_point) for q in inputs)
    _expect_range(node, "largest product", largest << rescale.left_shift, 0, INT32_MAX)


def _check_concatenate(node: IntegerNode, inputs: _Quants, output: QuantParams) -> None:
    rows, columns, channels = node.output_shape
    for shape in node.input_shapes:
        _expect(node, "input plane", shape[:2], (rows, columns))
    _expect(node, "output channels", channels, sum(shape[2] for shape in node.input_shapes))


def _check_requantize(node: IntegerNode, inputs: _Quants, output: QuantParams) -> None:
    _expect(node, "output shape", node.output_shape, node.input_shapes[0])


def _check_lookup(node: IntegerNode, inputs: _Quants, output: QuantParams) -> None:
    _expect(node, "output shape", node.output_shape, node.input_shapes[0])
    _check_array(node, "table", node.table, np.uint8, (max_level(inputs[0].bits) + 1,))
    _expect_range(node, "table entry", int(node.table.max()), 0, max_level(output.bits))


def _check_pool(node: IntegerNode) -> None:
    _expect(node, "output channels", node.output_shape[2], node.input_shapes[0][2])


def _check_average_pool(node: IntegerNode, inputs: _Quants, output: QuantParams) -> None:
    _check_pool(node)
    _expect_range(node, "multiplier", node.rescales[0].multiplier, 1, INT32_MAX)


def _check_max_pool(node: IntegerNode, inputs: _Quants, output: QuantParams) -> None:
    _check_pool(node)
    _check_same_quant(node, output, inputs[0])


def _check_pad(node: IntegerNode, inputs: _Quants, output: QuantParams) -> None:
    for value in node.padding:
        _expect_range(node, "padding", value, 0, INT32_MAX)
    (rows, columns, channels), (top, bottom, left, right) = node.input_shapes[0], node.padding
    padded = (rows + top + bottom, columns + left + right, channels)
    _expect(node, "output shape", node.output_shape, padded)
    _check_same_quant(node, output, inputs[0])


def _check_softmax(node: IntegerNode, inputs: _Quants, output: QuantParams) -> None:
    _expect(node, "output shape", node.output_shape, node.input_shapes[0])
    _expect(node, "input bits", inputs[0].bits, FIXED_BITS)
    _check_same_quant(node, output, QuantParams(SOFTMAX_SCALE, 0, FIXED_BITS))
    _expect_range(node, "classes", node.output_shape[2], 1, MAX_CLASSES)
    _expect_range(node, "table size", node.table.size, 1, MAX_TABLE)
    _check_array(node, "table", node.table, np.uint16, (node.table.size,))
    _expect_range(node, "table[0]", int(node.table[0]), 1, 65_535)


_CHECKS: dict[Kernel, Callable[[IntegerNode, _Quants, QuantParams], None]] = {
    Kernel.CONV2D: _check_conv2d,
    Kernel.DEPTHWISE_CONV2D: _check_depthwise,
    Kernel.FULLY_CONNECTED: _check_fully_connected,
    Kernel.ADD: _check_add,
    Kernel.MULTIPLY: _check_multiply,
    Kernel.CONCATENATE: _check_concatenate,
    Kernel.REQUANTIZE: _check_requantize,
    Kernel.LOOKUP: _check_lookup,
    Kernel.AVERAGE_POOL: _check_average_pool,
    Kernel.MAX_POOL: _check_max_pool,
    Kernel.PAD: _check_pad,
    Kernel.SOFTMAX: _check_softmax,
}
