"""search_policy and the search arguments of quantize_model: what is measured on what; errors."""

from __future__ import annotations

import numpy as np
import pytest
import searchable
import tensorflow as tf
import tf_keras

import tfmix
from tfmix.errors import BudgetError, CalibrationError, TfmixError
from tfmix.fakequant.apply import quantizers_of
from tfmix.fakequant.evaluate import ModelEvaluator
from tfmix.policy.search import base

X, Y = searchable.data()
BUDGET = searchable.budget()


@pytest.fixture(scope="module")
def qmodel() -> tf_keras.Model:
    return searchable.quantized()


@pytest.fixture
def asked(monkeypatch) -> list[base.SearchProblem]:
    """A method "probe" that tells which problems it was given."""
    problems: list[base.SearchProblem] = []
    monkeypatch.setattr(base, "_SEARCHERS", dict(base._SEARCHERS))

    @base.searcher("probe")
    def probe(problem: base.SearchProblem, *, measure: str = "loss", train: bool = False):
        problems.append(problem)
        yield [base.Trial(problem.start(), measure, train)]
        return tfmix.QuantizationPolicy.uniform(problem.graph, 2)

    return problems


def search(model, *arguments, **settings) -> tfmix.SearchResult:
    return tfmix.search_policy(model, *arguments, verbose=0, **settings)


# -- what a method is given -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "measures"),
    [
        ({"validation_data": (X, Y)}, {"accuracy", "loss"}),
        ({"validation_data": X}, {"loss"}),
        ({"calibration_data": X}, {"loss"}),
        ({"calibration_data": (X, Y)}, {"loss"}),
        ({"calibration_data": X, "validation_data": (X, Y)}, {"accuracy", "loss"}),
        ({"validation_data": (X, Y), "train_data": (X, Y)}, {"accuracy", "loss"}),
    ],
)
def test_what_may_be_asked_for(asked, qmodel, data, measures):
    search(qmodel, BUDGET, "probe", **data)
    (problem,) = asked
    assert problem.measures == measures
    assert problem.trains == ("train_data" in data)
    assert (problem.float_accuracy is None) == ("accuracy" not in measures)
    problem.estimate().validate(problem.graph)


def test_options_go_to_the_method_and_to_the_measurements(asked, qmodel, monkeypatch):
    built = []
    create = ModelEvaluator.__init__

    def spied(self, *args, **settings):
        built.append(settings)
        create(self, *args, **settings)

    monkeypatch.setattr(ModelEvaluator, "__init__", spied)
    settings = {"batch_size": 16, "learning_rate": 0.1, "loss_samples": 32}
    result = search(
        qmodel, BUDGET, "probe", validation_data=(X, Y), measure="accuracy", seed=7, **settings
    )
    assert result.evaluations[0].trial.measure == "accuracy"
    assert built == [{"train_data": None, "seed": 7, **settings}]
    assert asked[0].seed == 7


@pytest.mark.parametrize("source", [searchable.trained, searchable.quantized])
def test_the_model_is_not_changed(source):
    model = source()
    before = [v.numpy() for v in model.variables]
    result = search(model, BUDGET, "ilp", validation_data=(X, Y))
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, variable.numpy())
    assert tfmix.memory_report(model, result.policy, BUDGET).fits


@pytest.mark.parametrize("flavour", [{"weights": "per_layer"}, {"batch_norm": "fold"}])
def test_flavours_of_a_float_model(flavour):
    result = search(searchable.trained(), BUDGET, "memory", **flavour)
    report = tfmix.memory_report(searchable.trained(), result.policy, BUDGET, **flavour)
    assert report.fits
    assert report.flash_bytes == result.flash_bytes


def test_calibration_data_that_can_be_read_once(asked):
    batches = (X[i : i + 32] for i in range(0, 256, 32))
    search(searchable.trained(), BUDGET, "probe", calibration_data=batches)
    batches = (X[i : i + 32] for i in range(0, 256, 32))
    tfmix.quantize_model(
        searchable.trained(), BUDGET, search="probe", calibration_data=batches, verbose=0
    )
    endless = tf.data.Dataset.from_tensor_slices(X).repeat().batch(300)
    search(searchable.trained(), BUDGET, "probe", calibration_data=endless)
    assert len(asked) == 3


# -- auto -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "data", "method"),
    [
        (BUDGET, {"validation_data": (X, Y)}, "ilp"),
        (BUDGET, {"calibration_data": X}, "ilp"),
        (BUDGET, {}, "memory"),
        (None, {"validation_data": (X, Y)}, "memory"),
        (tfmix.Budget("1MB", "1MB"), {"validation_data": (X, Y)}, "memory"),
    ],
)
def test_auto(qmodel, budget, data, method):
    result = search(qmodel, budget, **data)
    assert result.method == method
    assert bool(result.evaluations) == (method == "ilp")


def test_quantize_model_sets_what_search_policy_finds(qmodel):
    expected = search(qmodel, BUDGET, calibration_data=X).policy
    quantized = tfmix.quantize_model(searchable.trained(), BUDGET, calibration_data=X, verbose=0)
    assert tfmix.get_policy(quantized) == expected


def test_quantize_model_passes_on_what_a_search_needs(asked, tmp_path, capsys):
    path = tmp_path / "journal"
    settings = {
        "search": "probe",
        "search_options": {"measure": "accuracy", "train": True, "batch_size": 64},
        "validation_data": (X, Y),
        "train_data": (X, Y),
        "journal": path,
        "pinned": {"weights": {"a": 4}},
        "seed": 3,
    }
    quantized = tfmix.quantize_model(searchable.trained(), BUDGET, **settings)
    assert tfmix.get_policy(quantized) == tfmix.QuantizationPolicy.uniform(quantized, 2)
    (problem,) = asked
    assert problem.trains
    assert problem.start().weight_bits["a"] == 4
    assert problem.seed == 3
    assert path.exists()
    printed = capsys.readouterr().out
    assert "search 'probe', seed 3" in printed
    assert "fits the budget" in printed


def test_rl_trains_where_there_is_data_to_train_on(qmodel):
    for train_data in (None, (X[:64], Y[:64])):
        result = search(
            qmodel,
            BUDGET,
            "rl",
            validation_data=(X, Y),
            train_data=train_data,
            episodes=3,
            warm_up=2,
        )
        assert {e.trial.train for e in result.evaluations} == {train_data is not None}


# -- journals and interrupts -----------------------------------------------------------------------


def test_ctrl_c_gives_the_best_so_far(qmodel, tmp_path, monkeypatch):
    value = ModelEvaluator._value
    calls = []

    def interrupted(self, trial):
        calls.append(trial)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return value(self, trial)

    whole = search(qmodel, BUDGET, "random", validation_data=(X, Y))
    monkeypatch.setattr(ModelEvaluator, "_value", interrupted)
    settings = {"validation_data": (X, Y), "journal": tmp_path / "journal"}
    result = search(qmodel, BUDGET, "random", **settings)
    assert result.interrupted
    assert len(result.evaluations) == 7
    assert tfmix.memory_report(qmodel, result.policy, BUDGET).fits
    resumed = search(qmodel, BUDGET, "random", **settings)
    assert (resumed.policy, resumed.score) == (whole.policy, whole.score)
    assert len(calls) == 1 + len(whole.evaluations)


def test_a_journal_serves_one_model_budget_and_set_of_data(qmodel, tmp_path):
    path = tmp_path / "journal"
    good = {"validation_data": (X, Y), "journal": path}
    first = search(qmodel, BUDGET, "ilp", **good)
    assert search(qmodel, BUDGET, "ilp", **good).policy == first.policy
    content = path.read_bytes()
    with pytest.raises(TfmixError, match=r"belongs to another search:\n.*budget.flash"):
        search(qmodel, searchable.budget(0.8), "ilp", **good)
    with pytest.raises(TfmixError, match="belongs to another search:\n.*identity"):
        search(qmodel, BUDGET, "ilp", **{**good, "validation_data": (X, 3 - Y)})
    with pytest.raises(TfmixError, match="belongs to another search:\n.*seed"):
        search(qmodel, BUDGET, "ilp", **good, seed=1)
    with pytest.raises(TfmixError, match="belongs to another search:\n.*method"):
        search(qmodel, BUDGET, "random", **good)
    other = searchable.quantized()
    other.trainable_variables[0].assign(other.trainable_variables[0] * 2)
    with pytest.raises(TfmixError, match="belongs to another search:\n.*identity"):
        search(other, BUDGET, "ilp", **good)
    assert path.read_bytes() == content


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("ilp", {}, "needs data"),
        ("rl", {}, "labelled data"),
        ("random", {}, "needs .*data"),
        ("rl", {"calibration_data": X}, "labelled data"),
        ("rl", {"validation_data": X}, "labelled data"),
        ("magic", {"validation_data": X}, "search 'magic' is not one of"),
        ("ilp", {"validation_data": (X, Y), "engine": "slurm"}, r"engine 'slurm' is not one of"),
        ("ilp", {"validation_data": (X, Y), "speed": 3}, r"search 'ilp' has no option \['speed'\]"),
        ("ilp", {"validation_data": (X, Y + 1)}, "validation data has a label 4"),
        ("ilp", {"validation_data": (X[:0], Y[:0])}, "is empty"),
        ("ilp", {"validation_data": (X[:, 1:], Y)}, "validation data has inputs of shape"),
        ("rl", {"validation_data": (X, Y), "train_data": X}, "training data has no labels"),
        (3, {}, "search 3 is not a str"),
    ],
)
def test_refuses(qmodel, method, settings, message):
    with pytest.raises(TfmixError, match=message):
        search(qmodel, BUDGET, method, **settings)


@pytest.mark.parametrize("method", ["ilp", "rl", "random", "evolutionary", "memory", "uniform"])
def test_a_budget_below_the_floor_is_said_before_anything_is_measured(qmodel, method, monkeypatch):
    monkeypatch.setattr(ModelEvaluator, "__init__", None)
    floor = tfmix.memory_report(qmodel, tfmix.QuantizationPolicy.uniform(qmodel, 2))
    for limits in ((floor.flash_bytes - 100, None), (None, floor.ram_bytes - 100)):
        with pytest.raises(BudgetError) as error:
            search(qmodel, tfmix.Budget(*limits), method, validation_data=(X, Y))
        assert error.value.smallest > max(filter(None, limits))


def test_ranges_must_be_known():
    qmodel = tfmix.quantize_model(searchable.trained(), None, verbose=0)
    with pytest.raises(CalibrationError, match="image: the range"):
        search(qmodel, BUDGET, "ilp", validation_data=(X, Y))


def test_weights_that_give_no_numbers(qmodel):
    broken = searchable.quantized()
    kernel = quantizers_of(broken).weights["c"].kernel
    kernel.assign(kernel * np.nan)
    with pytest.raises(TfmixError, match="c .*kernel holds"):
        search(broken, BUDGET, "ilp", validation_data=(X, Y))


def test_progress_is_printed_or_not(qmodel, capsys):
    search(qmodel, BUDGET, "ilp", validation_data=(X, Y))
    assert capsys.readouterr().out == ""
    tfmix.search_policy(qmodel, BUDGET, "ilp", validation_data=(X, Y))
    assert "ilp: " in capsys.readouterr().out
