"""FLASH and RAM of a network under a policy: two ways to count, one report.

`PaperMemory` counts as Rusci et al. 2020 (memory constraints M1 and M2, and the table of bytes
beside the weights), so that their results can be reproduced; `DeployedMemory` counts what is
really put on the device. Both see the network as a list of `MemoryStep`s, so that searches and
reports work with either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Literal, Protocol

from tfmix.budget import Budget, format_bytes
from tfmix.errors import TfmixError
from tfmix.ir.graph import FIXED_BITS, WEIGHTED_OPS, Graph, Node, Op
from tfmix.ir.quant import BIT_WIDTHS, packed_size
from tfmix.ir.schedule import schedule
from tfmix.policy.cost import arena, tflm
from tfmix.policy.policy import QuantizationPolicy


@dataclass(frozen=True)
class MemoryStep:
    """A kernel call and the buffers alive while it runs (names; each buffer once).

    inputs:   what it reads
    output:   what it writes
    held:     alive, neither read nor written: the skip connections across this step
    scratch:  bytes, as the memory model counts them
    """

    node: Node
    inputs: tuple[str, ...]
    output: str
    held: tuple[str, ...]
    scratch: int

    @property
    def buffers(self) -> tuple[str, ...]:
        return (*self.inputs, self.output, *self.held)


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
    """A way to count bytes.

    graph:  the network
    steps:  the steps at which RAM is counted, in execution order; they do not depend on a policy
    """

    graph: Graph

    @property
    def steps(self) -> tuple[MemoryStep, ...]: ...

    def flash_bytes(self, policy: QuantizationPolicy) -> int:
        """FLASH of the network. Never less than `packed_weight_bytes`. May be slow."""
        ...

    def ram_bytes(self, policy: QuantizationPolicy) -> int:
        """RAM of the activations. Never less than `ram_lower_bound`. May be slow."""
        ...

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

    def packed_bytes(self, policy: QuantizationPolicy) -> int:
        """FLASH of the packed weights alone. Fast."""
        return sum(
            packed_weight_bytes(self.graph, node, policy.weight_bits[node.name])
            for node in self.graph.weighted_nodes
        )

    def flash_lower_bound(self, policy: QuantizationPolicy) -> int:
        """Packed weights, shared items and the least there is beside them. Fast."""
        items = sum(item.size for item in self.flash_items if item.is_paid(policy))
        return self.packed_bytes(policy) + items + self.flash_rest

    def live_bytes(self, step: MemoryStep, activation_bits: Mapping[str, int]) -> int:
        """All that must be in RAM while `step` runs, scratch and interpreter included. Fast."""
        tensors = sum(self.buffer_bytes(buffer, activation_bits) for buffer in step.buffers)
        return tensors + step.scratch + self.interpreter_bytes

    def ram_lower_bound(self, activation_bits: Mapping[str, int]) -> int:
        """The largest `live_bytes`: what any arena must hold. Fast, for the inside of a search."""
        return max((self.live_bytes(step, activation_bits) for step in self.steps), default=0)


def packed_weight_bytes(graph: Graph, node: Node, bits: int) -> int:
    """Bytes of a node's packed weights, and of nothing beside them."""
    return packed_size(graph.weight_elements(node), bits)


def _steps_of(graph: Graph) -> tuple[MemoryStep, ...]:
    """One per kernel call, scratch as the kernels need it."""
    any_bits = dict.fromkeys(graph.quantized_tensors, FIXED_BITS)  # sizes are not looked at
    order = schedule(graph, any_bits)
    return tuple(
        MemoryStep(
            node=node,
            inputs=tuple(dict.fromkeys(step.reads)),
            output=step.writes,
            held=tuple(b for b in live if b not in step.reads and b != step.writes),
            scratch=step.scratch,
        )
        for node, step, live in zip(graph.steps, order.steps, order.live, strict=True)
    )


# -- as the paper counts ------------------------------------------------------------------------

#: (bytes per output channel, bytes per layer) beside the packed weights. PL, PC: per layer, per
#: channel; FB, ICN: batch norm folded, or as integer channel normalization.
PL_FB, PL_ICN, PC = (4, 20), (9, 12), (10, 8)
PL_CLASSIFIER, PC_CLASSIFIER = (4, 20), (7, 4)

#: The layers at which the paper counts RAM. Pooling, padding, softmax and a ReLU of its own are not
#: among them, nor is a lookup; a batch norm of its own is: it runs as a convolution.
PAPER_OPS = WEIGHTED_OPS | {Op.BATCH_NORM, Op.ADD, Op.MULTIPLY, Op.CONCATENATE}


@dataclass(frozen=True)
class PaperMemory(MemoryModel):
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
            MemoryStep(step.node, step.inputs, step.output, step.held, scratch=0)
            for step in _steps_of(self.graph)
            if step.node.op in PAPER_OPS
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
class DeployedMemory(MemoryModel):
    """What the device will hold.

    FLASH: `file_size(policy)`, the exact size of the exported file. It is injected, since this
    package stands below the exporter; interpreter and kernels are code, and not counted.
    RAM: `arena_used_bytes()` of TensorFlow Lite Micro on a Cortex-M: the planned arena, every
    buffer and every step's scratch aligned, and what the interpreter keeps beside it.
    """

    graph: Graph
    file_size: Callable[[QuantizationPolicy], int]

    @cached_property
    def steps(self) -> tuple[MemoryStep, ...]:
        return tuple(
            MemoryStep(step.node, step.inputs, step.output, step.held, arena.align(step.scratch))
            for step in _steps_of(self.graph)
        )

    def flash_bytes(self, policy: QuantizationPolicy) -> int:
        return self.file_size(policy)

    @cached_property
    def flash_items(self) -> tuple[FlashItem, ...]:
        """The names of the kernel variants in use, and the shapes of packed buffers."""
        graph = self.graph
        uses: dict[tuple[str, int, Hashable], list[Mapping[Tensor, int]]] = {}
        for step in self.steps:
            node = step.node
            if node.op in _NAMED_OPS:
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
        planned = arena.plan(schedule(self.graph, policy.activation_bits)).total
        return planned + self.interpreter_bytes

    @cached_property
    def interpreter_bytes(self) -> int:
        any_bits = dict.fromkeys(self.graph.quantized_tensors, FIXED_BITS)
        return tflm.census(self.graph, schedule(self.graph, any_bits)).interpreter_bytes

    def buffer_bytes(self, buffer: str, activation_bits: Mapping[str, int]) -> int:
        return arena.align(self.graph.tensor_bytes(buffer, activation_bits))


# -- report -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepReport:
    """One line of the report. Bytes as the memory model counts them; None: it has no weights.

    live_bytes = input_bytes + output_bytes + held_bytes + scratch_bytes
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
        rows = [_HEAD, *(_cells(step) for step in self.steps)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                f"{cell:<{width}}" if column < _TEXT_COLUMNS else f"{cell:>{width}}"
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        rule = "-" * len(lines[0])
        peak = self.peak_step
        if peak is not None:
            lines[1 + self.steps.index(peak)] += "  <- peak"
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
        if self.budget is not None:
            lines.append("fits the budget" if self.fits else "DOES NOT FIT the budget")
        return "\n".join(lines)


def memory_report(
    memory: MemoryModel, policy: QuantizationPolicy, budget: Budget | None = None
) -> MemoryReport:
    """What `memory` counts under `policy`. TfmixError if the policy is not its graph's."""
    graph, bits = memory.graph, policy.activation_bits
    policy.validate(graph)

    def size(*buffers: str) -> int:
        return sum(memory.buffer_bytes(buffer, bits) for buffer in buffers)

    def report(step: MemoryStep) -> StepReport:
        node = step.node
        weight_bits = policy.weight_bits.get(node.name)
        return StepReport(
            name=node.name,
            op=node.op.value,
            input_bits=tuple(graph.tensor_bits(tensor, bits) for tensor in step.inputs),
            activation_bits=graph.tensor_bits(step.output, bits),
            weight_bits=weight_bits,
            weight_bytes=packed_weight_bytes(graph, node, weight_bits) if weight_bits else 0,
            input_bytes=size(*step.inputs),
            output_bytes=size(step.output),
            held_bytes=size(*step.held),
            scratch_bytes=step.scratch,
            live_bytes=memory.live_bytes(step, bits) - memory.interpreter_bytes,
        )

    return MemoryReport(
        memory.flash_bytes(policy),
        memory.ram_bytes(policy),
        tuple(map(report, memory.steps)),
        budget,
        memory.interpreter_bytes,
    )


#: Bits of input, weights and output; bytes of weights and of what is in RAM.
_HEAD = (
    "step", "op", "in", "w", "out", "weights B", "input B", "output B", "held B", "scratch B",
    "live B",
)  # fmt: skip
_TEXT_COLUMNS = 2


def _cells(step: StepReport) -> tuple[str, ...]:
    """One row of the table; nothing where there are no bytes."""
    sizes = (
        step.weight_bytes, step.input_bytes, step.output_bytes, step.held_bytes,
        step.scratch_bytes, step.live_bytes,
    )  # fmt: skip
    return (
        step.name,
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
