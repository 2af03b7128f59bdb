"""The rule-based, memory-driven policy of Rusci et al. 2020: no data, no training, milliseconds.

Bits are cut 8 -> 4 -> 2 until the network fits: first activations until RAM holds (their
Algorithm 1), then weights until FLASH holds (their Algorithm 2). Cuts are never taken back. Where
no policy fits, the original loops for ever; this one says which tensor is in the way and what
would do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

from tfmix.errors import BudgetError
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.cost.memory import MemoryStep, StepMemory, packed_weight_bytes
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search.base import SearchProblem, searcher

#: Weights within this share of the largest are cut in order of execution.
SHARE_MARGIN = 0.05

_FEWEST_BITS = BIT_WIDTHS[0]


@searcher("memory")
def search(problem: SearchProblem) -> QuantizationPolicy:
    """Cuts as little as the rules can until the budget holds. BudgetError where none does."""
    return cut_weights(problem, cut_activations(problem, problem.start()))


# -- activations: RAM ---------------------------------------------------------------------------


def cut_activations(problem: SearchProblem, policy: QuantizationPolicy) -> QuantizationPolicy:
    """`policy` with activations cut until `problem.budget.ram` holds.

    Forward passes go through the steps in order and cut only outputs, backward passes go back and
    cut only inputs, each as long as the step is over the limit and that is the side it wants cut;
    they alternate until no step is over.
    """
    limit = problem.budget.ram
    if limit is None:
        return policy
    cutter = _ActivationCutter(problem, dict(policy.activation_bits), limit)
    while cutter.is_any_over():
        changed = cutter.cut_pass(outputs=True)
        changed |= cutter.cut_pass(outputs=False)
        if not changed:
            require_some_fit(problem, policy)
            break  # other chains will do
    # Every single step fits, or what does not has nothing left to cut. The arena may still need
    # more, where the planner misses its bound.
    policy = policy.replace(activations=cutter.bits)
    while problem.memory.ram_bytes(policy) > limit:
        if not cutter.cut_busiest():
            fail_ram(problem, policy)
        policy = policy.replace(activations=cutter.bits)
    return policy


@dataclass(frozen=True)
class _Side:
    """The tensor that stands for the input side or the output side of a step."""

    quantizer: str  # the tensor whose bits it has
    bits: int
    elements: int
    may_cut: bool
    is_output: bool


@dataclass
class _ActivationCutter:
    """The bits so far, and the rules by which they are cut."""

    problem: SearchProblem
    bits: dict[str, int]
    limit: int

    @property
    def memory(self) -> StepMemory:
        """What runs the network at the bits so far."""
        return self.problem.memory.at(self.bits)

    def is_any_over(self) -> bool:
        return self.memory.ram_lower_bound(self.bits) > self.limit

    def cut_pass(self, *, outputs: bool) -> bool:
        """One pass, forward over outputs or backward over inputs; True if it cut anything."""
        changed, memory = False, self.memory
        for step in memory.steps if outputs else reversed(memory.steps):
            while memory.live_bytes(step, self.bits) > self.limit:
                side = self.side_to_cut(memory, step)
                if side is None or side.is_output != outputs:
                    break
                self.cut(side)
                changed = True
        return changed

    def cut(self, side: _Side) -> None:
        self.bits[side.quantizer] //= 2

    def side_to_cut(self, memory: StepMemory, step: MemoryStep) -> _Side | None:
        """The side `step` wants cut or, if that one cannot be, the other; None if neither can.

        The first step wants its output cut, the last its input, any other the side with more
        bits; on a tie the input if it has more elements, else the output. What lies within a chain
        is on the side of its output.
        """
        inputs = self._side((*step.inputs, *step.held), is_output=False)
        output = self._side((step.output, *step.inner), is_output=True)
        if step is memory.steps[0]:
            output_first = True
        elif step is memory.steps[-1]:
            output_first = False
        else:
            output_first = (output.bits, output.elements) >= (inputs.bits, inputs.elements)
        for side in (output, inputs) if output_first else (inputs, output):
            if side.may_cut:
                return side
        return None

    def _side(self, buffers: Iterable[str], *, is_output: bool) -> _Side:
        """Of several tensors, the one with the most bits stands for all, on a tie the largest.

        Those that cannot be cut do not count, as long as there is one that can.
        """
        graph = self.problem.graph
        sides = []
        for buffer in buffers:
            quantizer = graph.quantizer_of(buffer)
            bits = graph.tensor_bits(buffer, self.bits)
            may_cut = (
                quantizer in self.bits
                and bits > _FEWEST_BITS
                and self.problem.may_cut_activation(quantizer)
            )
            elements = graph.tensors[buffer].elements
            sides.append(_Side(quantizer, bits, elements, may_cut, is_output))
        return max(sides, key=lambda side: (side.may_cut, side.bits, side.elements))

    def cut_busiest(self) -> bool:
        """Cuts at the busiest step that has anything to cut; False if none has."""
        memory = self.memory
        for step in sorted(
            memory.steps, key=lambda s: memory.live_bytes(s, self.bits), reverse=True
        ):
            side = self.side_to_cut(memory, step)
            if side is not None:
                self.cut(side)
                return True
        return False


def at_most(problem: SearchProblem, policy: QuantizationPolicy, bits: int) -> QuantizationPolicy:
    """`policy` with all activations that may be cut at so many bits at most."""
    return policy.replace(
        activations={
            tensor: min(bits, before)
            for tensor, before in policy.activation_bits.items()
            if problem.may_cut_activation(tensor)
        }
    )


def require_some_fit(problem: SearchProblem, policy: QuantizationPolicy) -> None:
    """BudgetError where no activation bits hold `problem.budget.ram`."""
    if problem.memory.ram_bytes(at_most(problem, policy, _FEWEST_BITS)) > problem.budget.ram:
        fail_ram(problem, policy)


def fail_ram(problem: SearchProblem, policy: QuantizationPolicy) -> NoReturn:
    """BudgetError: with all that may be cut at the fewest bits, RAM does not hold.

    It names the largest tensor of the first step that is over the limit, or of the busiest.
    """
    least = at_most(problem, policy, _FEWEST_BITS)
    bits = least.activation_bits
    memory = problem.memory.at(bits)
    over = (s for s in memory.steps if memory.live_bytes(s, bits) > problem.budget.ram)
    busiest = max(memory.steps, key=lambda s: memory.live_bytes(s, bits))
    step = next(over, busiest)
    sizes = {
        tensor: memory.tensor_bytes(step, tensor, bits) for tensor in (*step.buffers, *step.inner)
    }
    tensors = ", ".join(
        f"{buffer!r} {size:,} B at {problem.graph.tensor_bits(buffer, bits)} bits"
        for buffer, size in sizes.items()
    )
    rest = f", scratch {step.scratch:,} B" if step.scratch else ""
    shared = memory.shared_bytes(step, bits)
    rest += f", less {shared:,} B that its output shares with its input" if shared else ""
    rest += f", interpreter {memory.interpreter_bytes:,} B" if memory.interpreter_bytes else ""
    tensor = max(sizes, key=sizes.__getitem__)
    smallest = memory.ram_bytes(least)
    raise BudgetError(
        f"no policy holds {problem.budget.ram:,} B of RAM: tensor {tensor!r} does not fit. With "
        f"all that may be cut at {_FEWEST_BITS} bits, step {step.name!r} needs "
        f"{memory.live_bytes(step, bits):,} B ({tensors}{rest}); the smallest RAM budget that "
        f"would do is {smallest:,} B",
        tensor=tensor,
        smallest=smallest,
    )


# -- weights: FLASH -----------------------------------------------------------------------------


def cut_weights(problem: SearchProblem, policy: QuantizationPolicy) -> QuantizationPolicy:
    """`policy` with weights cut until `problem.budget.flash` holds.

    With share = a node's weight bytes / all weight bytes, and R the largest share among nodes that
    can be cut: the first in execution order with share > R - 5 % is halved.
    """
    limit = problem.budget.flash
    if limit is None:
        return policy
    graph = problem.graph
    nodes = {node.name: node for node in graph.weighted_nodes}
    sizes = {
        name: packed_weight_bytes(graph, nodes[name], bits)
        for name, bits in policy.weight_bits.items()
    }
    # The weights alone are a lower bound: as long as they do not fit, the exact figure, which may
    # cost a whole export, is not asked for.
    while sum(sizes.values()) > limit or problem.memory.flash_bytes(policy) > limit:
        open_names = [
            name
            for name, bits in policy.weight_bits.items()
            if bits > _FEWEST_BITS and problem.may_cut_weights(name)
        ]
        if not open_names:
            fail_flash(problem, policy, sizes)
        total = sum(sizes.values())
        least = max(sizes[name] for name in open_names) / total - SHARE_MARGIN
        name = next(name for name in open_names if sizes[name] / total > least)
        bits = policy.weight_bits[name] // 2
        policy = policy.replace(weights={name: bits})
        sizes[name] = packed_weight_bytes(graph, nodes[name], bits)
    return policy


def fail_flash(
    problem: SearchProblem, policy: QuantizationPolicy, sizes: dict[str, int]
) -> NoReturn:
    """BudgetError: nothing is left to cut, `policy` is the smallest there is.

    sizes: node name -> packed bytes of its weights
    """
    smallest = problem.memory.flash_bytes(policy)
    if not sizes:
        raise BudgetError(
            f"a network without weights needs {smallest:,} B of FLASH, over the budget of "
            f"{problem.budget.flash:,} B",
            tensor=problem.graph.input,
            smallest=smallest,
        )
    tensor = max(sizes, key=sizes.__getitem__)
    raise BudgetError(
        f"no policy holds {problem.budget.flash:,} B of FLASH: the weights of {tensor!r} do not "
        f"fit. With all that may be cut at {_FEWEST_BITS} bits, they take {sizes[tensor]:,} B at "
        f"{policy.weight_bits[tensor]} bits of {smallest:,} B in all, which is the smallest FLASH "
        "budget that would do",
        tensor=tensor,
        smallest=smallest,
    )
