"""What ilp measures and when, refinement, options. The program itself: test_optimum.py."""

from dataclasses import replace

import graphs
import pytest
from fake_network import FakeNetwork, random_table

from tfmix.budget import Budget
from tfmix.errors import BudgetError, TfmixError
from tfmix.policy.cost.memory import PaperMemory
from tfmix.policy.search import ilp
from tfmix.policy.search.base import Pinned, SearchProblem
from tfmix.policy.search.optimum import cuttable, minimise

GRAPH = graphs.resnet()
PINNED = Pinned.parse(GRAPH, {"weights": {"conv1": 8}, "activations": {"pool": 4}})
PROBLEM = SearchProblem(
    PaperMemory(GRAPH),
    Budget(50_000, 26_000),
    PINNED,
    measures=frozenset({"accuracy", "loss"}),
)


def test_measures_each_single_tensor_at_each_lower_width():
    network = FakeNetwork(GRAPH)
    result = network.search("ilp", PROBLEM, refine=0)
    asked = [t for t in network.asked if t.note["phase"] == "sensitivity"]
    assert len(asked) == 1 + 2 * len(cuttable(PROBLEM))
    assert all(t.measure == "loss" and not t.train for t in asked)
    start = PROBLEM.start()
    for trial in asked:
        changed = [
            name
            for bits, base in (
                (trial.policy.weight_bits, start.weight_bits),
                (trial.policy.activation_bits, start.activation_bits),
            )
            for name in bits
            if bits[name] != base[name]
        ]
        assert len(changed) == (trial.policy != start)
    for kind in ("weights", "activations"):
        for name, row in getattr(result.table, kind).items():
            assert row == pytest.approx(getattr(network.table, kind)[name], abs=1e-12)
    # The fake network's loss is its table's sum: what is proven of the table is true of the loss.
    assert result.proof.optimal
    best, _ = minimise(PROBLEM, network.table)
    assert network.loss(result.policy) == pytest.approx(network.loss(best), abs=1e-6)


def test_a_good_table_leaves_the_refinement_nothing_to_find():
    network = FakeNetwork(GRAPH)
    plain = network.search("ilp", PROBLEM, refine=0)
    refined = network.search("ilp", PROBLEM)
    assert network.loss(refined.policy) == pytest.approx(network.loss(plain.policy), abs=1e-6)
    pairs = [e for e in refined.evaluations if e.trial.note["phase"] == "pairs"]
    assert 0 < len(pairs) <= ilp.REFINE_TRIALS


def test_refinement_finds_cuts_that_do_not_go_together():
    plain = FakeNetwork(GRAPH).search("ilp", PROBLEM, refine=0)
    cut = [name for name, bits in plain.policy.weight_bits.items() if bits < 8]
    pairs = {(("weights", one), ("weights", other)): 1.0 for one in cut[:2] for other in cut[2:3]}
    network = FakeNetwork(GRAPH, pairs=pairs)
    worse = network.search("ilp", PROBLEM, refine=0)
    refined = network.search("ilp", PROBLEM, refine=100)
    assert network.loss(refined.policy) < network.loss(worse.policy) - 0.2
    assert refined.proof.interactions > 0 and "pairs" in str(refined.proof)


def test_the_better_of_both_is_kept():
    """Pairs that go together, as far as they are measured, but all three do not."""
    network = FakeNetwork(GRAPH, seed=2)
    for measures in ({"loss"}, {"loss", "accuracy"}):
        problem = replace(PROBLEM, measures=frozenset(measures))
        result = network.search("ilp", problem, refine=40)
        final = [e for e in result.evaluations if e.trial.note["phase"] == "result"]
        measured = [e.value for e in final if e.trial.measure == result.measure]
        assert result.measure == ("accuracy" if "accuracy" in measures else "loss")
        assert result.score == (max(measured) if "accuracy" in measures else min(measured))


def test_a_table_needs_no_data():
    problem = replace(PROBLEM, measures=frozenset())
    table = random_table(GRAPH)
    result = FakeNetwork(GRAPH).search("ilp", problem, sensitivity=table)
    assert result.score is None and not result.evaluations and result.table == table
    assert result.proof.optimal and result.policy == minimise(problem, table)[0]


def test_large_networks_are_estimated():
    """As long as there is something to estimate with."""
    graph = graphs.mobilenet_v1()
    table = random_table(graph)
    problem = SearchProblem(
        PaperMemory(graph),
        Budget(2_048_000, 512_000),
        measures=frozenset({"accuracy", "loss"}),
        estimate=lambda: table,
    )
    network = FakeNetwork(graph)
    result = network.search("ilp", problem)
    assert result.table == table
    assert [t.note["phase"] for t in network.asked] == ["result", "result"]
    network = FakeNetwork(graph)
    network.search("ilp", replace(problem, estimate=None))
    assert len(network.asked) > 2 * 28
    small = replace(PROBLEM, estimate=lambda: pytest.fail("measured, not estimated"))
    FakeNetwork(GRAPH).search("ilp", small)


def test_refinement_of_an_estimate_measures_the_parts_too():
    problem = replace(PROBLEM, estimate=lambda: random_table(GRAPH))
    network = FakeNetwork(GRAPH)
    network.search("ilp", problem, sensitivity="estimated", refine=5)
    pairs = [t for t in network.asked if t.note["phase"] == "pairs"]
    assert PROBLEM.start() in [t.policy for t in pairs]
    assert len({t.policy for t in pairs}) == len(pairs) > 5


@pytest.mark.parametrize(
    ("problem", "options", "message"),
    [
        (PROBLEM, {"sensitivity": "guessed"}, r"sensitivity 'guessed' is not one of \('auto'"),
        (PROBLEM, {"sensitivity": "estimated"}, "estimates sensitivities: it needs data"),
        (PROBLEM, {"refine": -1}, "refine -1 is negative"),
        (replace(PROBLEM, measures=frozenset()), {}, "'ilp' measures loss: it needs data"),
        (
            replace(PROBLEM, measures=frozenset()),
            {"sensitivity": random_table(GRAPH), "refine": 3},
            "'ilp' measures loss: it needs data",
        ),
        (PROBLEM, {"sensitivity": random_table(graphs.chain(4))}, "no 'c0' in the network"),
    ],
)
def test_bad_options(problem, options, message):
    with pytest.raises(TfmixError, match=message):
        FakeNetwork(GRAPH).search("ilp", problem, **options)


def test_an_impossible_budget_is_said_before_anything_is_measured():
    network = FakeNetwork(GRAPH)
    with pytest.raises(BudgetError):
        network.search("ilp", replace(PROBLEM, budget=Budget(1000, None)))
    assert not network.asked
