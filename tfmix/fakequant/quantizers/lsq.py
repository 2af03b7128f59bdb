"""Learned step sizes, of weights and of activations.

S. Esser et al., Learned Step Size Quantization, ICLR 2020; for signed activations a learned zero
point too: Y. Bhalgat et al., LSQ+, CVPR workshops 2020.

Steps are learned in the log domain: an optimizer's step then changes a small and a large step by
the same ratio, so the learning rate of the weights fits them. With the zero point z fixed the
quantizer is homogeneous, y(c x, c step) = c y(x, step), and Euler's theorem gives the whole of
Esser et al.'s eq. (3), times the step, as

    dL / d log(step) = sum(dL/dy * y) - sum(dL/dx * x).

Times their gradient scale 1 / sqrt(N * Q), N values that share the step, Q = 2^bits - 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tfmix.fakequant.quantizers import grid
from tfmix.fakequant.quantizers.base import RangeQuantizer, Variables, WeightQuantizer
from tfmix.fakequant.quantizers.grid import ALL_LEVELS
from tfmix.fakequant.quantizers.ranges import least_error_grid
from tfmix.ir.quant import BIT_WIDTHS


@tf_keras.utils.register_keras_serializable(package="tfmix")
class LsqWeightQuantizer(WeightQuantizer):
    """Weights with a learned step and a fixed integer zero point, per bit-width.

    y = step * (clip(floor(w / step + 0.5) + zero_point, 0, 2^bits - 1) - zero_point). Step and zero
    point are chosen for least squared error on the kernel (`init_ranges`); then the step is
    learned. Gradients, with v = w / step: dy/dw = 1 where v in [-zero_point, 2^bits - 1 -
    zero_point], else 0; dy/d step = floor(v + 0.5) - v there, else the limit that v passed.
    Esser et al. 2020, eq. (1) to (3), on an asymmetric grid.
    """

    def build(self, tensor_shape: Any, name: str, layer: Any) -> Variables:
        shape = list(tensor_shape)
        for axis in self.shared_axes(len(shape)):
            shape[axis] = 1

        def add(suffix: str, trainable: bool) -> tf.Variable:
            return layer.add_weight(
                f"{name}_{suffix}",
                shape=(len(BIT_WIDTHS), *shape),
                dtype=tf.float32,
                initializer="zeros",
                trainable=trainable,
            )

        return {
            **super().build(tensor_shape, name, layer),
            "log_step": add("log_step", trainable=True),
            "zero_point": add("zero_point", trainable=False),
        }

    def init_ranges(self, variables: Variables, w: Any) -> None:
        w = np.asarray(w, np.float32)
        shared = self.shared_axes(w.ndim)
        rows = np.transpose(w, [a for a in range(w.ndim) if a not in shared] + shared)
        rows = rows.reshape(-1, np.prod([w.shape[a] for a in shared]))
        grids = [least_error_grid(rows, bits) for bits in BIT_WIDTHS]
        steps, zero_points = (np.stack(parts) for parts in zip(*grids, strict=True))
        shape = variables["log_step"].shape
        variables["log_step"].assign(np.log(steps).reshape(shape))
        variables["zero_point"].assign(zero_points.reshape(shape))

    def grid_of(self, w: tf.Tensor, variables: Variables) -> tuple[tf.Tensor, tf.Tensor]:
        bits = variables["bits"]
        log_step = grid.at_bits(variables["log_step"], bits)
        return tf.exp(log_step), grid.at_bits(variables["zero_point"], bits)

    def fake_quant(self, w: tf.Tensor, variables: Variables) -> tf.Tensor:
        axes = self.shared_axes(w.shape.rank)
        count = np.prod([w.shape[a] for a in axes])
        levels = grid.levels_of(variables["bits"])

        @tf.custom_gradient
        def lsq(w, log_step, zero_point):
            step = tf.exp(log_step)
            y = (grid.quantize(w, step, zero_point, levels) - zero_point) * step

            def gradient(dy):
                inside = (w >= -zero_point * step) & (w <= (levels - zero_point) * step)
                dx = tf.where(inside, dy, 0.0)
                d_log_step = tf.reduce_sum(dy * y - dx * w, axes, keepdims=True)
                return dx, d_log_step * tf.math.rsqrt(count * levels), None

            return y, gradient

        bits = variables["bits"]
        return lsq(
            w,
            grid.at_bits(variables["log_step"], bits),
            grid.at_bits(variables["zero_point"], bits),
        )


@tf_keras.utils.register_keras_serializable(package="tfmix")
class StepConstraint(tf_keras.constraints.Constraint):
    """Keeps the ranges of log steps [3] in [1e-6, maximum]."""

    def __init__(self, maximum: float | None = None):
        self.maximum = maximum

    def __call__(self, w: tf.Tensor) -> tf.Tensor:
        w = tf.maximum(w, np.log(grid.MIN_RANGE / ALL_LEVELS))
        return w if self.maximum is None else tf.minimum(w, np.log(self.maximum / ALL_LEVELS))

    def get_config(self) -> dict[str, Any]:
        return {"maximum": self.maximum}


@tf_keras.utils.register_keras_serializable(package="tfmix")
class ZeroPointConstraint(tf_keras.constraints.Constraint):
    """Keeps zero points [3] in [0, 2^bits - 1]."""

    def __call__(self, w: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(w, 0.0, ALL_LEVELS)


@tf_keras.utils.register_keras_serializable(package="tfmix")
class LsqActivationQuantizer(RangeQuantizer):
    """Activations with a learned step, and where signed a learned zero point, per bit-width.

    y = step * (clip(floor(x / step + 0.5) + z, 0, 2^bits - 1) - z), z = 0 if unsigned, else the
    learned zero point, rounded. Gradients: dy/dx = 1 on the range, else 0; dy/d step as of
    `LsqWeightQuantizer`; dy/dz = 0 on the range, else -step, z's rounding passed straight through
    (Bhalgat et al. 2020, eq. (5), for their offset beta = -step * z).
    """

    def ranged_variables(self) -> dict[str, tuple[Any, Any]]:
        start = (self.maximum or 6.0) / ALL_LEVELS
        variables = {"log_step": (np.log(start), StepConstraint(self.maximum))}
        if self.signed:
            variables["zero_point"] = (np.floor(ALL_LEVELS / 2), ZeroPointConstraint())
        return variables

    def values_of(self, lows: Any, highs: Any) -> dict[str, tf.Tensor]:
        step, zero_point = grid.affine(
            lows if self.signed else tf.zeros_like(highs), highs, ALL_LEVELS
        )
        return {"log_step": tf.math.log(step)} | ({"zero_point": zero_point} if self.signed else {})

    def ranges(self, variables: Variables) -> tuple[np.ndarray, np.ndarray]:
        step = np.exp(variables["log_step"].numpy())
        zero_point = variables["zero_point"].numpy() if self.signed else np.zeros_like(step)
        zero_point = grid.nearest(zero_point, ALL_LEVELS).numpy()
        return -zero_point * step, (ALL_LEVELS - zero_point) * step

    def _parameters(self, variables: Variables) -> tuple[tf.Tensor, tf.Tensor]:
        bits = variables["bits"]
        zero_point = grid.at_bits(variables["zero_point"], bits) if self.signed else tf.zeros(())
        return grid.at_bits(variables["log_step"], bits), zero_point

    def grid_of(self, variables: Variables) -> tuple[tf.Tensor, tf.Tensor]:
        log_step, zero_point = self._parameters(variables)
        return tf.exp(log_step), grid.nearest(zero_point, grid.levels_of(variables["bits"]))

    def fake_quant(self, x: tf.Tensor, variables: Variables) -> tf.Tensor:
        features = np.prod(x.shape[1:], dtype=np.float32)
        levels = grid.levels_of(variables["bits"])
        gradient_scale = tf.math.rsqrt(features * levels)
        return _lsq(x, *self._parameters(variables), levels, gradient_scale)


@tf.custom_gradient
def _lsq(
    x: tf.Tensor,
    log_step: tf.Tensor,
    zero_point: tf.Tensor,
    levels: tf.Tensor,
    gradient_scale: tf.Tensor,
) -> Any:
    step = tf.exp(log_step)
    y, bottom, top = grid.fused_fake_quant(x, step, grid.nearest(zero_point, levels), levels)

    def gradient(dy):
        dx, d_low, d_high = grid.fused_gradient(dy, x, bottom, top)
        d_log_step = grid.dot(dy, y) - grid.dot(dx, x)
        d_zero_point = -step * (d_low + d_high)
        return dx, gradient_scale * d_log_step, gradient_scale * d_zero_point, None, None

    return y, gradient
