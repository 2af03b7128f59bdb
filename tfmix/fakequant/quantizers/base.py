"""What weight quantizers, and what activation quantizers, have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tfmix.errors import CalibrationError
from tfmix.fakequant._tfmot import Quantizer
from tfmix.fakequant.quantizers import grid
from tfmix.fakequant.quantizers.ranges import mse_ranges
from tfmix.ir.quant import BIT_WIDTHS, QuantParams, check_bits

Variables = dict[str, tf.Variable]


def _add_integer(layer: tf_keras.layers.Layer, name: str, value: int) -> tf.Variable:
    return layer.add_weight(
        name,
        shape=(),
        dtype=tf.int32,
        initializer=tf_keras.initializers.Constant(value),
        trainable=False,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


class WeightQuantizer(Quantizer):
    """Asymmetric uniform weights: y = scale * (q - zero_point), integer q in [0, 2^bits - 1].

    A subclass says in `grid_of` which scale and zero point, and in `fake_quant` which gradient.

    Args:
      per_channel: one scale and zero point per output channel, else one per layer.
      depthwise: the kernel is [rows, columns, in, multiplier]: its channels are the last two axes.
    """

    def __init__(self, per_channel: bool = True, depthwise: bool = False):
        self.per_channel = per_channel
        self.depthwise = depthwise

    def build(self, tensor_shape: Any, name: str, layer: Any) -> Variables:
        return {"bits": _add_integer(layer, f"{name}_bits", 8)}

    def __call__(self, inputs: Any, training: Any, weights: Variables, **kwargs: Any) -> tf.Tensor:
        w = tf.convert_to_tensor(inputs)
        # A choice by element: kernels are small, and branches are slow to trace.
        return tf.where(grid.is_float(weights["bits"]), w, self.fake_quant(w, weights))

    def quantize(self, w: Any, variables: Variables) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """(q, scale, zero_point) of a float32 kernel at the bits now set, all float32.

        q has the kernel's shape and holds integers; scale and zero_point broadcast against it. The
        integer network stores this very q.
        """
        w = tf.convert_to_tensor(w)
        scale, zero_point = self.grid_of(w, variables)
        levels = grid.levels_of(variables["bits"])
        return grid.quantize(w, scale, zero_point, levels), scale, zero_point

    @abstractmethod
    def grid_of(self, w: tf.Tensor, variables: Variables) -> tuple[tf.Tensor, tf.Tensor]:
        """(scale, zero_point) at the bits now set; both broadcast against the kernel."""

    @abstractmethod
    def fake_quant(self, w: tf.Tensor, variables: Variables) -> tf.Tensor:
        """scale * (q - zero_point) with the quantizer's gradient."""

    def init_ranges(self, variables: Variables, w: Any) -> None:
        """Sets whatever this quantizer holds of a range from the kernel w, for all bit-widths."""

    def shared_axes(self, rank: int) -> list[int]:
        """The kernel's axes along which scale and zero point are the same."""
        own = 0 if not self.per_channel else 2 if self.depthwise else 1
        return list(range(rank - own))

    def get_config(self) -> dict[str, Any]:
        return {"per_channel": self.per_channel, "depthwise": self.depthwise}


class RangeQuantizer(Quantizer):
    """Activations over a range of their own for each bit-width, [2, 4, 8].

    A range that is good at 8 bits is far too wide at 2, and a search that switches bits must not
    have to calibrate anew. A quantizer that was not calibrated takes its ranges from the first
    batch it is trained on; until then inference passes it unchanged.

    A subclass says how a range is held in variables: `ranged_variables`, `values_of`, `ranges`; and
    what is computed: `grid_of`, `fake_quant`.

    Args:
      signed: the tensor may hold negative values.
      maximum: upper limit of the range (6.0 after ReLU6), or None.
      trainable: the range is learned.
      fixed: the range is [0, maximum] from the start, and is neither calibrated nor learned.
    """

    def __init__(
        self,
        signed: bool,
        maximum: float | None = None,
        trainable: bool = True,
        fixed: bool = False,
    ):
        self.signed = signed
        self.maximum = maximum
        self.trainable = trainable and not fixed
        self.fixed = fixed

    @abstractmethod
    def ranged_variables(self) -> dict[str, tuple[Any, Any]]:
        """Name -> (values before calibration [3], constraint), of all variables of ranges."""

    @abstractmethod
    def values_of(self, lows: Any, highs: Any) -> dict[str, tf.Tensor]:
        """What the variables of `ranged_variables` hold for the ranges [lows, highs], each [3]."""

    @abstractmethod
    def ranges(self, variables: Variables) -> tuple[np.ndarray, np.ndarray]:
        """(lows [3], highs [3]), one per bit-width in BIT_WIDTHS."""

    @abstractmethod
    def grid_of(self, variables: Variables) -> tuple[tf.Tensor, tf.Tensor]:
        """(scale, zero_point) at the bits now set."""

    @abstractmethod
    def fake_quant(self, x: tf.Tensor, variables: Variables) -> tf.Tensor:
        """scale * (q - zero_point) of float32 x, with the quantizer's gradient."""

    def build(self, tensor_shape: Any, name: str, layer: Any) -> Variables:
        variables = {"bits": _add_integer(layer, f"{name}_bits", 8)}
        for suffix, (value, constraint) in self.ranged_variables().items():
            variables[suffix] = layer.add_weight(
                f"{name}_{suffix}",
                shape=(len(BIT_WIDTHS),),
                dtype=tf.float32,
                initializer=tf_keras.initializers.Constant(value),
                constraint=constraint,
                trainable=self.trainable,
                aggregation=tf.VariableAggregation.MEAN,
            )
        variables["calibrated"] = _add_integer(layer, f"{name}_calibrated", int(self.fixed))
        return variables

    def __call__(self, inputs: Any, training: Any, weights: Variables, **kwargs: Any) -> tf.Tensor:
        x = tf.cast(inputs, tf.float32)
        passes = grid.is_float(weights["bits"])
        if training and not self.fixed:
            assigned = self._calibrate_on(x, weights)
        else:
            assigned = []
            passes |= tf.equal(weights["calibrated"], 0)
        with tf.control_dependencies(assigned):
            y = tf.cond(passes, lambda: tf.identity(x), lambda: self.fake_quant(x, weights))
        return tf.cast(y, inputs.dtype)

    def _calibrate_on(self, x: tf.Tensor, variables: Variables) -> list[Any]:
        """Assigns ranges from one batch, where none are known yet."""

        def found() -> dict[str, tf.Tensor]:
            flat = tf.reshape(x, [-1])
            # Every k-th value: a sample large enough for a range, cheap enough for any batch.
            step = tf.maximum(tf.size(flat) // 16384, 1)
            return self.values_of(
                *mse_ranges(
                    flat[::step],
                    tf.reduce_min(flat),
                    tf.reduce_max(flat),
                    self.signed,
                    self.maximum,
                )
            )

        def known() -> dict[str, tf.Tensor]:
            return {name: tf.identity(variables[name]) for name in self.ranged_variables()}

        # Assigned in any case: under a distribution strategy that cannot happen inside a branch.
        values = tf.cond(tf.convert_to_tensor(variables["calibrated"]) > 0, known, found)
        return self._assign(variables, values)

    def set_ranges(self, variables: Variables, lows: Any, highs: Any) -> None:
        """Assigns calibrated ranges, one per bit-width in BIT_WIDTHS."""
        lows, highs = (tf.convert_to_tensor(limit, tf.float32) for limit in (lows, highs))
        self._assign(variables, self.values_of(lows, highs))

    def _assign(self, variables: Variables, values: dict[str, tf.Tensor]) -> list[Any]:
        assigned = [variables[name].assign(value) for name, value in values.items()]
        return [*assigned, variables["calibrated"].assign(1)]

    def quant_params(self, variables: Variables, name: str) -> QuantParams:
        """The integer tensor's scale, zero point and bits at the bits now set.

        Raises CalibrationError naming the tensor where no range is known, or one is not finite;
        TfmixError where it is not quantized now.
        """
        if not int(variables["calibrated"].numpy()):
            raise CalibrationError(
                f"{name}: the range of this activation is not known; pass calibration_data to "
                "quantize_model, call tfmix.calibrate, or train the model with fit"
            )
        bits = check_bits(int(variables["bits"].numpy()), name)
        low, high = (limit[BIT_WIDTHS.index(bits)] for limit in self.ranges(variables))
        if not np.isfinite([low, high]).all():
            raise CalibrationError(
                f"{name}: the range [{float(low)}, {float(high)}] of this activation is not "
                "finite; training has diverged"
            )
        scale, zero_point = self.grid_of(variables)
        return QuantParams(float(scale), int(zero_point), bits)

    def get_config(self) -> dict[str, Any]:
        return {
            "signed": self.signed,
            "maximum": self.maximum,
            "trainable": self.trainable,
            "fixed": self.fixed,
        }
