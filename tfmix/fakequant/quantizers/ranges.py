"""Ranges and grids of least mean squared error."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfmix.fakequant.quantizers import grid
from tfmix.ir.quant import BIT_WIDTHS, max_level, round_half_up

#: Candidates for a range: fractions of the full one.
_RATIOS = np.arange(1, 65, dtype=np.float32) / 64
#: Bits -> candidates for the grid of weights: zero points, as offsets from that of the full range,
#: and steps, as fractions of the one that covers all. The more bits, the less there is to gain.
_CANDIDATES = {
    2: (range(-2, 3), np.linspace(1 / 16, 1, 16, dtype=np.float32)),
    4: (range(-2, 3), np.linspace(1 / 4, 1, 16, dtype=np.float32)),
    8: (range(-1, 2), np.linspace(3 / 4, 1, 12, dtype=np.float32)),
}
#: Rounds of least squares after that.
_REFINEMENTS = 4


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
    high = tf.where(high - low < grid.MIN_RANGE, 1.0, tf.maximum(high, grid.MIN_RANGE))
    if maximum is not None:
        high = tf.minimum(high, maximum)
    lows, highs = [], []
    for bits in BIT_WIDTHS:
        levels = tf.constant(float(max_level(bits)))

        def error(ratio, levels=levels):
            scale, zero_point = grid.affine(low * ratio, high * ratio, levels)
            q = grid.quantize(samples, scale, zero_point, levels)
            return tf.reduce_mean(tf.square((q - zero_point) * scale - samples))

        errors = tf.map_fn(error, tf.constant(_RATIOS), parallel_iterations=1)
        best = tf.gather(_RATIOS, tf.argmin(errors))
        lows.append(low * best)
        highs.append(tf.maximum(high * best, grid.MIN_RANGE))
    return tf.stack(lows), tf.stack(highs)


def least_error_grid(w: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Step and integer zero point of least squared error for each row of weights.

    w: float32 [rows, values]. Returns (step [rows] > 0, zero_point [rows] in [0, 2^bits - 1]), both
    float32. Tried are the grid of the full range, and several steps at several zero points; the
    best is refined by least squares, with the levels fixed: step = sum(w * k) / sum(k * k).
    """
    # Weights near the end of float32's range have squares beyond it; then the full range stays.
    with np.errstate(over="ignore", invalid="ignore"):
        return _least_error_grid(w, bits)


def _least_error_grid(w: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    levels = np.float32(max_level(bits))
    offsets, ratios = _CANDIDATES[bits]
    low, high = np.minimum(w.min(axis=1), 0), np.maximum(w.max(axis=1), 0)
    step, zero_point = (part.numpy() for part in grid.affine(low, high, levels))

    def rounded(step: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
        z = zero_point[:, None]
        return np.clip(round_half_up(w / step[:, None]), -z, levels - z)

    def error(step: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
        return np.square(rounded(step, zero_point) * step[:, None] - w).sum(axis=1)

    least = error(step, zero_point)

    def keep_better(new_step: np.ndarray, new_zero_point: np.ndarray) -> None:
        new_step = np.where(new_step < grid.MIN_SCALE, np.float32(1), new_step)
        new_error = error(new_step, new_zero_point)
        better = new_error < least
        least[better] = new_error[better]
        step[better], zero_point[better] = new_step[better], new_zero_point[better]

    centre = zero_point.copy()
    for offset in offsets:
        z = np.clip(centre + np.float32(offset), 0, levels)
        below = np.divide(-low, z, out=np.zeros_like(low), where=z > 0)
        above = np.divide(high, levels - z, out=np.zeros_like(high), where=z < levels)
        for ratio in ratios:
            keep_better(np.maximum(below, above) * ratio, z)
    for _ in range(_REFINEMENTS):
        k = rounded(step, zero_point)
        products, squares = (w * k).sum(axis=1), np.square(k).sum(axis=1)
        fitted = np.divide(products, squares, out=step.copy(), where=squares > 0)
        keep_better(fitted, zero_point)
    return step, zero_point
