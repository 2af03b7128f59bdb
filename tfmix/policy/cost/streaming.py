"""Which layers run row by row: the chains that make a network fit, at the fewest instructions.

A partition of the steps into single kernel calls and chains is a path through the network. What is
alive while one part runs does not depend on how the others are cut, since whatever passes from one
part to another is a whole tensor. So dynamic programming finds the cheapest path on which every
part is within the limit, and the path whose largest part is the smallest.

How rows follow each other depends neither on bits nor on where a chain begins (`simulate`): that is
worked out once for each graph. A plan for other bits then takes milliseconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from tfmix.errors import TfmixError
from tfmix.ir.graph import Graph, Node, Op
from tfmix.ir.schedule import (
    PIXEL_COLUMNS,
    Schedule,
    node_scratch_bytes,
    row_bytes_of,
    row_layer_of,
    schedule,
    stream_of,
    streamable,
)
from tfmix.ir.stream import (
    MOST_LAYERS,
    MOST_ROWS,
    ROW_ALIGNMENT,
    STATE_BYTES,
    RowLayer,
    Simulation,
    Stream,
    simulate,
)
from tfmix.policy.cost import arena

#: Rows that a call may make. All layers of a chain have the same, as far as they have so many.
BANDS = (1, 2, 4)

#: Plans that are tried until one fits.
MOST_PLANS = 60


@dataclass(frozen=True)
class ChainPlan:
    """The layers of a network that run row by row.

    chains: node names of each chain, in execution order
    bands:  node name -> rows it makes in a call, where that is not 1
    """

    chains: tuple[tuple[str, ...], ...] = ()
    bands: Mapping[str, int] = field(default_factory=dict, hash=False)


#: Layer by layer.
NO_CHAINS = ChainPlan()


@dataclass(frozen=True)
class Costs:
    """Instructions that row-by-row execution adds on a Cortex-M7, as QEMU counts them.

    chain:    for a chain
    call:     for each kernel call but the first of a layer
    group:    for each four channels and 64 columns, in such a call of a depthwise convolution
    expanded: for each input value that a depthwise convolution expands once more
    idle:     for each product of a pixel that conv2d lacks in a block of four
    moved:    for each byte of a row moved within its buffer
    """

    chain: float = 2000
    call: float = 700
    group: float = 725
    expanded: float = 2.0
    idle: float = 0.9
    moved: float = 0.3


COSTS = Costs()


def layer_cost(graph: Graph, node: Node, layer: RowLayer, costs: Costs = COSTS) -> float:
    """Instructions that a layer takes beyond what one call of its kernel does, moves left out."""
    band = min(layer.band, layer.output_rows)
    starts = range(0, layer.output_rows, band)
    cost = costs.call * (len(starts) - 1)
    _, columns, channels = graph.hwc(node.output)
    if node.op in (Op.DEPTHWISE_CONV2D, Op.BATCH_NORM):
        read = sum(
            layer.rows_needed(min(y + band, layer.output_rows) - 1) - layer.first_row(y)
            for y in starts
        )
        _, width, depth = graph.hwc(node.inputs[0])
        cost += costs.expanded * (read - layer.input_rows) * width * depth
        cost += costs.group * (len(starts) - 1) * -(-channels // 4) * -(-columns // 64)
    elif node.op in (Op.CONV2D, Op.DENSE):
        pixels = [(min(y + band, layer.output_rows) - y) * columns for y in starts]
        idle = sum(-count % PIXEL_COLUMNS for count in pixels) - -sum(pixels) % PIXEL_COLUMNS
        cost += costs.idle * idle * graph.weight_elements(node)
    return max(0.0, cost)


def added_instructions(graph: Graph, bits: Mapping[str, int], plan: ChainPlan) -> float:
    """What a plan costs, by `COSTS`."""
    nodes = {node.name: node for node in graph.steps}
    total = 0.0
    for chain in plan.chains:
        stream = stream_of(graph, [nodes[name] for name in chain], plan.bands)
        row_bytes = row_bytes_of(graph, stream, bits)
        total += COSTS.chain
        total += sum(layer_cost(graph, nodes[layer.name], layer) for layer in stream.layers)
        total += sum(COSTS.moved * stream.moved[t] * row_bytes[t] for t in stream.inner)
    return total


class ChainPlanner:
    """Plans chains for a graph. `planner_of` makes one for each graph.

    input_by_rows: the network's input arrives row by row and is never whole: it is read by a chain
      that the network begins with, and by nothing else
    """

    # A tensor's position is 0 for the network's input, k + 1 for what step k writes. Arrays over
    # the chains of steps i to j are indexed [band, j, i], with the position in BANDS in front.

    def __init__(self, graph: Graph, *, input_by_rows: bool = False) -> None:
        self.graph = graph
        self._by_rows = input_by_rows
        self._nodes = graph.steps
        self._tensors = [graph.buffer_of(graph.input)]
        self._tensors += [graph.buffer_of(node.output) for node in self._nodes]
        position = {tensor: k for k, tensor in enumerate(self._tensors)}
        self._reads = [
            tuple(dict.fromkeys(position[graph.buffer_of(tensor)] for tensor in node.inputs))
            for node in self._nodes
        ]
        self._output = position[graph.buffer_of(graph.output)]
        self._last_use = np.maximum(np.arange(-1, len(self._nodes)), 0)
        for step, reads in enumerate(self._reads):
            self._last_use[list(reads)] = step
        self._last_use[self._output] = len(self._nodes)  # it outlives all steps
        shapes = np.array([graph.hwc(tensor) for tensor in self._tensors])
        self._row_values = shapes[:, 1] * shapes[:, 2]
        self._values = shapes[:, 0] * self._row_values
        self._scratch = np.array([node_scratch_bytes(graph, node) for node in self._nodes])

    def cheapest(self, bits: Mapping[str, int], limit: int) -> ChainPlan | None:
        """The chains that add the fewest instructions, with no step of more than `limit` bytes;
        None where there are none. bits: as `QuantizationPolicy.activation_bits`."""
        found = self._ways(bits).cheapest(limit)
        return None if found is None else self._plan(found[1])

    def least_bytes(self, bits: Mapping[str, int]) -> int:
        """Bytes of the largest step, under the chains that make it the smallest."""
        least = self._ways(bits).least_bytes()
        if np.isinf(least):
            raise TfmixError(
                f"input {self.graph.input!r} by rows: the network does not begin with layers that "
                "run row by row and alone read it"
            )
        return int(least)

    def smallest(
        self,
        bits: Mapping[str, int],
        beside: Callable[[Schedule], int] = lambda _: 0,
    ) -> ChainPlan:
        """The cheapest of the chains found that need the least RAM; beside: as in `fitting`."""
        least = self.least_bytes(bits)
        plan = self._plan(self._ways(bits).smallest())
        order = self.schedule(bits, plan)
        ram = arena.plan(order).total + beside(order)
        for percent in (0, 1, 2, 4, 8, 16, 32):
            found = self.fitting(bits, least + least * percent // 100, most_plans=10)
            if found is not None:
                break
        while found is not None:
            order = self.schedule(bits, found)
            found_ram = arena.plan(order).total + beside(order)
            if found_ram < ram:
                plan, ram = found, found_ram
            found = self.fitting(bits, ram - 1, beside)
        return plan

    def fitting(
        self,
        bits: Mapping[str, int],
        ram: int,
        beside: Callable[[Schedule], int] = lambda _: 0,
        most_plans: int = MOST_PLANS,
    ) -> ChainPlan | None:
        """The cheapest chains found for which an arena can be planned that fits; None if none are.

        ram: bytes of the arena and of what `beside` says lies beside it
        most_plans: how many to try: a count, so that the result does not depend on the machine

        The largest step is only a bound of the arena. What stands in the way of reaching it are
        chains that are squeezed in, their output over their input, one after the other: each needs
        its input high in the arena and leaves its output low. So pairs of them, and then single
        ones, are forbidden one by one, the cheapest way without them first, until a plan fits.
        """
        ways = self._ways(bits)
        if ways.least_bytes() > ram:
            return None
        queue: list[tuple[float, int, _Path, _Question]] = []
        asked: set[_Question] = set()

        def ask(question: _Question) -> None:
            found = None if question in asked else ways.cheapest(*question)
            asked.add(question)
            if found is not None:
                heapq.heappush(queue, (found[0], len(asked), found[1], question))

        room = ram - beside(self.schedule(bits, self._plan(ways.smallest())))
        ask((room, frozenset(), frozenset()))
        for _ in range(most_plans):
            if not queue:
                break
            _, _, path, (limit, apart, loose) = heapq.heappop(queue)
            plan = self._plan(path)
            order = self.schedule(bits, plan)
            room = ram - beside(order)
            if arena.fits(order, room) and arena.plan(order).total <= room:
                return plan
            if room < limit:
                ask((room, apart, loose))
                continue
            squeezed = ways.squeezed(path, limit)
            pairs = {first for first, _ in squeezed} & {last + 1 for _, last in squeezed}
            for step in sorted(pairs):
                ask((limit, apart | {step}, loose))
            if not pairs:
                for first, _ in squeezed:
                    ask((limit, apart, loose | {first}))
        return None

    def chains(self) -> Iterator[tuple[int, int, Stream]]:
        """(first step, last step, stream) of every chain there can be at 8 bits, one row a call."""
        g = self._geometry
        for last, first in np.argwhere(g.legal).tolist():
            begin, layers, found = g.runs[last]
            chain = layers[first - begin :]
            inner = [layer.output for layer in chain[:-1]]
            inputs = tuple(
                dict.fromkeys(t for layer in chain for t in layer.inputs if t not in inner)
            )
            yield (
                first,
                last,
                Stream(
                    tuple(chain),
                    inputs,
                    {tensor: found.rows[tensor] for tensor in (*inputs, *inner)},
                    {tensor: found.moved[tensor] for tensor in inner},
                    found.kept[inputs[0], first - begin],
                ),
            )

    def alive(self, step: int) -> tuple[str, ...]:
        """The tensors that are whole when a step begins: made before, and needed still."""
        return tuple(
            tensor for k, tensor in enumerate(self._tensors) if k <= step <= self._last_use[k]
        )

    def consumes(self, first: int, last: int) -> bool:
        """Whether nothing needs the first input of a chain later."""
        return bool(self._geometry.consumed[last, first])

    def schedule(self, bits: Mapping[str, int], plan: ChainPlan) -> Schedule:
        """The schedule with the chains of a plan."""
        return schedule(self.graph, bits, plan.chains, plan.bands, input_by_rows=self._by_rows)

    def _plan(self, path: _Path) -> ChainPlan:
        chains, bands = [], {}
        for first, last, band in path:
            chain = self._nodes[first : last + 1]
            chains.append(tuple(node.name for node in chain))
            for node in chain:
                rows = min(BANDS[band], self.graph.hwc(node.output)[0])
                if rows > 1:
                    bands[node.name] = rows
        return ChainPlan(tuple(chains), bands)

    def _ways(self, bits: Mapping[str, int]) -> _Ways:
        """What the parts take that a network may be cut into, under some bits."""
        g = self._geometry
        width = np.array([self.graph.tensor_bits(tensor, bits) for tensor in self._tensors])
        whole = _align(-(-self._values * width // 8), arena.ALIGNMENT)
        if self._by_rows:
            whole[0] = 0
        alive = np.zeros(len(self._nodes), np.int64)  # beside the output of each step
        for k, size in enumerate(whole):
            alive[k : self._last_use[k] + 1] += size
        row_bits = self._row_values * width
        row, ragged = row_bits // 8, row_bits % 8 != 0

        out, into = whole[1:, None], whole[g.source]
        buffers = _within(_align(g.rows * row, ROW_ALIGNMENT))
        if self._by_rows:
            buffers[..., 0] += _align(g.rows[..., 0] * row[0], ROW_ALIGNMENT)
        scratch = _align(g.fixed_scratch + buffers, arena.ALIGNMENT)
        distance = g.written * row[1:, None, None] - g.first * row[g.source, None]
        distance = _align(np.maximum(distance.max(axis=-1), 0), arena.ALIGNMENT)
        shared = np.where(g.consumed, into + out - np.maximum(out, distance + into), 0)
        cost = g.cost + COSTS.moved * _within(g.moved * row)
        legal = g.legal.copy()
        for step, reads in enumerate(self._reads):
            if ragged[step + 1] or ragged[list(reads)].any():
                legal[step:, : step + 1] = False
        single = (alive + whole[1:] + _align(self._scratch, arena.ALIGNMENT)).astype(float)
        if self._by_rows:
            single[0] = np.inf
        return _Ways(
            single=single,
            ram=np.where(legal, alive + out + scratch - shared, np.inf),
            shared=shared,
            cost=np.where(legal, cost, np.inf),
        )

    # -- what does not depend on bits -------------------------------------------------------------

    @cached_property
    def _geometry(self) -> _Geometry:
        count = len(self._nodes)
        legal = self._legal()
        of_chain, of_tensor = (len(BANDS), count, count), (len(BANDS), count, count + 1)
        fixed, cost = np.zeros(of_chain, np.int64), np.zeros(of_chain)
        rows, moved = np.zeros(of_tensor, np.int64), np.zeros(of_tensor, np.int64)
        source = np.array([reads[0] for reads in self._reads], int)
        corners, runs = {}, {}
        for b, band in enumerate(BANDS):
            layers = {
                k: row_layer_of(self.graph, node, band)
                for k, node in enumerate(self._nodes)
                if legal[k, k]
            }
            added = {k: layer_cost(self.graph, self._nodes[k], layers[k]) for k in layers}
            for j in range(count):
                begins = np.flatnonzero(legal[j])
                if not begins.size:
                    continue
                run = [layers[k] for k in range(begins[0], j + 1)]
                found = simulate(run)
                if band == 1:
                    runs[j] = int(begins[0]), run, found
                if begins[0] == 0:
                    rows[b, j, 0] = found.rows[self._tensors[0]]
                for k, layer in enumerate(run[:-1], start=begins[0] + 1):
                    rows[b, j, k] = found.rows.get(layer.output, 0)
                    moved[b, j, k] = found.moved.get(layer.output, 0)
                scratch, instructions = 0, COSTS.chain
                for i in range(j, begins[0] - 1, -1):
                    scratch = max(scratch, layers[i].scratch)
                    instructions += added[i]
                    state = STATE_BYTES * (j - i + 2) + 4 * run[-1].sum_channels
                    fixed[b, j, i], cost[b, j, i] = state + scratch, instructions
                    corners[b, j, i] = found.kept[self._tensors[source[i]], i - begins[0]]
        most = max(map(len, corners.values()), default=1)
        written, first = np.zeros((2, *of_chain, most), np.int64)
        for key, points in corners.items():
            written[key][: len(points)], first[key][: len(points)] = np.transpose(points)
        last_use, steps = self._last_use[source], np.arange(count)
        consumed = (last_use <= steps[:, None]) & (source != self._output)
        if self._by_rows:
            consumed[:, 0] = False
        return _Geometry(legal, source, consumed, fixed, cost, rows, moved, written, first, runs)

    def _legal(self) -> np.ndarray:
        """Which chains [j, i] there can be."""
        count = len(self._nodes)
        legal = np.zeros((count, count), bool)
        for i in range(count):
            source = self._reads[i][0]
            for j in range(i, min(i + MOST_LAYERS, count)):
                node, reads = self._nodes[j], self._reads[j]
                rows = self.graph.hwc(node.inputs[0])[0], self.graph.hwc(node.output)[0]
                if not streamable(self.graph, node) or max(rows) > MOST_ROWS:
                    break
                if len(reads) == 1 and reads[0] <= i and reads[0] != source:
                    break
                # What lies within, tensors i + 1 to j, is read within, and there alone.
                last_use = self._last_use[i + 1 : j + 1]
                read = last_use >= np.arange(i + 1, j + 1)
                legal[j, i] = (read & (last_use <= j)).all()
                if self._by_rows and i == 0:
                    legal[j, i] &= source == 0 and self._last_use[0] <= j
        return legal


#: (first step, last step, position in BANDS) of each chain.
_Path = tuple[tuple[int, int, int], ...]
#: The arguments of `_Ways.cheapest`.
_Question = tuple[float, frozenset[int], frozenset[int]]


@dataclass(frozen=True)
class _Ways:
    """Under some bits, what each step takes alone, and each chain there can be.

    single: [j] bytes alive at step j
    ram:    [band, j, i] bytes alive at the chain of steps i to j; infinite where there is none
    shared: [band, j, i] bytes that its output and its input have in common
    cost:   [band, j, i] instructions it adds
    """

    single: np.ndarray
    ram: np.ndarray
    shared: np.ndarray
    cost: np.ndarray

    def cheapest(
        self, limit: float, apart: Collection[int] = (), loose: Collection[int] = ()
    ) -> tuple[float, _Path] | None:
        """(instructions, chains) of the cheapest path with no part of more than `limit` bytes.

        A chain is squeezed in where it fits only with its output over its input.
        apart: steps before and after which there must not be two such chains
        loose: steps with which no such chain may begin
        """
        squeezed = self.ram + self.shared > limit
        cost = np.where(self.ram <= limit, self.cost, np.inf)
        tight = np.where(squeezed, cost, np.inf)
        tight[..., list(loose)] = np.inf
        single = np.where(self.single <= limit, 0.0, np.inf)
        found = _shortest_path(single, np.where(squeezed, np.inf, cost), tight, apart)
        return None if np.isinf(found[0]) else found

    def least_bytes(self) -> float:
        """Bytes of the largest part of the path where that is smallest; infinite without a path."""
        count = len(self.single)
        best = np.zeros(count + 1)
        chains = self.ram.min(axis=0)
        for j in range(count):
            by_chain = np.maximum(best[: j + 1], chains[j, : j + 1]).min()
            best[j + 1] = min(by_chain, max(best[j], self.single[j]))
        return float(best[count])

    def smallest(self) -> _Path:
        found = self.cheapest(self.least_bytes())
        assert found is not None
        return found[1]

    def squeezed(self, path: _Path, limit: int) -> list[tuple[int, int]]:
        """The chains on a path that fit only because their output lies over their input."""
        return [
            (first, last)
            for first, last, band in path
            if self.ram[band, last, first] + self.shared[band, last, first] > limit
        ]


@dataclass(frozen=True)
class _Geometry:
    """Of the chain of steps i to j, where one is legal ...

    source:         [i] the position of its first input
    consumed:       [j, i] nothing needs that input later
    fixed_scratch, cost: [band, j, i] as `Stream.fixed_scratch`; instructions but those of moves
    rows, moved:    [band, j, k] as in `Stream`, of tensor k, if it lies within; rows also of the
                    network's input, if the chain may begin with it
    written, first: [band, j, i, corner] `Stream.kept`, filled up with zeros
    runs:           j -> the first step of the longest chain, its layers at one row a call, and what
                    simulating them finds
    """

    legal: np.ndarray
    source: np.ndarray
    consumed: np.ndarray
    fixed_scratch: np.ndarray
    cost: np.ndarray
    rows: np.ndarray
    moved: np.ndarray
    written: np.ndarray
    first: np.ndarray
    runs: dict[int, tuple[int, list[RowLayer], Simulation]]


@lru_cache(maxsize=8)
def planner_of(graph: Graph, *, input_by_rows: bool = False) -> ChainPlanner:
    """The planner of a graph: what does not depend on bits is worked out once."""
    return ChainPlanner(graph, input_by_rows=input_by_rows)


def _within(values: np.ndarray) -> np.ndarray:
    """[band, j, k] of tensors -> [band, j, i]: sums over the tensors within chain i to j."""
    up_to = values.cumsum(axis=-1)  # position 0, the input, lies within none
    return up_to[..., -1:] - up_to[..., :-1]


def _align(sizes: np.ndarray, alignment: int) -> np.ndarray:
    return -(-sizes // alignment) * alignment


def _shortest_path(
    single: np.ndarray, loose: np.ndarray, tight: np.ndarray, apart: Collection[int]
) -> tuple[float, _Path]:
    """Length and chains of the shortest way through all steps, by single steps, of length [j], and
    by loose and tight chains, [band, j, i]. On a tie single steps are taken.

    apart: steps where no tight chain may follow a tight one
    """
    count = len(single)
    # The shortest way to the end of each step, after whatever part, and after none that is tight.
    best, relaxed = np.zeros((2, count + 1))
    before_tight = best.copy()  # the shortest way that a tight chain may go on from
    came: list[dict[bool, tuple[int, int]]] = []
    for j in range(count):
        ways = {}
        for is_tight, chains, before in ((False, loose, best), (True, tight, before_tight)):
            by_chain = before[: j + 1] + chains[:, j, : j + 1]
            band, first = np.unravel_index(by_chain.argmin(), by_chain.shape)
            ways[is_tight] = by_chain[band, first], int(first), int(band)
        alone = best[j] + single[j]
        if alone <= ways[False][0]:
            ways[False] = alone, j, -1
        relaxed[j + 1] = ways[False][0]
        best[j + 1] = min(ways[False][0], ways[True][0])
        before_tight[j + 1] = relaxed[j + 1] if j + 1 in apart else best[j + 1]
        came.append({is_tight: (first, band) for is_tight, (_, first, band) in ways.items()})
    path, stop, may_be_tight = [], count, True
    while stop:
        is_tight = may_be_tight and best[stop] < relaxed[stop]
        first, band = came[stop - 1][is_tight]
        if band >= 0:
            path.append((first, stop - 1, band))
        may_be_tight = not (is_tight and first in apart)
        stop = first
    return float(best[count]), tuple(path[::-1])
