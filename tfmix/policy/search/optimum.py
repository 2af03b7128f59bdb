"""The policy of least summed sensitivity within a budget, as an integer linear program.

    minimise    sum over tensors t, bits b of  c[t,b] x[t,b]  +  sum over pairs of  d[p] y[p]
    subject to  sum over b of x[t,b] = 1                                  for every tensor t
                sum over weights of bytes[t,b] x[t,b] <= FLASH - what stands beside the weights
                sum over live buffers of bytes[t,b] x[t,b] <= RAM - scratch - interpreter
                                                                          at every step
                y[p] = product of "t has at most b bits" and "u has at most c bits"
                x in {0, 1}

c is a table of sensitivities without its noise (`SensitivityTable.monotone`), d what a pair of cuts
costs beyond the sum of its parts. Tensors that share a quantizer share variables; what is pinned or
fixed is a constant. HiGHS solves it to optimality (`scipy.optimize.milp`, gap 0).

Two figures of a deployed network are not linear. What a file holds beside its weights depends a
little on the bits (`MemoryModel.flash_items`, and some padding): the program allows for the least
there can be, which makes it a relaxation whose optimum bounds that of the true problem. Items that
nodes share join as products where the optimum without them does not fit and there are few enough.
The arena may need more than the largest step. Where the optimum of the relaxation still does not
hold the true budget, activation bits that the planner cannot place are excluded one by one, which
is exact; then limits are tightened to the true figures until they hold, and relaxed again as far as
they do. What optimality that may cost is the gap in the proof.

Where layers run row by row, the rows of a chain are those of its row buffers and of the distance
between its output and its input, which are linear too. The program is then solved for given chains,
see `_with_chains`; where even the best do not fit at the bits wanted, a first program chooses them
together with the bits, see `_joint_choice`.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from tfmix.errors import TfmixError
from tfmix.ir.graph import FIXED_BITS, Graph
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.cost.memory import (
    FlashItem,
    MemoryStep,
    StepMemory,
    StreamingMemory,
    Tensor,
    impossible,
    packed_weight_bytes,
)
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search import memory as rules
from tfmix.policy.search.base import SearchProblem
from tfmix.policy.search.enforce import promote
from tfmix.policy.sensitivity import SensitivityTable

#: Of two policies of equal cost the one with more bits is wanted: having 2 bits everywhere instead
#: of 8 adds this share of the most that the table can sum up to.
PREFERENCE = 1e-6

# Limits of the work. They are counts and not seconds, so that a result does not depend on the
# machine.
_NODES_PER_SOLVE = 20_000
_NODES_OF_JOINT_CHOICE = 500
_EXCLUSIONS = 10
_TIGHTENINGS = 20
_MOST_USES = 5000  # of shared items in FLASH, that a program with them may have
#: FLASH limits closer than this are not told apart: constants lie at multiples of it in the file.
_FLASH_RESOLUTION = 16

#: Scaled costs sum up to this at most, so that HiGHS' absolute tolerances (1e-6) do not matter.
_SCALE = 1e5

_INFEASIBLE = 2  # of scipy's status


@dataclass(frozen=True)
class Interaction:
    """What two cuts cost beyond the sum of their parts (less than nothing: they go together well).

    It applies whenever `one` has at most `one_bits` and `other` at most `other_bits`.
    """

    one: Tensor
    one_bits: int
    other: Tensor
    other_bits: int
    increase: float

    def applies(self, policy: QuantizationPolicy) -> bool:
        return (
            bits_of(policy, self.one) <= self.one_bits
            and bits_of(policy, self.other) <= self.other_bits
        )


@dataclass(frozen=True)
class Proof:
    """How good a policy is, given its table; bytes as the memory model counts them.

    objective:    what the table, and the interactions if any, sum up to, in nats a sample
    gap:          no policy within the budget has an objective below `objective - gap` (but for the
                  preference for more bits, `PREFERENCE`); 0: proven optimal
    flash_slack:  bytes of the budget left; None without a limit
    ram_slack:    the same, of the arena; it may be less than that of every step
    step_slack:   step name -> bytes left while it runs
    interactions: pairs of tensors in the program, beside the table
    solves, seconds: integer programs solved, and the time they took together
    chains:       layers run row by row, in so many chains; the gap is that of policies that run by
                  the same
    """

    objective: float
    gap: float
    flash_slack: int | None
    ram_slack: int | None
    step_slack: Mapping[str, int] = field(hash=False)
    interactions: int
    solves: int
    seconds: float = field(compare=False)
    chains: int = 0

    @property
    def optimal(self) -> bool:
        return self.gap == 0

    def __str__(self) -> str:
        how_good = (
            "optimal for its table"
            if self.optimal
            else f"within {self.gap:.3g} of the optimum for its table"
        )
        if self.chains:
            how_good += f" and its {self.chains} chains"
        pairs = f" and {self.interactions} pairs" if self.interactions else ""
        lines = [
            f"summed sensitivity {self.objective:.6g} nats a sample{pairs}: {how_good} "
            f"({self.solves} integer programs, {self.seconds:.2f} s)"
        ]
        if self.flash_slack is not None:
            lines.append(f"FLASH left: {self.flash_slack:,} B")
        if self.ram_slack is not None:
            tight = sorted(self.step_slack, key=self.step_slack.__getitem__)[:3]
            steps = ", ".join(f"{name} {self.step_slack[name]:,} B" for name in tight)
            lines.append(f"RAM left: {self.ram_slack:,} B; tightest steps: {steps}")
        return "\n".join(lines)


def bits_of(policy: QuantizationPolicy, tensor: Tensor) -> int:
    kind, name = tensor
    return (policy.weight_bits if kind == "weights" else policy.activation_bits)[name]


def with_bits(policy: QuantizationPolicy, bits: Mapping[Tensor, int]) -> QuantizationPolicy:
    """`policy` with other bits for the tensors given."""
    return policy.replace(
        weights={name: b for (kind, name), b in bits.items() if kind == "weights"},
        activations={name: b for (kind, name), b in bits.items() if kind == "activations"},
    )


def cuttable(problem: SearchProblem) -> tuple[Tensor, ...]:
    """Tensors whose bits a search may choose: weights, then activations, in execution order."""
    graph = problem.graph
    return (
        *(("weights", n.name) for n in graph.weighted_nodes if problem.may_cut_weights(n.name)),
        *(("activations", t) for t in graph.quantized_tensors if problem.may_cut_activation(t)),
    )


def minimise(
    problem: SearchProblem, table: SensitivityTable, interactions: Sequence[Interaction] = ()
) -> tuple[QuantizationPolicy, Proof]:
    """The policy of least summed sensitivity, and what is proven of it.

    BudgetError where no policy fits. TfmixError where the table does not serve the problem.
    """
    if problem.memory.at(problem.start().activation_bits) is problem.memory:
        return _Minimizer(problem, table, interactions).run()
    return _with_chains(problem, table, interactions)


def _with_chains(
    problem: SearchProblem, table: SensitivityTable, interactions: Sequence[Interaction]
) -> tuple[QuantizationPolicy, Proof]:
    """`minimise` where the steps depend on the bits: plan chains, choose bits, plan again.

    Where chains hold the RAM at the bits that are wanted most, there is nothing to choose. Where
    they do not, the program goes by the chains that take the least RAM at some bits, then at the
    bits it has found, until these chains come again. It begins with the bits of `_joint_choice`,
    and once more with each bit-width, of which the fewest bits fit if any do. A policy fits the
    chains it leads to, so each program is at least as good as the one before.
    """
    memory, start = problem.memory, problem.start()
    best: list[tuple[float, int, QuantizationPolicy, float]] = []
    tried: list[StepMemory] = []
    solves, seconds = 0, 0.0

    def solve(steps: StepMemory) -> QuantizationPolicy | None:
        nonlocal solves, seconds
        tried.append(steps)
        minimizer = _Minimizer(replace(problem, memory=steps), table, interactions)
        policy, bound = minimizer.best_within_budget(fallback=None)
        solves, seconds = solves + minimizer.solves, seconds + minimizer.seconds
        if policy is not None and problem.fits(policy):
            best.append((minimizer.wanted(policy), len(best), policy, bound))
        return policy

    def is_new(steps: StepMemory) -> bool:
        return not any(steps is other for other in tried)

    if problem.budget.ram is None or memory.ram_bytes(start) <= problem.budget.ram:
        solve(memory.at(start.activation_bits))
    else:
        starts = [rules.at_most(problem, start, bits) for bits in reversed(BIT_WIDTHS)]
        if isinstance(memory, StreamingMemory):
            starts[:0] = _joint_choice(problem, _Minimizer(problem, table, interactions))
            solves += 1
        policy: QuantizationPolicy | None
        for policy in starts:
            while policy is not None and is_new(memory.tightest(policy.activation_bits)):
                policy = solve(memory.tightest(policy.activation_bits))
                # These are the chains it will run by; the size of the file depends on them.
                if policy is not None and is_new(memory.at(policy.activation_bits)):
                    solve(memory.at(policy.activation_bits))
    _, _, policy, bound = min(best) if best else (0.0, 0, rules.search(problem), -math.inf)
    minimizer = _Minimizer(problem, table, interactions)
    policy = promote(problem, policy, minimizer.gain)
    minimizer.solves, minimizer.seconds = solves, seconds
    return policy, minimizer.proof(policy, bound)


def _joint_choice(problem: SearchProblem, minimizer: _Minimizer) -> list[QuantizationPolicy]:
    """The activation bits of least summed sensitivity over all bits and chains, as far as the
    program gets: a start for `_with_chains`, or none.

    Chains and single steps are the edges of a path through the network, each with a variable; the
    bytes of an edge must be within the limit if it is on the path. Arenas that miss their bound,
    and what the interpreter takes beyond the least, are left out.
    """
    memory = problem.memory
    tensors = [tensor for tensor in minimizer.costs if tensor[0] == "activations"]
    program = _Program(tensors)
    for tensor in tensors:
        for bits in BIT_WIDTHS:
            cost = minimizer.costs[tensor][bits] + minimizer.preference[bits]
            program.add_cost(tensor, bits, cost)
    path: list[dict[int, int]] = [{} for _ in range(len(problem.graph.steps) + 1)]
    for first, last, step in memory.parts():
        rows = [_ram_row(problem, tensors, *terms) for terms in memory.part_bounds(step)]
        if any(row.least() > row.limit for row in rows):
            continue
        edge = program.add_choice()
        path[first][edge], path[last + 1][edge] = -1, 1
        for row in rows:
            program.add_row_if(edge, row, row.most() - row.limit)
        for row in _exclusions(problem.graph, step, tensors):
            program.add_row_if(edge, row, 1)
    program.add_path(path)
    solution = program.solve(minimizer.scale, nodes=_NODES_OF_JOINT_CHOICE)
    return [] if solution is None else [with_bits(problem.start(), solution[0])]


class _Minimizer:
    def __init__(
        self,
        problem: SearchProblem,
        table: SensitivityTable,
        interactions: Sequence[Interaction],
    ) -> None:
        table.validate(problem.graph)
        table = table.monotone()
        tensors = cuttable(problem)
        missing = [t for t in tensors if t[1] not in getattr(table, t[0])]
        if missing:
            names = ", ".join(f"{kind} {name!r}" for kind, name in missing)
            raise TfmixError(f"the sensitivity table holds nothing on {names}")
        self.problem = problem
        self.start = problem.start()
        self.costs = {(kind, name): getattr(table, kind)[name] for kind, name in tensors}
        self.interactions = interactions
        most = sum(costs[BIT_WIDTHS[0]] for costs in self.costs.values())
        most += sum(abs(i.increase) for i in interactions)
        preference = (PREFERENCE * most or 1.0) / max(len(tensors), 1)
        span = BIT_WIDTHS[-1] - BIT_WIDTHS[0]
        self.preference = {b: preference * (BIT_WIDTHS[-1] - b) / span for b in BIT_WIDTHS}
        self.scale = _SCALE / (most or 1.0)
        self.exclusions: list[_Row] = []
        self.items: Sequence[FlashItem] = ()
        self.items_in_program: Sequence[FlashItem] = ()
        self.solves = 0
        self.seconds = 0.0

    def run(self) -> tuple[QuantizationPolicy, Proof]:
        policy, bound = self.best_within_budget(fallback=rules.search)
        policy = promote(self.problem, policy, self.gain)
        return policy, self.proof(policy, bound)

    def proof(self, policy: QuantizationPolicy, bound: float) -> Proof:
        """bound: what no policy is below, the preference for more bits included"""
        objective = self.objective(policy)
        gap = self.wanted(policy) - bound
        tolerance = 10 / self.scale * 1e-6
        budget = self.problem.budget
        memory = self.problem.memory.at(policy.activation_bits)
        return Proof(
            objective=objective,
            gap=gap if gap > tolerance else 0.0,
            flash_slack=budget.flash and budget.flash - memory.flash_bytes(policy),
            ram_slack=budget.ram and budget.ram - memory.ram_bytes(policy),
            step_slack={
                step.name: budget.ram - memory.live_bytes(step, policy.activation_bits)
                for step in (memory.steps if budget.ram else ())
            },
            interactions=len(self.interactions),
            solves=self.solves,
            seconds=self.seconds,
            chains=sum(step.stream is not None for step in memory.steps),
        )

    # -- what is minimised ----------------------------------------------------------------------

    def objective(self, policy: QuantizationPolicy) -> float:
        """The table's sum, and the interactions that apply."""
        return math.fsum(
            (
                *(costs[bits_of(policy, tensor)] for tensor, costs in self.costs.items()),
                *(i.increase for i in self.interactions if i.applies(policy)),
            )
        )

    def wanted(self, policy: QuantizationPolicy) -> float:
        """The objective, and the preference for more bits."""
        preference = (self.preference[bits_of(policy, tensor)] for tensor in self.costs)
        return self.objective(policy) + math.fsum(preference)

    def gain(self, policy: QuantizationPolicy, raised: QuantizationPolicy) -> float:
        return self.wanted(policy) - self.wanted(raised)

    # -- the true budget ------------------------------------------------------------------------

    def best_within_budget(
        self, fallback: Callable[[SearchProblem], QuantizationPolicy] | None
    ) -> tuple[QuantizationPolicy | None, float]:
        """(policy, what no policy is below, the preference for more bits included).

        The memory model has the same steps whatever the bits. fallback: what to do where the
        program finds no policy that fits; None: return none.
        """
        tensors = list(self.costs)
        self.flash_rows = _flash_rows(self.problem, tensors)
        self.ram_rows, self.exclusions = _ram_rows(self.problem, tensors)
        self.items = self.free_items()
        flash = self.problem.budget.flash
        rest = 0 if flash is None else self.problem.memory.flash_rest
        bound = -math.inf
        for items in ((), self.items) if self.items else ((),):
            self.items_in_program = items
            policy, least = self.relaxed(rest)
            if policy is None:
                # Nothing fits even the relaxation: the rules say which tensor is in the way.
                return fallback and fallback(self.problem), bound
            bound = max(bound, least)
            if self.problem.fits(policy):
                return policy, bound
        policy = self.tightened(rest)
        if policy is None and fallback is not None:
            policy = fallback(self.problem)
        return policy, bound

    def relaxed(self, rest: int) -> tuple[QuantizationPolicy | None, float]:
        """The optimum with all the room there can be, of those the planner can place."""
        policy, bound = self.solve(rest, 0)
        for _ in range(_EXCLUSIONS):
            if policy is None or self.problem.fits(policy):
                break
            # The arena depends on activation bits alone, FLASH on all: what is excluded is no more
            # than what is known not to fit.
            over_ram = self.over_ram(policy) > 0
            if not over_ram and not self.items_in_program:
                break
            together = {
                (t, bits_of(policy, t)): 1
                for t in self.costs
                if t[0] == "activations" or not over_ram
            }
            self.exclusions.append(_Row(together, len(together) - 1))
            policy, bound = self.solve(rest, 0)
        return policy, bound

    def tightened(self, rest: int) -> QuantizationPolicy | None:
        """The best that fits of what is found between limits that are too wide and too tight."""
        problem = self.problem
        found = []
        too_little, arena_excess = rest, 0
        for _ in range(_TIGHTENINGS):
            policy, _ = self.solve(rest, arena_excess)
            if policy is None:
                break
            if problem.fits(policy):
                found.append(policy)
                break
            if self.over_ram(policy) > 0:
                arena_excess = max(arena_excess + 1, self.arena_excess(policy))
            else:
                too_little = rest
                rest = max(rest + 1, problem.memory.flash_bytes(policy) - self.counted(policy))
        while rest - too_little > _FLASH_RESOLUTION:
            middle = (rest + too_little) // 2
            policy, _ = self.solve(middle, arena_excess)
            if policy is not None and problem.fits(policy):
                found.append(policy)
                rest = middle
            else:
                too_little = middle
        return min(found, key=self.wanted, default=None)

    def free_items(self) -> tuple[FlashItem, ...]:
        """The shared items, without the tensors that have no choice; none if there are too many."""
        if self.problem.budget.flash is None:
            return ()
        weights, activations = self.start.weight_bits, self.start.activation_bits
        fixed = {
            **{("weights", name): bits for name, bits in weights.items()},
            **{("activations", name): bits for name, bits in activations.items()},
        }
        items = []
        for item in self.problem.memory.flash_items:
            uses = [
                {tensor: b for tensor, b in use.items() if tensor in self.costs}
                for use in item.uses
                if all(t in self.costs or fixed.get(t, FIXED_BITS) == b for t, b in use.items())
            ]
            if uses:
                items.append(FlashItem(item.size, tuple(uses)))
        return tuple(items) if sum(len(i.uses) for i in items) <= _MOST_USES else ()

    def counted(self, policy: QuantizationPolicy) -> int:
        """Bytes of FLASH that the program counts."""
        items = sum(item.size for item in self.items_in_program if item.is_paid(policy))
        return self.problem.memory.packed_bytes(policy) + items

    def over_ram(self, policy: QuantizationPolicy) -> int:
        """Bytes by which the arena is over the limit."""
        limit = self.problem.budget.ram
        return 0 if limit is None else self.problem.memory.ram_bytes(policy) - limit

    def arena_excess(self, policy: QuantizationPolicy) -> int:
        """Bytes that the arena needs beyond the largest step."""
        memory = self.problem.memory
        return memory.ram_bytes(policy) - memory.ram_lower_bound(policy.activation_bits)

    # -- the program ----------------------------------------------------------------------------

    def solve(self, rest: int, arena_excess: int) -> tuple[QuantizationPolicy | None, float]:
        """(the optimum, its value with the preference); (None, inf) where nothing is feasible.

        rest:          FLASH set aside for what the program does not count
        arena_excess:  RAM set aside for what the planner cannot use
        """
        begin = time.perf_counter()
        bits: dict[Tensor, int] = {}
        bound = 0.0
        for tensors in self.parts():
            solution = self.solve_part(tensors, rest, arena_excess)
            self.solves += 1
            if solution is None:
                bound = math.inf
                break
            bits |= solution[0]
            bound += solution[1]
        self.seconds += time.perf_counter() - begin
        return (None if math.isinf(bound) else with_bits(self.start, bits)), bound

    def parts(self) -> list[list[Tensor]]:
        """Weights and activations are two programs, unless they interact or share items."""
        tensors = list(self.costs)
        if self.items_in_program or any(i.one[0] != i.other[0] for i in self.interactions):
            return [tensors]
        parts = [[t for t in tensors if t[0] == kind] for kind in ("weights", "activations")]
        return [part for part in parts if part]

    def solve_part(
        self, tensors: list[Tensor], rest: int, arena_excess: int
    ) -> tuple[dict[Tensor, int], float] | None:
        """(bits, a lower bound of their value); None where nothing is feasible."""
        program = _Program(tensors)
        for tensor in tensors:
            for bits in BIT_WIDTHS:
                program.add_cost(tensor, bits, self.costs[tensor][bits] + self.preference[bits])
        for interaction in self.interactions:
            if interaction.one in program.tensors:
                program.add_interaction(interaction)
        for row in self.flash_rows:
            program.add_row(row.less(rest), self.items_in_program)
        for row in (*(row.less(arena_excess) for row in self.ram_rows), *self.exclusions):
            program.add_row(row)
        solution = program.solve(self.scale)
        if solution is None:
            return None
        return solution[0], solution[1] / self.scale


@dataclass(frozen=True)
class _Row:
    """sum of coefficient x[tensor, bits] <= limit, in integers."""

    coefficients: Mapping[tuple[Tensor, int], int]
    limit: int

    def less(self, bytes_: int) -> _Row:
        return _Row(self.coefficients, self.limit - bytes_)

    def least(self) -> int:
        """The least that the sum can be."""
        return sum(min(sizes) for sizes in self._by_tensor().values())

    def most(self) -> int:
        return sum(max(sizes) for sizes in self._by_tensor().values())

    def _by_tensor(self) -> dict[Tensor, list[int]]:
        found: dict[Tensor, list[int]] = {}
        for (tensor, _), size in self.coefficients.items():
            found.setdefault(tensor, []).append(size)
        return found


def _flash_rows(problem: SearchProblem, tensors: Sequence[Tensor]) -> list[_Row]:
    limit = problem.budget.flash
    if limit is None:
        return []
    graph, start = problem.graph, problem.start()
    free = {name for kind, name in tensors if kind == "weights"}
    coefficients = {}
    for node in graph.weighted_nodes:
        if node.name in free:
            for bits in BIT_WIDTHS:
                size = packed_weight_bytes(graph, node, bits)
                coefficients[("weights", node.name), bits] = size
        else:
            limit -= packed_weight_bytes(graph, node, start.weight_bits[node.name])
    return [_Row(coefficients, limit)]


def _ram_rows(problem: SearchProblem, tensors: Sequence[Tensor]) -> tuple[list[_Row], list[_Row]]:
    """(one or more for each step of the schedule, of the tensors alive there; one for each
    bit-width that a tensor cannot have)."""
    if problem.budget.ram is None:
        return [], []
    rows, exclusions = [], []
    for step in problem.memory.steps:
        rows += [_ram_row(problem, tensors, *t) for t in problem.memory.linear_bounds(step)]
        exclusions += _exclusions(problem.graph, step, tensors)
    return rows, exclusions


def _ram_row(
    problem: SearchProblem,
    tensors: Sequence[Tensor],
    sizes: Mapping[str, Mapping[int, int]],
    beside: int,
) -> _Row:
    """The sum of `Terms` is within the budget."""
    graph, start = problem.graph, problem.start().activation_bits
    free = {name for kind, name in tensors if kind == "activations"}
    left = problem.budget.ram - beside
    coefficients: dict[tuple[Tensor, int], int] = {}
    for tensor, at_bits in sizes.items():
        quantizer = graph.quantizer_of(tensor)
        if quantizer not in free:
            left -= at_bits[graph.tensor_bits(tensor, start)]
            continue
        for bits in BIT_WIDTHS:
            key = ("activations", quantizer), bits
            coefficients[key] = coefficients.get(key, 0) + at_bits[bits]
    return _Row(coefficients, left)


def _exclusions(graph: Graph, step: MemoryStep, tensors: Sequence[Tensor]) -> list[_Row]:
    """Bits that tensors of a chain cannot have."""
    found = []
    for tensor, bits in impossible(graph, step):
        key = ("activations", graph.quantizer_of(tensor))
        if key in tensors:
            found.append(_Row({(key, bits): 1}, 0))
    return found


class _Program:
    """One-hot variables, rows and products, as HiGHS wants them."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = set(tensors)
        self.variable = {
            (tensor, bits): index
            for index, (tensor, bits) in enumerate((t, b) for t in tensors for b in BIT_WIDTHS)
        }
        self._objective = [0.0] * len(self.variable)
        self._entries: list[tuple[int, int, float]] = []
        self._limits: list[tuple[float, float]] = []
        self._choices: list[int] = []
        for tensor in tensors:
            self._add({self.variable[tensor, bits]: 1 for bits in BIT_WIDTHS}, 1, 1)

    def add_cost(self, tensor: Tensor, bits: int, cost: float) -> None:
        self._objective[self.variable[tensor, bits]] += cost

    def add_row(self, row: _Row, items: Sequence[FlashItem] = ()) -> None:
        """items: bytes that count in the row where they are paid. Rows of tensors that are not the
        program's are left out."""
        if not all(tensor in self.tensors for tensor, _ in row.coefficients):
            return
        coefficients = {self.variable[key]: value for key, value in row.coefficients.items()}
        coefficients |= {self._paid(item): item.size for item in items}
        # In units of the greatest common divisor the limit becomes as tight as it can be.
        divisor = math.gcd(*coefficients.values()) or 1
        self._add({i: c // divisor for i, c in coefficients.items()}, -np.inf, row.limit // divisor)

    def _paid(self, item: FlashItem) -> int:
        """A variable that is at least 1 where any use is met in full."""
        paid = self._variable(0.0)
        for use in item.uses:
            met = {self.variable[tensor, bits]: 1 for tensor, bits in use.items()}
            self._add({**met, paid: -1}, -np.inf, len(met) - 1)
        return paid

    def add_interaction(self, interaction: Interaction) -> None:
        """A product y of two sums u, v of one-hot variables: u + v - 1 <= y <= u, v."""
        y = self._variable(interaction.increase)
        sides = [
            {self.variable[tensor, b]: -1 for b in BIT_WIDTHS if b <= bits}
            for tensor, bits in (
                (interaction.one, interaction.one_bits),
                (interaction.other, interaction.other_bits),
            )
        ]
        for side in sides:
            self._add({y: 1, **side}, -np.inf, 0)
        self._add({y: 1, **sides[0], **sides[1]}, -1, np.inf)

    def add_choice(self) -> int:
        """A variable that is 0 or 1."""
        choice = self._variable(0.0)
        self._choices.append(choice)
        return choice

    def add_row_if(self, choice: int, row: _Row, excess: int) -> None:
        """The row, where the choice is 1; excess: what it can be over its limit elsewhere."""
        if excess > 0:
            coefficients = {self.variable[key]: c for key, c in row.coefficients.items()}
            self._add({**coefficients, choice: excess}, -np.inf, row.limit + excess)

    def add_path(self, stops: Sequence[Mapping[int, int]]) -> None:
        """Choices are edges of a path from the first to the last of stops, each of which says which
        edges begin (-1) and end there (1)."""
        for number, edges in enumerate(stops):
            flow = {0: -1, len(stops) - 1: 1}.get(number, 0)
            if edges or flow:
                self._add(edges, flow, flow)

    def _variable(self, cost: float) -> int:
        """A new one in [0, 1], whole wherever the others are."""
        self._objective.append(cost)
        return len(self._objective) - 1

    def _add(self, coefficients: Mapping[int, float], low: float, high: float) -> None:
        row = len(self._limits)
        self._limits.append((low, high))
        self._entries += [(row, column, value) for column, value in coefficients.items()]

    def solve(
        self, scale: float, nodes: int = _NODES_PER_SOLVE
    ) -> tuple[dict[Tensor, int], float] | None:
        """(bits, lower bound of the objective times `scale`); None where nothing is feasible."""
        rows, columns, values = (np.array(part) for part in zip(*self._entries, strict=True))
        shape = len(self._limits), len(self._objective)
        matrix = coo_array((values.astype(float), (rows, columns)), shape=shape).tocsr()
        low, high = np.array(self._limits, float).T
        integrality = np.zeros(len(self._objective))
        integrality[[*range(len(self.variable)), *self._choices]] = 1
        with _standard_output_closed():
            solution = milp(
                scale * np.array(self._objective),
                integrality=integrality,
                bounds=Bounds(0, 1),
                constraints=LinearConstraint(matrix, low, high),
                options={"mip_rel_gap": 0, "node_limit": nodes},
            )
        if solution.x is None:
            if solution.status == _INFEASIBLE or self._choices:
                return None  # of a program with choices a solution is wanted, not a proof
            raise TfmixError(f"the integer program was not solved: {solution.message}")
        bits = {
            tensor: max(BIT_WIDTHS, key=lambda b, t=tensor: solution.x[self.variable[t, b]])
            for tensor in self.tensors
        }
        return bits, float(solution.mip_dual_bound)


@contextmanager
def _standard_output_closed() -> Iterator[None]:
    """HiGHS 1.11 prints a line where it polishes a solution, and no option keeps it from that."""
    sys.stdout.flush()
    try:
        saved = os.dup(1)
    except OSError:  # there is none
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
