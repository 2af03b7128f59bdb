"""How many instructions a network takes on a Cortex-M7: a model, fitted to measured kernels.

Each kernel call does amounts of a few kinds of work: products, values expanded into columns, values
stored, and so on (`amounts`). The instructions of one unit of each are in instructions.json beside
this file, which `benchmarks/instruction_table.py` fits to the layers of benchmarks/kernels.json.
They are executed instructions, as QEMU counts them, not cycles: a Cortex-M7 executes up to two in a
cycle, and waits for slow memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tfmix.ir.graph import Graph, Node, Op
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.policy import QuantizationPolicy

TABLE = Path(__file__).with_name("instructions.json")

_KERNELS = {Op.DENSE: "fully_connected", Op.BATCH_NORM: "depthwise_conv2d", Op.RELU: "requantize"}


@dataclass(frozen=True)
class Call:
    """A kernel call, as far as its instructions depend on it.

    kernel:  as `Kernel` names it
    inputs, output: (rows, columns, channels)
    input_bits, weight_bits, output_bits: None where there are no weights
    window, strides: (rows, columns)
    """

    kernel: str
    inputs: tuple[tuple[int, int, int], ...]
    output: tuple[int, int, int]
    input_bits: tuple[int, ...]
    output_bits: int
    weight_bits: int | None = None
    window: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)


def call_of(graph: Graph, node: Node, policy: QuantizationPolicy) -> Call:
    """The call that runs a node of `graph.steps`."""
    inputs = tuple(map(graph.hwc, node.inputs))
    output = graph.hwc(node.output)
    kernel = _KERNELS.get(node.op, node.op.value)
    if node.op is Op.DENSE and inputs[0][:2] != (1, 1):
        kernel = Op.CONV2D.value  # applied to every pixel
    weight_bits = policy.weight_bits.get(node.name)
    if node.op is Op.BATCH_NORM:
        weight_bits = BIT_WIDTHS[0]
    bits = policy.activation_bits
    return Call(
        kernel,
        inputs,
        output,
        tuple(graph.tensor_bits(tensor, bits) for tensor in node.inputs),
        graph.tensor_bits(node.output, bits),
        weight_bits,
        node.window.kernel if node.window else (1, 1),
        node.window.strides if node.window else (1, 1),
    )


# -- kinds of work ------------------------------------------------------------------------------


def amounts(call: Call) -> dict[str, float] | None:
    """Kind of work -> how much of it; None for a kernel of which none was measured."""
    kinds = _AMOUNTS.get(call.kernel)
    if kinds is None:
        return None
    return {f"{call.kernel}: {kind}": float(n) for kind, n in kinds(call).items() if n}


def _ceil(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _product(call: Call) -> str:
    """Two by two bits have a loop of their own (docs/kernels.md)."""
    (a,), w = call.input_bits, call.weight_bits
    return "product of 2 by 2 bits" if (a, w) == (2, 2) else f"product, weight of {w} bits"


def _conv2d(call: Call) -> dict[str, int]:
    """Four pixels by two channels at a time, of few pixels four copies of each; windows are
    expanded into columns."""
    (rows, columns, channels), ((_, _, depth),) = call.output, call.inputs
    in_row = call.window[1] * depth
    values = call.window[0] * in_row
    pixels = rows * columns
    pixels = _ceil(pixels, 4) if pixels >= 4 else 4 * pixels
    whole = "value expanded" if in_row % 4 == 0 else "value gathered"
    return {
        "call": 1,
        "pixel": pixels,
        "row of a window": pixels * call.window[0] * (call.window != (1, 1)),
        f"{whole}, input of {call.input_bits[0]} bits": pixels * _ceil(values, 4),
        _product(call): pixels * _ceil(channels, 2) * _ceil(values, 4),
        f"output, weight of {call.weight_bits} bits": pixels * channels,
        f"output of {call.output_bits} bits": pixels * channels,
    }


def _depthwise_conv2d(call: Call) -> dict[str, int]:
    """Four channels at a time, a row of outputs after the other."""
    ((rows_in, columns_in, _),), (rows, columns, channels) = call.inputs, call.output
    (kernel_rows, kernel_columns), stride = call.window, call.strides[1]
    if (columns, kernel_columns) < (rows, kernel_rows):  # the image lies on its side
        rows, columns, rows_in, columns_in = columns, rows, columns_in, rows_in
        kernel_rows, kernel_columns, stride = kernel_columns, kernel_rows, call.strides[0]
    groups = -(-channels // 4)
    # As in ir.schedule.depthwise_scratch_bytes.
    wide = (kernel_rows, kernel_columns, stride) == (3, 3, 1) and columns >= 12
    pairs = -(-kernel_columns // 2)
    loop = "wide rows" if wide else "pixel by pixel"
    return {
        "call": 1,
        "group of channels": groups,
        "row of the input": groups * rows_in,
        f"row of the output, {loop}": groups * rows,
        f"input of {call.input_bits[0]} bits": 4 * groups * rows_in * columns_in,
        f"product, {loop}": 4 * groups * rows * columns * kernel_rows * 2 * pairs,
        f"output, {loop}": 4 * groups * rows * columns,
        f"output of {call.output_bits} bits": 4 * groups * rows * columns,
    }


def _fully_connected(call: Call) -> dict[str, int]:
    features, outputs = math.prod(call.inputs[0]), math.prod(call.output)
    return {
        "call": 1,
        "value expanded": _ceil(features, 4),
        _product(call): _ceil(features, 4) * _ceil(outputs, 2),
        "output": outputs,
    }


def _elements(call: Call) -> dict[str, int]:
    """add, requantize and lookup."""
    elements = math.prod(call.output)
    narrow = sum(bits < BIT_WIDTHS[-1] for bits in call.input_bits)
    return {
        "element": elements,
        "input below 8 bits": narrow * elements,
        "output below 8 bits": elements * (call.output_bits < BIT_WIDTHS[-1]),
    }


def _multiply(call: Call) -> dict[str, int]:
    """Four neighbours of the second factor at a time, and all that they are multiplied by."""
    elements = math.prod(call.output)
    return {
        "element": elements,
        "factor": math.prod(call.inputs[1]),
        "input below 8 bits": elements * (call.input_bits[0] < BIT_WIDTHS[-1]),
        "output below 8 bits": elements * (call.output_bits < BIT_WIDTHS[-1]),
    }


def _pool(call: Call) -> dict[str, int]:
    outputs = math.prod(call.output)
    return {
        f"value read, input of {call.input_bits[0]} bits": outputs * math.prod(call.window),
        "output": outputs,
    }


def _softmax(call: Call) -> dict[str, int]:
    rows, columns, classes = call.output
    return {"call": rows * columns, "class": rows * columns * classes}


_AMOUNTS = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise_conv2d,
    "fully_connected": _fully_connected,
    "add": _elements,
    "multiply": _multiply,
    "requantize": _elements,
    "lookup": _elements,
    "average_pool": _pool,
    "max_pool": _pool,
    "softmax": _softmax,
}


# -- instructions -------------------------------------------------------------------------------


@cache
def table() -> Mapping[str, float]:
    """Kind of work -> instructions of one unit of it."""
    return json.loads(TABLE.read_text())["instructions"]


def instructions(call: Call) -> int | None:
    """Of one call; None where its kernel was not measured."""
    work = amounts(call)
    if work is None:
        return None
    per_unit = table()
    return round(sum(n * per_unit[kind] for kind, n in work.items()))


def network_instructions(graph: Graph, policy: QuantizationPolicy) -> dict[str, int | None]:
    """Node name -> instructions, of every node that runs a kernel; None where not known."""
    policy.validate(graph)
    return {node.name: instructions(call_of(graph, node, policy)) for node in graph.steps}
