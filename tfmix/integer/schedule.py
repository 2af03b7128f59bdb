"""The schedule of an `IntegerNetwork`: one step per node or chain, buffers of packed tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tfmix.errors import TfmixError
from tfmix.integer.model import IntegerNetwork, IntegerNode, IntegerTensor, Kernel
from tfmix.ir.graph import Window
from tfmix.ir.quant import packed_size
from tfmix.ir.schedule import (
    Schedule,
    Step,
    check_chains,
    merge,
    row_layer,
    scratch_bytes,
    whole_row_bytes,
)
from tfmix.ir.stream import Stream

#: Kernels that can be layers of a chain.
STREAMABLE_KERNELS = frozenset(
    {
        Kernel.CONV2D, Kernel.DEPTHWISE_CONV2D, Kernel.ADD, Kernel.REQUANTIZE, Kernel.AVERAGE_POOL,
        Kernel.MAX_POOL,
    }
)  # fmt: skip


def tensor_bytes(tensor: IntegerTensor) -> int:
    """Bytes of an activation tensor as it lies in memory, packed."""
    return packed_size(math.prod(tensor.shape), tensor.quant.bits)


def schedule_of(model: IntegerNetwork, *, input_by_rows: bool = False) -> Schedule:
    """Equal to `schedule(graph, activation_bits, chains, bands)` of the graph it comes from.

    TfmixError where the model's chains are none, or input_by_rows does not go with them.
    """
    steps = tuple(
        Step(
            name=node.name,
            reads=node.inputs,
            writes=node.output,
            scratch=_scratch_bytes(node),
        )
        for node in model.nodes
    )
    names = [model.input, *(node.output for node in model.nodes)]
    buffers = {name: tensor_bytes(model.tensors[name]) for name in names}
    runs = check_chains(
        model.chains,
        [step.name for step in steps],
        [step.reads for step in steps],
        [step.writes for step in steps],
        model.output,
    )
    chains = []
    for run in runs:
        stream, row_bytes = stream_of(model, model.nodes[run.start : run.stop])
        chains.append((run, stream, row_bytes))
    return merge(steps, buffers, model.output, model.input, chains, input_by_rows=input_by_rows)


def stream_of(
    model: IntegerNetwork, nodes: Sequence[IntegerNode]
) -> tuple[Stream, Mapping[str, int]]:
    """Nodes as a chain, and bytes of one row of each of its tensors.

    TfmixError, naming the node or tensor, where they make none.
    """
    name = f"chain {nodes[0].name}..{nodes[-1].name}"
    row_bytes: dict[str, int] = {}
    for node in nodes:
        if node.kernel not in STREAMABLE_KERNELS:
            raise TfmixError(
                f"{name}: {node.name}, a {node.kernel.value}, cannot run row by row; what can is "
                f"{sorted(kernel.value for kernel in STREAMABLE_KERNELS)}"
            )
        tensors = (*node.inputs, node.output)
        for tensor, shape in zip(tensors, (*node.input_shapes, node.output_shape), strict=True):
            bits = model.tensors[tensor].quant.bits
            size = whole_row_bytes(shape, bits)
            if size is None:
                raise TfmixError(
                    f"{name}: a row of {tensor!r}, {shape[1]} x {shape[2]} values of {bits} bits, "
                    "does not end with a byte"
                )
            if row_bytes.setdefault(tensor, size) != size:
                raise TfmixError(f"{name}: {node.name} sees other rows of {tensor!r} than are made")
    layers = (
        row_layer(
            node.name,
            node.kernel.value,
            node.inputs,
            node.output,
            node.input_shapes[0],
            node.output_shape,
            node.window,
            model.bands.get(node.name, 1),
        )
        for node in nodes
    )
    return Stream.of(layers), row_bytes


def _scratch_bytes(node: IntegerNode) -> int:
    window = node.window or Window((1, 1))
    rows, columns, channels = node.input_shapes[0]
    if node.kernel is Kernel.FULLY_CONNECTED:
        channels *= rows * columns
    return scratch_bytes(
        node.kernel.value,
        window.kernel,
        channels,
        strides=window.strides,
        output=node.output_shape[:2],
    )
