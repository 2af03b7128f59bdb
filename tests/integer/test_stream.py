"""Chains of layers on the C kernels, row by row, against the same layers one by one."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from random_chains import random_chain

from tfmix.integer.model import IntegerNetwork
from tfmix.integer.packing import pack
from tfmix.integer.runtime import (
    CRuntime,
    bind_stream,
    load_library,
    prepare_stream,
    stream_struct,
)
from tfmix.integer.stream import StreamCall, lower_chain

SEEDS = range(300)
GUARD, CANARY = 64, 0xA5


class Memory:
    """Bytes of which some are in use; the others must stay as they are."""

    def __init__(self, size: int, rng: np.random.Generator):
        self._bytes = np.full(size + 2 * GUARD, CANARY, np.uint8)
        self._used = np.zeros(len(self._bytes), bool)
        self._rng = rng

    def take(self, offset: int, size: int) -> np.ndarray:
        """`size` bytes that begin as noise, `offset` bytes from the beginning."""
        part = slice(GUARD + offset, GUARD + offset + size)
        self._bytes[part] = self._rng.integers(0, 256, size, np.uint8)
        self._used[part] = True
        return self._bytes[part]

    def is_intact(self) -> bool:
        return bool((self._bytes[~self._used] == CANARY).all())


def random_input(model: IntegerNetwork, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (1, *model.input_shape), np.uint8)


def packed_values(model: IntegerNetwork, q: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor as it lies in memory, by the kernels, layer by layer."""
    return {
        name: pack(value[0], model.tensors[name].quant.bits)
        for name, value in CRuntime(model).tensors(q).items()
    }


def run_apart(call: StreamCall, values: dict[str, np.ndarray], rng: np.random.Generator):
    """(output, whether nothing else has changed) with buffers of exactly the sizes."""
    memory = Memory(values[call.output].size + call.scratch + 2 * GUARD, rng)
    output = memory.take(0, values[call.output].size)
    start = -(-(output.size + GUARD) // 4) * 4
    scratch = memory.take(start, call.scratch)
    inputs = [values[name].copy() for name in call.inputs]
    run_unchecked(call, inputs, output, scratch)
    intact = memory.is_intact() and all(
        np.array_equal(x, values[name]) for x, name in zip(inputs, call.inputs, strict=True)
    )
    return output, intact


def operands_of(call: StreamCall, inputs: list[np.ndarray]):
    constants = [np.frombuffer(c.constants, np.uint8).copy() for c in call.constants]
    arrays = [*inputs, *constants]
    operands = (ctypes.c_void_p * len(arrays))(*(x.ctypes.data for x in arrays))
    operands.keep_alive = arrays
    return operands


def run_unchecked(call, inputs, output, scratch) -> None:
    """tfmix_stream_run, whatever prepare would say."""
    function = load_library().tfmix_stream_run
    function.restype = None
    function(
        ctypes.byref(stream_struct(call)),
        operands_of(call, inputs),
        ctypes.c_void_p(output.ctypes.data),
        ctypes.c_void_p(scratch.ctypes.data),
    )


@pytest.mark.parametrize("seeds", [SEEDS[i::10] for i in range(10)], ids=lambda seeds: seeds[0])
def test_equals_layer_by_layer(seeds):
    """Whole, over its consumed input, and fed row by row; nothing is touched besides."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        model = random_chain(seed)
        call = lower_chain(model, model.chains[0])
        values = packed_values(model, random_input(model, rng))
        expected = values[call.output]
        sizes = prepare_stream(call)
        assert (sizes.scratch, sizes.distance) == (call.scratch, call.distance), seed
        assert sizes.output == expected.size
        output, intact = run_apart(call, values, rng)
        np.testing.assert_array_equal(output, expected, str(seed))
        assert intact, seed
        np.testing.assert_array_equal(run_over(call, values, rng), expected, str(seed))
        np.testing.assert_array_equal(run_by_rows(model, values, rng), expected, str(seed))


def run_over(call: StreamCall, values: dict[str, np.ndarray], rng: np.random.Generator):
    """With the output `distance` bytes below the first input."""
    first, size = values[call.inputs[0]], values[call.output].size
    memory = Memory(max(size, call.distance + first.size), rng)
    memory.take(0, max(size, call.distance + first.size))
    whole = memory.take(0, max(size, call.distance + first.size))
    whole[call.distance : call.distance + first.size] = first
    inputs = [
        whole[call.distance : call.distance + first.size],
        *(values[name].copy() for name in call.inputs[1:]),
    ]
    scratch = np.zeros(-(-call.scratch // 4), np.int32)
    bind_stream(call, inputs, whole[:size], scratch)()
    assert memory.is_intact()
    return whole[:size]


def run_by_rows(model: IntegerNetwork, values: dict[str, np.ndarray], rng: np.random.Generator):
    call = lower_chain(model, model.chains[0], input_by_rows=True)
    sizes = prepare_stream(call)
    assert sizes.scratch == call.scratch
    assert sizes.operands[0] == call.row_bytes
    memory = Memory(call.scratch + values[call.output].size + 2 * GUARD, rng)
    scratch = memory.take(0, call.scratch)
    output = memory.take(call.scratch + GUARD, values[call.output].size)
    library, stream = load_library(), ctypes.byref(stream_struct(call))
    library.tfmix_stream_begin(stream, ctypes.c_void_p(scratch.ctypes.data))
    rest = [values[name].copy() for name in call.inputs[1:]]
    operands = operands_of(call, [np.zeros(0, np.uint8), *rest])
    done = 0
    for row in values[call.inputs[0]].reshape(-1, call.row_bytes):
        row = row.copy()
        before, done = (
            done,
            library.tfmix_stream_feed(
                stream,
                ctypes.c_void_p(row.ctypes.data),
                operands,
                ctypes.c_void_p(output.ctypes.data),
                ctypes.c_void_p(scratch.ctypes.data),
            ),
        )
        row[:] = CANARY
        assert done >= before
    assert done == call.layers[-1].rows
    assert memory.is_intact()
    return output
