"""How far the integer network is from the fake-quant model it was converted from, node by node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tf_keras

from tfmix.fakequant.apply import graph_of, layer_of_tensor, require_quantized
from tfmix.integer.inference import IntegerModel
from tfmix.ir.quant import round_half_up

_BATCH = 128


@dataclass(frozen=True)
class NodeDifference:
    """One node on the same inputs in float and in integers: differences in LSB of its output."""

    node: str
    max_lsb: float
    fraction_different: float


def compare(
    model: tf_keras.Model, integer_model: IntegerModel, x: np.ndarray
) -> list[NodeDifference]:
    """Runs each node of the fake-quant model on the integer network's own inputs of that node.

    So each figure is that node's alone, and nothing accumulates. x: float inputs [n, ...].
    Softmax, which fake-quant leaves in float, is compared after rounding to its 8 bits.
    """
    require_quantized(model)
    graph = graph_of(model)
    quant = integer_model.quantization
    values = integer_model.tensors(x)
    differences = []
    for node in graph.steps:
        outputs = layer_of_tensor(model, node.output).output
        sources = [_keras_tensor(model, graph, name) for name in node.inputs]
        feeds = [
            quant[graph.buffer_of(name)]
            .dequantize(values[graph.buffer_of(name)])
            .reshape(-1, *graph.tensors[name].shape)
            for name in node.inputs
        ]
        part = tf_keras.Model(sources, outputs)
        y = np.concatenate(
            [
                part([feed[start : start + _BATCH] for feed in feeds]).numpy()
                for start in range(0, len(x), _BATCH)
            ]
        )
        q = quant[node.output]
        expected = round_half_up(y.astype(np.float64) / q.scale) + q.zero_point
        got = values[node.output].reshape(expected.shape)
        off = np.abs(np.minimum(expected, 2**q.bits - 1) - got)
        differences.append(NodeDifference(node.name, float(off.max()), float((off > 0).mean())))
    return differences


def _keras_tensor(model: tf_keras.Model, graph: Any, tensor: str) -> Any:
    return layer_of_tensor(model, tensor).output
