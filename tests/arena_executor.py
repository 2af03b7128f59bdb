"""A network executed in one byte arena, step by step and in chains row by row, every byte owned.

The judge of schedules and arena plans. Each byte of the arena knows which row of which tensor was
written to it last; whoever reads a row finds all of its bytes, or `Lost` is raised. Chains follow
the order of execution as tfmix/ir/stream.py words it, one decision at a time, and share no code
with the planner; a row buffer has the bytes that it is given and no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tfmix.integer.model import IntegerNetwork, IntegerNode, Kernel
from tfmix.integer.packing import pack, unpack
from tfmix.integer.reference import run_node
from tfmix.integer.schedule import schedule_of, stream_of
from tfmix.ir.stream import ROW_ALIGNMENT, STATE_BYTES
from tfmix.policy.cost.arena import ArenaPlan

GUARD, CANARY = 32, 0x5A


class Lost(Exception):
    """A row that is needed is not where it should be, or there is no room for one."""


class Arena:
    """`size` bytes between canaries."""

    def __init__(self, size: int, rng: np.random.Generator):
        self.bytes = rng.integers(0, 256, size + 2 * GUARD, np.uint8)
        self.bytes[:GUARD] = self.bytes[GUARD + size :] = CANARY
        self._size, self._rng = size, rng
        self._owners: list[object] = [None] * size

    def write(self, place: int, data: np.ndarray, owner: object) -> None:
        self._check(place, data.size)
        self.bytes[GUARD + place : GUARD + place + data.size] = data
        self._owners[place : place + data.size] = [owner] * data.size

    def read(self, place: int, size: int, owner: object) -> np.ndarray:
        self._check(place, size)
        if any(found != owner for found in self._owners[place : place + size]):
            raise Lost(f"{owner}")
        return self.bytes[GUARD + place : GUARD + place + size].copy()

    def spoil(self, place: int, size: int) -> None:
        """Noise, as from whoever uses the bytes in between."""
        self.write(place, self._rng.integers(0, 256, size, np.uint8), "noise")

    def canaries_are_intact(self) -> bool:
        return bool((self.bytes[:GUARD] == CANARY).all() and (self.bytes[-GUARD:] == CANARY).all())

    def _check(self, place: int, size: int) -> None:
        if place < 0 or place + size > self._size:
            raise Lost(f"{size} bytes at {place} of {self._size}")


class Whole:
    """A whole tensor in the arena, row by row."""

    def __init__(self, arena: Arena, tensor: str, place: int, row_bytes: int, made: int):
        self.arena, self.tensor, self.place, self.row_bytes = arena, tensor, place, row_bytes
        self.made = made

    def put(self, row: int, data: np.ndarray) -> None:
        self.arena.write(self.place + row * self.row_bytes, data, (self.tensor, row))

    def get(self, row: int) -> np.ndarray:
        place = self.place + row * self.row_bytes
        return self.arena.read(place, self.row_bytes, (self.tensor, row))


class Rows(Whole):
    """The last rows of a tensor, in a buffer of `capacity` rows."""

    def __init__(self, arena: Arena, tensor: str, place: int, row_bytes: int, capacity: int):
        super().__init__(arena, tensor, place, row_bytes, made=0)
        self.capacity, self.front = capacity, 0

    def make_room(self, count: int, oldest: int) -> None:
        """Drops rows before `oldest`, if those made and `count` more are too many."""
        if self.made + count - self.front <= self.capacity:
            return
        kept = [(row, self.get(row)) for row in range(oldest, self.made)]
        self.front = oldest
        for row, data in kept:
            self.put(row, data)
        if self.made + count - self.front > self.capacity:
            raise Lost(f"no room for row {self.made} of {self.tensor}")

    def put(self, row: int, data: np.ndarray) -> None:
        place = self.place + (row - self.front) * self.row_bytes
        self.arena.write(place, data, (self.tensor, row))

    def get(self, row: int) -> np.ndarray:
        if not self.front <= row < self.front + self.capacity:
            raise Lost(f"row {row} of {self.tensor}")
        place = self.place + (row - self.front) * self.row_bytes
        return self.arena.read(place, self.row_bytes, (self.tensor, row))


def execute(
    model: IntegerNetwork,
    plan: ArenaPlan,
    q: np.ndarray,
    rng: np.random.Generator,
    *,
    fewer: Mapping[str, int] | None = None,
) -> tuple[np.ndarray, Arena]:
    """(the packed output, the arena) of one sample, uint8 [*input_shape].

    fewer: rows that the buffer of a tensor lacks. Raises Lost.
    """
    arena = Arena(plan.total, rng)
    nodes = {node.name: node for node in model.nodes}
    schedule = schedule_of(model)
    chains = {f"{chain[0]}..{chain[-1]}": chain for chain in model.chains}

    def buffer(tensor: str) -> Whole:
        return Whole(arena, tensor, plan.offsets[tensor], schedule.buffers[tensor], made=1)

    def rows_of(tensor: str, row_bytes: int, made: int = 0) -> Whole:
        """A whole buffer by rows: who reads rows need not be who wrote it at once."""
        return Whole(arena, tensor, plan.offsets[tensor], row_bytes, made)

    def own_by_rows(tensor: str, row_bytes: int) -> None:
        data = buffer(tensor).get(0)
        for row in range(data.size // row_bytes):
            rows_of(tensor, row_bytes).put(row, data[row * row_bytes : (row + 1) * row_bytes])

    def own_at_once(tensor: str, row_bytes: int) -> None:
        count = schedule.buffers[tensor] // row_bytes
        whole = rows_of(tensor, row_bytes)
        buffer(tensor).put(0, np.concatenate([whole.get(row) for row in range(count)]))

    buffer(model.input).put(0, pack(q, model.tensors[model.input].quant.bits))
    for step in schedule.steps:
        if step.scratch:
            arena.spoil(plan.scratch_offsets[step.name], step.scratch)
        if step.name not in chains:
            node = nodes[step.name]
            xs = {name: _unpacked(model, name, buffer(name).get(0)) for name in node.inputs}
            y = run_node(node, xs, model.tensors)
            buffer(node.output).put(0, pack(y, model.tensors[node.output].quant.bits))
            continue
        chain = [nodes[name] for name in chains[step.name]]
        stream, row_bytes = stream_of(model, chain)
        place = plan.scratch_offsets[step.name] + STATE_BYTES * (len(chain) + 1)
        held: dict[str, Whole] = {}
        for tensor in stream.inputs:
            own_by_rows(tensor, row_bytes[tensor])
            count = schedule.buffers[tensor] // row_bytes[tensor]
            held[tensor] = rows_of(tensor, row_bytes[tensor], count)
        for tensor in stream.inner:
            capacity = stream.rows[tensor]
            size = -(-capacity * row_bytes[tensor] // ROW_ALIGNMENT) * ROW_ALIGNMENT
            capacity -= (fewer or {}).get(tensor, 0)
            held[tensor] = Rows(arena, tensor, place, row_bytes[tensor], capacity)
            place += size
        held[stream.output] = rows_of(stream.output, row_bytes[stream.output])
        run_chain(model, chain, held)
        own_at_once(stream.output, row_bytes[stream.output])
        for tensor in stream.inputs:
            if schedule.lifetimes[tensor][1] > schedule.steps.index(step):
                own_at_once(tensor, row_bytes[tensor])
    return buffer(model.output).get(0), arena


def run_chain(model: IntegerNetwork, chain: list[IntegerNode], held: Mapping[str, Whole]) -> None:
    """Makes all rows of the last layer's output."""
    makers = {node.output: node for node in chain}
    last = chain[-1]
    sums = _adds_up(last)
    added: list[np.ndarray] = []  # rows of a pool over its whole input

    def done(node: IntegerNode) -> int:
        return len(added) if sums and node is last else held[node.output].made

    def total(node: IntegerNode) -> int:
        return node.input_shapes[0][0] if sums and node is last else node.output_shape[0]

    def call(node: IntegerNode) -> tuple[int, int]:
        """The rows that its next call makes."""
        band = 1 if sums and node is last else model.bands.get(node.name, 1)
        return done(node), min(done(node) + band, total(node))

    def seen(node: IntegerNode, begin: int, end: int) -> tuple[int, int]:
        """The input rows that output rows begin to end see."""
        if sums and node is last:
            return begin, end
        if node.window is None:
            return begin, end
        height, stride, top = node.window.kernel[0], node.window.strides[0], node.window.padding[0]
        first, stop = begin * stride - top, (end - 1) * stride - top + height
        return max(0, first), min(node.input_shapes[0][0], stop)

    def oldest(tensor: str) -> int:
        """The first row that someone needs still."""
        needs = [
            seen(node, *call(node))[0]
            for node in chain
            if tensor in node.inputs and done(node) < total(node)
        ]
        return min([*needs, held[tensor].made])

    while done(last) < total(last):
        node = last
        while True:
            begin, end = call(node)
            first, stop = seen(node, begin, end)
            lacking = [name for name in node.inputs if held[name].made < stop]
            if not lacking:
                break
            node = makers[lacking[0]]
        reads = [(name, row) for name in node.inputs for row in range(first, stop)]
        rows = {name: [held[name].get(row) for row in range(first, stop)] for name in node.inputs}
        if sums and node is last:
            added += rows[node.inputs[0]]
            if len(added) < total(last):
                continue
            rows, first, stop, begin, end = {node.inputs[0]: added}, 0, len(added), 0, 1
        out = held[node.output]
        if isinstance(out, Rows):
            out.make_room(end - begin, oldest(node.output))
        for row, data in enumerate(_call(model, node, rows, (first, stop), (begin, end)), begin):
            out.put(row, data)
        out.made = end
        for name, row in reads:  # a kernel may still read them when it writes its first value
            held[name].get(row)


def _adds_up(node: IntegerNode) -> bool:
    return (
        node.kernel is Kernel.AVERAGE_POOL
        and node.window.kernel == node.input_shapes[0][:2]
        and not any(node.window.padding)
    )


def _call(
    model: IntegerNetwork,
    node: IntegerNode,
    rows: Mapping[str, list[np.ndarray]],
    seen: tuple[int, int],
    made: tuple[int, int],
) -> list[np.ndarray]:
    """Output rows `made` of a node, packed, from input rows `seen`, packed: one kernel call."""
    height, count = seen[1] - seen[0], made[1] - made[0]
    window = node.window
    if window is not None:
        first = made[0] * window.strides[0] - window.padding[0]
        last = (made[1] - 1) * window.strides[0] - window.padding[0] + window.kernel[0]
        padding = (seen[0] - first, max(0, last - seen[1]), *window.padding[2:])
        window = replace(window, padding=padding)
    part = replace(
        node,
        window=window,
        input_shapes=tuple((height, *shape[1:]) for shape in node.input_shapes),
        output_shape=(count, *node.output_shape[1:]),
    )
    tensors = {
        name: replace(model.tensors[name], shape=shape)
        for name, shape in zip(
            (*part.inputs, part.output), (*part.input_shapes, part.output_shape), strict=True
        )
    }
    values = {}
    for name in part.inputs:
        tensor = tensors[name]
        data = np.concatenate(rows[name])
        values[name] = unpack(data, tensor.quant.bits, int(np.prod(tensor.shape)))[None]
    y = run_node(part, values, tensors)[0]
    return [pack(row, tensors[node.output].quant.bits) for row in y]


def _unpacked(model: IntegerNetwork, name: str, data: np.ndarray) -> np.ndarray:
    tensor = model.tensors[name]
    return unpack(data, tensor.quant.bits, int(np.prod(tensor.shape)))[None]
