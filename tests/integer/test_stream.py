"""Chains of layers on the C kernels, row by row, against the same layers one by one."""

from __future__ import annotations

import ctypes
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from counted_products import counted_products
from network_on_target import node_macs
from random_chains import random_chain

from tfmix.errors import TfmixError
from tfmix.integer import reference
from tfmix.integer.model import IntegerNetwork, Kernel
from tfmix.integer.packing import pack
from tfmix.integer.runtime import (
    CRuntime,
    bind_stream,
    load_library,
    prepare_stream,
    stream_struct,
)
from tfmix.integer.schedule import stream_of
from tfmix.integer.stream import AVERAGE_POOL_ROWS, StreamCall, StreamLayer, lower_chain
from tfmix.ir.quant import packed_size

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


def run_apart(
    call: StreamCall, values: dict[str, np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, bool]:
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


def operands_of(call: StreamCall, inputs: list[np.ndarray]) -> ctypes.Array:
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


def run_over(
    call: StreamCall, values: dict[str, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """With the output `distance` bytes below the first input."""
    first, size = values[call.inputs[0]], values[call.output].size
    most = max(size, call.distance + first.size)
    memory = Memory(most, rng)
    both = memory.take(0, most)
    shared = both[call.distance : call.distance + first.size]
    shared[:] = first
    inputs = [shared, *(values[name].copy() for name in call.inputs[1:])]
    scratch = np.zeros(-(-call.scratch // 4), np.int32)
    bind_stream(call, inputs, both[:size], scratch)()
    assert memory.is_intact()
    return both[:size]


def run_by_rows(
    model: IntegerNetwork, values: dict[str, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
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


# -- how many rows are kept ---------------------------------------------------------------------


def with_layer(call: StreamCall, index: int, **fields: int) -> StreamCall:
    """A chain that says something else of one layer."""
    layers = [StreamLayer.from_buffer_copy(bytes(layer)) for layer in call.layers]
    for name, value in fields.items():
        setattr(layers[index], name, value)
    return replace(call, layers=tuple(layers))


#: Kernels without scratch: behind the last buffer lie canaries.
PLAIN = (Kernel.REQUANTIZE, Kernel.ADD, Kernel.MAX_POOL, Kernel.AVERAGE_POOL)


def test_one_row_fewer_or_more_is_refused():
    """By prepare; and where nobody asks it, a row fewer in the last buffer kills a canary."""
    refused = forced = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        model = random_chain(seed, PLAIN)
        call = lower_chain(model, model.chains[0])
        for index, layer in enumerate(call.layers[:-1]):
            for rows in (layer.buffer_rows - 1, layer.buffer_rows + 1):
                other = with_layer(call, index, buffer_rows=rows)
                with pytest.raises(TfmixError, match="another number of rows has to be kept"):
                    prepare_stream(other)
                refused += 1
        if len(call.layers) == 1 or call.layers[-1].kernel == AVERAGE_POOL_ROWS:
            continue
        index, layer = len(call.layers) - 2, call.layers[-2]
        row_bytes = call_row_bytes(model, call, index)
        less = buffer_size(layer.buffer_rows * row_bytes)
        less -= buffer_size((layer.buffer_rows - 1) * row_bytes)
        if layer.buffer_rows == 1 or less == 0:
            continue
        fewer = with_layer(call, index, buffer_rows=layer.buffer_rows - 1)
        values = packed_values(model, random_input(model, rng))
        _, intact = run_apart(replace(fewer, scratch=call.scratch - less), values, rng)
        assert not intact, seed
        forced += 1
    assert refused > 200 and forced > 10


def call_row_bytes(model: IntegerNetwork, call: StreamCall, index: int) -> int:
    """Bytes of a row of what a layer writes."""
    tensor = model.tensors[call.calls[index].output]
    return packed_size(math.prod(tensor.shape), tensor.quant.bits) // call.layers[index].rows


def buffer_size(size: int) -> int:
    return -(-size // 4) * 4


@pytest.mark.parametrize("kept", [-1, 1])
def test_another_number_of_rows_of_the_input_is_refused(kept):
    model = random_chain(0, first=True)
    call = lower_chain(model, model.chains[0], input_by_rows=True)
    assert call.input_rows > 2
    prepare_stream(call)
    with pytest.raises(TfmixError, match="another number of rows has to be kept"):
        prepare_stream(replace(call, input_rows=call.input_rows + kept))


# -- what else prepare refuses ------------------------------------------------------------------

NO_CHAIN = "do not make a chain"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kernel": 8}, "not among those that are linked"),
        ({"output_bits": 3}, "not among those that are linked"),
        ({"rows": 0}, NO_CHAIN),
        ({"rows": 70_000}, NO_CHAIN),
        ({"band": 0}, NO_CHAIN),
        ({"band": 1000}, NO_CHAIN),
        ({"buffer_rows": 0}, "another number of rows"),
        ({"input": 1}, NO_CHAIN),
        ({"input": -1}, NO_CHAIN),
        ({"second_input": 0}, NO_CHAIN),
    ],
)
def test_damaged_layers_are_refused(fields, message):
    model = random_chain(1, (Kernel.REQUANTIZE, Kernel.MAX_POOL), first=True)
    call = lower_chain(model, model.chains[0])
    assert len(call.layers) > 1
    with pytest.raises(TfmixError, match=message):
        prepare_stream(with_layer(call, 0, **fields))


def test_the_reference_agrees():
    for seed in range(12):
        model = random_chain(seed)
        q = random_input(model, np.random.default_rng(seed))
        expected = reference.run(model, q)[model.output]
        found = CRuntime(model).run(q)
        np.testing.assert_array_equal(found.ravel(), expected.ravel())


def test_what_random_chains_hold():
    """The tests above are worth what these have in them."""
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        model = random_chain(seed)
        call = lower_chain(model, model.chains[0])
        inner = [layer.buffer_rows for layer in call.layers[:-1]]
        bits = {layer.input_bits for layer in call.layers}
        seen["long"] += len(call.layers) > 6
        seen["many rows"] += max(inner, default=0) > 3
        seen["whole inputs beside the first"] += len(call.inputs) > 1
        seen["residual within"] += any(
            layer.second_input >= len(call.inputs) and layer.input != layer.second_input
            for layer in call.layers
        )
        seen["bands"] += any(layer.band > 1 for layer in call.layers)
        seen["pool of the whole image"] += call.layers[-1].kernel == AVERAGE_POOL_ROWS
        seen["all bits"] += bits == {2, 4, 8}
        seen["output below the input"] += call.distance > 0
        windows = [node.window for node in model.nodes if node.window is not None]
        seen["5 rows"] += any(window.kernel[0] == 5 for window in windows)
        seen["stride 2"] += any(window.strides[0] == 2 for window in windows)
        seen["padding"] += any(window.padding[0] > 0 for window in windows)
    assert min(seen.values()) >= 15 and len(seen) == 11, seen


def products_of(model: IntegerNetwork) -> int:
    """Of the rows of chains that are read; a window may leave the last ones out."""
    nodes, count = {node.name: node for node in model.nodes}, 0
    for chain in model.chains:
        stream, _ = stream_of(model, [nodes[name] for name in chain])
        needed = {stream.output: stream.layers[-1].output_rows}
        for layer in reversed(stream.layers):
            rows = min(-(-needed[layer.output] // layer.band) * layer.band, layer.output_rows)
            for name in layer.inputs:
                needed[name] = max(needed.get(name, 0), layer.rows_needed(rows - 1))
            count += node_macs(nodes[layer.name]) // layer.output_rows * rows
    return count


@pytest.mark.parametrize("seed", range(100))
def test_every_product_is_computed_once(seed):
    model = random_chain(seed)
    with counted_products() as products:
        CRuntime(model).run(random_input(model, np.random.default_rng(seed)))
    assert products.count == products_of(model)
