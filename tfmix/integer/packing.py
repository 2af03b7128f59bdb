"""The one packing format: b-bit values in a byte stream, and the constants block of a layer.

Element i of a packed tensor occupies bits [(i * b) mod 8, (i * b) mod 8 + b) of byte (i * b) div 8:
little-endian, no gaps between rows, pixels or channels; the unused high bits of the last byte are
zero. docs/format.md shows it byte by byte; kernels/src/packing.h is its twin in C++.
"""

from __future__ import annotations

import numpy as np

from tfmix.errors import FormatError
from tfmix.integer.model import IntegerWeights
from tfmix.integer.weight_order import LogicalOrder, Tiles
from tfmix.ir.quant import check_bits, max_level, packed_size


def pack(values: np.ndarray, bits: int) -> np.ndarray:
    """uint8 values in [0, 2^bits - 1], any shape, row-major -> uint8 [packed_size]."""
    check_bits(bits, "pack")
    flat = np.ascontiguousarray(values, np.uint8).reshape(-1)
    if flat.size and int(flat.max()) > max_level(bits):
        raise ValueError(f"value {int(flat.max())} does not fit in {bits} bits")
    if bits == 8:
        return flat.copy()
    per_byte = 8 // bits
    padded = np.zeros(packed_size(flat.size, bits) * per_byte, np.uint8)
    padded[: flat.size] = flat
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    return np.bitwise_or.reduce(padded.reshape(-1, per_byte) << shifts, axis=1).astype(np.uint8)


def unpack(data: np.ndarray, bits: int, elements: int) -> np.ndarray:
    """Inverse of `pack`: uint8 [packed_size] -> uint8 [elements]."""
    check_bits(bits, "unpack")
    data = np.asarray(data, np.uint8).reshape(-1)
    if data.size != packed_size(elements, bits):
        raise ValueError(
            f"{elements} values of {bits} bits take {packed_size(elements, bits)} bytes, "
            f"not {data.size}"
        )
    if bits == 8:
        return data.copy()
    per_byte = 8 // bits
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    return ((data[:, None] >> shifts) & np.uint8(max_level(bits))).reshape(-1)[:elements]


def constants_size(
    stored: int, bits: int, channels: int, multipliers: int, zero_points: int
) -> int:
    """Bytes of the constants block of a layer (see `constants_block`) with `stored` weights."""
    return 4 * channels + 4 * multipliers + packed_size(stored, bits) + zero_points


def constants_block(weights: IntegerWeights, order: LogicalOrder | Tiles) -> bytes:
    """bias int32[oc] | multiplier int32[oc or 1] | packed weights | zero points uint8[oc or 1].

    The 4-byte arrays come first, so all parts are aligned once the block is.
    """
    return b"".join(
        (
            weights.bias.astype("<i4").tobytes(),
            weights.multiplier.astype("<i4").tobytes(),
            pack(order.arrange(weights.values), weights.bits).tobytes(),
            weights.zero_point.astype(np.uint8).tobytes(),
        )
    )


def parse_constants_block(
    block: bytes,
    order: LogicalOrder | Tiles,
    *,
    shape: tuple[int, ...],
    bits: int,
    channels: int,
    multipliers: int,
    per_channel: bool,
    left_shift: int,
) -> IntegerWeights:
    """Inverse of `constants_block`. `shape` is that of IntegerWeights.values."""
    stored = order.stored(shape)
    zero_points = channels if per_channel else 1
    expected = constants_size(stored, bits, channels, multipliers, zero_points)
    if len(block) != expected:
        raise FormatError(f"constants block of {len(block)} bytes, {expected} expected")
    bias_end = 4 * channels
    multiplier_end = bias_end + 4 * multipliers
    weights_end = multiplier_end + packed_size(stored, bits)
    raw = np.frombuffer(block, np.uint8)
    return IntegerWeights(
        values=order.restore(unpack(raw[multiplier_end:weights_end], bits, stored), shape),
        bits=bits,
        per_channel=per_channel,
        zero_point=raw[weights_end:].copy(),
        bias=raw[:bias_end].view("<i4").astype(np.int32),
        multiplier=raw[bias_end:multiplier_end].view("<i4").astype(np.int32),
        left_shift=left_shift,
    )
