"""A network that a search can ask, without a network: its loss is a formula of the bits."""

from __future__ import annotations

import math
import random

from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search.base import Trial
from tfmix.policy.search.optimum import bits_of
from tfmix.policy.search.session import SearchSession, run
from tfmix.policy.sensitivity import SensitivityTable

#: Options that make a search small, of the methods that take long with their defaults.
SMALL = {
    "evolutionary": {"population": 6, "generations": 3},
    "random": {"episodes": 10},
    "rl": {"episodes": 4, "warm_up": 2, "pin_residuals": False},
}


def random_table(graph, seed=0, share_of_zeros=0.0):
    """Increases of very different size, as real networks have; never more bits, more loss."""
    rng = random.Random(seed)

    def row():
        if rng.random() < share_of_zeros:
            return {2: 0.0, 4: 0.0, 8: 0.0}
        at_4 = 0.1 * rng.random() ** 3
        return {2: at_4 * (1 + 9 * rng.random()), 4: at_4, 8: 0.0}

    return SensitivityTable(
        {node.name: row() for node in graph.weighted_nodes},
        {tensor: row() for tensor in graph.quantized_tensors},
        f"random, seed {seed}",
    )


class FakeNetwork:
    """loss = 0.5 + what `table` sums up to + what pairs cost; accuracy = exp(-loss).

    pairs: {(tensor, tensor): increase where both have less than 8 bits}
    """

    def __init__(self, graph, seed=0, pairs=None):
        self.table = random_table(graph, seed)
        self.pairs = pairs or {}
        self.asked: list[Trial] = []

    def loss(self, policy: QuantizationPolicy) -> float:
        single = sum(self.table.weights[n][b] for n, b in policy.weight_bits.items())
        single += sum(self.table.activations[n][b] for n, b in policy.activation_bits.items())
        cut = BIT_WIDTHS[-1] - 1
        return (
            0.5
            + single
            + sum(
                increase
                for (one, other), increase in self.pairs.items()
                if bits_of(policy, one) <= cut and bits_of(policy, other) <= cut
            )
        )

    def measure(self, trial: Trial) -> float:
        loss = self.loss(trial.policy) - 0.1 * trial.train
        return loss if trial.measure == "loss" else math.exp(-loss)

    def evaluate_many(self, trials):
        """Out of order, as a cluster answers."""
        self.asked += trials
        for position in reversed(range(len(trials))):
            yield position, self.measure(trials[position])

    def search(self, method, problem, **options):
        """The result of a whole search."""
        return run(
            SearchSession(method, problem, options=options),
            self.evaluate_many,
            progress=lambda session: None,
        )
