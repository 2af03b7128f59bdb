"""Any bits made to fit, and what is left of the budget put to use.

`enforce` is the rule by which a search that guesses keeps the budget.

FLASH: while it is over the limit, the weight tensor of most packed bytes is halved (8 -> 4 -> 2),
on a tie the first in execution order.
RAM: steps are visited in execution order. While a step's live bytes are over the limit, the live
tensor of most bytes is halved, with all that shares its quantizer; on a tie the output comes before
inputs, inputs before what is held, and this before what lies within a chain. One visit is enough,
since a cut never makes another step larger; but then other chains may do with what there is, and
the steps are visited again. Where the planned arena is over the limit still, the same is done at
the step of most live bytes that has anything to cut, until it is not.

What is pinned, fixed or at 2 bits already is passed over.

`promote` goes the other way, from bits that fit to bits of which none can be raised.
"""

from __future__ import annotations

from collections.abc import Callable

from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.cost.memory import MemoryStep, StepMemory, packed_weight_bytes
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search.base import SearchProblem
from tfmix.policy.search.memory import fail_flash, fail_ram, require_some_fit

_FEWEST_BITS, _MOST_BITS = BIT_WIDTHS[0], BIT_WIDTHS[-1]


def enforce(problem: SearchProblem, policy: QuantizationPolicy) -> QuantizationPolicy:
    """`policy` with pinned and fixed bits in their place, cut until the budget holds.

    BudgetError with the tensor in the way and the smallest budget that would do, where none does.
    """
    start = problem.start()
    policy = start.replace(
        weights={n: b for n, b in policy.weight_bits.items() if problem.may_cut_weights(n)},
        activations={
            t: b for t, b in policy.activation_bits.items() if problem.may_cut_activation(t)
        },
    )
    return enforce_flash(problem, enforce_ram(problem, policy))


def enforce_flash(problem: SearchProblem, policy: QuantizationPolicy) -> QuantizationPolicy:
    """`policy` with weights cut until `problem.budget.flash` holds."""
    limit = problem.budget.flash
    if limit is None:
        return policy
    nodes = {node.name: node for node in problem.graph.weighted_nodes}
    sizes = {
        name: packed_weight_bytes(problem.graph, nodes[name], policy.weight_bits[name])
        for name in nodes
    }
    # The weights alone are a lower bound: as long as they do not fit, no file is written.
    while sum(sizes.values()) > limit or problem.memory.flash_bytes(policy) > limit:
        open_names = [
            name
            for name in nodes
            if policy.weight_bits[name] > _FEWEST_BITS and problem.may_cut_weights(name)
        ]
        if not open_names:
            fail_flash(problem, policy, sizes)
        name = max(open_names, key=sizes.__getitem__)
        bits = policy.weight_bits[name] // 2
        policy = policy.replace(weights={name: bits})
        sizes[name] = packed_weight_bytes(problem.graph, nodes[name], bits)
    return policy


def enforce_ram(problem: SearchProblem, policy: QuantizationPolicy) -> QuantizationPolicy:
    """`policy` with activations cut until `problem.budget.ram` holds."""
    limit = problem.budget.ram
    if limit is None:
        return policy
    bits = dict(policy.activation_bits)
    last = None
    while (memory := problem.memory.at(bits)) is not last:
        last = memory
        for step in memory.steps:
            while memory.live_bytes(step, bits) > limit:
                if not _cut_largest(problem, memory, step, bits):
                    require_some_fit(problem, policy)
                    break  # other chains will do
    policy = policy.replace(activations=bits)
    while problem.memory.ram_bytes(policy) > limit:
        memory = problem.memory.at(bits)
        busiest = sorted(memory.steps, key=lambda s: memory.live_bytes(s, bits), reverse=True)
        if not any(_cut_largest(problem, memory, step, bits) for step in busiest):
            fail_ram(problem, policy)
        policy = policy.replace(activations=bits)
    return policy


def _cut_largest(
    problem: SearchProblem, memory: StepMemory, step: MemoryStep, bits: dict[str, int]
) -> bool:
    """Halves the bits of the largest live tensor that may be cut; False if there is none."""
    graph = problem.graph
    quantizers = {
        tensor: graph.quantizer_of(tensor)
        for tensor in (step.output, *step.inputs, *step.held, *step.inner)
        if not graph.is_softmax_output(tensor)
    }
    sizes = {
        tensor: memory.tensor_bytes(step, tensor, bits)
        for tensor, quantizer in quantizers.items()
        if bits[quantizer] > _FEWEST_BITS and problem.may_cut_activation(quantizer)
    }
    if not sizes:
        return False
    bits[quantizers[max(sizes, key=sizes.__getitem__)]] //= 2
    return True


def promote(
    problem: SearchProblem,
    policy: QuantizationPolicy,
    worth: Callable[[QuantizationPolicy, QuantizationPolicy], float],
) -> QuantizationPolicy:
    """`policy`, which fits, with bits raised one tensor and one step at a time while it does.

    worth: of the change from one policy to the next; the worthiest is tried first, and what is
    worth less than nothing is left. In the end nothing worth it can be raised within the budget.
    """
    while True:
        raised = [
            *(
                policy.replace(weights={name: 2 * bits})
                for name, bits in policy.weight_bits.items()
                if bits < _MOST_BITS and problem.may_cut_weights(name)
            ),
            *(
                policy.replace(activations={name: 2 * bits})
                for name, bits in policy.activation_bits.items()
                if bits < _MOST_BITS and problem.may_cut_activation(name)
            ),
        ]
        worths = {candidate: worth(policy, candidate) for candidate in raised}
        raised = [candidate for candidate in raised if worths[candidate] >= 0]
        raised.sort(key=worths.__getitem__, reverse=True)
        found = next(filter(problem.fits, raised), None)
        if found is None:
            return policy
        policy = found
