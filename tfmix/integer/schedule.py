"""The schedule of an `IntegerNetwork`: one step per node, buffers of packed tensors."""

from __future__ import annotations

import math

from tfmix.integer.model import IntegerNetwork, IntegerNode, IntegerTensor, Kernel
from tfmix.ir.graph import Window
from tfmix.ir.quant import packed_size
from tfmix.ir.schedule import Schedule, Step, scratch_bytes


def tensor_bytes(tensor: IntegerTensor) -> int:
    """Bytes of an activation tensor as it lies in memory, packed."""
    return packed_size(math.prod(tensor.shape), tensor.quant.bits)


def schedule_of(model: IntegerNetwork) -> Schedule:
    """Equal to `schedule(graph, activation_bits)` of the graph the model was converted from."""
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
    return Schedule(steps, buffers, output=model.output)


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
