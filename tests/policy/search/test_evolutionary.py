"""Generations: what the first holds, that it gets better, options."""

from dataclasses import replace
from itertools import combinations

import graphs
import pytest
from fake_network import FakeNetwork

from tfmix.budget import Budget
from tfmix.errors import TfmixError
from tfmix.policy.cost.memory import PaperMemory
from tfmix.policy.search import memory as rules
from tfmix.policy.search import uniform
from tfmix.policy.search.base import SearchProblem

GRAPH = graphs.resnet()
PROBLEM = SearchProblem(
    PaperMemory(GRAPH),
    Budget(50_000, 26_000),
    measures=frozenset({"accuracy", "loss"}),
    trains=True,
)


def _ilp(pairs=None):
    return FakeNetwork(GRAPH, pairs=pairs).search("ilp", PROBLEM, refine=0)


def test_begins_with_ilp_rules_and_uniform_and_ends_no_worse():
    # What no sum of single sensitivities shows: the cuts that ilp makes do not go together.
    cut = [("weights", name) for name, bits in _ilp().policy.weight_bits.items() if bits < 8]
    pairs = dict.fromkeys(combinations(cut, 2), 0.3)
    network = FakeNetwork(GRAPH, pairs=pairs)
    result = network.search("evolutionary", PROBLEM)
    first = [e for e in result.evaluations if e.trial.note.get("generation") == 0]
    known = {e.trial.policy for e in first}
    ilp = _ilp(pairs)
    assert {ilp.policy, rules.search(PROBLEM), uniform.search(PROBLEM)} <= known
    assert 8 <= len(known) <= 16  # what is bred twice is measured once
    assert result.score == max(e.value for e in result.evaluations if "generation" in e.trial.note)
    assert result.score > ilp.score
    assert all(e.fits for e in result.evaluations if "generation" in e.trial.note)
    assert result.table == ilp.table


def test_generations_are_batches_and_no_policy_is_measured_twice():
    network = FakeNetwork(GRAPH)
    result = network.search("evolutionary", PROBLEM, population=5, generations=6)
    bred = [e.trial for e in result.evaluations if "generation" in e.trial.note]
    assert len({trial.policy for trial in bred}) == len(bred) <= 5 + 5 * 3
    assert [t.note["generation"] for t in bred] == sorted(t.note["generation"] for t in bred)


def test_without_labels_loss_counts():
    network = FakeNetwork(GRAPH)
    result = network.search("evolutionary", replace(PROBLEM, measures=frozenset({"loss"})))
    assert result.measure == "loss"
    bred = [e.value for e in result.evaluations if "generation" in e.trial.note]
    assert result.score == min(bred) == network.loss(result.policy)


def test_training():
    network = FakeNetwork(GRAPH)
    network.search("evolutionary", PROBLEM, population=4, generations=1, train=True)
    assert {t.train for t in network.asked if "generation" in t.note} == {True}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population": 1}, "population 1 is less than 2"),
        ({"generations": 0}, "generations 0 is less than 1"),
        ({"tournament": 0}, "tournament 0 is less than 1"),
        ({"elite": -1}, "elite -1 is less than 0"),
        ({"population": 4, "elite": 4}, "elite 4 leaves no child in a population of 4"),
        ({"mutation": 1.5}, r"mutation 1.5 is not in \[0, 1\]"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(TfmixError, match=message):
        FakeNetwork(GRAPH).search("evolutionary", PROBLEM, **options)
