"""What runs when, and which buffers are alive then: all that a memory planner needs to know.

A schedule is not a list of layers. Today every kernel call is one step; a chain of layers that runs
row by row, never holding the tensors between them, would be one step too, whose line buffers are
its scratch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tfmix.ir.graph import Graph, Node, Op, Window

#: conv2d expands this many pixel columns of K = rows * columns * input_channels values,
#: fully_connected one column of K = input features ...
PIXEL_COLUMNS = 4
#: ... of int16 into scratch, for a dot product that two SIMD lanes can eat ...
COLUMN_VALUE_BYTES = 2
#: ... each padded to a multiple of this many values.
COLUMN_MULTIPLE = 4


@dataclass(frozen=True)
class Step:
    """One call: it reads and writes whole buffers, and needs `scratch` bytes while it runs."""

    name: str
    reads: tuple[str, ...]
    writes: str
    scratch: int = 0


@dataclass(frozen=True)
class Schedule:
    """Steps in execution order, and the bytes of each buffer (packed, before any alignment).

    A buffer that no step writes is there from step 0 (the network's input). `output` must survive
    until the last step. ValueError where steps and buffers contradict each other.
    """

    steps: tuple[Step, ...]
    buffers: Mapping[str, int] = field(hash=False)
    output: str

    def __post_init__(self) -> None:
        written: set[str] = set()
        later = {step.writes for step in self.steps}
        for step in self.steps:
            later_read = [name for name in step.reads if name in later - written]
            if later_read:
                raise ValueError(f"step {step.name!r} reads {later_read} before it is written")
            if step.writes in written:
                raise ValueError(f"step {step.name!r} writes {step.writes!r}, which is taken")
            written.add(step.writes)
        used = written.union(*(step.reads for step in self.steps), {self.output})
        if used != set(self.buffers):
            odd = sorted(used ^ set(self.buffers))
            raise ValueError(f"buffers without a size, or sizes without a use: {odd}")

    @cached_property
    def lifetimes(self) -> dict[str, tuple[int, int]]:
        """Buffer -> (first, last) step during which it must keep its content, both included."""
        first = dict.fromkeys(self.buffers, 0)
        last = dict.fromkeys(self.buffers, 0)
        for index, step in enumerate(self.steps):
            first[step.writes] = last[step.writes] = index
            for name in step.reads:
                last[name] = index
        last[self.output] = max(len(self.steps) - 1, 0)
        return {name: (first[name], last[name]) for name in self.buffers}

    @cached_property
    def live(self) -> tuple[tuple[str, ...], ...]:
        """For each step, the buffers alive while it runs, in the order of `buffers`."""
        alive: list[list[str]] = [[] for _ in self.steps]
        for name, (first, last) in self.lifetimes.items():
            for buffers in alive[first : last + 1]:
                buffers.append(name)
        return tuple(map(tuple, alive))


#: Columns in scratch, by the value of the Op or the Kernel.
_COLUMNS = {Op.CONV2D.value: PIXEL_COLUMNS, Op.DENSE.value: 1, "fully_connected": 1}


def scratch_bytes(
    kernel: str,
    window: tuple[int, int],
    input_channels: int,
    *,
    strides: tuple[int, int] = (1, 1),
    output: tuple[int, int] = (1, 1),
) -> int:
    """Bytes a kernel needs beside its tensors: 8 * K for conv2d, 2 * K for fully_connected with K
    rounded up to a multiple of 4, `depthwise_scratch_bytes`, nothing for the others.

    kernel: the value of an `Op` or of a `Kernel`; window: (rows, columns), (1, 1) without one;
    strides, output: (rows, columns), of interest for a depthwise convolution only.
    """
    if kernel in (Op.DEPTHWISE_CONV2D.value, Op.BATCH_NORM.value):
        return depthwise_scratch_bytes(window, strides, output)
    columns = _COLUMNS.get(kernel, 0)
    values = window[0] * window[1] * input_channels
    return columns * COLUMN_VALUE_BYTES * -(-values // COLUMN_MULTIPLE) * COLUMN_MULTIPLE


def depthwise_scratch_bytes(
    window: tuple[int, int], strides: tuple[int, int], output: tuple[int, int]
) -> int:
    """What depthwise_conv2d holds of four channels: the input rows under the window and the
    weights, both as pairs of int16, and of wide rows one output row; see
    kernels/src/depthwise_layout.h.

    window, strides, output: (rows, columns). The image lies on its side where that makes its rows
    longer, or else the window's; at most 64 columns are computed at a time.
    """
    (kernel_rows, kernel_columns), (_, stride), (rows, columns) = window, strides, output
    if (columns, kernel_columns) < (rows, kernel_rows):
        kernel_rows, kernel_columns, stride = kernel_columns, kernel_rows, strides[0]
        rows, columns = columns, rows
    wide = (kernel_rows, kernel_columns, stride) == (3, 3, 1) and columns >= 12
    # Windows begin in the low halves of pairs, but where the stride is odd every second one.
    weight_pairs = (kernel_columns + 1) // 2
    if columns > 1 and stride % 2:
        weight_pairs += kernel_columns // 2 + 1
    weight_copies = 2 if rows > 1 and kernel_rows > 1 else 1
    columns = min(columns, 64)
    if wide:
        columns = -(-columns // 4) * 4
    ring_pairs = ((columns - 1) * stride + kernel_columns + 1) // 2
    return 16 * kernel_rows * (ring_pairs + weight_copies * weight_pairs) + wide * 4 * columns


def node_scratch_bytes(graph: Graph, node: Node) -> int:
    """`scratch_bytes` of a node of a graph."""
    rows, columns, channels = graph.hwc(node.inputs[0])
    if node.op is Op.DENSE and (rows, columns) != (1, 1):
        # A Dense applied to every pixel runs as the 1x1 convolution it is.
        return scratch_bytes(Op.CONV2D.value, (1, 1), channels)
    window = node.window or Window((1, 1))
    return scratch_bytes(
        node.op.value,
        window.kernel,
        channels,
        strides=window.strides,
        output=graph.hwc(node.output)[:2],
    )


def schedule(graph: Graph, activation_bits: Mapping[str, int]) -> Schedule:
    """One step per node that runs a kernel; a reshape leaves no trace, its output is its input.

    activation_bits: as `QuantizationPolicy.activation_bits`.
    """
    steps = tuple(
        Step(
            name=node.name,
            reads=tuple(graph.buffer_of(tensor) for tensor in node.inputs),
            writes=graph.buffer_of(node.output),
            scratch=node_scratch_bytes(graph, node),
        )
        for node in graph.steps
    )
    names = [graph.buffer_of(graph.input), *(step.writes for step in steps)]
    buffers = {name: graph.tensor_bytes(name, activation_bits) for name in names}
    return Schedule(steps, buffers, output=graph.buffer_of(graph.output))
