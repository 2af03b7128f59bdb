"""The best policy for a table of sensitivities: an integer linear program, solved to optimality.

1. Sensitivities: the loss increase of each single tensor at each lower bit-width, all others at 8
   bits or where they are pinned. Measured by trials on small networks, estimated from a few
   backward passes on large ones (`SearchProblem.estimate`).
2. The policy within the budget that minimises their sum (`optimum`), and of which nothing can be
   raised.
3. Refinement: sensitivities do not simply add up. The pairs of cuts in that policy that may
   interact most are measured, what they cost beyond their sum joins the program, and it is solved
   again. Both policies are measured, and the better is the result.

Sum of sensitivities under memory constraints: Yao et al. 2021 (HAWQ-V3), who measure by Hessian
trace and have neither RAM constraints nor pairs.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

from tfmix.errors import BudgetError, TfmixError
from tfmix.ir.graph import Graph
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search import memory as rules
from tfmix.policy.search.base import Found, SearchProblem, Steps, Trial, searcher
from tfmix.policy.search.optimum import (
    Interaction,
    Proof,
    Tensor,
    bits_of,
    cuttable,
    minimise,
    with_bits,
)
from tfmix.policy.sensitivity import SensitivityTable

#: Sensitivities are measured by trials as long as these take no more than this many multiply-
#: accumulates for each sample (ResNet-8 takes 0.6e9, MobileNetV1 1.0 224 62e9), else estimated.
MEASURE_MACS = 10_000_000_000

#: Trials of the refinement where the network is small enough to be measured.
REFINE_TRIALS = 32

Sensitivity = Literal["auto", "measured", "estimated"] | SensitivityTable


@searcher("ilp")
def search(
    problem: SearchProblem, *, sensitivity: Sensitivity = "auto", refine: int | None = None
) -> Steps:
    """Minimises the summed sensitivity of all tensors within the budget.

    sensitivity:  "measured" by trials, "estimated" by `problem.estimate`, "auto": measured while
                  that takes `MEASURE_MACS` at most or where nothing can estimate; or a table
    refine:       pairs of tensors to measure; None: `REFINE_TRIALS` where "auto" would measure the
                  sensitivities, else 0

    Asks for "loss" trials, none where a table is given and `refine` is 0 or nothing can measure.
    """
    _check_budget(problem)
    small = _measuring_macs(problem) <= MEASURE_MACS
    if refine is None:
        refine = REFINE_TRIALS if small and "loss" in problem.measures else 0
    _check(problem, sensitivity, refine)
    meter = _Meter()
    if isinstance(sensitivity, SensitivityTable):
        table = sensitivity
    elif sensitivity == "estimated" or (
        sensitivity == "auto" and problem.estimate is not None and not small
    ):
        table = problem.estimate()
    else:
        table = yield from _measure(problem, meter, pairs=refine)

    policy, proof = minimise(problem, table)
    found = {policy: proof}
    pairs = _pairs(problem, table, policy)[:refine]
    if pairs:
        interactions = yield from _interactions(problem, meter, policy, pairs)
        refined, proof = minimise(problem, table, interactions)
        found.setdefault(refined, proof)
    return (yield from _better(problem, meter, table, found))


def _check_budget(problem: SearchProblem) -> None:
    """BudgetError, before hours of measuring, where the budget is impossible."""
    try:
        rules.search(problem)
    except BudgetError:
        # The rules look at a single policy of fewest bits; by a few bytes another may be smaller.
        row = dict.fromkeys(BIT_WIDTHS, 0.0)
        minimise(
            problem,
            SensitivityTable(
                *(
                    {name: row for kind, name in cuttable(problem) if kind == wanted}
                    for wanted in ("weights", "activations")
                )
            ),
        )


def _check(problem: SearchProblem, sensitivity: Any, refine: int) -> None:
    if refine < 0:
        raise TfmixError(f"search 'ilp': refine {refine} is negative")
    if refine:
        problem.require("loss", "ilp")
    if isinstance(sensitivity, SensitivityTable):
        return
    legal = ("auto", "measured", "estimated")
    if sensitivity not in legal:
        raise TfmixError(
            f"search 'ilp': sensitivity {sensitivity!r} is not one of {legal}, nor a table"
        )
    if sensitivity == "estimated" and problem.estimate is None:
        raise TfmixError("search 'ilp' estimates sensitivities: it needs data")
    if sensitivity == "measured" or (sensitivity == "auto" and problem.estimate is None):
        problem.require("loss", "ilp")


class _Meter:
    """Losses, each policy's measured once."""

    def __init__(self) -> None:
        self._known: dict[QuantizationPolicy, float] = {}

    def measure(
        self, policies: Iterable[QuantizationPolicy], phase: str, *, more: int = 0
    ) -> Generator[Sequence[Trial], Sequence[float], None]:
        """All that are not known yet, in one batch. more: trials that will follow."""
        new = [policy for policy in dict.fromkeys(policies) if policy not in self._known]
        if new:
            note = {"phase": phase, "left": len(new) + more}
            losses = yield [Trial(policy, "loss", note=note) for policy in new]
            self._known |= zip(new, losses, strict=True)

    def loss(self, policy: QuantizationPolicy) -> float:
        return self._known[policy]


# -- sensitivities ------------------------------------------------------------------------------


def _cuts(problem: SearchProblem) -> list[tuple[Tensor, int]]:
    """Each single tensor at each lower bit-width."""
    start = problem.start()
    return [
        (tensor, bits)
        for tensor in cuttable(problem)
        for bits in BIT_WIDTHS
        if bits < bits_of(start, tensor)
    ]


def _measuring_macs(problem: SearchProblem) -> int:
    """What measuring all sensitivities takes, for each sample."""
    macs = sum(problem.graph.macs(node) for node in problem.graph.nodes)
    return (1 + len(_cuts(problem))) * macs


def _measure(
    problem: SearchProblem, meter: _Meter, pairs: int
) -> Generator[Sequence[Trial], Sequence[float], SensitivityTable]:
    """The baseline and all single cuts; pairs: how many will be measured later."""
    start = problem.start()
    single = {(tensor, bits): with_bits(start, {tensor: bits}) for tensor, bits in _cuts(problem)}
    yield from meter.measure([start, *single.values()], "sensitivity", more=pairs + 2)
    rows: dict[str, dict[str, dict[int, float]]] = {"weights": {}, "activations": {}}
    for ((kind, name), bits), policy in single.items():
        row = rows[kind].setdefault(name, {BIT_WIDTHS[-1]: 0.0})
        row[bits] = meter.loss(policy) - meter.loss(start)
    return SensitivityTable(
        rows["weights"], rows["activations"], "measured: one tensor cut at a time"
    )


# -- pairs --------------------------------------------------------------------------------------


def _pairs(
    problem: SearchProblem, table: SensitivityTable, policy: QuantizationPolicy
) -> list[tuple[Tensor, Tensor]]:
    """Pairs of tensors cut in `policy`, those of the largest summed cost first.

    Neighbours count double: the error of one reaches the other undiminished.
    """
    table, start = table.monotone(), problem.start()
    cut = [t for t in cuttable(problem) if bits_of(policy, t) < bits_of(start, t)]
    cost = {t: getattr(table, t[0])[t[1]][bits_of(policy, t)] for t in cut}
    places = {t: _places(problem.graph, t) for t in cut}

    def rank(pair: tuple[Tensor, Tensor]) -> float:
        one, other = pair
        return (cost[one] + cost[other]) * (1 if places[one].isdisjoint(places[other]) else 2)

    return sorted(combinations(cut, 2), key=rank, reverse=True)


def _places(graph: Graph, tensor: Tensor) -> set[str]:
    """Nodes and quantized tensors that a tensor meets, itself included."""
    kind, name = tensor
    if kind == "weights":
        node = next(node for node in graph.weighted_nodes if node.name == name)
        return {node.name, *map(graph.quantizer_of, (*node.inputs, node.output))}
    met = (
        node for node in graph.nodes if name in map(graph.quantizer_of, (*node.inputs, node.output))
    )
    return {name, *(node.name for node in met)}


def _interactions(
    problem: SearchProblem,
    meter: _Meter,
    policy: QuantizationPolicy,
    pairs: Sequence[tuple[Tensor, Tensor]],
) -> Generator[Sequence[Trial], Sequence[float], list[Interaction]]:
    """What each pair of cuts costs beyond the sum of its parts, at the bits they have in `policy`.

    As in the table, what must be noise is taken out: no cut and no pair of cuts makes the network
    better, and no pair is better than either of its cuts.
    """
    start = problem.start()

    def cut(*tensors: Tensor) -> QuantizationPolicy:
        return with_bits(start, {tensor: bits_of(policy, tensor) for tensor in tensors})

    asked = [start, *(cut(*part) for pair in pairs for part in ((pair[0],), (pair[1],), pair))]
    yield from meter.measure(asked, "pairs", more=2)

    def increase(*tensors: Tensor) -> float:
        return max(0.0, meter.loss(cut(*tensors)) - meter.loss(start))

    interactions = []
    for one, other in pairs:
        alone = increase(one), increase(other)
        together = max(increase(one, other), *alone)
        interactions.append(
            Interaction(
                one, bits_of(policy, one), other, bits_of(policy, other), together - sum(alone)
            )
        )
    return interactions


# -- which is better ----------------------------------------------------------------------------


def _better(
    problem: SearchProblem,
    meter: _Meter,
    table: SensitivityTable,
    found: Mapping[QuantizationPolicy, Proof],
) -> Generator[Sequence[Trial], Sequence[float], Found]:
    """The policy of most accuracy or, without labels and on a tie, of least loss."""
    policies = list(found)
    accuracies = [0.0] * len(policies)
    losses = [0.0] * len(policies)
    scores: list[float | None] = [None] * len(policies)
    if "loss" in problem.measures:
        yield from meter.measure(policies, "result")
        scores = losses = [meter.loss(policy) for policy in policies]
    if "accuracy" in problem.measures:
        scores = accuracies = yield [
            Trial(policy, "accuracy", note={"phase": "result"}) for policy in policies
        ]
    best = max(range(len(policies)), key=lambda i: (accuracies[i], -losses[i]))
    return Found(policies[best], scores[best], found[policies[best]], table)
