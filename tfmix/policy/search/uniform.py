"""The same bits everywhere: the widest that fit, for all weights and for all activations."""

from __future__ import annotations

from collections.abc import Callable

from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search.base import SearchProblem, searcher
from tfmix.policy.search.enforce import enforce


@searcher("uniform")
def search(problem: SearchProblem) -> QuantizationPolicy:
    """The widest bits for all activations, then for all weights; pinned and fixed bits stay.

    BudgetError where 2 bits everywhere are too many.
    """
    start = problem.start()
    weights = [name for name in start.weight_bits if problem.may_cut_weights(name)]
    activations = [name for name in start.activation_bits if problem.may_cut_activation(name)]

    def at(weight_bits: int, activation_bits: int) -> QuantizationPolicy:
        return start.replace(
            weights=dict.fromkeys(weights, weight_bits),
            activations=dict.fromkeys(activations, activation_bits),
        )

    limits, memory = problem.budget, problem.memory
    fewest = BIT_WIDTHS[0]
    activation_bits = _widest(lambda b: memory.ram_bytes(at(fewest, b)), limits.ram)
    weight_bits = _widest(lambda b: memory.flash_bytes(at(b, activation_bits)), limits.flash)
    return enforce(problem, at(weight_bits, activation_bits))  # all at 2 bits: says what is wrong


def _widest(size: Callable[[int], int], limit: int | None) -> int:
    """The widest bits whose size is within the limit, or the fewest there are."""
    fitting = (b for b in reversed(BIT_WIDTHS) if limit is None or size(b) <= limit)
    return next(fitting, BIT_WIDTHS[0])
