"""`KerasNetwork` -> float tf_keras model in normal form.

Normal form: flat, no dropout, softmax and separable convolutions as layers of their own, each
quantized tensor the output of the layer that carries its name. Reading a model in normal form gives
the graph it was built from.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import tf_keras

from tfmix.frontend.keras import LOOKUP_ACTIVATIONS, KerasNetwork
from tfmix.ir.graph import (
    WEIGHTED_OPS,
    Graph,
    LayerWeights,
    Node,
    Op,
    Window,
    same_padding,
)

_layers = tf_keras.layers


def fold_batch_norm(network: KerasNetwork) -> KerasNetwork:
    """Folds each batch norm into the weights before it ("FB" in Rusci et al. 2020).

    kernel * gamma / s and (bias - mean) * gamma / s + beta, s = sqrt(variance + epsilon). A batch
    norm that stands alone has no weights to fold into and stays. Tensors keep their names, also
    those named after a batch norm: a policy fits the network folded and not.
    """
    nodes, weights = [], dict(network.weights)
    for node in network.graph.nodes:
        if node.batch_norm is not None and node.op in WEIGHTED_OPS:
            w = weights[node.name]
            bn = w.batch_norm
            gain = bn.gamma / np.sqrt(bn.variance + bn.epsilon)
            # Depthwise kernels are [rows, columns, in, multiplier]: two axes of channels.
            shape = w.kernel.shape[2:] if node.op is Op.DEPTHWISE_CONV2D else gain.shape
            bias = 0 if w.bias is None else w.bias
            weights[node.name] = LayerWeights(
                kernel=w.kernel * gain.reshape(shape), bias=(bias - bn.mean) * gain + bn.beta
            )
            node = replace(node, batch_norm=None, use_bias=True)
        nodes.append(node)
    return KerasNetwork(replace(network.graph, nodes=tuple(nodes)), weights, network.layers)


def free_name(graph: Graph, name: str) -> str:
    """`name`, or one like it that no layer of the graph's normal form has."""
    taken = {graph.input}
    for node in graph.nodes:
        taken |= {node.name, node.output, node.batch_norm, node.relu_layer}
    while name in taken:
        name += "_"
    return name


@contextmanager
def float32_policy() -> Iterator[None]:
    """Inside, new layers compute in float32, whatever the user's mixed-precision policy."""
    before = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy("float32")
    try:
        yield
    finally:
        tf_keras.mixed_precision.set_global_policy(before)


def build_float(network: KerasNetwork, input_carrier: str | None = None) -> tf_keras.Model:
    """A float32 model with the network's weights. The network's layers are copied, not shared.

    input_carrier: name of an identity layer to put behind the input, or None for no such layer.
    """
    with float32_policy():
        return _Builder(network).build(input_carrier)


class _Builder:
    def __init__(self, network: KerasNetwork):
        self.network = network
        self.graph: Graph = network.graph

    def build(self, input_carrier: str | None) -> tf_keras.Model:
        graph = self.graph
        inputs = x = tf_keras.Input(graph.tensors[graph.input].shape, name=graph.input)
        if input_carrier is not None:
            x = _layers.Activation("linear", name=input_carrier)(inputs)
        tensors: dict[str, Any] = {graph.input: x}
        for node in graph.nodes:
            xs = [tensors[name] for name in node.inputs]
            y = self._apply(node, xs)
            expected = graph.tensors[node.output].shape
            assert tuple(y.shape[1:]) == expected, (node.name, y.shape, expected)
            tensors[node.output] = y
        return tf_keras.Model(inputs, tensors[graph.output])

    def _apply(self, node: Node, xs: list[Any]) -> Any:
        x = xs if len(xs) > 1 else xs[0]
        if node.op is not Op.RELU and node.op is not Op.BATCH_NORM:
            if node.window is not None and node.op in WEIGHTED_OPS:
                x = self._explicit_padding(node, x)
            layer = self._main_layer(node)
            x = layer(x)
            if node.op in WEIGHTED_OPS:
                self._set_kernel(node, layer)
        if node.batch_norm is not None:
            x = self._batch_norm(node, x)
        if node.relu_layer is not None:
            x = _layers.ReLU(max_value=node.relu_max, name=node.relu_layer)(x)
        elif node.output not in (node.name, node.batch_norm):
            # Named after a batch norm that was folded: something must carry the name still.
            x = _layers.Activation("linear", name=node.output)(x)
        return x

    # -- windows ----------------------------------------------------------------------------

    def _keras_padding(self, node: Node) -> str | None:
        """ "same" or "valid", or None where only explicit padding will do."""
        window: Window = node.window
        if not any(window.padding):
            return "valid"
        rows, columns, _ = self.graph.hwc(node.inputs[0])
        same = (
            *same_padding(rows, window.kernel[0], window.strides[0]),
            *same_padding(columns, window.kernel[1], window.strides[1]),
        )
        return "same" if window.padding == same else None

    def _explicit_padding(self, node: Node, x: Any) -> Any:
        if self._keras_padding(node) is not None:
            return x
        top, bottom, left, right = node.window.padding
        name = free_name(self.graph, f"{node.name}_pad")
        return _layers.ZeroPadding2D(((top, bottom), (left, right)), name=name)(x)

    # -- layers -----------------------------------------------------------------------------

    def _main_layer(self, node: Node) -> _layers.Layer:
        shape = self.graph.tensors[node.output].shape
        if node.op in WEIGHTED_OPS:
            return self._weighted_layer(node)
        if node.op in (Op.AVERAGE_POOL, Op.MAX_POOL):
            return self._pool_layer(node, shape)
        if node.op is Op.ADD:
            return _layers.Add(name=node.name)
        if node.op is Op.MULTIPLY:
            return _layers.Multiply(name=node.name)
        if node.op is Op.CONCATENATE:
            return _layers.Concatenate(name=node.name)
        if node.op is Op.PAD:
            top, bottom, left, right = node.padding
            return _layers.ZeroPadding2D(((top, bottom), (left, right)), name=node.name)
        if node.op is Op.RESHAPE:
            return _layers.Reshape(shape, name=node.name)
        if node.op is Op.LOOKUP:
            return _layers.Activation(LOOKUP_ACTIVATIONS[node.function], name=node.name)
        assert node.op is Op.SOFTMAX
        return _layers.Softmax(name=node.name)

    def _pool_layer(self, node: Node, shape: tuple[int, ...]) -> _layers.Layer:
        average = node.op is Op.AVERAGE_POOL
        if len(shape) == 1:
            kind = _layers.GlobalAveragePooling2D if average else _layers.GlobalMaxPooling2D
            return kind(name=node.name)
        kind = _layers.AveragePooling2D if average else _layers.MaxPooling2D
        padding = self._keras_padding(node)
        return kind(node.window.kernel, node.window.strides, padding, name=node.name)

    def _weighted_layer(self, node: Node) -> _layers.Layer:
        """The layer as the user configured it (regularizers, constraints and all) where it has
        this form, else a plain one."""
        settings: dict[str, Any] = {"name": node.name, "use_bias": node.use_bias}
        if node.op is Op.DENSE:
            kind: type = _layers.Dense
            settings["units"] = self.graph.output_channels(node)
        else:
            window = node.window
            settings |= {
                "kernel_size": window.kernel,
                "strides": window.strides,
                "padding": self._keras_padding(node) or "valid",
            }
            if node.op is Op.CONV2D:
                kind = _layers.Conv2D
                settings["filters"] = self.graph.output_channels(node)
            else:
                kind = _layers.DepthwiseConv2D
                settings["depth_multiplier"] = self.graph.kernel_shape(node)[3]
        settings["activation"] = self._inner_activation(node)
        return _like(self.network.layers.get(node.name), kind, settings)

    def _inner_activation(self, node: Node) -> Any:
        if not node.relu or node.relu_layer is not None:
            return None
        return "relu" if node.relu_max is None else _layers.ReLU(node.relu_max)

    def _set_kernel(self, node: Node, layer: _layers.Layer) -> None:
        w = self.network.weights[node.name]
        layer.set_weights([w.kernel] if w.bias is None else [w.kernel, w.bias])

    def _batch_norm(self, node: Node, x: Any) -> Any:
        bn = self.network.weights[node.name].batch_norm
        settings = {"name": node.batch_norm, "axis": -1, "epsilon": bn.epsilon}
        original = self.network.layers.get(node.batch_norm)
        layer = _like(original, _layers.BatchNormalization, settings)
        y = layer(x)
        values = {
            "gamma": bn.gamma,
            "beta": bn.beta,
            "moving_mean": bn.mean,
            "moving_variance": bn.variance,
        }
        for attribute, value in values.items():
            variable = getattr(layer, attribute)
            if variable is not None:
                variable.assign(value)
        return y


def _like(original: Any, kind: type, settings: dict[str, Any]) -> _layers.Layer:
    """A new layer of `kind` with `settings`; the rest as `original` has it, if of that kind."""
    if type(original) is not kind:
        return kind(**settings)
    config = original.get_config()
    for own in ("batch_input_shape", "dtype"):
        config.pop(own, None)
    return kind.from_config({**config, **settings})
