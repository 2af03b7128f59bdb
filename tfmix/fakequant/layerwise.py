"""A network run node by node over data held in memory: what fits one layer after another needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tfmix.errors import TfmixError
from tfmix.fakequant.apply import Quantizers, is_quantized, quantizers_of, unwrap
from tfmix.frontend.keras import LOOKUP_ACTIVATIONS, read
from tfmix.ir.graph import WEIGHTED_OPS, Graph, Node, Op, Window, same_padding

_BATCH = 128


class Layerwise:
    """The nodes of a float or fake-quant model as functions of batches [n, ...], for inference.

    Kernels, biases, batch norms and quantizers are the model's own variables, read anew by each
    call; so one may change them between calls.

    quantized: False leaves the quantizers of a fake-quant model out.
    """

    def __init__(self, model: tf_keras.Model, *, quantized: bool = True):
        fake_quant = is_quantized(model)
        self.network = read(model, unwrap) if fake_quant else read(model)
        self.graph: Graph = self.network.graph
        #: All quantizers of the model, and those at work.
        self.bound = quantizers_of(model) if fake_quant else Quantizers({}, {})
        self.quantizers = self.bound if quantized else Quantizers({}, {})

    def run(self, node: Node, *inputs: Any) -> tf.Tensor:
        """The node's output tensor, quantized, from its input tensors."""
        return self.finish(node, self.linear(node, *inputs))

    def linear(self, node: Node, *inputs: Any, kernel: Any = None) -> tf.Tensor:
        """The node's output before its ReLU; kernel: in place of the node's own."""
        return self.normalize(node, self.compute(node, *inputs, kernel=kernel))

    # -- the three steps of a node ------------------------------------------------------------

    def compute(self, node: Node, *inputs: Any, kernel: Any = None) -> tf.Tensor:
        """What the node itself computes, bias included, before batch norm and ReLU.

        kernel: in place of the node's own, fake-quantized one.
        """
        x = inputs[0]
        if node.op in WEIGHTED_OPS:
            return self._weighted(node, x, self.kernel(node) if kernel is None else kernel)
        if node.op is Op.ADD:
            return inputs[0] + inputs[1]
        if node.op is Op.MULTIPLY:
            views = [(-1, *self.graph.hwc(name)) for name in node.inputs]
            a, b = map(tf.reshape, inputs, views)
            return tf.reshape(a * b, self._batch_of(node))
        if node.op is Op.CONCATENATE:
            return tf.concat(inputs, axis=-1)
        if node.op is Op.AVERAGE_POOL or node.op is Op.MAX_POOL:
            pool = tf.nn.avg_pool2d if node.op is Op.AVERAGE_POOL else tf.nn.max_pool2d
            y = pool(x, node.window.kernel, node.window.strides, self._padding(node))
            return tf.reshape(y, self._batch_of(node))
        if node.op is Op.PAD:
            return _pad(x, node.padding)
        if node.op is Op.RESHAPE:
            return tf.reshape(x, self._batch_of(node))
        if node.op is Op.LOOKUP:
            return LOOKUP_ACTIVATIONS[node.function](tf.convert_to_tensor(x))
        if node.op is Op.SOFTMAX:
            return tf.nn.softmax(x)
        assert node.op in (Op.RELU, Op.BATCH_NORM)
        return tf.convert_to_tensor(x)

    def normalize(self, node: Node, z: tf.Tensor) -> tf.Tensor:
        """Batch norm with its moving statistics, where the node has one."""
        layer = self.batch_norm_layer(node)
        if layer is None:
            return z
        gain = gain_of(layer)
        offset = -layer.moving_mean * gain
        if layer.beta is not None:
            offset += layer.beta
        return z * gain + offset

    def finish(self, node: Node, y: tf.Tensor) -> tf.Tensor:
        """ReLU and the quantizer of the output, where the node has them."""
        return self.quantize(node.output, activate(node, y))

    # -- parts --------------------------------------------------------------------------------

    def quantize(self, tensor: str, y: tf.Tensor) -> tf.Tensor:
        """A value of a tensor, fake-quantized if the tensor has a quantizer."""
        bound = self.quantizers.activations.get(tensor)
        return y if bound is None else bound.quantizer(y, False, bound.variables)

    def kernel(self, node: Node) -> tf.Tensor:
        """The fake-quantized kernel of a weighted node."""
        bound = self.quantizers.weights.get(node.name)
        if bound is not None:
            return bound.quantizer(bound.kernel, False, bound.variables)
        bound = self.bound.weights.get(node.name)
        return self.network.weights[node.name].kernel if bound is None else bound.kernel

    def bias(self, node: Node) -> Any:
        """The bias of a weighted node: the variable, if its layer has the node's name; or None."""
        layer = self.network.layers.get(node.name)
        live = getattr(layer, "bias", None)
        return self.network.weights[node.name].bias if live is None else live

    def batch_norm_layer(self, node: Node) -> tf_keras.layers.BatchNormalization | None:
        return None if node.batch_norm is None else self.network.layers[node.batch_norm]

    def _weighted(self, node: Node, x: Any, kernel: Any) -> tf.Tensor:
        if node.op is Op.DENSE:
            z = tf.tensordot(x, kernel, 1)
        else:
            padding, strides = self._padding(node), (1, *node.window.strides, 1)
            if padding is None:
                x, padding = _pad(x, node.window.padding), "VALID"
            convolve = tf.nn.conv2d if node.op is Op.CONV2D else tf.nn.depthwise_conv2d
            z = convolve(x, kernel, strides, padding)
        bias = self.bias(node)
        return z if bias is None else z + bias

    def _padding(self, node: Node) -> str | None:
        """TensorFlow's word for the window's padding, or None where it has none."""
        window: Window = node.window
        if not any(window.padding):
            return "VALID"
        rows, columns, _ = self.graph.hwc(node.inputs[0])
        same = (
            *same_padding(rows, window.kernel[0], window.strides[0]),
            *same_padding(columns, window.kernel[1], window.strides[1]),
        )
        return "SAME" if window.padding == same else None

    def _batch_of(self, node: Node) -> tuple[int, ...]:
        return (-1, *self.graph.tensors[node.output].shape)


def float_layers(model: tf_keras.Model, reference: tf_keras.Model | None) -> Layerwise:
    """The float network that a fake-quant model is to imitate, node by node.

    reference: the float model it was made of, or None for the model itself without quantizers.
    TfmixError where that is not a model of the same layers.
    """
    if reference is None:
        return Layerwise(model, quantized=False)
    layers = Layerwise(reference, quantized=False)
    there = {node.name for node in layers.graph.nodes}
    missing = [node.name for node in Layerwise(model).graph.nodes if node.name not in there]
    if missing:
        names = ", ".join(map(repr, missing))
        raise TfmixError(f"reference: layers {names} are not in it; pass the float model")
    return layers


def gain_of(layer: tf_keras.layers.BatchNormalization) -> tf.Tensor:
    """gamma / sqrt(moving variance + epsilon), float32 [channels]."""
    gain = tf.math.rsqrt(layer.moving_variance + layer.epsilon)
    return gain if layer.gamma is None else gain * layer.gamma


def activate(node: Node, y: tf.Tensor) -> tf.Tensor:
    """The node's ReLU, if any."""
    if not node.relu:
        return y
    y = tf.nn.relu(y)
    return y if node.relu_max is None else tf.minimum(y, node.relu_max)


def _pad(x: Any, padding: tuple[int, int, int, int]) -> tf.Tensor:
    top, bottom, left, right = padding
    return tf.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))


class LiveTensors:
    """Values of the tensors of a graph that are still to be read, float32 [n, ...] each."""

    def __init__(self, graph: Graph, x: np.ndarray):
        self._left = Counter(name for node in graph.nodes for name in node.inputs)
        self._left[graph.output] += 1
        self._values = {graph.input: x}

    def __getitem__(self, tensor: str) -> np.ndarray:
        return self._values[tensor]

    def inputs_of(self, node: Node) -> list[np.ndarray]:
        """The node's inputs. Each node asks once: after its last reader a tensor is let go."""
        values = [self._values[name] for name in node.inputs]
        self._left.subtract(node.inputs)
        for name in node.inputs:
            if not self._left[name]:
                self._values.pop(name, None)
        return values

    def put(self, tensor: str, value: np.ndarray) -> None:
        self._values[tensor] = value


def in_batches(function: Callable[..., Any], arrays: Sequence[np.ndarray]) -> np.ndarray:
    """`function` of `arrays` [n, ...], called on slices of them that memory bears."""
    parts = [
        np.asarray(function(*(a[start : start + _BATCH] for a in arrays)))
        for start in range(0, len(arrays[0]), _BATCH)
    ]
    return np.concatenate(parts)


def walk(layers: Layerwise, x: np.ndarray) -> Iterator[tuple[Node, np.ndarray]]:
    """Each node in order and its output before the ReLU, [n, ..., channels]; what the caller makes
    of that array is what the nodes after it see."""
    graph = layers.graph
    tensors = LiveTensors(graph, in_batches(partial(layers.quantize, graph.input), [x]))
    for node in graph.nodes:
        y = in_batches(partial(layers.linear, node), tensors.inputs_of(node))
        yield node, y
        tensors.put(node.output, in_batches(partial(layers.finish, node), [y]))
