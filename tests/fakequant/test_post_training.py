"""calibrate: the parts in their order, from any state of the model."""

from __future__ import annotations

import numpy as np
import pytest
import real_data
import tf_keras
from keras_models import chain, random_inputs, small_cnn

import tfmix
from tfmix.errors import CalibrationError, TfmixError
from tfmix.fakequant.apply import quantizers_of

layers = tf_keras.layers
X = random_inputs(small_cnn(), 48)


def small_net() -> tf_keras.Model:
    tf_keras.utils.set_random_seed(2)
    return chain(
        layers.Conv2D(6, 3, use_bias=False, name="a"),
        layers.BatchNormalization(name="a_bn"),
        layers.ReLU(name="a_relu"),
        layers.DepthwiseConv2D(3, name="b", activation="relu"),
        layers.Conv2D(4, 1, name="c", activation="relu"),
        layers.GlobalAveragePooling2D(name="pool"),
        layers.Dense(5, activation="softmax", name="dense"),
    )


def quantized(bits: int) -> tf_keras.Model:
    model = small_net()
    policy = tfmix.QuantizationPolicy.uniform(model, bits)
    return tfmix.quantize_model(model, None, policy=policy, calibration_data=X, verbose=0)


def divergence(qmodel: tf_keras.Model, x: np.ndarray) -> float:
    p, q = np.asarray(small_net()(x), np.float64), np.asarray(qmodel(x), np.float64)
    return float((p * np.log(p / q)).sum(axis=-1).mean())


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_each_method_comes_closer(capsys):
    fresh = random_inputs(small_net(), 300, seed=9)
    qmodel, on_data, on_fresh = quantized(2), [], []
    for method in ("ranges", "quick", "full"):
        tfmix.calibrate(qmodel, X, method=method, steps=250)
        on_data.append(divergence(qmodel, X))
        on_fresh.append(divergence(qmodel, fresh))
    assert on_data[2] < on_data[1] < on_data[0]
    assert max(on_fresh[1:]) < on_fresh[0]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["equalized"] * 2 + ["rounding"] * 3


def test_ranges_are_all_that_ranges_sets():
    qmodel = quantized(4)
    before = [w.copy() for w in qmodel.get_weights()]
    tfmix.calibrate(qmodel, X * 2, method="ranges")
    ranges = {
        id(v)
        for bound in quantizers_of(qmodel).activations.values()
        for v in bound.variables.values()
    }
    changed = [
        v for v, old in zip(qmodel.weights, before, strict=True) if not np.array_equal(v, old)
    ]
    assert changed
    assert {id(v) for v in changed} <= ranges


@pytest.mark.parametrize("method", ["quick", "full"])
def test_calls_do_not_add_up(method):
    """Whatever was calibrated before, at other bits too: the same model, bits and data."""
    once, twice = quantized(4), quantized(4)
    settings = {"method": method, "steps": 5, "verbose": 0}
    tfmix.calibrate(once, X, **settings)
    tfmix.calibrate(twice, X, **settings)
    tfmix.set_policy(twice, tfmix.QuantizationPolicy.uniform(twice, 2))
    tfmix.calibrate(twice, X, **settings)
    tfmix.set_policy(twice, tfmix.QuantizationPolicy.uniform(twice, 4))
    tfmix.calibrate(twice, X, **settings)
    assert_same(twice.get_weights(), once.get_weights())


def test_what_was_trained_since_is_kept():
    qmodel = quantized(4)
    tfmix.calibrate(qmodel, X, method="quick", verbose=0)
    kernel = quantizers_of(qmodel).weights["a"].kernel
    kernel.assign(kernel + 1)
    trained = kernel.numpy()
    tfmix.calibrate(qmodel, X, method="quick", equalize=False, verbose=0)
    np.testing.assert_array_equal(kernel, trained)


def test_auto_equalizes_only_where_it_helps(monkeypatch):
    found = {}
    for equalize in (False, True, "auto"):
        qmodel = quantized(2)
        tfmix.calibrate(qmodel, X, method="quick", equalize=equalize, verbose=0)
        found[equalize] = divergence(qmodel, X)
    assert found["auto"] == pytest.approx(min(found[False], found[True]), rel=1e-6)


def test_goes_on_where_it_stopped(tmp_path):
    settings = {"steps": 5, "verbose": 0, "state_dir": tmp_path}
    first, again = quantized(4), quantized(4)
    tfmix.calibrate(first, X, **settings)
    tfmix.calibrate(again, X, **settings)
    assert_same(again.get_weights(), first.get_weights())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "best"}, "method 'best' is not one of"),
        ({"equalize": "always"}, "equalize 'always' is not one of"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(TfmixError, match=message):
        tfmix.calibrate(quantized(4), X, **settings)


def test_refuses_bad_data_and_models():
    with pytest.raises(TfmixError, match="not a fake-quant model"):
        tfmix.calibrate(small_net(), X)
    with pytest.raises(CalibrationError, match="is empty"):
        tfmix.calibrate(quantized(4), X[:0])


def test_keyword_spotting_at_four_bits():
    """Half of the real inputs calibrate, the other half tell: quick mends most of what is lost."""
    x, y = real_data.keyword_spotting()
    model = real_data.model("kws_ref_model")
    policy = tfmix.QuantizationPolicy.uniform(model, 8).replace(
        weights={n: 4 for n in list(tfmix.QuantizationPolicy.uniform(model, 8).weight_bits)[1:-1]}
    )
    qmodel = tfmix.quantize_model(model, None, policy=policy, calibration_data=x[:250], verbose=0)
    tfmix.calibrate(qmodel, x[:250], method="quick", verbose=0)

    def accuracy(m: tf_keras.Model) -> float:
        return float((np.argmax(m.predict(x[250:], verbose=0), -1) == y[250:]).mean())

    assert accuracy(qmodel) >= accuracy(model) - 0.02
