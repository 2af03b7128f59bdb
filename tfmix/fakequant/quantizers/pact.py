"""Activations with a learned upper limit, as the papers have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tfmix.fakequant.quantizers import grid
from tfmix.fakequant.quantizers.base import RangeQuantizer, Variables
from tfmix.ir.quant import BIT_WIDTHS

#: The fused gradient counts what lies beyond a limit, PACT also what lies on it, as all that ReLU6
#: cuts off does: so it is given limits that are nearer to zero by a few ulp.
_JUST_INSIDE = 1 - 2.0**-20


@tf_keras.utils.register_keras_serializable(package="tfmix")
class RangeConstraint(tf_keras.constraints.Constraint):
    """Keeps an upper range limit in [1e-6, maximum]."""

    def __init__(self, maximum: float | None = None):
        self.maximum = maximum

    def __call__(self, w: tf.Tensor) -> tf.Tensor:
        w = tf.maximum(w, grid.MIN_RANGE)
        return w if self.maximum is None else tf.minimum(w, self.maximum)

    def get_config(self) -> dict[str, Any]:
        return {"maximum": self.maximum}


@tf_keras.utils.register_keras_serializable(package="tfmix")
class NegativeConstraint(tf_keras.constraints.Constraint):
    """Keeps a lower range limit at or below zero."""

    def __call__(self, w: tf.Tensor) -> tf.Tensor:
        return tf.minimum(w, 0.0)


@tf_keras.utils.register_keras_serializable(package="tfmix")
class ActivationQuantizer(RangeQuantizer):
    """PACT activations, and their asymmetric form for tensors that hold negative values.

    y = scale * (floor(clip(x, low, high) / scale + 0.5)), with high = alpha and low = 0 for an
    unsigned tensor; for a signed one [low, high] is moved so that zero is exact (`affine`).
    Gradients, as in Choi et al. 2018 (PACT), eq. (3): dy/dx = 1 inside [low, high], else 0;
    d/d alpha = sum of the gradient where x >= alpha; likewise d/d low where x <= low.
    """

    def ranged_variables(self) -> dict[str, tuple[Any, Any]]:
        variables = {"alpha": (self.maximum or 6.0, RangeConstraint(self.maximum))}
        return variables | ({"low": (-6.0, NegativeConstraint())} if self.signed else {})

    def values_of(self, lows: Any, highs: Any) -> dict[str, tf.Tensor]:
        return {"alpha": highs} | ({"low": lows} if self.signed else {})

    def ranges(self, variables: Variables) -> tuple[np.ndarray, np.ndarray]:
        lows = variables["low"].numpy() if self.signed else np.zeros(len(BIT_WIDTHS), np.float32)
        return lows, variables["alpha"].numpy()

    def _range(self, variables: Variables) -> tuple[tf.Tensor, tf.Tensor]:
        bits = variables["bits"]
        low = grid.at_bits(variables["low"], bits) if self.signed else tf.zeros(())
        return low, grid.at_bits(variables["alpha"], bits)

    def grid_of(self, variables: Variables) -> tuple[tf.Tensor, tf.Tensor]:
        return grid.affine(*self._range(variables), grid.levels_of(variables["bits"]))

    def fake_quant(self, x: tf.Tensor, variables: Variables) -> tf.Tensor:
        return _pact(x, *self._range(variables), grid.levels_of(variables["bits"]))


@tf.custom_gradient
def _pact(x: tf.Tensor, low: tf.Tensor, high: tf.Tensor, levels: tf.Tensor) -> Any:
    y, bottom, top = grid.fused_fake_quant(x, *grid.affine(low, high, levels), levels)

    def gradient(dy):
        return *grid.fused_gradient(dy, x, bottom * _JUST_INSIDE, top * _JUST_INSIDE), None

    return y, gradient
