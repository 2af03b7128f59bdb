"""Quantization shifts the mean of a layer's outputs; its bias takes the shift back."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tfmix.fakequant.apply import require_quantized
from tfmix.fakequant.calibrate import MAX_SAMPLES, inputs_from
from tfmix.fakequant.layerwise import (
    Layerwise,
    float_layers,
    gain_of,
    walk,
)
from tfmix.ir.graph import Node

#: Below, a gain of batch norm counts as zero.
_LEAST_GAIN = 1e-6


def correct_bias(
    model: tf_keras.Model,
    data: Any,
    *,
    reference: tf_keras.Model | None = None,
    samples: int = MAX_SAMPLES,
) -> tuple[str, ...]:
    """Corrects the mean error of each layer of a fake-quant model, channel by channel.

    With y the layer's output before its ReLU in the float network and y~ that in the fake-quant
    model at the bits now set, E[y] - E[y~] over samples and pixels is added to the layer. Layers
    are visited in order, each behind those already corrected. Nagel et al. 2019, "Data-Free
    Quantization Through Weight Equalization and Bias Correction", section 4.2, the empirical form
    of appendix D. The correction goes into batch norm's beta, or its moving mean where it has no
    beta, or the layer's bias. A layer with none of them is left as it is: the next layer that has
    one takes its error over.

    To undo it, put the model's weights back (`get_weights`, `set_weights`). To try many policies,
    make one `BiasCorrection` and correct with it.

    Args:
      model: a fake-quant model with calibrated ranges; only biases and the like are changed.
      data: inputs, as `calibrate` takes them.
      reference: a model with the float layers that `model` was made of; None is `model` itself with
        its quantizers off, as it is now. Correcting twice without it corrects twice.
      samples: at most this many inputs are used.

    Returns the names of the layers corrected.

    Raises CalibrationError where the data is empty, of a wrong shape, or not finite.
    """
    return BiasCorrection(model, data, reference=reference, samples=samples).correct()


class BiasCorrection:
    """Means of the float network, measured once, to correct a fake-quant model by at any bits.

    Arguments as of `correct_bias`. `correct` begins each time with the biases found when this was
    made, so its result depends on the bits, kernels and ranges now set and on nothing before.
    """

    def __init__(
        self,
        model: tf_keras.Model,
        data: Any,
        *,
        reference: tf_keras.Model | None = None,
        samples: int = MAX_SAMPLES,
    ):
        require_quantized(model)
        self._layers = Layerwise(model)
        self._x = inputs_from(data, self._layers.graph, samples)
        source = float_layers(model, reference)
        self._means = {node.name: _channel_means(y) for node, y in walk(source, self._x)}
        self._offsets = {
            node.name: (variable, variable.numpy())
            for node in self._layers.graph.nodes
            if (variable := offset_variable(self._layers, node)) is not None
        }

    def correct(self) -> tuple[str, ...]:
        """Corrects the model at the bits now set; returns the names of the layers corrected."""
        self.undo()
        layers = self._layers
        for node, y in walk(layers, self._x):
            if node.name in self._offsets:
                error = self._means[node.name] - _channel_means(y)
                y += shift_output(layers, node, error)
        return tuple(self._offsets)

    def undo(self) -> None:
        """Puts the biases back that were found when this was made."""
        for variable, value in self._offsets.values():
            variable.assign(value)


def _channel_means(y: np.ndarray) -> np.ndarray:
    """float64 [channels]."""
    return y.mean(tuple(range(y.ndim - 1)), dtype=np.float64)


def offset_variable(layers: Layerwise, node: Node) -> tf.Variable | None:
    """The variable that a shift of the node's output goes into, or None where it has none."""
    batch_norm = layers.batch_norm_layer(node)
    if batch_norm is not None:
        return batch_norm.moving_mean if batch_norm.beta is None else batch_norm.beta
    return layers.bias(node) if node.use_bias else None


def shift_output(layers: Layerwise, node: Node, shift: np.ndarray) -> np.ndarray:
    """Moves the output of a node with an `offset_variable`; returns the shift there was, float32.

    shift: [channels], of the output before the ReLU. Where batch norm has no beta and a gamma of
    zero the channel is a constant, which cannot be moved, nor is it by quantization.
    """
    variable, batch_norm = offset_variable(layers, node), layers.batch_norm_layer(node)
    moved = np.asarray(shift, np.float32)
    if batch_norm is None or batch_norm.beta is not None:
        variable.assign_add(moved)
    else:
        gain = gain_of(batch_norm).numpy()
        moved = np.where(np.abs(gain) > _LEAST_GAIN, moved, 0)
        variable.assign_sub(moved / np.where(moved == 0, 1, gain))
    return moved
