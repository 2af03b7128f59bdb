"""An evolutionary search that starts from the optimum of the sensitivity table.

The table sums up what single cuts cost; accuracy does not quite add up. From the policies of `ilp`,
of the rules and of `uniform`, and random ones, generations are bred by what they measure: each
child has two parents, each the best of a few drawn at random; it takes the bits of each tensor from
either, some are changed, and it is cut by `enforce` and filled up by `promote`. The best survive.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from tfmix.errors import TfmixError
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search import ilp, uniform
from tfmix.policy.search import memory as rules
from tfmix.policy.search.base import Found, SearchProblem, Steps, Trial, searcher
from tfmix.policy.search.enforce import enforce, promote
from tfmix.policy.search.optimum import bits_of, cuttable, with_bits
from tfmix.policy.search.random import random_policy


@searcher("evolutionary")
def search(
    problem: SearchProblem,
    *,
    population: int = 16,
    generations: int = 8,
    mutation: float = 0.1,
    tournament: int = 3,
    elite: int = 2,
    train: bool = False,
    sensitivity: ilp.Sensitivity = "auto",
) -> Steps:
    """The best policy of all generations, by accuracy or, without labels, by loss.

    population:   policies in each generation; a generation is one batch of trials
    mutation:     probability that a tensor of a child gets random bits
    tournament:   policies drawn for each parent
    elite:        best policies that a generation begins with, besides its children
    train:        measure each after one quantization-aware epoch
    sensitivity:  as in `ilp`, whose policy is in the first generation
    """
    for name, value, least in (
        ("population", population, 2),
        ("generations", generations, 1),
        ("tournament", tournament, 1),
        ("elite", elite, 0),
    ):
        if value < least:
            raise TfmixError(f"search 'evolutionary': {name} {value} is less than {least}")
    if elite >= population:
        raise TfmixError(
            f"search 'evolutionary': elite {elite} leaves no child in a population of {population}"
        )
    if not 0 <= mutation <= 1:
        raise TfmixError(f"search 'evolutionary': mutation {mutation} is not in [0, 1]")
    measure: Literal["accuracy", "loss"] = "accuracy" if "accuracy" in problem.measures else "loss"
    problem.require(measure, "evolutionary", train=train)
    rng = random.Random(problem.seed)
    seed = yield from ilp.search(problem, sensitivity=sensitivity, refine=0)

    fitness: dict[QuantizationPolicy, float] = {}
    brood = [seed.policy, rules.search(problem), uniform.search(problem)][:population]
    brood += [
        _repaired(problem, random_policy(problem, rng), rng) for _ in range(population - len(brood))
    ]
    for generation in range(generations):
        new = [policy for policy in dict.fromkeys(brood) if policy not in fitness]
        if new:
            left = len(new) + (generations - generation - 1) * (population - elite)
            note = {"generation": generation, "left": left}
            values = yield [Trial(policy, measure, train, note=note) for policy in new]
            sign = 1 if measure == "accuracy" else -1
            fitness |= zip(new, (sign * value for value in values), strict=True)
        ranked = sorted(dict.fromkeys(brood), key=fitness.__getitem__, reverse=True)
        brood = ranked[:elite] + [
            _child(problem, *_parents(ranked, tournament, rng), mutation, rng)
            for _ in range(population - elite)
        ]
    best = max(fitness, key=fitness.__getitem__)
    return Found(best, abs(fitness[best]), table=seed.table)


def _parents(
    ranked: Sequence[QuantizationPolicy], tournament: int, rng: random.Random
) -> tuple[QuantizationPolicy, QuantizationPolicy]:
    """Two winners of tournaments; they may be the same. ranked: the best first."""
    one, other = (
        ranked[min(rng.randrange(len(ranked)) for _ in range(tournament))] for _ in range(2)
    )
    return one, other


def _child(
    problem: SearchProblem,
    one: QuantizationPolicy,
    other: QuantizationPolicy,
    mutation: float,
    rng: random.Random,
) -> QuantizationPolicy:
    bits = {}
    for tensor in cuttable(problem):
        bits[tensor] = bits_of(rng.choice((one, other)), tensor)
        if rng.random() < mutation:
            bits[tensor] = rng.choice(BIT_WIDTHS)
    return _repaired(problem, with_bits(one, bits), rng)


def _repaired(
    problem: SearchProblem, policy: QuantizationPolicy, rng: random.Random
) -> QuantizationPolicy:
    """Cut until it fits, then filled up in random order."""
    return promote(problem, enforce(problem, policy), lambda before, after: rng.random())
