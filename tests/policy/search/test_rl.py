"""search="rl": what the agent sees, what each strategy decides, learning, resuming, errors."""

import graphs
import numpy as np
import pytest
from fake_network import FakeNetwork
from hypothesis import given, settings
from hypothesis import strategies as st

from tfmix.budget import Budget
from tfmix.errors import BudgetError, TfmixError
from tfmix.policy.cost.memory import PaperMemory
from tfmix.policy.search.base import Pinned, SearchProblem
from tfmix.policy.search.enforce import enforce
from tfmix.policy.search.rl import bits_of, decisions_of, residual_tensors
from tfmix.policy.search.session import SearchSession, run

GRAPH = graphs.resnet()
UNPINNED = {"pin_residuals": False}
RESIDUALS = (
    "conv1", "b0_0", "add0_0", "b1_0", "shortcut1_0", "add1_0", "b2_0", "shortcut2_0", "add2_0",
)  # fmt: skip


def problem(flash=40_000, ram=32_000, graph=GRAPH, seed=0, **pinned):
    return SearchProblem(
        PaperMemory(graph),
        Budget(flash, ram),
        Pinned.parse(graph, pinned),
        measures=frozenset({"accuracy"}),
        trains=True,
        float_accuracy=0.6,
        seed=seed,
    )


def search(problem, network=None, **options):
    network = network or FakeNetwork(problem.graph)
    return network.search("rl", problem, **{"pin_residuals": False, "episodes": 8} | options)


def notes(result):
    return [e.trial.note for e in result.evaluations]


# -- what the agent sees ------------------------------------------------------------------------


def test_decisions_are_each_layers_weights_and_then_its_output():
    decisions = decisions_of(problem())
    assert [(d.kind[0], d.name) for d in decisions[:7]] == [
        ("w", "conv1"), ("a", "conv1"), ("w", "a0_0"), ("a", "a0_0"), ("w", "b0_0"), ("a", "b0_0"),
        ("a", "add0_0"),
    ]  # fmt: skip
    assert [(d.kind[0], d.name) for d in decisions[-2:]] == [("a", "pool"), ("w", "classifier")]
    weights = [d.name for d in decisions if d.kind == "weights"]
    assert weights == [node.name for node in GRAPH.weighted_nodes]
    activations = [d.name for d in decisions if d.kind == "activations"]
    assert activations == [t for t in GRAPH.quantized_tensors if t not in GRAPH.fixed_tensors]


def test_what_is_pinned_is_not_decided():
    pinned = {"weights": {"conv1": 4}, "activations": {"a0_0": 4}}
    names = [(d.kind, d.name) for d in decisions_of(problem(**pinned))]
    assert ("weights", "conv1") not in names and ("activations", "a0_0") not in names
    assert ("activations", "conv1") in names and ("weights", "a0_0") in names


def test_state():
    """Each feature is 0 at its least in the network and 1 at its most."""
    b = graphs.GraphBuilder(9, 9, 3)
    x = b.conv("first", "input", 4, kernel=3, stride=2)
    x = b.depthwise("dw", x)
    x = b.conv("last", x, 8)
    x = b.global_average_pool("pool", x)
    b.softmax("softmax", b.dense("classifier", x, 10))
    states = {(d.kind, d.name): d.state for d in decisions_of(problem(graph=b.graph()))}
    assert len(states) == 8  # four weights, four outputs
    # depthwise?, in, out, stride, kernel, weights, pixels of the input, index, action, is weight
    of_conv = [0, 0 / 5, 0 / 6, 1, 2 / 4, 108 / 108, 80 / 80, 0 / 4, 0, 1]
    np.testing.assert_allclose(states["weights", "first"], of_conv, rtol=1e-6)
    of_dw = [1, 1 / 5, 0 / 6, 0.5, 2 / 4, 36 / 108, 24 / 80, 1 / 4, 0, 0]
    np.testing.assert_allclose(states["activations", "dw"], of_dw, rtol=1e-6)
    of_pool = [0, 5 / 5, 4 / 6, 0.5, 4 / 4, 0, 24 / 80, 3 / 4, 0, 0]
    np.testing.assert_allclose(states["activations", "pool"], of_pool, rtol=1e-6)
    of_classifier = [0, 5 / 5, 6 / 6, 0, 0, 80 / 108, 0, 4 / 4, 0, 1]
    np.testing.assert_allclose(states["weights", "classifier"], of_classifier, rtol=1e-6)


@pytest.mark.parametrize("make", [graphs.mobilenet_v1, graphs.mobilenet_v2, graphs.dense_block])
def test_states_are_normalised(make):
    states = np.array([d.state for d in decisions_of(problem(10**9, 10**9, make()))])
    assert states.dtype == np.float32 and states.min() == 0 and states.max() == 1


@given(st.floats(0, 1))
def test_actions_are_thirds(action):
    assert bits_of(action) == (2 if action < 1 / 3 else 4 if action < 2 / 3 else 8)


# -- what is asked ------------------------------------------------------------------------------


def test_concurrent():
    result = search(problem(), episodes=10)
    assert [n["phase"] for n in notes(result)] == ["concurrent"] * 10
    assert [n["episode"] for n in notes(result)] == list(range(10))
    assert [n["warm_up"] for n in notes(result)] == [True] * 2 + [False] * 8
    assert [n["left"] for n in notes(result)] == list(range(10, 0, -1))
    for evaluation in result.evaluations:
        assert evaluation.trial.train and not evaluation.trial.float_activations
    assert len({e.trial.policy.weight_bits for e in result.evaluations}) > 1
    assert len({e.trial.policy.activation_bits for e in result.evaluations}) > 1


def test_independent_finds_weights_with_float_activations_and_then_activations():
    result = search(problem(), strategy="independent", episodes=10)
    assert [n["left"] for n in notes(result)] == list(range(20, 0, -1))
    first, second = result.evaluations[:10], result.evaluations[10:]
    assert {e.trial.note["phase"] for e in first} == {"weights"}
    assert all(e.trial.float_activations for e in first)
    assert len({e.trial.policy.activation_bits for e in first}) == 1
    best = max(first, key=lambda e: e.value).trial.policy
    assert {e.trial.note["phase"] for e in second} == {"activations"}
    assert not any(e.trial.float_activations for e in second)
    assert {e.trial.policy.weight_bits for e in second} == {best.weight_bits}
    assert len({e.trial.policy.activation_bits for e in second}) > 1
    assert result.score == max(e.value for e in second)


def test_weights_alone_leaves_activations_to_the_rule():
    result = search(problem(), strategy="weights")
    rule = enforce(problem(), problem().start()).activation_bits
    assert {e.trial.policy.activation_bits for e in result.evaluations} == {rule}
    assert not any(e.trial.float_activations for e in result.evaluations)


@pytest.mark.parametrize(
    ("strategy", "episodes"), [("concurrent", 600), ("independent", 600), ("weights", 300)]
)
def test_episodes_by_default(strategy, episodes):
    session = SearchSession(
        "rl", problem(), options={"strategy": strategy, "pin_residuals": False, "batch": 200}
    )
    assert session.total == episodes
    warm = sum(trial.note["warm_up"] for _, trial in session.trials)
    assert warm == (120 if strategy == "concurrent" else 60)


def test_episodes_asked_for_at_once():
    """During warm-up nothing is learnt: the batch changes nothing there."""

    def policies(**options):
        evaluations = search(problem(), episodes=14, warm_up=10, **options).evaluations
        return {e.trial.note["episode"]: e.trial.policy for e in evaluations}

    one, many = policies(), policies(batch=4)
    assert sorted(many) == list(range(14))
    assert all(one[episode] == many[episode] for episode in range(10))
    session = SearchSession("rl", problem(), options={"episodes": 6, "batch": 4} | UNPINNED)
    sizes = []
    while not session.done:
        sizes.append(len(session.trials))
        for index, _ in session.trials:
            session.tell(index, 0.5)
    assert sizes == [4, 2]


def test_the_first_best_is_found():
    network = FakeNetwork(GRAPH)
    network.measure = lambda trial: 0.5  # all alike
    result = search(problem(), network)
    assert result.policy == result.evaluations[0].trial.policy and result.score == 0.5


def test_everything_pinned():
    pinned = {
        "weights": {n.name: 4 for n in GRAPH.weighted_nodes},
        "activations": {t: 4 for t in GRAPH.quantized_tensors if t not in GRAPH.fixed_tensors},
    }
    result = search(problem(50_000, **pinned))
    assert len(result.evaluations) == 1 and set(result.policy.weight_bits.values()) == {4}
    result = search(problem(50_000, activations=pinned["activations"]), strategy="independent")
    assert [n["phase"] for n in notes(result)] == ["weights"] * 8 + ["activations"]


# -- budget and residuals -----------------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(
    st.sampled_from(("concurrent", "independent", "weights")),
    st.sampled_from((graphs.resnet(), graphs.mobilenet_v1(0.25, 32, 10), graphs.dense_block())),
    st.floats(0.35, 1.0),
    st.floats(0.35, 1.0),
    st.integers(0, 99),
    st.data(),
)
def test_every_policy_holds_the_budget_and_keeps_what_is_pinned(
    strategy, graph, flash, ram, seed, data
):
    memory = PaperMemory(graph)
    start = problem(10**9, 10**9, graph).start()
    free = [t for t in graph.quantized_tensors if t not in graph.fixed_tensors]
    pinned = {
        "weights": {data.draw(st.sampled_from([n.name for n in graph.weighted_nodes])): 2},
        "activations": {data.draw(st.sampled_from(free)): 4},
    }
    flash, ram = int(flash * memory.flash_bytes(start)), int(ram * memory.ram_bytes(start))
    posed = problem(flash, ram, graph, seed, **pinned)
    try:
        enforce(posed, posed.start())
    except BudgetError:
        with pytest.raises(BudgetError):
            search(posed, strategy=strategy)
        return
    result = search(posed, strategy=strategy, episodes=6)
    for policy in (result.policy, *(e.trial.policy for e in result.evaluations)):
        policy.validate(graph)
        assert memory.flash_bytes(policy) <= flash and memory.ram_bytes(policy) <= ram
        assert pinned["weights"].items() <= policy.weight_bits.items()
        assert pinned["activations"].items() <= policy.activation_bits.items()


def test_residual_tensors():
    assert residual_tensors(GRAPH) == RESIDUALS
    assert residual_tensors(graphs.mobilenet_v1()) == ()


def test_a_residual_behind_a_max_pool_is_what_the_pool_reads():
    b = graphs.GraphBuilder(8, 8, 3)
    x = b.conv("conv", "input", 4)
    x = b.max_pool("pool", x)
    b.add("sum", x, b.conv("branch", x, 4))
    assert residual_tensors(b.graph()) == ("conv", "branch", "sum")


def test_residuals_have_8_bits_by_default():
    result = search(problem(ram=50_000), pin_residuals=True)
    for evaluation in result.evaluations:
        bits = evaluation.trial.policy.activation_bits
        assert {bits[tensor] for tensor in RESIDUALS} == {8}
    result = search(problem(ram=50_000, activations={"add2_0": 4}), pin_residuals=True)
    bits = result.policy.activation_bits
    assert bits["add2_0"] == 4 and bits["add1_0"] == 8  # what a person pinned goes before


def test_where_pinned_residuals_do_not_fit_the_error_names_the_option():
    with pytest.raises(BudgetError, match=r"pinned at 8 bits, .*pass pin_residuals=False") as error:
        search(problem(ram=32_000), pin_residuals=True)
    assert error.value.smallest == 3 * 32 * 32 * 16 and error.value.tensor
    search(problem(ram=49_152), pin_residuals=True, episodes=1)
    with pytest.raises(BudgetError) as error:  # fits in no way
        search(problem(ram=100), pin_residuals=True)
    assert "pin_residuals" not in str(error.value)


# -- learning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_learns(seed):
    """Weights only. The null hypothesis is random bits, cut the same way: a search that is all
    warm-up. In the mean the last 50 episodes are better by more than twice its spread."""
    network = FakeNetwork(GRAPH, seed)
    null = search(problem(seed=seed), network, strategy="weights", episodes=60, warm_up=60)
    null = np.array([e.value for e in null.evaluations])
    result = search(problem(seed=seed), network, strategy="weights", episodes=300)
    last = np.array([e.value for e in result.evaluations[-50:]])
    assert last.mean() > null.mean() + 2 * null.std()
    assert result.score >= null.max()


def test_learns_weights_and_activations_together():
    """A fifth of the paper's episodes."""
    values = np.array([e.value for e in search(problem(), episodes=120).evaluations])
    null = values[:24]
    assert values[-50:].mean() > null.mean() + 2 * null.std()


# -- seeds and journals -------------------------------------------------------------------------


def test_seeds():
    first, same, other = (search(problem(seed=seed)).evaluations for seed in (5, 5, 6))
    assert first == same and first != other


@pytest.mark.parametrize("strategy", ["concurrent", "independent"])
def test_resumes_from_a_journal(tmp_path, strategy):
    """Stopped anywhere, it ends as one that never was."""
    options = {"strategy": strategy, "episodes": 15} | UNPINNED
    whole = search(problem(), **options)
    network = FakeNetwork(GRAPH)
    path = tmp_path / "journal"
    for stop in (3, 11, 14):
        session = SearchSession("rl", problem(), journal=path, options=options)
        while len(session.evaluations) < stop:
            ((index, trial),) = session.trials
            session.tell(index, network.measure(trial))
        session._close()  # killed
    session = SearchSession("rl", problem(), journal=path, options=options)
    assert session.replayed == 14
    assert run(session, network.evaluate_many, progress=lambda session: None) == whole


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "both"}, r"strategy 'both' is not one of \('concurrent', 'independent', "),
        ({"episodes": 0}, "episodes 0 is not a whole number of at least 1"),
        ({"episodes": 2.5}, "episodes 2.5 is not"),
        ({"episodes": True}, "episodes True is not"),
        ({"warm_up": -1}, "warm_up -1 is not a whole number of at least 0"),
        ({"warm_up": 9}, "warm_up 9 is more than 8 episodes"),
        ({"batch": 0}, "batch 0 is not a whole number of at least 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(TfmixError, match=message):
        search(problem(), **options)
