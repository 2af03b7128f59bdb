"""Measured trials: right values, the same again, and a model that is as it was."""

from __future__ import annotations

import numpy as np
import pytest
import searchable
import tensorflow as tf
import tf_keras
from keras_models import chain, random_inputs

import tfmix
from tfmix.errors import TfmixError
from tfmix.fakequant.apply import FLOAT_BITS, graph_of
from tfmix.fakequant.data import chosen_samples, read_samples
from tfmix.fakequant.evaluate import CORRECTION_SAMPLES, ModelEvaluator, bits_of
from tfmix.policy.search.base import Trial

layers = tf_keras.layers
X, Y = searchable.data()


@pytest.fixture(scope="module")
def qmodel() -> tf_keras.Model:
    return searchable.quantized()


@pytest.fixture(scope="module")
def evaluator(qmodel) -> ModelEvaluator:
    return ModelEvaluator(qmodel, (X, Y), train_data=searchable.data(100, seed=3), batch_size=48)


def policy(bits: int, **changes) -> tfmix.QuantizationPolicy:
    return tfmix.QuantizationPolicy.uniform(searchable.network(), bits).replace(**changes)


def value(evaluator: ModelEvaluator, trial: Trial) -> float:
    ((position, found),) = evaluator([trial])
    assert position == 0
    return found


def at(model: tf_keras.Model, bits: int, data: tuple | np.ndarray) -> np.ndarray:
    """Outputs for X, biases corrected on what an evaluator with `data` takes for that."""
    samples = read_samples(data, "data", graph_of(model))
    weights = model.get_weights()
    tfmix.set_policy(model, policy(bits))
    tfmix.correct_bias(model, samples[chosen_samples(samples, CORRECTION_SAMPLES, 0)].x)
    outputs = model.predict(X, verbose=0)
    model.set_weights(weights)
    return outputs


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_accuracy_and_loss(evaluator, qmodel, bits):
    outputs = at(qmodel, bits, (X, Y))
    trials = [Trial(policy(bits)), Trial(policy(bits), "loss")]
    (_, accuracy), (_, loss) = evaluator(trials)
    assert accuracy == pytest.approx((outputs.argmax(1) == Y).mean())
    assert loss == pytest.approx(-np.log(outputs[np.arange(len(Y)), Y]).mean(), rel=1e-4)


def test_without_labels_the_loss_is_the_divergence_from_the_float_network(qmodel):
    evaluator = ModelEvaluator(qmodel, X, batch_size=50)
    assert evaluator.measures == {"loss"}
    assert evaluator.float_accuracy() is None
    p = searchable.trained().predict(X, verbose=0)
    losses = []
    for bits in (2, 4, 8):
        q = at(qmodel, bits, X)
        losses.append(value(evaluator, Trial(policy(bits), "loss")))
        assert losses[-1] == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-2, abs=1e-6)
    assert losses[0] > losses[1] > losses[2] > 0


def test_float_accuracy(evaluator):
    outputs = searchable.trained().predict(X, verbose=0)
    assert evaluator.float_accuracy() == pytest.approx((outputs.argmax(1) == Y).mean())


def test_activations_in_float(evaluator, qmodel):
    """Nothing is left of activation bits, and of all there is with weights at 8 bits little."""
    trial = Trial(policy(2, weights=policy(8).weight_bits), "loss", float_activations=True)
    without = value(evaluator, trial)
    fewer = Trial(policy(8), "loss", float_activations=True)
    assert value(evaluator, fewer) == without
    assert value(evaluator, Trial(trial.policy, "loss")) > without + 1e-3
    assert FLOAT_BITS not in [int(bits) for bits in bits_of(qmodel)]


def test_training_is_one_epoch_from_the_same_weights(evaluator, qmodel):
    trials = [Trial(policy(2), "loss", train=True), Trial(policy(2), "loss")]
    first, _ = (v for _, v in evaluator(trials))
    tfmix.set_policy(qmodel, policy(2))
    probabilities = qmodel.predict(X, verbose=0)[np.arange(len(Y)), Y]
    tfmix.set_policy(qmodel, policy(8))
    assert first < -np.log(probabilities).mean(), "nothing was learned"
    again = [v for _, v in evaluator([Trial(policy(4), train=True), trials[0], trials[0]])]
    assert again[1:] == [first, first], "a value depends on what was measured before"


def test_a_seed_is_another_order_of_samples(qmodel):
    values = {
        value(
            ModelEvaluator(qmodel, (X, Y), train_data=(X, Y), batch_size=32, seed=seed),
            Trial(policy(2), "loss", train=True),
        )
        for seed in (0, 1)
    }
    assert len(values) == 2


@pytest.mark.parametrize("train", [False, True])
def test_the_model_is_as_it_was(evaluator, qmodel, train):
    tfmix.set_policy(qmodel, policy(4))
    before = [v.numpy() for v in qmodel.variables]

    def check():
        for old, variable in zip(before, qmodel.variables, strict=True):
            np.testing.assert_array_equal(old, variable.numpy())

    for _ in evaluator([Trial(policy(2), train=train, float_activations=f) for f in (0, 1)]):
        check()
    with pytest.raises(TfmixError):
        list(evaluator([Trial(tfmix.QuantizationPolicy({}, {}), train=train)]))
    check()
    tfmix.set_policy(qmodel, policy(8))


def test_nothing_is_traced_again(qmodel, monkeypatch):
    traces = []
    call = type(qmodel).call

    def counted(self, *args, **kwargs):
        traces.append(self.name)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(type(qmodel), "call", counted)
    evaluator = ModelEvaluator(qmodel, (X[:50], Y[:50]), train_data=(X[:20], Y[:20]), batch_size=16)
    rng = np.random.default_rng(0)

    def trials(count):
        for i in range(count):
            bits = {name: int(rng.choice([2, 4, 8])) for name in policy(8).weight_bits}
            measure = ("accuracy", "loss")[i % 2]
            yield Trial(policy(4, weights=bits), measure, i % 3 == 0, i % 5 == 0)

    list(evaluator(list(trials(15))))
    before = len(traces)
    list(evaluator(list(trials(60))))
    assert before > 0
    assert len(traces) == before


def test_few_samples_of_balanced_classes_for_the_loss(qmodel):
    order = np.argsort(Y, kind="stable")
    evaluator = ModelEvaluator(qmodel, (X[order], Y[order]), loss_samples=40)
    all_of_them = ModelEvaluator(qmodel, (X[order], Y[order]), loss_samples=len(X))
    trial = Trial(policy(2), "loss")
    assert value(evaluator, trial) == pytest.approx(value(all_of_them, trial), rel=0.6)
    assert value(evaluator, trial) != value(all_of_them, trial)
    assert value(evaluator, Trial(policy(2))) == value(all_of_them, Trial(policy(2)))


def test_autoencoders_have_a_loss_alone():
    model = chain(layers.Dense(6, activation="relu"), layers.Dense(12), shape=(12,))
    x = random_inputs(model, 64)
    qmodel = tfmix.quantize_model(model, None, calibration_data=x, verbose=0)
    for data in (x, (x, x)):
        evaluator = ModelEvaluator(qmodel, data)
        assert evaluator.measures == {"loss"}
        losses = [
            value(evaluator, Trial(tfmix.QuantizationPolicy.uniform(model, bits), "loss"))
            for bits in (8, 2)
        ]
        assert min(losses) > 0
        if data is x:  # else the network has not learned what it is compared with
            assert losses[0] < losses[1]


# -- identity -----------------------------------------------------------------------------------


def test_identity_tells_apart_what_values_depend_on(qmodel):
    def identity(data=(X, Y), **settings):
        return ModelEvaluator(qmodel, data, **settings).identity()

    first = identity()
    tfmix.set_policy(qmodel, policy(2))
    assert identity() == first
    tfmix.set_policy(qmodel, policy(8))
    others = [
        identity((X, 3 - Y)),
        identity((X + 1, Y)),
        identity(X),
        identity(train_data=(X, Y)),
        identity(seed=1),
        identity(batch_size=32),
        identity(loss_samples=100),
    ]
    kernel = qmodel.trainable_variables[0]
    kernel.assign_add(tf.ones_like(kernel))
    others.append(identity())
    kernel.assign_sub(tf.ones_like(kernel))
    assert len({first, *others}) == 1 + len(others)


# -- errors -------------------------------------------------------------------------------------


def test_refuses_a_float_model():
    with pytest.raises(TfmixError, match="not a fake-quant model"):
        ModelEvaluator(searchable.trained(), (X, Y))


def test_refuses_what_it_has_no_data_for(qmodel):
    evaluator = ModelEvaluator(qmodel, X)
    with pytest.raises(TfmixError, match="asks for the accuracy, which needs .* class labels"):
        value(evaluator, Trial(policy(8)))
    with pytest.raises(TfmixError, match="asks for training, which needs train_data"):
        value(evaluator, Trial(policy(8), "loss", train=True))
    with pytest.raises(TfmixError, match="training data has no labels"):
        ModelEvaluator(qmodel, X, train_data=X)
    with pytest.raises(TfmixError, match="training data has a label 4; .* 0 to 3"):
        ModelEvaluator(qmodel, X, train_data=(X, Y + 1))
    with pytest.raises(TfmixError, match="validation data has inputs of shape"):
        ModelEvaluator(qmodel, (X[:, 1:], Y))


def test_diverged_training_is_an_error(qmodel):
    evaluator = ModelEvaluator(qmodel, (X, Y), train_data=(X, Y), learning_rate=1e30)
    with pytest.raises(TfmixError, match="NaN or infinite values; .* smaller learning_rate"):
        value(evaluator, Trial(policy(4), train=True))
    assert value(evaluator, Trial(policy(8))) > 0.5
