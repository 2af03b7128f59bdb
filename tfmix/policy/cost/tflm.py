"""What TensorFlow Lite Micro keeps in the tensor arena beside the tensors.

An arena has two ends. Tensors and scratch lie at its head, where the memory plan puts them. At its
tail TFLM's allocators, the structs of tensors and nodes and the operators' own data pile up: here
they are piled up once more, with the sizes of a 32-bit Cortex-M (those of TFLM from July 2023 to
August 2026; a 64-bit host takes about twice as much). `arena_used_bytes()` is the sum of both.
While a model is loaded the head holds the planner's notes instead, for which a very small network
may have less room.
"""

from __future__ import annotations

from dataclasses import dataclass

from tfmix.ir.graph import Graph, Op
from tfmix.ir.schedule import Schedule
from tfmix.policy.cost import arena

# Bytes and alignments on a 32-bit machine. TFLM's own structs are aligned to 4.
_WORD = 4
#: Arena allocator, memory planner, model allocator, then the allocator for built-in operators.
_ALLOCATORS = (36, 44, 36, 8)
_SUBGRAPH = 8
_EVAL_TENSOR = 12  # of every tensor, constants included
_NODE = 32  # node and registration
_SCRATCH_HANDLE = 4
#: Of the network's input and of its output: a pointer, aligned like a buffer; then the full tensor,
#: its quantization, and the zero point.
_POINTER, _TENSOR, _QUANTIZATION, _ZERO_POINT = 4, 32, 12, 8

# The planner's notes at the head.
_SCRATCH_REQUEST, _SPARE_REQUESTS = 12, 12
_ALLOCATION_INFO = 24
_PLANNED_BUFFER = 40

#: OpData of kernels/tflm/bridge.h; what concatenate keeps for each input (kernels/tflm/).
OP_DATA, CONCATENATE_ITEM = 16, 24


@dataclass(frozen=True)
class Census:
    """Of a network with one input and one output, what TFLM keeps books on.

    activations, constants: tensors
    scratch_buffers:        operators that need scratch
    concatenated:           number of inputs of each concatenate
    """

    operators: int
    activations: int
    constants: int
    scratch_buffers: int
    concatenated: tuple[int, ...] = ()

    @property
    def interpreter_bytes(self) -> int:
        """Bytes at the tail of the arena, once the model is loaded."""
        tail = self._tail_without_input_and_output
        for _ in ("input", "output"):
            tail = _push(tail, _POINTER, arena.ALIGNMENT)
            tail = _push(tail, _TENSOR + _QUANTIZATION + _ZERO_POINT)
        return tail

    def arena_bytes(self, planned: int) -> int:
        """The smallest arena in which the model loads; planned: `ArenaPlan.total`."""
        used = self.interpreter_bytes + planned
        loading = arena.align(self._tail_without_input_and_output) + self._planning_bytes
        return max(arena.align(used), loading)

    @property
    def _tail_without_input_and_output(self) -> int:
        tail = 0
        for size in _ALLOCATORS:
            tail = _push(tail, size)
        tail = _push(tail, _SUBGRAPH)
        tail = _push(tail, _EVAL_TENSOR * (self.activations + self.constants))
        tail = _push(tail, _NODE * self.operators)
        for _ in range(self.operators):
            tail = _push(tail, OP_DATA, arena.ALIGNMENT)
        for inputs in self.concatenated:
            tail = _push(tail, CONCATENATE_ITEM * inputs, arena.ALIGNMENT)
        return _push(tail, _SCRATCH_HANDLE * self.scratch_buffers)

    @property
    def _planning_bytes(self) -> int:
        buffers = self.activations + self.scratch_buffers
        notes = _SCRATCH_REQUEST * (self.scratch_buffers + _SPARE_REQUESTS) + _WORD
        notes += _ALLOCATION_INFO * (buffers + self.constants)
        return arena.align(notes) + arena.align(_PLANNED_BUFFER * buffers)


def census(graph: Graph, schedule: Schedule) -> Census:
    """Of the network that `graph` becomes; schedule: of this graph, at whatever bits."""
    return Census(
        operators=len(schedule.steps),
        activations=len(schedule.buffers),
        constants=sum(node.op in _OPS_WITH_CONSTANTS for node in graph.steps),
        scratch_buffers=sum(step.scratch > 0 for step in schedule.steps),
        concatenated=tuple(len(node.inputs) for node in graph.steps if node.op is Op.CONCATENATE),
    )


_OPS_WITH_CONSTANTS = frozenset(
    {Op.CONV2D, Op.DEPTHWISE_CONV2D, Op.DENSE, Op.BATCH_NORM, Op.LOOKUP, Op.SOFTMAX}
)


def _push(tail: int, size: int, alignment: int = _WORD) -> int:
    """The tail after one more block, which begins at a multiple of `alignment`."""
    return arena.align(tail + size, alignment)
