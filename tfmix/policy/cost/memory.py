"""FLASH and RAM of a network under a policy: two ways to count, one report.

`PaperMemory` counts as Rusci et al. 2020 (memory constraints M1 and M2, and the table of bytes
beside the weights), so that their results can be reproduced; `DeployedMemory` counts what is
really put on the device. Both see the network as a list of `MemoryStep`s, so that searches and
reports work with either. `StreamingMemory` is `DeployedMemory` with the chains that each policy
needs to fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Literal, Protocol

from tfmix.budget import Budget, format_bytes
from tfmix.errors import TfmixError
from tfmix.ir.graph import FIXED_BITS, WEIGHTED_OPS, Graph, Node, Op
from tfmix.ir.quant import BIT_WIDTHS, packed_size
from tfmix.ir.schedule import Schedule, chain_name, schedule, stream_of, whole_row_bytes
from tfmix.ir.stream import Stream, buffer_bytes
from tfmix.policy.cost import arena, tflm
from tfmix.policy.cost.streaming import NO_CHAINS, ChainPlan, planner_of
from tfmix.policy.policy import QuantizationPolicy


@dataclass(frozen=True)
class MemoryStep:
    """A kernel call or a chain, and the buffers alive while it runs (names; each buffer once).

    nodes:    the node, or those of the chain
    inputs:   what it reads
    output:   what it writes
    held:     alive, neither read nor written: the skip connections across this step
    scratch:  bytes, as the memory model counts them, without the row buffers of a chain
    stream:   of a chain
    consumes: the output of the chain may lie over its first input
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    output: str
    held: tuple[str, ...]
    scratch: int
    stream: Stream | None = None
    consumes: bool = False

    @property
    def name(self) -> str:
        """Of the node, or of the first and the last."""
        first, last = self.nodes[0].name, self.nodes[-1].name
        return first if self.stream is None else f"{first}..{last}"

    @property
    def buffers(self) -> tuple[str, ...]:
        return (*self.inputs, self.output, *self.held)

    @property
    def inner(self) -> tuple[str, ...]:
        """The tensors of which only some rows are in memory."""
        return () if self.stream is None else self.stream.inner


#: ("weights", node name) or ("activations", name of a quantized tensor).
Tensor = tuple[str, str]


@dataclass(frozen=True)
class FlashItem:
    """Bytes that are in FLASH once, however many nodes use them.

    uses: each is bits of some tensors; the item is there where any one is met in full
    """

    size: int
    uses: tuple[Mapping[Tensor, int], ...] = field(hash=False)

    def is_paid(self, policy: QuantizationPolicy) -> bool:
        bits = {"weights": policy.weight_bits, "activations": policy.activation_bits}
        return any(
            all(bits[kind].get(name, FIXED_BITS) == b for (kind, name), b in use.items())
            for use in self.uses
        )


class MemoryModel(Protocol):
    """A way to count the bytes of a policy. graph: the network"""

    graph: Graph

    def flash_bytes(self, policy: QuantizationPolicy) -> int:
        """FLASH of the network. Never less than `packed_weight_bytes`. May be slow."""
        ...

    def ram_bytes(self, policy: QuantizationPolicy) -> int:
        """RAM of the activations. Never less than `ram_lower_bound`. May be slow."""
        ...

    def ram_lower_bound(self, activation_bits: Mapping[str, int]) -> int:
        """What any arena must hold. Fast, for the inside of a search."""
        ...

    def flash_lower_bound(self, policy: QuantizationPolicy) -> int:
        """Packed weights and the least there is beside them. Fast."""
        ...

    def at(self, activation_bits: Mapping[str, int]) -> StepMemory:
        """The steps by which a network with these bits is run, and what they take under any.

        The best steps for the RAM there is may be others for other bits. A search works with those
        of one choice of bits at a time, and asks again when it has changed many.
        """
        ...

    def tightest(self, activation_bits: Mapping[str, int]) -> StepMemory:
        """The steps that take the least RAM with these bits."""
        return self.at(activation_bits)

    def packed_bytes(self, policy: QuantizationPolicy) -> int:
        """FLASH of the packed weights alone. Fast."""
        return sum(
            packed_weight_bytes(self.graph, node, policy.weight_bits[node.name])
            for node in self.graph.weighted_nodes
        )


#: Bytes of each tensor at each bit-width, and bytes beside them.
Terms = tuple[Mapping[str, Mapping[int, int]], int]


class StepMemory(MemoryModel, Protocol):
    """A way to count the bytes of a network that is always run by the same steps.

    steps:  at which RAM is counted, in execution order
    """

    @property
    def steps(self) -> tuple[MemoryStep, ...]: ...

    def at(self, activation_bits: Mapping[str, int]) -> StepMemory:
        return self

    def buffer_bytes(self, buffer: str, activation_bits: Mapping[str, int]) -> int:
        """RAM of one buffer. Fast."""
        ...

    @property
    def interpreter_bytes(self) -> int:
        """RAM in use at every step, whatever the policy, beside buffers and scratch."""
        return 0

    @property
    def flash_rest(self) -> int:
        """FLASH beside packed weights and shared items: a bound that no policy is below."""
        return 0

    @property
    def flash_items(self) -> tuple[FlashItem, ...]:
        """What nodes share in FLASH, if anything."""
        return ()

    # What follows from the above; implementations inherit it.

    def flash_lower_bound(self, policy: QuantizationPolicy) -> int:
        items = sum(item.size for item in self.flash_items if item.is_paid(policy))
        return self.packed_bytes(policy) + items + self.flash_rest

    def tensor_bytes(
        self, step: MemoryStep, tensor: str, activation_bits: Mapping[str, int]
    ) -> int:
        """RAM that a tensor takes while `step` runs: of one within a chain its row buffer. Fast."""
        if tensor in step.inner:
            row = row_bytes(self.graph, tensor, self.graph.tensor_bits(tensor, activation_bits))
            return buffer_bytes(step.stream.rows[tensor], row)
        return self.buffer_bytes(tensor, activation_bits)

    def scratch_bytes(self, step: MemoryStep, activation_bits: Mapping[str, int]) -> int:
        """Scratch of a step, the row buffers of a chain included. Fast."""
        if step.stream is None:
            return step.scratch
        rows = (self.tensor_bytes(step, tensor, activation_bits) for tensor in step.inner)
        return arena.align(step.scratch + sum(rows))

    def shared_bytes(self, step: MemoryStep, activation_bits: Mapping[str, int]) -> int:
        """Bytes that the output of a chain and its first input can have in common. Fast."""
        if not step.consumes:
            return 0
        stream, graph = step.stream, self.graph
        rows = {
            tensor: row_bytes(graph, tensor, graph.tensor_bits(tensor, activation_bits))
            for tensor in (stream.inputs[0], stream.output)
        }
        source = self.buffer_bytes(stream.inputs[0], activation_bits)
        output = self.buffer_bytes(stream.output, activation_bits)
        return source + output - max(output, arena.align(stream.distance(rows)) + source)

    def live_bytes(self, step: MemoryStep, activation_bits: Mapping[str, int]) -> int:
        """All that must be in RAM while `step` runs, scratch and interpreter included. Fast."""
        return (
            sum(self.buffer_bytes(buffer, activation_bits) for buffer in step.buffers)
            - self.shared_bytes(step, activation_bits)
            + self.scratch_bytes(step, activation_bits)
            + self.interpreter_bytes
        )

    def ram_lower_bound(self, activation_bits: Mapping[str, int]) -> int:
        """The largest `live_bytes`."""
        return max((self.live_bytes(step, activation_bits) for step in self.steps), default=0)

    def linear_bounds(self, step: MemoryStep) -> tuple[Terms, ...]:
        """Sums that are linear in the tensors, and never above `live_bytes`.

        Without a chain there is one, and it is exact. A chain loses some bytes of alignment, and
        where it may write over its input there is a sum for each row that can decide how far.
        """
        rest = step.scratch + self.interpreter_bytes
        whole = {
            tensor: {b: self.buffer_bytes(tensor, {quantizer: b}) for b in BIT_WIDTHS}
            for tensor in step.buffers
            for quantizer in (self.graph.quantizer_of(tensor),)
        }
        stream = step.stream
        if stream is None:
            return ((whole, rest),)
        rows = {
            tensor: {b: row_bytes(self.graph, tensor, b) for b in BIT_WIDTHS}
            for tensor in (*stream.inputs, *stream.inner, stream.output)
        }
        inner = {
            tensor: {b: buffer_bytes(stream.rows[tensor], rows[tensor][b]) for b in BIT_WIDTHS}
            for tensor in stream.inner
        }
        if not step.consumes:
            return ((whole | inner, rest),)
        source, output = stream.inputs[0], stream.output
        bounds = [
            ({t: sizes for t, sizes in whole.items() if t != overlapped} | inner, rest)
            for overlapped in (source, output)
        ]
        for written, first in stream.kept:
            over = {
                output: {b: written * rows[output][b] for b in BIT_WIDTHS},
                source: {b: whole[source][b] - first * rows[source][b] for b in BIT_WIDTHS},
            }
            bounds.append((whole | inner | over, rest))
        return tuple(bounds)


def impossible(graph: Graph, step: MemoryStep) -> tuple[tuple[str, int], ...]:
    """(tensor, bits) that a chain cannot have: a row of it would not end with a byte."""
    if step.stream is None:
        return ()
    tensors = (*step.stream.inputs, *step.inner, step.output)
    return tuple(
        (tensor, bits)
        for tensor in tensors
        for bits in BIT_WIDTHS
        if whole_row_bytes(graph.hwc(tensor), bits) is None
    )


def row_bytes(graph: Graph, tensor: str, bits: int) -> int:
    """Bytes of a row of a tensor, rounded up where a row does not end with a byte."""
    _, columns, channels = graph.hwc(tensor)
    return packed_size(columns * channels, bits)


def packed_weight_bytes(graph: Graph, node: Node, bits: int) -> int:
    """Bytes of a node's packed weights, and of nothing beside them."""
    return packed_size(graph.weight_elements(node), bits)


def _steps_of(graph: Graph, plan: ChainPlan = NO_CHAINS) -> tuple[MemoryStep, ...]:
    """One per kernel call or chain, scratch as the kernels need it."""
    any_bits = dict.fromkeys(graph.quantized_tensors, FIXED_BITS)  # sizes are not looked at
    order = schedule(graph, any_bits, plan.chains, plan.bands)
    nodes = {node.name: node for node in graph.steps}
    chains = {chain_name(chain): chain for chain in plan.chains}
    found = []
    for step, live in zip(order.steps, order.live, strict=True):
        chain = tuple(nodes[name] for name in chains.get(step.name, (step.name,)))
        stream = stream_of(graph, chain, plan.bands) if step.name in chains else None
        found.append(
            MemoryStep(
                chain,
                inputs=tuple(dict.fromkeys(step.reads)),
                output=step.writes,
                held=tuple(b for b in live if b not in step.reads and b != step.writes),
                scratch=step.scratch if stream is None else stream.fixed_scratch,
                stream=stream,
                consumes=step.over is not None,
            )
        )
    return tuple(found)


# -- as the paper counts ------------------------------------------------------------------------

#: (bytes per output channel, bytes per layer) beside the packed weights. PL, PC: per layer, per
#: channel; FB, ICN: batch norm folded, or as integer channel normalization.
PL_FB, PL_ICN, PC = (4, 20), (9, 12), (10, 8)
PL_CLASSIFIER, PC_CLASSIFIER = (4, 20), (7, 4)

#: The layers at which the paper counts RAM. Pooling, padding, softmax and a ReLU of its own are not
#: among them, nor is a lookup; a batch norm of its own is: it runs as a convolution.
PAPER_OPS = WEIGHTED_OPS | {Op.BATCH_NORM, Op.ADD, Op.MULTIPLY, Op.CONCATENATE}


@dataclass(frozen=True)
class PaperMemory(StepMemory):
    """Rusci et al. 2020.

    FLASH (M1): over the layers with weights, ceil(elements * bits / 8) plus the bytes beside them.
    RAM (M2): the largest sum, over the layers of `PAPER_OPS`, of input and output, and of the skip
    tensors alive across the layer; batch 1, packed, neither alignment nor scratch.

    weights:     "per_channel" or "per_layer"
    batch_norm:  "icn" or "fold"; per channel they take the same bytes
    """

    graph: Graph
    weights: Literal["per_channel", "per_layer"] = "per_channel"
    batch_norm: Literal["icn", "fold"] = "icn"

    def __post_init__(self) -> None:
        for option, legal in (
            ("weights", ("per_channel", "per_layer")),
            ("batch_norm", ("icn", "fold")),
        ):
            if getattr(self, option) not in legal:
                raise TfmixError(f"{option} {getattr(self, option)!r} is not one of {legal}")

    @cached_property
    def steps(self) -> tuple[MemoryStep, ...]:
        return tuple(
            replace(step, scratch=0)
            for step in _steps_of(self.graph)
            if step.nodes[0].op in PAPER_OPS
        )

    def flash_bytes(self, policy: QuantizationPolicy) -> int:
        total = 0
        for node in self.graph.nodes:
            if node.op is Op.BATCH_NORM:
                bits = BIT_WIDTHS[0]  # weights of one, see docs/arithmetic.md
            elif node.name in policy.weight_bits:
                bits = policy.weight_bits[node.name]
            else:
                continue
            total += packed_weight_bytes(self.graph, node, bits) + self._bytes_beside(node)
        return total

    @cached_property
    def flash_rest(self) -> int:
        """Exact: it is the same under every policy."""
        any_policy = QuantizationPolicy.uniform(self.graph, FIXED_BITS)
        return self.flash_bytes(any_policy) - self.packed_bytes(any_policy)

    def ram_bytes(self, policy: QuantizationPolicy) -> int:
        return self.ram_lower_bound(policy.activation_bits)

    def buffer_bytes(self, buffer: str, activation_bits: Mapping[str, int]) -> int:
        return self.graph.tensor_bytes(buffer, activation_bits)

    def _bytes_beside(self, node: Node) -> int:
        """Zero points, biases, multipliers and the like of one layer."""
        if node.output in self.graph.fixed_tensors:  # it gives the logits: the classifier
            pair = PC_CLASSIFIER if self.weights == "per_channel" else PL_CLASSIFIER
        elif self.weights == "per_channel":
            pair = PC
        else:
            normalized = node.batch_norm is not None or node.op is Op.BATCH_NORM
            pair = PL_ICN if self.batch_norm == "icn" and normalized else PL_FB
        per_channel, per_layer = pair
        return per_channel * self.graph.output_channels(node) + per_layer


# -- as it is deployed --------------------------------------------------------------------------


#: Operators whose variants the bound of FLASH counts; of the others it counts one each.
_NAMED_OPS = WEIGHTED_OPS | {Op.ADD, Op.AVERAGE_POOL}


def _kernel_name(graph: Graph, node: Node) -> tuple[str, int]:
    """(kernel, bytes at least of each of its variants in the file: a record and its name)."""
    kernel = node.op.value
    if node.op is Op.DENSE and graph.hwc(node.inputs[0])[:2] != (1, 1):
        kernel = Op.CONV2D.value  # applied to every pixel
    tag = "_a8w8o8_pc" if node.op in WEIGHTED_OPS else "_a8o8"
    return kernel, 24 + arena.align(len(f"tfmix_{kernel}{tag}") + 1, 4)


def _assignments(tensors: Iterable[Tensor]) -> Iterator[dict[Tensor, int]]:
    """Bits of some tensors, in every combination."""
    names = dict.fromkeys(tensors)
    for bits in product(BIT_WIDTHS, repeat=len(names)):
        yield dict(zip(names, bits, strict=True))


@dataclass(frozen=True)
class DeployedMemory(StepMemory):
    """What the device will hold, run by the same steps whatever the bits.

    FLASH: `file_size(policy)`, the exact size of the exported file. It is injected, since this
    package stands below the exporter; interpreter and kernels are code, and not counted.
    RAM: `arena_used_bytes()` of TensorFlow Lite Micro on a Cortex-M: the planned arena, every
    buffer and every step's scratch aligned, and what the interpreter keeps beside it.

    plan: the layers that run row by row
    """

    graph: Graph
    file_size: Callable[[QuantizationPolicy], int]
    plan: ChainPlan = NO_CHAINS

    @cached_property
    def steps(self) -> tuple[MemoryStep, ...]:
        return tuple(
            step if step.stream else replace(step, scratch=arena.align(step.scratch))
            for step in _steps_of(self.graph, self.plan)
        )

    def flash_bytes(self, policy: QuantizationPolicy) -> int:
        return self.file_size(policy)

    @cached_property
    def flash_items(self) -> tuple[FlashItem, ...]:
        """The names of the kernel variants in use, and the shapes of packed buffers."""
        graph = self.graph
        uses: dict[tuple[str, int, Hashable], list[Mapping[Tensor, int]]] = {}
        for step in self.steps:
            node = step.nodes[0]
            if step.stream is None and node.op in _NAMED_OPS:
                inputs = [("activations", graph.quantizer_of(tensor)) for tensor in node.inputs]
                weights = [("weights", node.name)] if node in graph.weighted_nodes else []
                output = ("activations", graph.quantizer_of(node.output))
                kernel, size = _kernel_name(graph, node)
                for bits in _assignments((*inputs, *weights, output)):
                    # An addition may swap its inputs.
                    key = sorted(bits[t] for t in inputs), [bits[t] for t in (*weights, output)]
                    uses.setdefault((kernel, size, str(key)), []).append(bits)
            if step.output != graph.buffer_of(graph.output):
                shape = graph.tensors[step.output].shape
                tensor = ("activations", graph.quantizer_of(step.output))
                for bits in _assignments((tensor,)):
                    last = shape[-1] * bits[tensor]
                    flat = packed_size(math.prod(shape), bits[tensor])
                    packed = (*shape[:-1], last // 8) if last % 8 == 0 else (flat,)
                    size = 4 * (2 + len(packed))  # length and batch before it
                    uses.setdefault(("shape", size, packed), []).append(bits)
        return tuple(FlashItem(size, tuple(bits)) for (_, size, _), bits in uses.items())

    @cached_property
    def flash_rest(self) -> int:
        """What is there at 8 bits everywhere, without what other bits might save.

        Beside the shared items that is only the padding between constants.
        """
        policy = QuantizationPolicy.uniform(self.graph, FIXED_BITS)
        items = sum(item.size for item in self.flash_items if item.is_paid(policy))
        rest = self.file_size(policy) - self.packed_bytes(policy) - items
        for node in self.graph.weighted_nodes:
            most, *fewer = (packed_weight_bytes(self.graph, node, b) for b in reversed(BIT_WIDTHS))
            if any((most - size) % arena.ALIGNMENT for size in fewer):
                rest -= arena.ALIGNMENT - 1
        return max(0, rest - arena.ALIGNMENT)

    def ram_bytes(self, policy: QuantizationPolicy) -> int:
        return arena.plan(self._schedule(policy.activation_bits)).total + self.interpreter_bytes

    @cached_property
    def interpreter_bytes(self) -> int:
        any_bits = dict.fromkeys(self.graph.quantized_tensors, FIXED_BITS)
        return tflm.census(self.graph, self._schedule(any_bits)).interpreter_bytes

    def _schedule(self, activation_bits: Mapping[str, int]) -> Schedule:
        return schedule(self.graph, activation_bits, self.plan.chains, self.plan.bands)

    def buffer_bytes(self, buffer: str, activation_bits: Mapping[str, int]) -> int:
        return arena.align(self.graph.tensor_bytes(buffer, activation_bits))


@dataclass(frozen=True)
class StreamingMemory(MemoryModel):
    """`DeployedMemory` of a network that runs by the chains its bits need: none where the RAM does
    without, else the cheapest that fit, and where none fit those that need the least RAM.

    ram: bytes that there are
    file_size: of (policy, chains)
    """

    graph: Graph
    file_size: Callable[[QuantizationPolicy, ChainPlan], int]
    ram: int
    _models: dict[ChainPlan, DeployedMemory] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _plans: dict[tuple[int, ...], ChainPlan] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _tightest: dict[tuple[int, ...], ChainPlan] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def at(self, activation_bits: Mapping[str, int]) -> DeployedMemory:
        key = self._key(activation_bits)
        if key not in self._plans:
            self._plans[key] = self._plan(activation_bits)
        return self._model(self._plans[key])

    def tightest(self, activation_bits: Mapping[str, int]) -> DeployedMemory:
        key = self._key(activation_bits)
        if key not in self._tightest:
            self._tightest[key] = planner_of(self.graph).smallest(activation_bits, self._beside)
        return self._model(self._tightest[key])

    def parts(self) -> tuple[tuple[int, int, MemoryStep], ...]:
        """(first, last, step) of all that the network may be cut into: each of the steps first to
        last alone, and every chain, one row a call."""
        planner = planner_of(self.graph)
        found = [(k, k, step) for k, step in enumerate(self._model(NO_CHAINS).steps)]
        for first, last, stream in planner.chains():
            alive = planner.alive(first)
            step = MemoryStep(
                self.graph.steps[first : last + 1],
                inputs=stream.inputs,
                output=stream.output,
                held=tuple(tensor for tensor in alive if tensor not in stream.inputs),
                scratch=stream.fixed_scratch,
                stream=stream,
                consumes=planner.consumes(first, last),
            )
            found.append((first, last, step))
        return tuple(found)

    def part_bounds(self, step: MemoryStep) -> tuple[Terms, ...]:
        """As `StepMemory.linear_bounds`, with what the interpreter takes at least."""
        model = self._model(NO_CHAINS)
        rest = self._least_beside - model.interpreter_bytes
        return tuple((sizes, beside + rest) for sizes, beside in model.linear_bounds(step))

    @cached_property
    def _least_beside(self) -> int:
        """What the interpreter takes beside a network of a single chain."""
        order = schedule(self.graph, dict.fromkeys(self.graph.quantized_tensors, FIXED_BITS))
        census = tflm.census(self.graph, order)
        one = replace(census, operators=1, activations=2, scratch_buffers=1, concatenated=())
        return one.interpreter_bytes

    def flash_bytes(self, policy: QuantizationPolicy) -> int:
        return self.at(policy.activation_bits).flash_bytes(policy)

    def ram_bytes(self, policy: QuantizationPolicy) -> int:
        return self.at(policy.activation_bits).ram_bytes(policy)

    def flash_lower_bound(self, policy: QuantizationPolicy) -> int:
        return self.at(policy.activation_bits).flash_lower_bound(policy)

    def ram_lower_bound(self, activation_bits: Mapping[str, int]) -> int:
        """Bytes of the largest step under the chains that make it the smallest."""
        layer_by_layer = self._model(NO_CHAINS).ram_lower_bound(activation_bits)
        if layer_by_layer <= self.ram:
            return layer_by_layer
        return planner_of(self.graph).least_bytes(activation_bits)

    def _plan(self, activation_bits: Mapping[str, int]) -> ChainPlan:
        model = self._model(NO_CHAINS)
        policy = QuantizationPolicy({}, activation_bits)
        if model.ram_lower_bound(activation_bits) <= self.ram and (
            model.ram_bytes(policy) <= self.ram
        ):
            return NO_CHAINS
        plan = planner_of(self.graph).fitting(activation_bits, self.ram, self._beside)
        return self.tightest(activation_bits).plan if plan is None else plan

    def _beside(self, order: Schedule) -> int:
        return tflm.census(self.graph, order).interpreter_bytes

    def _model(self, plan: ChainPlan) -> DeployedMemory:
        if plan not in self._models:
            self._models[plan] = DeployedMemory(
                self.graph, lambda policy: self.file_size(policy, plan), plan
            )
        return self._models[plan]

    def _key(self, activation_bits: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(activation_bits[tensor] for tensor in self.graph.quantized_tensors)


# -- report -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepReport:
    """One line of the report. Bytes as the memory model counts them.

    weight_bits: None where there are no weights, and of a chain
    shared_bytes: what the output of a chain may overwrite of its input
    layers: of a chain; scratch of each are the rows that are kept of its output
    live_bytes = input_bytes + output_bytes + held_bytes + scratch_bytes - shared_bytes
    """

    name: str
    op: str
    input_bits: tuple[int, ...]
    activation_bits: int
    weight_bits: int | None
    weight_bytes: int
    input_bytes: int
    output_bytes: int
    held_bytes: int
    scratch_bytes: int
    live_bytes: int
    shared_bytes: int = 0
    layers: tuple[StepReport, ...] = ()


@dataclass(frozen=True)
class MemoryReport:
    """FLASH and RAM, step by step and in all; `print` it for a table.

    interpreter_bytes: the part of `ram_bytes` that is in use at every step, beside the `live_bytes`
    of the steps
    """

    flash_bytes: int
    ram_bytes: int
    steps: tuple[StepReport, ...]
    budget: Budget | None = None
    interpreter_bytes: int = 0

    @property
    def weight_bytes(self) -> int:
        """Packed weights alone; the rest of `flash_bytes` is what stands beside them."""
        return sum(step.weight_bytes for step in self.steps)

    @property
    def activation_bytes(self) -> int:
        """The planned arena: what a network without an interpreter (`export_c`) has in RAM."""
        return self.ram_bytes - self.interpreter_bytes

    @property
    def chains(self) -> tuple[StepReport, ...]:
        """The steps that are chains of layers, run row by row."""
        return tuple(step for step in self.steps if step.layers)

    @property
    def peak_step(self) -> StepReport | None:
        """The first step that needs the most RAM."""
        return max(self.steps, key=lambda step: step.live_bytes, default=None)

    @property
    def flash_percent(self) -> float | None:
        """Share of the budget's FLASH in use; None without a limit."""
        return _percent(self.flash_bytes, self.budget and self.budget.flash)

    @property
    def ram_percent(self) -> float | None:
        """Share of the budget's RAM in use; None without a limit."""
        return _percent(self.ram_bytes, self.budget and self.budget.ram)

    @property
    def fits(self) -> bool:
        """Whether both limits hold; True without a budget."""
        return all(p is None or p <= 100 for p in (self.flash_percent, self.ram_percent))

    def __str__(self) -> str:
        head, rows, peak_row = _HEAD, [], None
        for step in self.steps:
            if step is self.peak_step:
                peak_row = len(rows)
            rows += [_cells(step), *(_cells(layer, indent="  ") for layer in step.layers)]
        if not any(step.shared_bytes for step in self.steps):
            head, *rows = ((*row[:-2], row[-1]) for row in (head, *rows))
        rows = [head, *rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                f"{cell:<{width}}" if column < _TEXT_COLUMNS else f"{cell:>{width}}"
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        rule = "-" * len(lines[0])
        if peak_row is not None:
            lines[1 + peak_row] += "  <- peak"
        budget = self.budget or Budget()
        lines = [
            *lines[:1],
            rule,
            *lines[1:],
            rule,
            f"FLASH  {_use(self.flash_bytes, budget.flash)}",
            f"       of which weights {self.weight_bytes:,} B, "
            f"beside them {self.flash_bytes - self.weight_bytes:,} B",
            f"RAM    {_use(self.ram_bytes, budget.ram)}",
        ]
        if self.interpreter_bytes:
            lines.append(
                f"       of which activations {self.activation_bytes:,} B, "
                f"interpreter {self.interpreter_bytes:,} B"
            )
        if self.chains:
            layers = sum(len(chain.layers) for chain in self.chains)
            lines.append(
                f"       {len(self.chains)} chains of {layers} layers run row by row: scratch of a "
                "layer is the rows kept of its output"
            )
        if self.budget is not None:
            lines.append("fits the budget" if self.fits else "DOES NOT FIT the budget")
        return "\n".join(lines)


def memory_report(
    memory: MemoryModel, policy: QuantizationPolicy, budget: Budget | None = None
) -> MemoryReport:
    """What `memory` counts under `policy`. TfmixError if the policy is not its graph's."""
    policy.validate(memory.graph)
    memory = memory.at(policy.activation_bits)
    graph, bits = memory.graph, policy.activation_bits

    def size(*buffers: str) -> int:
        return sum(memory.buffer_bytes(buffer, bits) for buffer in buffers)

    def weights(*nodes: Node) -> int:
        return sum(
            packed_weight_bytes(graph, node, policy.weight_bits[node.name])
            for node in nodes
            if node.name in policy.weight_bits
        )

    def bits_of(tensors: Iterable[str]) -> tuple[int, ...]:
        return tuple(graph.tensor_bits(tensor, bits) for tensor in tensors)

    def layer(step: MemoryStep, node: Node) -> StepReport:
        tensor = graph.buffer_of(node.output)
        rows = memory.tensor_bytes(step, tensor, bits) if tensor in step.inner else 0
        return StepReport(
            name=node.name,
            op=node.op.value,
            input_bits=bits_of(dict.fromkeys(node.inputs)),
            activation_bits=graph.tensor_bits(node.output, bits),
            weight_bits=policy.weight_bits.get(node.name),
            weight_bytes=weights(node),
            input_bytes=0,
            output_bytes=0,
            held_bytes=0,
            scratch_bytes=rows,
            live_bytes=0,
        )

    def report(step: MemoryStep) -> StepReport:
        first, chain = step.nodes[0], step.stream is not None
        return StepReport(
            name=step.name,
            op=f"chain of {len(step.nodes)}" if chain else first.op.value,
            input_bits=bits_of(step.inputs),
            activation_bits=graph.tensor_bits(step.output, bits),
            weight_bits=None if chain else policy.weight_bits.get(first.name),
            weight_bytes=weights(*step.nodes),
            input_bytes=size(*step.inputs),
            output_bytes=size(step.output),
            held_bytes=size(*step.held),
            scratch_bytes=memory.scratch_bytes(step, bits),
            live_bytes=memory.live_bytes(step, bits) - memory.interpreter_bytes,
            shared_bytes=memory.shared_bytes(step, bits),
            layers=tuple(layer(step, node) for node in step.nodes) if chain else (),
        )

    return MemoryReport(
        memory.flash_bytes(policy),
        memory.ram_bytes(policy),
        tuple(map(report, memory.steps)),
        budget,
        memory.interpreter_bytes,
    )


#: Bits of input, weights and output; bytes of weights and of what is in RAM. What output and input
#: share is left out where nothing does.
_HEAD = (
    "step", "op", "in", "w", "out", "weights B", "input B", "output B", "held B", "scratch B",
    "shared B", "live B",
)  # fmt: skip
_TEXT_COLUMNS = 2


def _cells(step: StepReport, indent: str = "") -> tuple[str, ...]:
    """One row of the table; nothing where there are no bytes."""
    sizes = (
        step.weight_bytes, step.input_bytes, step.output_bytes, step.held_bytes,
        step.scratch_bytes, -step.shared_bytes, step.live_bytes,
    )  # fmt: skip
    return (
        indent + step.name,
        step.op,
        "+".join(map(str, step.input_bits)),
        "" if step.weight_bits is None else str(step.weight_bits),
        str(step.activation_bits),
        *(f"{size:,}" if size else "" for size in sizes),
    )


def _percent(size: int, limit: int | None) -> float | None:
    return None if limit is None else 100 * size / limit


def _use(size: int, limit: int | None) -> str:
    """For instance 401,408 B (392 kB), 76.6 % of 512 kB."""
    text = f"{size:,} B ({format_bytes(size)})"
    if limit is None:
        return text
    return f"{text}, {_percent(size, limit):.1f} % of {format_bytes(limit)}"
