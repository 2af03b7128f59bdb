"""Sessions: order, history, the best so far, errors, resuming, interruption, progress."""

import contextlib
import dataclasses
import math

import graphs
import pytest
from fake_network import SMALL, FakeNetwork

from tfmix.budget import Budget
from tfmix.errors import BudgetError, TfmixError
from tfmix.policy.cost.memory import PaperMemory
from tfmix.policy.search import base
from tfmix.policy.search.base import Found, Pinned, SearchProblem, Trial, searcher_names
from tfmix.policy.search.enforce import enforce
from tfmix.policy.search.session import PrintProgress, SearchSession, run

GRAPH = graphs.resnet()
BOTH = frozenset({"accuracy", "loss"})


def problem(flash=60_000, ram=30_000, **fields):
    fields = {"measures": BOTH, "trains": True, "float_accuracy": 0.6, "seed": 3, **fields}
    return SearchProblem(PaperMemory(GRAPH), Budget(flash, ram), **fields)


@pytest.fixture
def method(monkeypatch):
    """Registers a function as a method for one test; returns its name."""
    monkeypatch.setattr(base, "_SEARCHERS", dict(base._SEARCHERS))

    def register(function):
        base.searcher("mine")(function)
        return "mine"

    return register


def quiet(session):
    pass


def fitting(problem):
    return enforce(problem, problem.start())


# -- the protocol -------------------------------------------------------------------------------


def test_a_function_is_done_at_once():
    session = SearchSession("memory", problem())
    assert session.done and session.trials == ()
    assert session.result.score is None and session.result.evaluations == ()
    assert session.result.flash_bytes == PaperMemory(GRAPH).flash_bytes(session.result.policy)


def test_batches_and_values_in_any_order(method):
    sent = []

    def search(problem):
        policy = fitting(problem)
        sent.append((yield [Trial(policy, note={"n": n}) for n in range(3)]))
        sent.append((yield [Trial(policy)]))
        sent.append((yield []))
        return Found(policy, 0.5)

    session = SearchSession(method(search), problem())
    assert [index for index, _ in session.trials] == [0, 1, 2]
    session.tell(2, 0.2)
    session.tell(0, 0.0)
    assert [index for index, _ in session.trials] == [1] and not sent
    session.tell(1, 0.1)
    assert sent == [[0.0, 0.1, 0.2]]
    assert [index for index, _ in session.trials] == [3] and not session.done
    session.tell(3, 0.5)
    assert sent[1:] == [[0.5], []] and session.done
    assert [e.value for e in session.evaluations] == [0.2, 0.0, 0.1, 0.5]
    assert session.result.scored.trial == Trial(session.result.policy)
    with pytest.raises(TfmixError, match=r"trial 3 is not one of those asked for, \[\]"):
        session.tell(3, 0.5)


@pytest.mark.parametrize(
    ("measure", "value", "message"),
    [
        ("accuracy", math.nan, r"trial 1 \(episode 7\): the accuracy is nan, not in \[0, 1\]"),
        ("accuracy", 84.5, r"the accuracy is 84.5, not in \[0, 1\]"),
        ("loss", math.inf, "the loss is inf, not a finite number"),
    ],
)
def test_bad_values_name_policy_and_episode(method, tmp_path, measure, value, message):
    def search(problem):
        policy = problem.start()
        yield [Trial(policy, measure)]
        yield [Trial(policy.replace(weights={"conv1": 2}), measure, note={"episode": 7})]
        return fitting(problem)

    session = SearchSession(method(search), problem(), journal=tmp_path / "journal")
    session.tell(0, 0.5)
    if "episode" not in message:
        message = ".*" + message
    with pytest.raises(TfmixError, match=message + r"[\s\S]*conv1 +2"):
        session.tell(1, value)
    assert len(session.evaluations) == 1
    session.tell(1, 0.25)  # neither used nor journaled
    assert session.done
    assert SearchSession("mine", problem(), journal=tmp_path / "journal").done


def test_not_done_has_no_result():
    session = SearchSession("random", problem())
    with pytest.raises(TfmixError, match="'random' has trials left: 60"):
        session.result  # noqa: B018


def test_the_best_is_what_would_do_as_a_result(method):
    fits = fitting(problem())
    other = fits.replace(weights={"conv1": 2})
    too_large = problem().start()

    def search(problem):
        yield [
            Trial(too_large, "loss"),  # does not fit
            Trial(fits, "loss"),
            Trial(other, "loss"),
            Trial(fits, "accuracy", float_activations=True),  # not the deployed network
            Trial(fits, "accuracy"),
            Trial(other, "accuracy"),
            Trial(fits, "accuracy", train=True),
            Trial(fits, "loss"),
        ]
        return fits

    session = SearchSession(method(search), problem())
    for index, value in enumerate([0.1, 0.5, 0.4, 0.9, 0.2, 0.2, 0.1, 0.01]):
        session.tell(index, value)
    assert [e.best for e in session.evaluations] == [None, 1, 2, 2, 4, 4, 6, 6]
    assert session.best is session.evaluations[6]
    assert [e.fits for e in session.evaluations] == [False] + 7 * [True]
    memory = PaperMemory(GRAPH)
    assert all(e.flash_bytes == memory.flash_bytes(e.trial.policy) for e in session.evaluations)
    assert all(e.ram_bytes == memory.ram_bytes(e.trial.policy) for e in session.evaluations)


def test_unknown_methods_and_options():
    with pytest.raises(TfmixError, match="search 'magic' is not one of"):
        SearchSession("magic", problem())
    with pytest.raises(TfmixError, match=r"'random' has no option \['luck'\]; it has \['episodes'"):
        SearchSession("random", problem(), options={"luck": 1})


def test_a_searcher_that_returns_no_policy(method):
    with pytest.raises(TypeError, match="returned 3, no policy"):
        SearchSession(method(lambda problem: 3), problem())


# -- run ----------------------------------------------------------------------------------------


def test_run_asks_again_for_what_is_left_out():
    def lazy(trials):
        yield len(trials) - 1, 0.5

    result = run(SearchSession("random", problem(), options={"episodes": 4}), lazy, progress=quiet)
    assert len(result.evaluations) == 4
    with pytest.raises(TfmixError, match="measured none of 60 trials"):
        run(SearchSession("random", problem()), lambda trials: [])


def test_interrupted_gives_the_best_so_far():
    network = FakeNetwork(GRAPH)

    def interrupted(trials):
        for position, value in network.evaluate_many(trials):
            yield position, value
            if position <= len(trials) - 5:
                raise KeyboardInterrupt

    result = run(SearchSession("random", problem()), interrupted, progress=quiet)
    assert result.interrupted and len(result.evaluations) == 5
    assert result.score == max(e.value for e in result.evaluations) == result.scored.value
    assert "INTERRUPTED: the best so far" in str(result)


def test_interrupted_before_anything_fits(tmp_path):
    def interrupted(trials):
        yield 0, 0.5  # the baseline of ilp: 8 bits everywhere
        raise KeyboardInterrupt

    session = SearchSession("ilp", problem(), journal=tmp_path / "journal")
    with pytest.raises(TfmixError, match="after 1 trials, before .* any policy .*journal keeps"):
        run(session, interrupted, progress=quiet)


def test_best_so_far_of_a_finished_search_is_its_result():
    session = SearchSession("memory", problem())
    assert session.best_so_far() is session.result


# -- resuming -----------------------------------------------------------------------------------


class Killed(Exception):
    pass


def killed_after(network, count):
    """Measures so many trials and then is no more."""
    left = [count]

    def evaluate_many(trials):
        for position, value in network.evaluate_many(trials):
            if not left[0]:
                raise Killed
            left[0] -= 1
            yield position, value

    return evaluate_many


def unchanging(result):
    """All of a result that does not tell how often it was interrupted, or how long it took."""
    history = sorted(
        (e.trial.note.get("episode", 0), str(e.trial), e.value) for e in result.evaluations
    )
    return dataclasses.replace(result, evaluations=()), history


@pytest.mark.parametrize("name", searcher_names())
def test_a_search_killed_anywhere_ends_with_the_same_result(name, tmp_path):
    options = SMALL.get(name, {})
    whole = FakeNetwork(GRAPH).search(name, problem(), **options)
    trials = len(whole.evaluations)
    for step in (5, 23):
        journal = tmp_path / f"journal{step}"
        network = FakeNetwork(GRAPH)
        for start in range(0, trials + step, step):
            session = SearchSession(name, problem(), journal=journal, options=options)
            assert session.replayed == min(start, trials) == len(session.evaluations)
            if session.done:
                break
            with contextlib.suppress(Killed):
                run(session, killed_after(network, step), progress=quiet)
        session = SearchSession(name, problem(), journal=journal, options=options)
        assert session.done and unchanging(session.result) == unchanging(whole)


def test_estimates_are_journaled(tmp_path):
    table = FakeNetwork(GRAPH).table
    estimated = []

    def estimate():
        estimated.append(1)
        return table

    options = {"sensitivity": "estimated", "refine": 0}
    network = FakeNetwork(GRAPH)
    results = []
    for _ in range(2):
        session = SearchSession(
            "ilp", problem(estimate=estimate), journal=tmp_path / "journal", options=options
        )
        results.append(run(session, network.evaluate_many, progress=quiet))
    assert len(estimated) == 1
    assert results[0] == results[1] and results[1].table == table


def test_a_budget_error_after_measuring_is_raised_again_on_resuming(method, tmp_path):
    def search(problem):
        yield [Trial(problem.start())]
        raise BudgetError("too small", tensor="conv1", smallest=1)

    session = SearchSession(method(search), problem(), journal=tmp_path / "journal")
    with pytest.raises(BudgetError):
        session.tell(0, 0.5)
    with pytest.raises(BudgetError):
        SearchSession("mine", problem(), journal=tmp_path / "journal")


# -- text ---------------------------------------------------------------------------------------


def test_a_result_reads_well():
    text = str(FakeNetwork(GRAPH).search("ilp", problem()))
    for part in ("search 'ilp', seed 3", "accuracy 0.", "% of 58.6 kB", "optimal for its table"):
        assert part in text
    trained = FakeNetwork(GRAPH).search("random", problem(), episodes=2, train=True)
    assert "after an epoch of training" in str(trained)


def test_progress_is_printed_now_and_then(capsys):
    times = iter([0.0, 1.0, 11.0, 12.0, 24.0])
    progress = PrintProgress(seconds=10, clock=lambda: next(times))
    session = SearchSession("random", problem(), options={"episodes": 4})
    lines = []
    for index, _ in session.trials:
        session.tell(index, 0.125 * index)
        progress(session)
        lines.append(capsys.readouterr().out.strip())
    assert lines[0] == lines[2] == ""
    assert lines[1].startswith("random: 2 of 4 trials, best accuracy 0.1250 (FLASH ")
    assert lines[1].endswith("%), 11 s left")
    assert lines[3].startswith("random: 4 trials") and lines[3].endswith("done in 24 s")


def test_time_left_counts_only_what_was_measured_now(tmp_path):
    options = {"episodes": 10}
    session = SearchSession("random", problem(), journal=tmp_path / "j", options=options)
    for index in range(6):
        session.tell(index, 0.5)
    session = SearchSession("random", problem(), journal=tmp_path / "j", options=options)
    assert session.total == 10
    assert "left" not in PrintProgress.line(session, 1.0)
    session.tell(6, 0.5)
    assert PrintProgress.line(session, 100.0).endswith("5 min left")


def test_no_limit_and_no_total(method):
    def search(problem):
        yield [Trial(problem.start())]
        yield [Trial(problem.start())]
        return problem.start()

    session = SearchSession(method(search), problem(flash=None, ram=None))
    session.tell(0, 0.5)
    assert PrintProgress.line(session, 1.0) == "mine: 1 trials, best accuracy 0.5000"


def test_pinned_reaches_the_method():
    pinned = Pinned.parse(GRAPH, {"weights": {"b2_0": 8}})
    assert SearchSession("memory", problem(pinned=pinned)).result.policy.weight_bits["b2_0"] == 8
