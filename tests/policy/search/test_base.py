"""The registry, what is pinned, and the contract every searcher keeps."""

import graphs
import pytest
from fake_network import SMALL, FakeNetwork

import tfmix.policy.search  # noqa: F401  registers all searchers
from tfmix.budget import Budget
from tfmix.errors import BudgetError, TfmixError
from tfmix.policy.cost.memory import PaperMemory
from tfmix.policy.search.base import (
    Pinned,
    SearchProblem,
    get_searcher,
    searcher,
    searcher_names,
)

GRAPH = graphs.resnet()

#: Methods that ask nothing of the network.
ASK_NOTHING = {"memory", "uniform"}


def problem(flash=60_000, ram=30_000, pinned=None, measures=("accuracy", "loss")):
    return SearchProblem(
        PaperMemory(GRAPH),
        Budget(flash, ram),
        Pinned.parse(GRAPH, pinned),
        frozenset(measures),
        trains=True,
        float_accuracy=0.6,
        seed=1,
    )


def search(name, problem):
    return FakeNetwork(GRAPH).search(name, problem, **SMALL.get(name, {}))


@pytest.mark.parametrize("name", searcher_names())
class TestEverySearcher:
    def test_holds_the_budget(self, name):
        policy = search(name, problem()).policy
        policy.validate(GRAPH)
        memory = PaperMemory(GRAPH)
        assert memory.flash_bytes(policy) <= 60_000 and memory.ram_bytes(policy) <= 30_000

    def test_is_deterministic(self, name):
        first, second = search(name, problem()), search(name, problem())
        assert first == second and first.evaluations == second.evaluations

    def test_leaves_pinned_bits(self, name):
        pinned = {"weights": {"b2_0": 8}, "activations": {"a0_0": 2}}
        result = search(name, problem(pinned=pinned))
        for policy in (result.policy, *(e.trial.policy for e in result.evaluations)):
            policy.validate(GRAPH)
            assert policy.weight_bits["b2_0"] == 8 and policy.activation_bits["a0_0"] == 2

    @pytest.mark.parametrize("limits", [{"flash": 100}, {"ram": 100}])
    def test_says_when_nothing_fits_before_it_measures(self, name, limits):
        network = FakeNetwork(GRAPH)
        with pytest.raises(BudgetError) as error:
            network.search(name, problem(**limits))
        assert error.value.smallest > 100 and error.value.tensor
        assert not network.asked

    def test_says_when_it_needs_data(self, name):
        if name in ASK_NOTHING:
            assert not search(name, problem(measures=())).evaluations
            return
        with pytest.raises(TfmixError, match=f"'{name}' .*needs .*data"):
            search(name, problem(measures=()))

    def test_the_score_is_that_of_the_policy(self, name):
        result = search(name, problem())
        if name in ASK_NOTHING:
            assert result.score is None
        else:
            assert result.score == result.scored.value and result.measure == "accuracy"
            assert result.scored.fits

    def test_bad_options(self, name):
        with pytest.raises(TfmixError, match=f"'{name}' has no option \\['hope'\\]; it has"):
            FakeNetwork(GRAPH).search(name, problem(), hope=1)


def test_start():
    policy = problem(pinned={"weights": {"conv1": 2}, "activations": {"a0_0": 4}}).start()
    assert policy.weight_bits["conv1"] == 2 and policy.weight_bits["a0_0"] == 8
    assert policy.activation_bits["a0_0"] == 4 and policy.activation_bits["conv1"] == 8


def test_what_may_be_cut():
    pinned = problem(pinned={"weights": {"conv1": 2}, "activations": {"a0_0": 4}})
    assert pinned.may_cut_weights("a0_0") and not pinned.may_cut_weights("conv1")
    assert pinned.may_cut_activation("conv1")
    for tensor in ("a0_0", "input", "classifier"):
        assert not pinned.may_cut_activation(tensor)


@pytest.mark.parametrize(
    ("pinned", "message"),
    [
        ({"kernels": {}}, r"\['kernels'\] is not one of \('weights', 'activations'\)"),
        (
            {"weights": {"nope": 8}},
            r"pinned weights: no \['nope'\] in the network; it has",
        ),
        ({"activations": {"softmax": 8}}, r"no \['softmax'\]"),
        ({"weights": {"conv1": 3}}, "pinned weights 'conv1': bit-width 3"),
        ({"activations": {"input": 4}}, "'input': 4 bits; the network's input"),
    ],
)
def test_bad_pinned(pinned, message):
    with pytest.raises(TfmixError, match=message):
        Pinned.parse(GRAPH, pinned)


def test_pinned_may_repeat_what_is_fixed():
    assert Pinned.parse(GRAPH, {"activations": {"input": 8}}).activations == {"input": 8}
    assert Pinned.parse(GRAPH, None) == Pinned()


def test_unknown_searcher():
    with pytest.raises(TfmixError, match=r"search 'magic' is not one of \(.*'memory'"):
        get_searcher("magic")


def test_names_are_taken_once():
    with pytest.raises(ValueError, match="already"):
        searcher("memory")(lambda problem: problem.start())
