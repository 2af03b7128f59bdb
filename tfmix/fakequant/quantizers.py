"""Fake-quant quantizers whose bit-width is a variable: 2, 4 or 8, changed without a retrace.

Each is a tfmot `Quantizer`: `build` makes its variables, `__call__` quantizes and dequantizes in
float. Rounding is floor(x + 0.5), as everywhere in tfmix (docs/arithmetic.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tfmix.errors import CalibrationError
from tfmix.fakequant._tfmot import Quantizer
from tfmix.ir.quant import BIT_WIDTHS, QuantParams, max_level

_MIN_SCALE = 1e-30  # below, a float32 scale is not safely invertible: such a range counts as zero
_MIN_RANGE = 1e-6  # least alpha that training may reach
_FUSED_BITS = 8
_FUSED_LEVELS = float(max_level(_FUSED_BITS))
#: The fused gradient counts what lies beyond a limit, PACT also what lies on it, as all that ReLU6
#: cuts off does: so it is given limits that are nearer to zero by a few ulp.
_JUST_INSIDE = 1 - 2.0**-20

#: Candidates for a range in the search for the least mean squared error: fractions of the full one.
_RATIOS = np.arange(1, 65, dtype=np.float32) / 64


def _levels(bits: tf.Tensor) -> tf.Tensor:
    """2^bits - 1 as float32."""
    return tf.cast(tf.bitwise.left_shift(1, bits) - 1, tf.float32)


def affine(low: tf.Tensor, high: tf.Tensor, levels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Eq. (1): (scale, zero_point) of the range [low, high], low <= 0 <= high, any shape.

    The zero point is rounded into [0, levels], so that zero is exact. An empty range has scale 1.
    """
    scale = (high - low) / levels
    scale = tf.where(scale < _MIN_SCALE, tf.ones_like(scale), scale)
    return scale, tf.clip_by_value(tf.floor(-low / scale + 0.5), 0.0, levels)


def _add_bits(layer: tf_keras.layers.Layer, name: str) -> tf.Variable:
    return layer.add_weight(
        f"{name}_bits",
        shape=(),
        dtype=tf.int32,
        initializer=tf_keras.initializers.Constant(8),
        trainable=False,
    )


@tf_keras.utils.register_keras_serializable(package="tfmix")
class MinMaxWeightQuantizer(Quantizer):
    """Asymmetric uniform weights over their own minimum and maximum, zero included.

    y = scale * (clip(floor(w / scale + 0.5) + zero_point, 0, 2^bits - 1) - zero_point), with scale
    and zero_point by eq. (1) from min(w, 0) and max(w, 0) of each output channel (per_channel) or
    of the whole tensor. Gradient: dy/dw = 1 (straight-through), no weight lies outside the range.
    Rusci et al. 2020, section 3.

    Args:
      per_channel: one range per output channel, else one per layer.
      depthwise: the kernel is [rows, columns, in, multiplier]: its channels are the last two axes.
    """

    def __init__(self, per_channel: bool = True, depthwise: bool = False):
        self.per_channel = per_channel
        self.depthwise = depthwise

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, tf.Variable]:
        return {"bits": _add_bits(layer, name)}

    def __call__(self, inputs: Any, training: Any, weights: dict, **kwargs: Any) -> tf.Tensor:
        bits = weights["bits"]

        @tf.custom_gradient
        def straight_through(w):
            q, scale, zero_point = self.quantize(w, bits)
            return (q - zero_point) * scale, lambda dy: dy

        return straight_through(tf.convert_to_tensor(inputs))

    def quantize(self, w: tf.Tensor, bits: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """float32 kernel -> (q, scale, zero_point): q of the kernel's shape, integers as float32;
        scale and zero_point broadcast against it. The integer network stores this very q."""
        axes = list(range(w.shape.rank))
        if self.per_channel:
            axes = axes[: -2 if self.depthwise else -1]
        low = tf.minimum(tf.reduce_min(w, axes, keepdims=True), 0.0)
        high = tf.maximum(tf.reduce_max(w, axes, keepdims=True), 0.0)
        levels = _levels(tf.convert_to_tensor(bits))
        scale, zero_point = affine(low, high, levels)
        q = tf.clip_by_value(tf.floor(w / scale + 0.5) + zero_point, 0.0, levels)
        return q, scale, zero_point

    def get_config(self) -> dict[str, Any]:
        return {"per_channel": self.per_channel, "depthwise": self.depthwise}


@tf_keras.utils.register_keras_serializable(package="tfmix")
class RangeConstraint(tf_keras.constraints.Constraint):
    """Keeps an upper range limit in [1e-6, maximum]."""

    def __init__(self, maximum: float | None = None):
        self.maximum = maximum

    def __call__(self, w: tf.Tensor) -> tf.Tensor:
        w = tf.maximum(w, _MIN_RANGE)
        return w if self.maximum is None else tf.minimum(w, self.maximum)

    def get_config(self) -> dict[str, Any]:
        return {"maximum": self.maximum}


@tf_keras.utils.register_keras_serializable(package="tfmix")
class NegativeConstraint(tf_keras.constraints.Constraint):
    """Keeps a lower range limit at or below zero."""

    def __call__(self, w: tf.Tensor) -> tf.Tensor:
        return tf.minimum(w, 0.0)


@tf_keras.utils.register_keras_serializable(package="tfmix")
class ActivationQuantizer(Quantizer):
    """PACT activations, and their asymmetric form for tensors that hold negative values.

    y = scale * (floor(clip(x, low, high) / scale + 0.5)), with high = alpha and low = 0 for an
    unsigned tensor; for a signed one [low, high] is moved so that zero is exact (`affine`).
    Gradients, as in Choi et al. 2018 (PACT), eq. (3): dy/dx = 1 inside [low, high], else 0;
    d/d alpha = sum of the gradient where x >= alpha; likewise d/d low where x <= low.

    There is one range per bit-width, [2, 4, 8]: a range that is good at 8 bits is far too wide at
    2, and a search that switches bits must not have to calibrate anew.

    A quantizer that was not calibrated takes its ranges from the first batch it is trained on;
    until then inference passes it unchanged.

    Args:
      signed: the tensor may hold negative values.
      maximum: upper limit of alpha (6.0 after ReLU6), or None.
      trainable: the range is learned.
    """

    def __init__(self, signed: bool, maximum: float | None = None, trainable: bool = True):
        self.signed = signed
        self.maximum = maximum
        self.trainable = trainable

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, tf.Variable]:
        def add_range(suffix: str, value: float, constraint: Any) -> tf.Variable:
            return layer.add_weight(
                f"{name}_{suffix}",
                shape=(len(BIT_WIDTHS),),
                initializer=tf_keras.initializers.Constant(value),
                constraint=constraint,
                trainable=self.trainable,
            )

        variables = {"bits": _add_bits(layer, name)}
        variables["alpha"] = add_range("alpha", self.maximum or 6.0, RangeConstraint(self.maximum))
        if self.signed:
            variables["low"] = add_range("low", -6.0, NegativeConstraint())
        variables["calibrated"] = layer.add_weight(
            f"{name}_calibrated",
            shape=(),
            dtype=tf.int32,
            initializer=tf_keras.initializers.Constant(0),
            trainable=False,
        )
        return variables

    def __call__(self, inputs: Any, training: Any, weights: dict, **kwargs: Any) -> tf.Tensor:
        calibrated = tf.convert_to_tensor(weights["calibrated"]) > 0
        if training:
            ready = tf.cond(
                calibrated, tf.no_op, lambda: tf.group(*self._calibrate_on(inputs, weights))
            )
            with tf.control_dependencies([ready] if ready is not None else []):
                return self._fake_quant(inputs, weights)
        return tf.cond(calibrated, lambda: self._fake_quant(inputs, weights), lambda: inputs)

    def _fake_quant(self, x: tf.Tensor, weights: dict) -> tf.Tensor:
        bits = tf.convert_to_tensor(weights["bits"])
        selected = tf.cast(tf.equal(bits, BIT_WIDTHS), tf.float32)
        high = tf.reduce_sum(weights["alpha"] * selected)
        low = tf.reduce_sum(weights["low"] * selected) if self.signed else tf.zeros(())
        return _fake_quant_range(x, low, high, bits)

    def _calibrate_on(self, x: tf.Tensor, weights: dict) -> list[tf.Operation]:
        """Assigns ranges from one batch."""
        flat = tf.reshape(x, [-1])
        # Every k-th value: a sample large enough for a range, cheap enough for any batch.
        step = tf.maximum(tf.size(flat) // 16384, 1)
        lows, highs = mse_ranges(
            flat[::step], tf.reduce_min(flat), tf.reduce_max(flat), self.signed, self.maximum
        )
        assigned = [weights["alpha"].assign(highs), weights["calibrated"].assign(1)]
        if self.signed:
            assigned.append(weights["low"].assign(lows))
        return assigned

    def set_ranges(self, weights: dict, lows: Any, highs: Any) -> None:
        """Assigns calibrated ranges, one per bit-width in BIT_WIDTHS."""
        weights["alpha"].assign(highs)
        if self.signed:
            weights["low"].assign(lows)
        weights["calibrated"].assign(1)

    def quant_params(self, weights: dict, name: str) -> QuantParams:
        """The integer tensor's scale, zero point and bits at the bits now set.

        Raises CalibrationError naming the tensor where no range is known, or one is not finite.
        """
        if not int(weights["calibrated"]):
            raise CalibrationError(
                f"{name}: the range of this activation is not known; pass calibration_data to "
                "quantize_model, call tfmix.calibrate, or train the model with fit"
            )
        bits = int(weights["bits"])
        index = BIT_WIDTHS.index(bits)
        high = weights["alpha"][index]
        low = weights["low"][index] if self.signed else tf.zeros(())
        if not np.isfinite([low, high]).all():
            raise CalibrationError(
                f"{name}: the range [{float(low)}, {float(high)}] of this activation is not "
                "finite; training has diverged"
            )
        scale, zero_point = affine(low, high, tf.constant(float(max_level(bits))))
        return QuantParams(float(scale), int(zero_point), bits)

    def get_config(self) -> dict[str, Any]:
        return {"signed": self.signed, "maximum": self.maximum, "trainable": self.trainable}


@tf.custom_gradient
def _fake_quant_range(x: tf.Tensor, low: tf.Tensor, high: tf.Tensor, bits: tf.Tensor):
    """Fake-quant of x to `bits` bits over [low, high], by TensorFlow's fused 8-bit op.

    The op's bit-width is fixed in the graph, its range is not: an 8-bit op over a range of
    255 * scale has the grid of any narrower quantizer of that scale, and clipping x to the top of
    the narrow range first makes it that quantizer. The gradient op only looks at the true range.
    """
    levels = _levels(bits)
    scale, zero_point = affine(low, high, levels)
    bottom = -zero_point * scale
    top = bottom + levels * scale
    y = tf.quantization.fake_quant_with_min_max_vars(
        tf.minimum(x, top), bottom, bottom + _FUSED_LEVELS * scale, num_bits=_FUSED_BITS
    )

    def gradient(dy):
        dx, d_low, d_high = tf.quantization.fake_quant_with_min_max_vars_gradient(
            dy, x, bottom * _JUST_INSIDE, top * _JUST_INSIDE, num_bits=_FUSED_BITS
        )
        return dx, d_low, d_high, None

    return y, gradient


@tf.function(reduce_retracing=True)
def mse_ranges(
    samples: tf.Tensor, low: tf.Tensor, high: tf.Tensor, signed: bool, maximum: float | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Ranges of least mean squared quantization error, one per bit-width in BIT_WIDTHS.

    samples: float32 [n]; low, high: least and greatest value of the whole tensor, float32. The
    candidates are 64 fractions of [low, high]. Returns (lows [3], highs [3]); lows are zero if not
    signed.
    """
    low = tf.minimum(low, 0.0) if signed else tf.zeros(())
    high = tf.maximum(high, 0.0)
    # A tensor that is zero throughout has no range; any does.
    high = tf.where(high - low < _MIN_RANGE, 1.0, tf.maximum(high, _MIN_RANGE))
    if maximum is not None:
        high = tf.minimum(high, maximum)
    lows, highs = [], []
    for bits in BIT_WIDTHS:
        levels = tf.constant(float(max_level(bits)))

        def error(ratio, levels=levels):
            scale, zero_point = affine(low * ratio, high * ratio, levels)
            q = tf.clip_by_value(tf.floor(samples / scale + 0.5) + zero_point, 0.0, levels)
            return tf.reduce_mean(tf.square((q - zero_point) * scale - samples))

        errors = tf.map_fn(error, tf.constant(_RATIOS), parallel_iterations=1)
        best = tf.gather(_RATIOS, tf.argmin(errors))
        lows.append(low * best)
        highs.append(tf.maximum(high * best, _MIN_RANGE))
    return tf.stack(lows), tf.stack(highs)
