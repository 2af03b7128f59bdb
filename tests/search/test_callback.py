"""`PolicySearch`: episodes within `fit`, the model before, between and after them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest
import searchable
import tensorflow as tf
import tf_keras

import tfmix
from tfmix.errors import BudgetError, TfmixError
from tfmix.fakequant.evaluate import restored
from tfmix.policy.search import base

SET = searchable.data()


@pytest.fixture(scope="module")
def shared() -> tf_keras.Model:
    model = searchable.quantized()
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture
def qmodel(shared) -> tf_keras.Model:
    """At 8 bits, with the weights it was made with and a new optimizer; compiled once, since
    tracing takes longer than all epochs of a test."""
    with restored([*shared.variables, *shared.optimizer.variables]):
        yield shared


@pytest.fixture
def method(monkeypatch):
    """Registers a search method for one test."""
    monkeypatch.setattr(base, "_SEARCHERS", dict(base._SEARCHERS))
    return base.searcher


def search(**settings) -> tfmix.PolicySearch:
    settings = {"episodes": 5, "warm_up": 2, "verbose": 0, **settings}
    return tfmix.PolicySearch(settings.pop("method", "rl"), searchable.budget(), **settings)


def fit(qmodel, callback, *others, epochs=20, validation=True):
    train, held_out = tfmix.proxy(SET, 64, 64, batch_size=32)
    validation_data = held_out if validation else None
    return qmodel.fit(
        train,
        epochs=epochs,
        validation_data=validation_data,
        callbacks=[callback, *others],
        verbose=0,
    )


class Spy(tf_keras.callbacks.Callback):
    """What the model is like at the first batch of each epoch."""

    def __init__(self):
        super().__init__()
        self.states, self.policies, self.iterations = [], [], []

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:
            names = {id(v) for v in self.model.variables if "bits" not in v.name}
            self.states.append([v.numpy() for v in self.model.variables if id(v) in names])
            self.policies.append(tfmix.get_policy(self.model))
            slots = self.model.optimizer.variables
            self.iterations.append([float(np.abs(v.numpy()).max()) for v in slots])


class Traces(tf_keras.callbacks.Callback):
    """How often functions were traced until the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.counts = []

    def on_epoch_end(self, epoch, logs=None):
        functions = self.model.train_function, self.model.test_function
        self.counts.append([f.experimental_get_tracing_count() for f in functions])


def test_each_epoch_is_an_episode(qmodel):
    callback, spy = search(), Spy()
    weights = [v.numpy() for v in qmodel.variables if "bits" not in v.name]
    history = fit(qmodel, callback, spy).history

    result = callback.result
    assert not result.interrupted
    assert len(history["loss"]) == 5, "fit went on after the search was done"
    asked = [e.trial.policy for e in result.evaluations if not e.trial.note.get("float")]
    assert spy.policies == asked
    values = [e.value for e in result.evaluations if not e.trial.note.get("float")]
    assert values == pytest.approx(history["val_accuracy"])
    for state, slots in zip(spy.states, spy.iterations, strict=True):
        for found, expected in zip(state, weights, strict=True):
            np.testing.assert_array_equal(found, expected)
        assert slots == spy.iterations[0], "the optimizer goes on from the last episode"
    assert tfmix.get_policy(qmodel) == result.policy
    for variable, expected in zip(
        [v for v in qmodel.variables if "bits" not in v.name], weights, strict=True
    ):
        np.testing.assert_array_equal(variable.numpy(), expected)
    report = tfmix.memory_report(qmodel, budget=searchable.budget())
    assert report.fits
    assert (report.flash_bytes, report.ram_bytes) == (result.flash_bytes, result.ram_bytes)


def test_the_float_accuracy_is_that_of_the_validation_data(qmodel):
    callback = search(episodes=2)
    fit(qmodel, callback)
    (found,) = [e for e in callback.result.evaluations if e.trial.note.get("float")]
    _, held_out = tfmix.proxy(SET, 64, 64, batch_size=32)
    model = searchable.trained()
    model.compile(metrics=["accuracy"])
    assert found.value == pytest.approx(
        model.evaluate(held_out, verbose=0, return_dict=True)["accuracy"]
    )


def test_nothing_is_traced_again_in_300_episodes(qmodel, method):
    @method("coin")
    def coin(problem):
        rng = np.random.default_rng(problem.seed)
        for episode in range(300):
            bits = {n: int(rng.choice([2, 4])) for n in problem.start().weight_bits}
            policy = problem.start().replace(weights=bits)
            yield [base.Trial(policy, train=True, float_activations=episode % 2 == 1)]
        return policy

    traces = Traces()
    callback = tfmix.PolicySearch("coin", None, verbose=0)
    x, y = SET
    qmodel.fit(
        x[:8],
        y[:8],
        8,
        300,
        validation_data=(x[:8], y[:8]),
        callbacks=[callback, traces],
        verbose=0,
    )
    assert len(traces.counts) == 300
    assert traces.counts[-1] == traces.counts[0]


def test_activations_in_float(qmodel, method):
    values = {}

    @method("both")
    def both(problem):
        policy = problem.start().replace(activations={"c": 2})
        for floats in (False, True):
            (values[floats],) = yield [base.Trial(policy, train=True, float_activations=floats)]
        return policy

    callback = tfmix.PolicySearch("both", None, verbose=0)
    fit(qmodel, callback)
    assert values[True] != values[False]
    assert tfmix.get_policy(qmodel).activation_bits["c"] == 2


def test_random(qmodel):
    fit(qmodel, callback := tfmix.PolicySearch("random", searchable.budget(), verbose=0), epochs=3)
    assert callback.result.interrupted
    assert callback.result.score is not None


def test_methods_that_measure_nothing(qmodel):
    callback = tfmix.PolicySearch("memory", searchable.budget(), verbose=0)
    assert len(fit(qmodel, callback).history["loss"]) == 1
    assert tfmix.get_policy(qmodel) == callback.result.policy
    expected = tfmix.search_policy(qmodel, searchable.budget(), "memory")
    assert callback.result.policy == expected.policy


def test_too_few_epochs_give_the_best_so_far_and_a_warning(qmodel):
    callback = search()
    with pytest.warns(UserWarning, match="5 episodes left, fit runs 3 epochs"):
        fit(qmodel, callback, epochs=3)
    assert callback.result.interrupted
    best = max(e.value for e in callback.result.evaluations if not e.trial.float_activations)
    assert callback.result.score == best
    assert tfmix.get_policy(qmodel) == callback.result.policy


def test_pinned_bits_stay(qmodel):
    callback = search(pinned={"weights": {"a": 8}, "activations": {"b": 4}}, episodes=3)
    fit(qmodel, callback)
    for evaluation in callback.result.evaluations:
        assert evaluation.trial.policy.weight_bits["a"] == 8
        assert evaluation.trial.policy.activation_bits["b"] == 4


def test_the_same_seed_is_the_same_search(qmodel):
    values = []
    for seed in (0, 0, 1):
        callback = search(seed=seed)
        fit(qmodel, callback)
        values.append([e.value for e in callback.result.evaluations])
    assert values[0] == values[1] != values[2]


def test_tensorboard(qmodel, tmp_path):
    callback = search(log_dir=tmp_path, episodes=3)
    fit(qmodel, callback)
    (file,) = tmp_path.iterdir()
    found: dict[str, list[float]] = {}
    for record in tf.data.TFRecordDataset(str(file)):
        for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value:
            assert value.metadata.plugin_data.plugin_name == "scalars"
            found.setdefault(value.tag, []).append(float(tf.make_ndarray(value.tensor)))
    last = [e for e in callback.result.evaluations if not e.trial.note.get("float")]
    assert found["search/accuracy"] == pytest.approx([e.value for e in last])
    assert found["search/flash_bytes"] == [e.flash_bytes for e in last]
    assert found["search/ram_bytes"] == [e.ram_bytes for e in last]
    assert found["search/best_accuracy"] == pytest.approx(
        np.maximum.accumulate([e.value for e in last])
    )


def test_progress_and_result_are_printed(qmodel, capsys):
    fit(qmodel, search(verbose=1, episodes=2))
    printed = capsys.readouterr().out
    assert "done in" in printed
    assert "search 'rl', seed 0" in printed


# -- interrupts ---------------------------------------------------------------------------------


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt: programs started in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupt(tf_keras.callbacks.Callback):
    """Presses Ctrl-C in the second batch of an epoch."""

    def __init__(self, epoch: int, times: int = 1):
        super().__init__()
        self.at, self.times = epoch, times

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (self.at, 1):
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_keeps_the_best_so_far(qmodel, tmp_path, ctrl_c):
    before = signal.getsignal(signal.SIGINT)
    callback = search(journal=tmp_path / "journal")
    fit(qmodel, callback, Interrupt(3))
    assert signal.getsignal(signal.SIGINT) is before
    assert callback.result.interrupted
    assert len(callback.result.evaluations) == 3 + 1
    assert tfmix.get_policy(qmodel) == callback.result.policy

    resumed, anew = search(journal=tmp_path / "journal"), search()
    assert len(fit(qmodel, resumed).history["loss"]) == 2
    fit(qmodel, anew)
    assert resumed.result.policy == anew.result.policy
    assert [e.value for e in resumed.result.evaluations] == [
        e.value for e in anew.result.evaluations
    ]


def test_ctrl_c_before_anything_was_measured(qmodel, ctrl_c):
    with pytest.raises(TfmixError, match="before it had measured any policy"):
        fit(qmodel, search(), Interrupt(0))


def test_a_second_ctrl_c_interrupts(qmodel, ctrl_c):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(qmodel, search(), Interrupt(2, times=2))
    assert signal.getsignal(signal.SIGINT) is before


class Failure(tf_keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise RuntimeError("out of luck")


def test_ctrl_c_after_fit_has_failed_is_not_swallowed(qmodel, ctrl_c):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError):
        fit(qmodel, search(), Failure())
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


# -- errors -------------------------------------------------------------------------------------


def unchanged(qmodel, weights) -> bool:
    return all(
        np.array_equal(value, variable.numpy())
        for value, variable in zip(weights, qmodel.variables, strict=True)
    )


def test_a_missing_metric_lists_those_there_are(qmodel):
    weights = [v.numpy() for v in qmodel.variables]
    with pytest.raises(TfmixError, match=r"no metric 'val_top1'.*\['accuracy', .*'val_loss'\]$"):
        fit(qmodel, search(monitor="val_top1"))
    assert unchanged(qmodel, weights)
    with pytest.raises(TfmixError, match="no metric 'val_accuracy'.*pass validation_data to fit"):
        fit(qmodel, search(), validation=False)
    assert unchanged(qmodel, weights)


class NoNumber(tf_keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["val_accuracy"] = float("nan")


def test_an_accuracy_that_is_not_finite(qmodel):
    weights = [v.numpy() for v in qmodel.variables]
    train, held_out = tfmix.proxy(SET, 64, 64, batch_size=32)
    with pytest.raises(TfmixError, match="accuracy is nan, not in"):
        qmodel.fit(
            train,
            validation_data=held_out,
            callbacks=[NoNumber(), search(episodes=1, warm_up=1)],
            verbose=0,
        )
    assert unchanged(qmodel, weights)


def test_a_journal_of_another_search(qmodel, tmp_path):
    fit(qmodel, search(journal=tmp_path / "journal", episodes=2))
    for settings in ({"seed": 1}, {"monitor": "val_acc"}, {"episodes": 3}):
        settings = {"episodes": 2, **settings}
        with pytest.raises(TfmixError, match="belongs to another search"):
            fit(qmodel, search(journal=tmp_path / "journal", **settings))
    kernel = qmodel.trainable_variables[0]
    kernel.assign_add(tf.ones_like(kernel))
    with pytest.raises(TfmixError, match="belongs to another search"):
        fit(qmodel, search(journal=tmp_path / "journal", episodes=2))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("rl", tfmix.Budget(100, None)), BudgetError, "FLASH"),
        (("magic", None), TfmixError, "search 'magic' is not one of"),
        (("ilp", searchable.budget()), TfmixError, "loss"),
        (("rl", "2MB"), TfmixError, "budget '2MB' is not a Budget"),
    ],
)
def test_refuses(qmodel, arguments, error, message):
    with pytest.raises(error, match=message):
        fit(qmodel, tfmix.PolicySearch(*arguments, verbose=0))


def test_refuses_options_and_metrics():
    with pytest.raises(TfmixError, match="monitor 'accuracy' is not a validation metric"):
        tfmix.PolicySearch("rl", None, monitor="accuracy")
    with pytest.raises(TfmixError, match="the search has not begun"):
        tfmix.PolicySearch("rl", None).result  # noqa: B018


def test_refuses_an_option_the_method_has_not(qmodel):
    with pytest.raises(TfmixError, match=r"search 'rl' has no option \['epsilon'\]"):
        fit(qmodel, tfmix.PolicySearch("rl", None, epsilon=3, verbose=0))


def test_refuses_a_float_model():
    model = searchable.trained()
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    with pytest.raises(TfmixError, match="not a fake-quant model"):
        fit(model, search())
