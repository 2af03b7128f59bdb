"""The schedule of an IntegerNetwork is that of the graph it came from."""

from __future__ import annotations

import pytest
from integer_models import random_model

from tfmix.integer.model import IntegerNetwork, Kernel
from tfmix.integer.schedule import schedule_of
from tfmix.ir.graph import Graph, Node, Op, TensorSpec
from tfmix.ir.schedule import schedule
from tfmix.policy.cost.arena import plan, verify

_OPS = {
    Kernel.CONV2D: Op.CONV2D,
    Kernel.DEPTHWISE_CONV2D: Op.DEPTHWISE_CONV2D,
    Kernel.FULLY_CONNECTED: Op.DENSE,
    Kernel.ADD: Op.ADD,
    Kernel.MULTIPLY: Op.MULTIPLY,
    Kernel.CONCATENATE: Op.CONCATENATE,
    Kernel.REQUANTIZE: Op.RELU,
    Kernel.LOOKUP: Op.LOOKUP,
    Kernel.AVERAGE_POOL: Op.AVERAGE_POOL,
    Kernel.MAX_POOL: Op.MAX_POOL,
    Kernel.PAD: Op.PAD,
    Kernel.SOFTMAX: Op.SOFTMAX,
}


def _graph(model: IntegerNetwork) -> Graph:
    """The graph such a model is converted from, as far as memory is concerned: where a node has
    its own view of an input, a reshape stands before it."""
    tensors = {t.name: TensorSpec(t.name, t.shape, signed=False) for t in model.tensors.values()}
    nodes = []
    for node in model.nodes:
        inputs = []
        for position, (name, shape) in enumerate(zip(node.inputs, node.input_shapes, strict=True)):
            if node.kernel is Kernel.FULLY_CONNECTED:
                shape = (1, 1, shape[0] * shape[1] * shape[2])
            view = f"{node.name}/view{position}"
            tensors[view] = TensorSpec(view, shape, signed=False)
            nodes.append(Node(view, Op.RESHAPE, (name,), view))
            inputs.append(view)
        op = _OPS[node.kernel]
        nodes.append(Node(node.name, op, tuple(inputs), node.output, window=node.window))
    return Graph(model.input, model.output, tuple(nodes), tensors)


@pytest.mark.parametrize("seed", range(20))
def test_equals_the_schedule_of_the_graph(seed):
    model = random_model(seed, nodes=8)
    graph = _graph(model)
    bits = {name: model.tensors[name].quant.bits for name in graph.quantized_tensors}
    expected, found = schedule(graph, bits), schedule_of(model)
    assert found == expected
    assert plan(found) == plan(expected)
    verify(found, plan(found))
