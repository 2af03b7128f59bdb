"""Packing and constants blocks: round trips, golden bytes, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from golden_cases import Case, cases
from integer_models import random_weights

from tfmix.errors import FormatError, TfmixError
from tfmix.integer.model import IntegerWeights, Kernel
from tfmix.integer.packing import (
    constants_block,
    constants_size,
    pack,
    parse_constants_block,
    unpack,
)
from tfmix.integer.weight_order import LogicalOrder, Tiles, weight_order
from tfmix.ir.quant import BIT_WIDTHS, max_level, packed_size


@pytest.mark.parametrize("bits", BIT_WIDTHS)
@pytest.mark.parametrize("elements", [1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 1001])
def test_unpack_inverts_pack(bits, elements):
    values = np.random.default_rng(elements).integers(0, max_level(bits) + 1, elements, np.uint8)
    data = pack(values, bits)
    assert data.dtype == np.uint8 and data.shape == (packed_size(elements, bits),)
    np.testing.assert_array_equal(unpack(data, bits, elements), values)


@pytest.mark.parametrize("case", cases("pack"), ids=str)
def test_golden_packing(case: Case):
    bits, values = int(case.words[1]), np.array(case.ints("values"), np.uint8)
    assert pack(values, bits).tobytes() == case.data
    np.testing.assert_array_equal(
        unpack(np.frombuffer(case.data, np.uint8), bits, len(values)), values
    )


@pytest.mark.parametrize("bits", [2, 4])
def test_unused_high_bits_are_zero(bits):
    data = pack(np.full(5, max_level(bits), np.uint8), bits)
    assert data[-1] == max_level(bits)


def test_any_shape_packs_row_major():
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(pack(values.T, 4), pack(values.T.reshape(-1).copy(), 4))


def test_pack_refuses_values_that_do_not_fit():
    with pytest.raises(ValueError, match="value 4 does not fit in 2 bits"):
        pack(np.array([0, 4], np.uint8), 2)


@pytest.mark.parametrize("bits", [0, 1, 3, 16, True])
def test_bits_must_be_legal(bits):
    with pytest.raises(TfmixError, match="bit-width"):
        pack(np.zeros(1, np.uint8), bits)


def test_unpack_refuses_the_wrong_number_of_bytes():
    with pytest.raises(ValueError, match="5 values of 2 bits take 2 bytes, not 3"):
        unpack(np.zeros(3, np.uint8), 2, 5)


# -- constants blocks ---------------------------------------------------------------------------


def _parse(block: bytes, order: LogicalOrder | Tiles, weights: IntegerWeights) -> IntegerWeights:
    return parse_constants_block(
        block,
        order,
        shape=weights.values.shape,
        bits=weights.bits,
        channels=len(weights.bias),
        multipliers=len(weights.multiplier),
        per_channel=weights.per_channel,
        left_shift=weights.left_shift,
    )


#: Kernel -> shapes of IntegerWeights.values, the channels first but in depthwise_conv2d.
_SHAPES = {
    Kernel.CONV2D: [(1, 1, 1, 1), (3, 2, 3, 5), (8, 1, 1, 16)],
    Kernel.DEPTHWISE_CONV2D: [(1, 1, 1), (2, 3, 5)],
    Kernel.FULLY_CONNECTED: [(1, 1), (5, 7), (4, 8), (7, 33)],
}


@pytest.mark.parametrize("input_bits", BIT_WIDTHS)
@pytest.mark.parametrize("bits", BIT_WIDTHS)
@pytest.mark.parametrize(("kernel", "shape"), [(k, s) for k in _SHAPES for s in _SHAPES[k]])
def test_constants_block_round_trip(kernel, shape, bits, input_bits):
    channels = shape[-1 if kernel is Kernel.DEPTHWISE_CONV2D else 0]
    weights = random_weights(np.random.default_rng(bits), shape, channels, bits=bits)
    order = weight_order(kernel, input_bits, bits)
    block = constants_block(weights, order)
    assert len(block) == constants_size(
        order.stored(shape), bits, channels, len(weights.multiplier), len(weights.zero_point)
    )
    assert _parse(block, order, weights) == weights


@pytest.mark.parametrize("input_bits", BIT_WIDTHS)
@pytest.mark.parametrize("bits", BIT_WIDTHS)
def test_padding_is_zero(bits, input_bits):
    order = weight_order(Kernel.CONV2D, input_bits, bits)
    stored = order.arrange(np.ones((3, 1, 1, 5), np.uint8))
    assert stored.sum() == 15 and stored.size == order.stored((3, 1, 1, 5))
    assert stored.size * bits % 32 == 0  # whole words


@pytest.mark.parametrize("case", cases("constants"), ids=str)
def test_golden_constants(case: Case):
    kernel, input_bits = Kernel(case.words[1]), case.ints("input")[0]
    zero_point, bias = case.ints("zero_point"), case.ints("bias")
    values = np.array(case.ints("weights"), np.uint8)
    depthwise = kernel is Kernel.DEPTHWISE_CONV2D
    weights = IntegerWeights(
        values=values.reshape((-1, 1, len(bias)) if depthwise else (len(bias), -1)),
        bits=case.ints("bits")[0],
        per_channel=len(zero_point) > 1,
        zero_point=np.array(zero_point, np.uint8),
        bias=np.array(bias, np.int32),
        multiplier=np.array(case.ints("multiplier"), np.int32),
        left_shift=0,
    )
    order = weight_order(kernel, input_bits, weights.bits)
    assert constants_block(weights, order) == case.data
    assert _parse(case.data, order, weights) == weights


@pytest.mark.parametrize("change", [-1, 1])
def test_constants_block_of_the_wrong_size(change):
    weights = random_weights(np.random.default_rng(0), (3, 4), 3)
    order = weight_order(Kernel.FULLY_CONNECTED, 8, weights.bits)
    block = constants_block(weights, order)
    wrong = block[:change] if change < 0 else block + b"\0"
    with pytest.raises(FormatError, match=f"{len(wrong)} bytes, {len(block)} expected"):
        _parse(wrong, order, weights)
