"""Random bits, cut until they fit: what every method that claims to learn must beat."""

from __future__ import annotations

import random

from tfmix.errors import TfmixError
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search.base import Found, SearchProblem, Steps, Trial, searcher
from tfmix.policy.search.enforce import enforce
from tfmix.policy.search.optimum import cuttable, with_bits


@searcher("random")
def search(problem: SearchProblem, *, episodes: int = 60, train: bool = False) -> Steps:
    """The most accurate of `episodes` random policies, cut by `enforce`.

    train: measure each after one quantization-aware epoch
    """
    if episodes < 1:
        raise TfmixError(f"search 'random': episodes {episodes} is less than 1")
    problem.require("accuracy", "random", train=train)
    rng = random.Random(problem.seed)
    policies = [enforce(problem, random_policy(problem, rng)) for _ in range(episodes)]
    accuracies = yield [
        Trial(policy, "accuracy", train, note={"episode": episode, "left": episodes})
        for episode, policy in enumerate(policies)
    ]
    best = max(range(episodes), key=accuracies.__getitem__)
    return Found(policies[best], accuracies[best])


def random_policy(problem: SearchProblem, rng: random.Random) -> QuantizationPolicy:
    """Each bit-width equally likely for each tensor that may be cut; it need not fit."""
    bits = {tensor: rng.choice(BIT_WIDTHS) for tensor in cuttable(problem)}
    return with_bits(problem.start(), bits)
