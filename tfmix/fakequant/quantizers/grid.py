"""The grid all quantizers share: scale * (q - zero_point), q in [0, 2^bits - 1], zero on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfmix.ir.quant import BIT_WIDTHS, max_level

#: Set as the bits of a tensor, it passes unquantized: for searches, which look at one side alone.
FLOAT_BITS = 32

#: 2^bits - 1 of each bit-width in BIT_WIDTHS.
ALL_LEVELS = np.array([max_level(bits) for bits in BIT_WIDTHS], np.float32)

MIN_SCALE = 1e-30  # below, a float32 scale is not safely invertible: such a range counts as zero
MIN_RANGE = 1e-6  # least range that training may reach
_FUSED_BITS = 8
_FUSED_LEVELS = float(max_level(_FUSED_BITS))
_DOT_COLUMNS = 16


def levels_of(bits: Any) -> tf.Tensor:
    """2^bits - 1 as float32; for FLOAT_BITS any finite number, which no one looks at."""
    bits = tf.minimum(bits, BIT_WIDTHS[-1])
    return tf.cast(tf.bitwise.left_shift(1, bits) - 1, tf.float32)


def is_float(bits: Any) -> tf.Tensor:
    """Whether a tensor of these bits passes unquantized."""
    return tf.convert_to_tensor(bits) > BIT_WIDTHS[-1]


def affine(low: tf.Tensor, high: tf.Tensor, levels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Eq. (1): (scale, zero_point) of the range [low, high], low <= 0 <= high, any shape.

    The zero point is rounded into [0, levels], so that zero is exact. An empty range has scale 1.
    """
    scale = (high - low) / levels
    scale = tf.where(scale < MIN_SCALE, tf.ones_like(scale), scale)
    return scale, nearest(-low / scale, levels)


def nearest(x: tf.Tensor, levels: tf.Tensor) -> tf.Tensor:
    """The level in [0, levels] nearest to x."""
    return tf.clip_by_value(tf.floor(x + 0.5), 0.0, levels)


def quantize(x: tf.Tensor, scale: tf.Tensor, zero_point: tf.Tensor, levels: tf.Tensor) -> tf.Tensor:
    """q = clip(floor(x / scale + 0.5) + zero_point, 0, levels), integers as float32."""
    return tf.clip_by_value(tf.floor(x / scale + 0.5) + zero_point, 0.0, levels)


def at_bits(values: Any, bits: Any) -> tf.Tensor:
    """The entry for `bits` of values [3, ...], one per bit-width in BIT_WIDTHS."""
    values = tf.convert_to_tensor(values)
    selected = tf.cast(tf.equal(bits, BIT_WIDTHS), values.dtype)
    return tf.tensordot(selected, values, 1)


def fused_fake_quant(
    x: tf.Tensor, scale: tf.Tensor, zero_point: tf.Tensor, levels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(y, bottom, top): fake-quant of x by TensorFlow's fused 8-bit op, and the ends of its grid.

    The op's bit-width is fixed in the graph, its range is not: an 8-bit op over a range of
    255 * scale has the grid of any narrower quantizer of that scale, and clipping x to the top of
    the narrow range first makes it that quantizer.
    """
    bottom = -zero_point * scale
    top = bottom + levels * scale
    y = tf.quantization.fake_quant_with_min_max_vars(
        tf.minimum(x, top), bottom, bottom + _FUSED_LEVELS * scale, num_bits=_FUSED_BITS
    )
    return y, bottom, top


def fused_gradient(
    dy: tf.Tensor, x: tf.Tensor, bottom: tf.Tensor, top: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(dx, d_low, d_high): dy where bottom <= x <= top, its sum below, its sum above."""
    # Of the range the op rounds the ends to its own grid, on which those of any of ours lie.
    return tf.quantization.fake_quant_with_min_max_vars_gradient(
        dy, x, bottom, top, num_bits=_FUSED_BITS
    )


def dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """sum(a * b). Matrix products run faster on a CPU than this sum does, even if only the trace
    of a [16, 16] result is wanted."""
    if a.shape[1:].is_fully_defined() and np.prod(a.shape[1:]) % _DOT_COLUMNS == 0:
        rows = [tf.reshape(t, [-1, _DOT_COLUMNS]) for t in (a, b)]
        return tf.linalg.trace(tf.matmul(*rows, transpose_a=True))
    return tf.reduce_sum(a * b)
