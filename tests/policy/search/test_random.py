"""Random bits, cut until they fit."""

from collections import Counter

import graphs
import pytest
from fake_network import FakeNetwork

from tfmix.budget import Budget
from tfmix.errors import TfmixError
from tfmix.policy.cost.memory import PaperMemory
from tfmix.policy.search.base import SearchProblem

GRAPH = graphs.resnet()


def problem(flash=60_000, ram=30_000, trains=True, seed=0):
    return SearchProblem(
        PaperMemory(GRAPH), Budget(flash, ram), measures=frozenset({"accuracy"}), trains=trains,
        seed=seed,
    )  # fmt: skip


def test_the_most_accurate_of_all_episodes():
    result = FakeNetwork(GRAPH).search("random", problem())
    assert len(result.evaluations) == 60
    best = max(result.evaluations, key=lambda e: e.value)
    assert result.policy == best.trial.policy and result.score == best.value
    assert all(e.fits for e in result.evaluations)
    assert sorted(e.trial.note["episode"] for e in result.evaluations) == list(range(60))


def test_without_a_budget_each_width_is_equally_likely():
    network = FakeNetwork(GRAPH)
    network.search("random", problem(None, None), episodes=300)
    count = Counter(trial.policy.weight_bits["b1_0"] for trial in network.asked)
    assert set(count) == {2, 4, 8} and min(count.values()) > 75
    assert (
        network.search("random", problem(None, None, seed=1), episodes=3).evaluations[0].trial
        != network.search("random", problem(None, None), episodes=3).evaluations[0].trial
    )


def test_training():
    network = FakeNetwork(GRAPH)
    network.search("random", problem(), episodes=2, train=True)
    assert all(trial.train for trial in network.asked)
    with pytest.raises(TfmixError, match="'random' is to train in each trial: it needs training"):
        network.search("random", problem(trains=False), train=True)
    with pytest.raises(TfmixError, match="episodes 0 is less than 1"):
        network.search("random", problem(), episodes=0)
