"""Callbacks of the training recipe, each against what its paper says."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras
from keras_models import chain, random_inputs

import tfmix
from tfmix import callbacks
from tfmix.errors import TfmixError
from tfmix.fakequant.apply import quantizers_of
from tfmix.ir.quant import max_level

layers = tf_keras.layers


def network() -> tf_keras.Model:
    tf_keras.utils.set_random_seed(0)
    return chain(
        layers.Conv2D(4, 3, strides=2, use_bias=False, name="conv"),
        layers.BatchNormalization(name="bn"),
        layers.ReLU(name="relu"),
        layers.DepthwiseConv2D(3, name="dw"),
        layers.GlobalAveragePooling2D(name="pool"),
        layers.Dense(3, activation="softmax", name="dense"),
    )


X = random_inputs(network(), 64)
Y = np.arange(len(X)) % 3


@pytest.fixture(scope="module")
def shared() -> tuple[tf_keras.Model, list[np.ndarray]]:
    """One model for all tests, so that it is traced once; and its weights at first."""
    model = tfmix.quantize_model(network(), None, calibration_data=X, verbose=0)
    tfmix.set_policy(model, tfmix.QuantizationPolicy.uniform(model, 4))
    model.compile(tf_keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return model, model.get_weights()


@pytest.fixture
def qmodel(shared) -> tf_keras.Model:
    model, weights = shared
    model.set_weights(weights)
    return model


class Record(tf_keras.callbacks.Callback):
    """Takes down what `look` gives after each batch and before each epoch."""

    def __init__(self, look):
        super().__init__()
        self.look, self.batches, self.epochs = look, [], []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(self.look())

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:
            self.epochs.append(self.look())


# -- batch norm, averages -------------------------------------------------------------------------


@pytest.mark.parametrize("distilled", [False, True])
def test_batch_norm_is_measured_when_training_ends(qmodel, distilled):
    model = qmodel
    if distilled:
        model = tfmix.Distiller(qmodel, network())
        model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(X, Y, callbacks=[callbacks.BatchNormReestimation(X, samples=32)], verbose=0)
    bn = next(layer for layer in qmodel.layers if layer.name == "bn")
    found = bn.moving_mean.numpy(), bn.moving_variance.numpy()
    bn.moving_mean.assign(found[0] + 1)
    tfmix.reestimate_batch_norm(qmodel, X[:32])
    np.testing.assert_allclose(found[0], bn.moving_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], bn.moving_variance, rtol=1e-5)


def test_the_average_of_all_weights_remains(qmodel):
    record = Record(lambda: [w.numpy() for w in qmodel.trainable_variables])
    start = record.look()
    average = callbacks.ExponentialMovingAverage(0.5)
    qmodel.fit(X, Y, batch_size=8, epochs=2, callbacks=[record, average], verbose=0)
    expected = start
    for count, weights in enumerate(record.batches, 1):
        rate = 1 - min(0.5, (count + 1) / (count + 10))
        expected = [a + rate * (w - a) for a, w in zip(expected, weights, strict=True)]
    assert len(record.batches) == 16
    for average, found in zip(expected, record.look(), strict=True):
        np.testing.assert_allclose(found, average, rtol=1e-4, atol=1e-6)


# -- progressive bits -----------------------------------------------------------------------------


def test_bits_come_down_to_the_policy(qmodel):
    policy = tfmix.get_policy(qmodel).replace(weights={"conv": 8, "dw": 2}, activations={"relu": 2})
    record = Record(lambda: tfmix.get_policy(qmodel))
    progressive = callbacks.ProgressiveBits(policy, {8: 1, 4: 2})
    qmodel.fit(X, Y, epochs=3, callbacks=[progressive, record], verbose=0)
    found = [(p.weight_bits["conv"], p.weight_bits["dw"]) for p in record.epochs]
    assert found == [(8, 8), (8, 4), (8, 2)]
    assert [p.activation_bits["relu"] for p in record.epochs] == [8, 4, 2]
    assert tfmix.get_policy(qmodel) == policy


def test_training_that_stops_early_ends_at_the_policy_too(qmodel):
    policy = tfmix.get_policy(qmodel)
    qmodel.fit(X, Y, callbacks=[callbacks.ProgressiveBits(policy, {8: 5})], verbose=0)
    assert tfmix.get_policy(qmodel) == policy


def test_new_bits_fit_the_kernel_as_it_is_then(qmodel):
    policy = tfmix.get_policy(qmodel).replace(weights={"conv": 2})
    bound = quantizers_of(qmodel).weights
    progressive = callbacks.ProgressiveBits(policy, {4: 1})
    progressive.set_model(qmodel)
    progressive.on_epoch_begin(0)
    for name in ("conv", "dw"):
        bound[name].kernel.assign(3 * bound[name].kernel)
    before = {name: b.variables["log_step"].numpy() for name, b in bound.items()}
    progressive.on_epoch_begin(1)
    moved = {name: bound[name].variables["log_step"].numpy() - before[name] for name in bound}
    np.testing.assert_allclose(moved["conv"], np.log(3), rtol=1e-4)
    assert not moved["dw"].any(), "its bits stay, and so does what it has learned"


# -- oscillations ---------------------------------------------------------------------------------


def simulate(integers: np.ndarray, momentum: float, threshold: float):
    """Algorithm 1 of Nagel et al. 2022 for one weight: (frozen at, level) or None."""
    last, direction, frequency, average = integers[0], 0, 0.0, float(integers[0])
    for step, q in enumerate(integers[1:], 1):
        change = np.sign(q - last)
        frequency += momentum * (float(change * direction < 0) - frequency)
        average += momentum * (q - average)
        if frequency > threshold:
            return step, int(np.floor(average + 0.5))
        direction, last = change or direction, q
    return None


@pytest.mark.parametrize("weight_quantizer", ["lsq", "minmax"])
def test_weights_that_oscillate_are_frozen_where_the_algorithm_says(weight_quantizer):
    """Each weight of one kernel follows a random walk of its own over the levels."""
    momentum, threshold, steps = 0.1, 0.3, 30
    model = tfmix.quantize_model(
        network(), None, calibration_data=X, verbose=0, weight_quantizer=weight_quantizer
    )
    tfmix.set_policy(model, tfmix.QuantizationPolicy.uniform(model, 4))
    bound = quantizers_of(model).weights["dense"]
    q, step, zero_point = (
        t.numpy() for t in bound.quantizer.quantize(bound.kernel, bound.variables)
    )
    rng = np.random.default_rng(0)
    walk = zero_point + rng.integers(-1, 2, (steps + 1, *q.shape)).cumsum(axis=0) % 4
    walk[:, 0], walk[:, 1] = 0, max_level(4)  # the ends, so that min-max stays as it is
    walk = np.clip(walk, 0, max_level(4))
    bound.kernel.assign((walk[0] - zero_point) * step)
    _, step, zero_point = (
        t.numpy() for t in bound.quantizer.quantize(bound.kernel, bound.variables)
    )

    freezing = callbacks.OscillationFreezing(["dense"], (threshold, threshold), momentum)
    freezing.set_model(model)
    freezing.set_params({"steps": steps, "epochs": 1})
    freezing.on_train_begin()
    frozen_at = np.full(q.shape, -1)
    for count in range(1, steps + 1):
        bound.kernel.assign((walk[count] - zero_point) * step)
        freezing.on_train_batch_end(count)
        frozen = freezing.state.weights["dense"].frozen.numpy()
        frozen_at[frozen & (frozen_at < 0)] = count
    found = bound.quantizer.quantize(bound.kernel, bound.variables)[0].numpy()
    seen = set()
    for index in np.ndindex(*q.shape):
        centred = walk[(slice(None), *index)] - np.broadcast_to(zero_point, q.shape)[index]
        expected = simulate(centred, momentum, threshold)
        if expected is None:
            assert frozen_at[index] == -1
            assert found[index] == walk[-1][index]
        else:
            level = expected[1] + np.broadcast_to(zero_point, q.shape)[index]
            assert (frozen_at[index], found[index]) == (expected[0], level)
        seen.add(expected is None)
    assert seen == {True, False}
    assert freezing.frozen() == {"dense": pytest.approx((frozen_at > 0).mean())}


def test_depthwise_layers_are_watched_unless_told_otherwise(qmodel):
    for wanted, names in (("depthwise", {"dw"}), ("all", {"conv", "dw", "dense"})):
        freezing = callbacks.OscillationFreezing(wanted, (-1.0, -1.0))
        before = {n: b.kernel.numpy() for n, b in quantizers_of(qmodel).weights.items()}
        qmodel.fit(X, Y, callbacks=[freezing], verbose=0)
        assert freezing.frozen() == dict.fromkeys(names, 1.0)
        for name, bound in quantizers_of(qmodel).weights.items():
            assert (bound.kernel.numpy() != before[name]).any(), "frozen on the grid, or trained"


def test_the_threshold_falls_along_half_a_cosine(qmodel):
    freezing = callbacks.OscillationFreezing("all", (0.5, 0.1))
    seen = []
    freezing.set_model(qmodel)
    freezing.set_params({"steps": 2, "epochs": 2})
    freezing.on_train_begin()
    update = freezing._update
    freezing._update = lambda threshold: (seen.append(float(threshold)), update(threshold))
    for batch in range(4):
        freezing.on_train_batch_end(batch)
    expected = [0.3 + 0.2 * np.cos(np.pi * n / 4) for n in range(4)]
    np.testing.assert_allclose(seen, expected, rtol=1e-5)


def test_other_bits_begin_anew(qmodel):
    freezing = callbacks.OscillationFreezing("all", (-1.0, -1.0))
    qmodel.fit(X, Y, callbacks=[freezing], verbose=0)
    assert set(freezing.frozen().values()) == {1.0}
    tfmix.set_policy(qmodel, tfmix.QuantizationPolicy.uniform(qmodel, 2))
    freezing.threshold = (1.0, 1.0)
    freezing.on_train_begin()
    freezing.on_train_batch_end(0)
    assert set(freezing.frozen().values()) == {0.0}


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: callbacks.ExponentialMovingAverage(1.0), r"decay 1.0 is not in \[0, 1\)"),
        (lambda: callbacks.OscillationFreezing(momentum=0), "momentum 0 is not between 0 and 1"),
        (lambda: callbacks.ProgressiveBits(4, {8: 1}), "policy 4 is not a tfmix"),
        (
            lambda: callbacks.ProgressiveBits(tfmix.QuantizationPolicy({}, {}), {3: 1}),
            "bit-width 3 is not one of",
        ),
    ],
)
def test_refuses(build, message):
    with pytest.raises(TfmixError, match=message):
        build()


def test_unknown_layers_are_named(qmodel):
    freezing = callbacks.OscillationFreezing(["dw", "none"])
    freezing.set_model(qmodel)
    with pytest.raises(TfmixError, match=r"\['none'\] have no quantized weights; allowed: .*conv"):
        freezing.on_train_begin()


def test_a_float_model_has_nothing_to_freeze():
    model = network()
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(TfmixError, match="not a fake-quant model"):
        model.fit(X, Y, callbacks=[callbacks.OscillationFreezing()], verbose=0)
