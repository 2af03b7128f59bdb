"""Sensitivities of all tensors at all bit-widths from a few backward passes.

The increase of the loss when a tensor moves by d, to second order, is half d' F d, with F the
Fisher information of the network's output distribution: the Gauss-Newton form of its KL divergence
from the float network, which needs no labels. With J the Jacobian of the logits, p the
probabilities and r normal,

    F = J' (diag(p) - p p') J = E[g g'],   g = J' (sqrt(p) r - p (sqrt(p) . r)),

so that each backward pass gives an unbiased sample of d' F d = E[(g . d)^2] for every tensor and
every bit-width at once, no part of F left out. For activations d is the sample's own quantization
error. For weights g . d is had for each sample without its weight gradient: it is the product of
the gradient of the layer's output with the output that the weights d would give. The mean of d over
samples and pixels of a channel is left out, as trials leave it out: bias correction, or training,
takes it back.
Where outputs are no probabilities they count as means of a normal distribution, as in
`objective.Values`.

Cf. Dong et al. 2020 (HAWQ-V2) and Li et al. 2021 (BRECQ), section 3.2, which use the trace and the
diagonal.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tfmix.fakequant.apply import BoundQuantizer, quantizers_of, unwrap
from tfmix.fakequant.rebuild import build_float
from tfmix.frontend.keras import read
from tfmix.ir.graph import Graph, Node, Op
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.sensitivity import SensitivityTable

#: Backward passes for each sample.
DRAWS = 2
#: Elements of all tensors that one batch may have: gradients and errors of all are kept at once.
_BATCH_ELEMENTS = 1 << 24


def fisher_table(
    model: tf_keras.Model, x: np.ndarray, *, draws: int = DRAWS, seed: int = 0
) -> SensitivityTable:
    """Estimated increase of the KL divergence from the float network, in nats a sample.

    model: a fake-quant model with known ranges; it is not run. x: inputs [n, ...].
    """
    probe = _Probe(model, x)
    elements = sum(tensor.elements for tensor in probe.graph.tensors.values())
    batch = max(min(_BATCH_ELEMENTS // elements, 64), 1)
    chunks = [tf.cast(x[i : i + batch], tf.float32) for i in range(0, len(x), batch)]
    sums: Any = 0.0
    for chunk in chunks:
        sums = sums + probe.means(chunk).numpy() * len(chunk)
    means = tf.constant(sums / len(x), tf.float32)
    total: Any = 0.0
    for number, chunk in enumerate(chunks):
        for draw in range(draws):
            key = tf.constant([seed, number * draws + draw])
            total = total + probe.squares(chunk, key, means).numpy().astype(np.float64)
    increases = 0.5 * total / (draws * len(x))
    rows = [dict(zip(BIT_WIDTHS, map(float, row), strict=True)) for row in increases]
    weights = [node.name for node in probe.graph.weighted_nodes]
    return SensitivityTable(
        dict(zip(weights, rows[: len(weights)], strict=True)),
        dict(zip(probe.graph.quantized_tensors, rows[len(weights) :], strict=True)),
        f"Fisher information, {len(x)} samples, {draws} backward passes",
    )


class _Probe:
    """The float network with all its tensors at hand."""

    def __init__(self, model: tf_keras.Model, x: np.ndarray):
        network = read(model, unwrap)
        self.graph: Graph = network.graph
        self._quantizers = quantizers_of(model)
        self._float = build_float(network)
        layers = [self._float.get_layer(node.name) for node in self.graph.weighted_nodes]
        self._tensors = tf_keras.Model(
            self._float.inputs,
            {
                "output": self._float.output,
                "activations": [
                    self._float.get_layer(name).output for name in self.graph.quantized_tensors
                ],
                "layer_inputs": [layer.input for layer in layers],
                "layer_outputs": [layer.output for layer in layers],
            },
        )
        self._spread = 1.0
        if not self.graph.is_softmax_output(self.graph.output):
            outputs = self._float.predict(x, verbose=0)
            variance = float(outputs.reshape(len(x), -1).var(axis=0).sum())
            self._spread = math.sqrt(variance or 1.0)
        self.means = tf.function(self._means, reduce_retracing=True, autograph=False)
        self.squares = tf.function(self._squares, reduce_retracing=True, autograph=False)

    def _means(self, x: tf.Tensor) -> tf.Tensor:
        """Mean over the batch of each channel's error, float32 [bit-widths, channels of all rows of
        the table]."""
        errors = self._errors(self._tensors(x, training=False))
        means = [[tf.reduce_mean(e, list(range(e.shape.rank - 1))) for e in row] for row in errors]
        return tf.stack([tf.concat(column, 0) for column in zip(*means, strict=True)])

    def _squares(self, x: tf.Tensor, key: tf.Tensor, means: tf.Tensor) -> tf.Tensor:
        """Sum over the batch of (g . d)^2, float32 [weights then activations, bit-widths]."""
        with tf.GradientTape() as tape:
            tape.watch(x)
            tensors = self._tensors(x, training=False)
            score = self._score(tensors["output"], key)
        watched = [*tensors["layer_outputs"], *tensors["activations"]]
        gradients = tape.gradient(
            score, watched, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        for i, node in enumerate(self.graph.weighted_nodes):
            gradients[i] = self._before_activation(node, tensors["layer_outputs"][i], gradients[i])
        errors = self._errors(tensors)
        rows = tf.split(means, [row[0].shape[-1] for row in errors], axis=1)
        return tf.stack(
            [
                tf.stack(
                    [_sum_of_squares(g, e - m) for e, m in zip(row, tf.unstack(mean), strict=True)]
                )
                for g, row, mean in zip(gradients, errors, rows, strict=True)
            ]
        )

    def _errors(self, tensors: dict[str, Any]) -> list[list[tf.Tensor]]:
        """For each row of the table and each bit-width what quantization adds: to the output of the
        layer with these weights, to the activation."""
        rows = []
        for node, layer_input in zip(
            self.graph.weighted_nodes, tensors["layer_inputs"], strict=True
        ):
            bound = self._quantizers.weights[node.name]
            kernel = tf.convert_to_tensor(self._float.get_layer(node.name).weights[0])
            rows.append([self._apply(node, layer_input, e) for e in _errors(bound, kernel)])
        for name, values in zip(self.graph.quantized_tensors, tensors["activations"], strict=True):
            rows.append(_errors(self._quantizers.activations[name], values))
        return rows

    def _score(self, outputs: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """A scalar whose gradient, for each sample, is one g."""
        noise = tf.random.stateless_normal(tf.shape(outputs), key)
        if not self.graph.is_softmax_output(self.graph.output):
            return tf.reduce_sum(noise * outputs) / self._spread
        root = tf.sqrt(outputs)
        direction = root * noise - outputs * tf.reduce_sum(root * noise, axis=-1, keepdims=True)
        positions = math.prod(outputs.shape[1:-1])
        logits = tf.math.log(tf.maximum(outputs, 1e-30))
        return tf.reduce_sum(tf.stop_gradient(direction) * logits) / math.sqrt(positions)

    def _before_activation(self, node: Node, outputs: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        """The gradient in front of the ReLU that is a part of the layer itself, if any."""
        if not node.relu or node.relu_layer is not None:
            return gradient
        passes = outputs > 0
        if node.relu_max is not None:
            passes &= outputs < node.relu_max
        return tf.where(passes, gradient, 0.0)

    def _apply(self, node: Node, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """What the layer of this node gives with another kernel, no bias and no activation."""
        if node.op is Op.DENSE:
            return tf.tensordot(x, kernel, 1)
        layer = self._float.get_layer(node.name)
        padding, (rows, columns) = layer.padding.upper(), layer.strides
        if node.op is Op.CONV2D:
            return tf.nn.conv2d(x, kernel, (rows, columns), padding)
        return tf.nn.depthwise_conv2d(x, kernel, (1, rows, columns, 1), padding)


def _errors(bound: BoundQuantizer, values: tf.Tensor) -> list[tf.Tensor]:
    """What quantization adds to `values`, at each bit-width."""
    return [
        bound.quantizer(values, False, {**bound.variables, "bits": tf.constant(bits)}) - values
        for bits in BIT_WIDTHS
    ]


def _sum_of_squares(gradient: tf.Tensor, error: tf.Tensor) -> tf.Tensor:
    """Sum over the samples of (gradient . error)^2."""
    axes = list(range(1, gradient.shape.rank))
    return tf.reduce_sum(tf.square(tf.reduce_sum(gradient * error, axes)))
