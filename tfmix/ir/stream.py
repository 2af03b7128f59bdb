"""Chains of layers that run row by row: which rows exist when, and what that takes.

Between the layers of a chain no tensor is ever whole. The last layer asks for the rows that its
next call reads, each layer before it does the same, and every row of every tensor is made once:

    made[t] = rows of tensor t that exist
    while made[output] < rows of the output:
        layer = last
        loop: for input t of layer, first input first: need = last row that its next rows read, + 1
              if made[t] < need: layer = the producer of t, and look again
        make the next min(band, rows - made) rows of layer

Of a tensor in between only those rows are kept that a later row still reads; they lie one after the
other in a buffer of so many rows as are ever needed at once. When it is full, rows that nothing
reads any more are dropped by moving the others to its front. kernels/src/stream.cc does the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tfmix.errors import TfmixError

#: Bytes that the executor keeps of each layer and of the first input: counters of rows.
STATE_BYTES = 12
#: Row buffers and sums begin at multiples of this.
ROW_ALIGNMENT = 4
#: Counters hold this many rows; records are checked with so many layers at most.
MOST_ROWS, MOST_LAYERS = 65535, 64


@dataclass(frozen=True)
class RowLayer:
    """One layer, as far as rows go: row y of the output reads rows [y * stride - pad_top,
    y * stride - pad_top + kernel) of every input, those that exist.

    name:         for messages
    input_rows:   of every input; output_rows: of the output
    band:         rows that a call makes; the last call makes those that are left
    scratch:      bytes of any such call
    sum_channels: channels of an average pool over its whole input, which adds up rows as they come
                  where it is the last layer; else 0
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    input_rows: int
    output_rows: int
    kernel: int = 1
    stride: int = 1
    pad_top: int = 0
    band: int = 1
    scratch: int = 0
    sum_channels: int = 0

    def first_row(self, y: int) -> int:
        """The first input row that output row y reads."""
        return max(0, y * self.stride - self.pad_top)

    def rows_needed(self, y: int) -> int:
        """How many input rows must have been made before output row y can be."""
        return min(self.input_rows, y * self.stride - self.pad_top + self.kernel)


@dataclass(frozen=True)
class Stream:
    """A chain, and what its execution needs; `Stream.of` makes it.

    inputs: whole tensors, that which the first layer reads first in front
    rows:   of each tensor but the output, how many rows are needed at once: the size of its buffer
            where it lies within the chain, or where it is input 0 and arrives row by row
    moved:  of each tensor within, how many rows are moved to the front of its buffer in all
    kept:   (rows of the output, first row of input 0 still needed when the last of these is
            written), of the calls that can decide how far below the input the output may lie
    """

    layers: tuple[RowLayer, ...]
    inputs: tuple[str, ...]
    rows: Mapping[str, int] = field(hash=False)
    moved: Mapping[str, int] = field(hash=False)
    kept: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, layers: Iterable[RowLayer]) -> Stream:
        """TfmixError, naming the layer, where layers do not make a chain."""
        layers = tuple(layers)
        _check(layers)
        found, inputs = simulate(layers), _inputs(layers)
        return cls(layers, inputs, found.rows, found.moved, found.kept[inputs[0], 0])

    @property
    def output(self) -> str:
        return self.layers[-1].output

    @property
    def inner(self) -> tuple[str, ...]:
        """The tensors that are never whole."""
        return tuple(layer.output for layer in self.layers[:-1])

    @property
    def fixed_scratch(self) -> int:
        """Bytes of scratch that do not depend on bits: state, sums, and the largest call."""
        return (
            STATE_BYTES * (len(self.layers) + 1)
            + 4 * self.layers[-1].sum_channels
            + max(layer.scratch for layer in self.layers)
        )

    def scratch(self, row_bytes: Mapping[str, int], *, input_by_rows: bool = False) -> int:
        """Bytes of the scratch buffer.

        row_bytes: of one row of each tensor; input_by_rows: input 0 is never whole either.
        """
        buffered = (self.inputs[0], *self.inner) if input_by_rows else self.inner
        return self.fixed_scratch + sum(
            buffer_bytes(self.rows[tensor], row_bytes[tensor]) for tensor in buffered
        )

    def distance(self, row_bytes: Mapping[str, int]) -> int:
        """The least D for which the output may begin D bytes below input 0: no row of it overwrites
        a row of the input that is needed when it is written or later."""
        out, into = row_bytes[self.output], row_bytes[self.inputs[0]]
        return max(0, *(written * out - first * into for written, first in self.kept))


def buffer_bytes(rows: int, row_bytes: int) -> int:
    """Bytes of a buffer of so many rows."""
    return -(-rows * row_bytes // ROW_ALIGNMENT) * ROW_ALIGNMENT


@dataclass(frozen=True)
class Simulation:
    """What `simulate` finds of every tensor that the layers read.

    rows, moved: as in `Stream`
    kept: of a tensor and the position of a layer that reads it: `Stream.kept` of the chain that
          begins with that layer and has the tensor for its input 0
    """

    rows: dict[str, int]
    moved: dict[str, int]
    kept: dict[tuple[str, int], tuple[tuple[int, int], ...]]


def simulate(layers: Sequence[RowLayer]) -> Simulation:
    """Runs through the rows of layers in order of execution.

    What comes before a layer changes nothing of what happens after it. So what is found holds for
    every chain that begins with any of the layers and ends with the last.
    """
    producer = {layer.output: i for i, layer in enumerate(layers)}
    readers: dict[str, list[int]] = {t: [] for layer in layers for t in layer.inputs}
    for i, layer in enumerate(layers):
        for tensor in dict.fromkeys(layer.inputs):
            readers[tensor].append(i)
    # A pool over its whole input adds up one row in a call, and writes in the last call.
    last = len(layers) - 1
    pool = layers[last].sum_channels > 0
    rows_of = [layer.output_rows for layer in layers]
    band = [layer.band for layer in layers]
    if pool:
        rows_of[last], band[last] = layers[last].input_rows, 1
    done = [0] * len(layers)  # rows of the output, or of the input added up
    made = dict.fromkeys(readers, 0)
    rows = dict.fromkeys(readers, 1)
    oldest: dict[str, list[tuple[int, int]]] = {t: [] for t in readers if t in producer}
    kept: dict[tuple[str, int], list[tuple[int, int]]] = {
        (tensor, i): [] for tensor, found in readers.items() for i in found
    }
    input_rows = {t: layers[r[0]].input_rows for t, r in readers.items()}

    def first_needed(tensor: str, begin: int = 0) -> int:
        first = input_rows[tensor]
        for i in readers[tensor]:
            if i >= begin and done[i] < rows_of[i]:
                own = done[i] if pool and i == last else layers[i].first_row(done[i])
                first = min(first, own)
        return first

    while done[last] < rows_of[last]:
        stack = [last]
        while stack:
            index = stack[-1]
            layer = layers[index]
            after = min(done[index] + band[index], rows_of[index])
            need = after if pool and index == last else layer.rows_needed(after - 1)
            missing = next((t for t in layer.inputs if made[t] < need), None)
            if missing in producer:
                stack.append(producer[missing])
                continue
            if missing is not None:  # an input of the chain: it is there, or arrives now
                made[missing] = need
                rows[missing] = max(rows[missing], need - first_needed(missing))
                continue
            stack.pop()
            if index != last:
                tensor = layer.output
                first = min(first_needed(tensor), made[tensor])
                oldest[tensor].append((first, after))
                rows[tensor] = max(rows[tensor], after - first)
                made[tensor] = after
            elif not pool or after == rows_of[last]:
                for key, calls in kept.items():
                    calls.append((1 if pool else after, first_needed(*key)))
            done[index] = after
    return Simulation(
        rows,
        {tensor: _moved(rows[tensor], calls) for tensor, calls in oldest.items()},
        {key: _deciding(calls) for key, calls in kept.items()},
    )


def _moved(capacity: int, calls: Iterable[tuple[int, int]]) -> int:
    """Rows moved in a buffer of `capacity` rows. calls: (oldest row to keep, rows made after)."""
    moved = front = made = 0
    for oldest, after in calls:
        if after - front > capacity:
            moved += made - oldest
            front = oldest
        made = after
    return moved


def _deciding(calls: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Of (written, first) those that have the largest written * a - first * b for some a, b > 0:
    the corners of their upper convex hull. Both only ever grow."""
    hull: list[tuple[int, int]] = []
    for written, first in calls:
        while hull and hull[-1][1] == first:
            hull.pop()
        while len(hull) > 1:
            (w0, f0), (w1, f1) = hull[-2:]
            if (w1 - w0) * (first - f0) > (written - w0) * (f1 - f0):
                break
            hull.pop()
        hull.append((written, first))
    return tuple(hull)


def _inputs(layers: Sequence[RowLayer]) -> tuple[str, ...]:
    made = {layer.output for layer in layers}
    return tuple(dict.fromkeys(t for layer in layers for t in layer.inputs if t not in made))


def _check(layers: Sequence[RowLayer]) -> None:
    if not layers:
        raise TfmixError("a chain without layers")
    name = f"chain {layers[0].name}..{layers[-1].name}"
    if len(layers) > MOST_LAYERS:
        raise TfmixError(f"{name}: {len(layers)} layers; allowed: at most {MOST_LAYERS}")
    first = layers[0].inputs[0]
    rows = {first: layers[0].input_rows}
    made: set[str] = set()
    for layer in layers:
        for tensor in layer.inputs:
            if tensor not in made | {first} and len(layer.inputs) == 1:
                raise TfmixError(
                    f"{name}: {layer.name} reads {tensor!r}, made neither by a layer before it nor "
                    f"the chain's first input {first!r}"
                )
            if rows.setdefault(tensor, layer.input_rows) != layer.input_rows:
                raise TfmixError(
                    f"{name}: {layer.name} reads {layer.input_rows} rows of {tensor!r}, which has "
                    f"{rows[tensor]}"
                )
        if layer.output in rows:
            raise TfmixError(f"{name}: {layer.name} writes {layer.output!r}, which is read before")
        for count in (layer.input_rows, layer.output_rows):
            if not 1 <= count <= MOST_ROWS:
                raise TfmixError(
                    f"{name}: {layer.name} has {count} rows; allowed: 1 to {MOST_ROWS}"
                )
        if layer.band < 1:
            raise TfmixError(f"{name}: {layer.name} makes {layer.band} rows a call; at least 1")
        made.add(layer.output)
        rows[layer.output] = layer.output_rows
    read = {tensor for layer in layers for tensor in layer.inputs}
    unread = [layer.name for layer in layers[:-1] if layer.output not in read]
    if unread:
        raise TfmixError(f"{name}: no layer of it reads the output of {unread[0]}")
