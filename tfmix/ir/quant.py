"""Affine quantization: bit-widths, rounding, packed sizes, `QuantParams`.

This module is the only definition of the rounding rule, of the legal bit-widths and of how many
bytes a packed tensor takes. docs/arithmetic.md derives them; everything else imports them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tfmix.errors import TfmixError

#: Legal bit-widths of weights and activations, ascending.
BIT_WIDTHS = (2, 4, 8)


def check_bits(bits: int, what: str) -> int:
    """Returns `bits` as an int, or raises TfmixError naming `what`."""
    if isinstance(bits, bool) or bits not in BIT_WIDTHS:
        raise TfmixError(f"{what}: bit-width {bits!r} is not one of {BIT_WIDTHS}")
    return int(bits)


def max_level(bits: int) -> int:
    """Largest quantized value of a `bits`-wide unsigned tensor: 2^bits - 1."""
    return (1 << bits) - 1


def packed_size(elements: int, bits: int) -> int:
    """Bytes of `elements` values of `bits` bits each, packed without gaps, rounded up."""
    return (elements * bits + 7) // 8


def round_half_up(x: np.ndarray | float) -> np.ndarray:
    """The one rounding rule: floor(x + 0.5), ties towards plus infinity.

    It is what an add of one half and an arithmetic shift right compute on integers, and what
    TensorFlow's fake-quant ops compute in float.
    """
    return np.floor(x + np.asarray(x).dtype.type(0.5))


@dataclass(frozen=True)
class QuantParams:
    """real = scale * (q - zero_point), with q in [0, 2^bits - 1].

    Eq. (1) of Rusci et al. 2020: scale = (T_H - T_L) / (2^bits - 1).
    """

    scale: float
    zero_point: int
    bits: int

    def __post_init__(self) -> None:
        check_bits(self.bits, "QuantParams")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise TfmixError(f"QuantParams: scale {self.scale!r} is not a positive finite number")
        if not 0 <= self.zero_point <= max_level(self.bits):
            raise TfmixError(
                f"QuantParams: zero_point {self.zero_point} is not in [0, {max_level(self.bits)}]"
            )

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """float array -> uint8 array of the same shape, values in [0, 2^bits - 1]."""
        x = np.asarray(x, np.float32)
        q = round_half_up(x / np.float32(self.scale)) + np.float32(self.zero_point)
        return np.clip(q, 0, max_level(self.bits)).astype(np.uint8)

    def dequantize(self, q: np.ndarray) -> np.ndarray:
        """uint8 array -> float32 array of the same shape."""
        return (np.asarray(q, np.float32) - self.zero_point) * np.float32(self.scale)
