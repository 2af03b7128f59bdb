"""Weights over their own minimum and maximum, as the papers have them."""

from __future__ import annotations

import tensorflow as tf
import tf_keras

from tfmix.fakequant.quantizers import grid
from tfmix.fakequant.quantizers.base import Variables, WeightQuantizer


@tf_keras.utils.register_keras_serializable(package="tfmix")
class MinMaxWeightQuantizer(WeightQuantizer):
    """Asymmetric uniform weights over their own minimum and maximum, zero included.

    y = scale * (clip(floor(w / scale + 0.5) + zero_point, 0, 2^bits - 1) - zero_point), with scale
    and zero_point by eq. (1) from min(w, 0) and max(w, 0) of each output channel (per_channel) or
    of the whole tensor. Gradient: dy/dw = 1 (straight-through), no weight lies outside the range.
    Rusci et al. 2020, section 3.
    """

    def grid_of(self, w: tf.Tensor, variables: Variables) -> tuple[tf.Tensor, tf.Tensor]:
        axes = self.shared_axes(w.shape.rank)
        low = tf.minimum(tf.reduce_min(w, axes, keepdims=True), 0.0)
        high = tf.maximum(tf.reduce_max(w, axes, keepdims=True), 0.0)
        return grid.affine(low, high, grid.levels_of(variables["bits"]))

    def fake_quant(self, w: tf.Tensor, variables: Variables) -> tf.Tensor:
        @tf.custom_gradient
        def straight_through(w):
            q, scale, zero_point = self.quantize(w, variables)
            return (q - zero_point) * scale, lambda dy: dy

        return straight_through(w)
