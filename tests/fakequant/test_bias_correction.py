"""After correction every channel has the mean it has in the float network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tf_keras
from keras_models import chain, random_inputs, randomize, small_cnn
from random_networks import random_model, random_policy

import tfmix
from tfmix.errors import CalibrationError, TfmixError
from tfmix.fakequant.bias_correction import BiasCorrection

layers = tf_keras.layers
X = random_inputs(small_cnn(), 70)


def plain_cnn(**batch_norm: bool) -> tf_keras.Model:
    """Batch norms and ReLUs are layers of their own, so a part of the model shows their means."""
    model = chain(
        layers.Conv2D(6, 3, name="a"),
        layers.BatchNormalization(name="a_bn", **batch_norm),
        layers.ReLU(),
        layers.DepthwiseConv2D(3, use_bias=False, name="no_bias"),
        layers.Conv2D(6, 1, use_bias=False, name="b"),
        layers.BatchNormalization(name="b_bn", **batch_norm),
        layers.ReLU(),
        layers.Conv2D(4, 1, name="c"),
        layers.ReLU(),
    )
    model = randomize(model)
    for name in ("a_bn", "b_bn"):
        if model.get_layer(name).gamma is not None:
            model.get_layer(name).gamma.assign(np.array([1, 2, -1, 0.5, 1, -0.1], np.float32))
    return model


def quantized(model: tf_keras.Model, bits: int, x: np.ndarray = X, **settings) -> tf_keras.Model:
    policy = tfmix.QuantizationPolicy.uniform(model, bits)
    return tfmix.quantize_model(
        model, None, policy=policy, calibration_data=x, verbose=0, **settings
    )


def means(model: tf_keras.Model, layer: str) -> np.ndarray:
    names = [name for name in (layer, f"quant_{layer}") if name in {o.name for o in model.layers}]
    y = tf_keras.Model(model.inputs, model.get_layer(names[0]).output)(X).numpy()
    return y.mean(tuple(range(y.ndim - 1)))


@pytest.mark.parametrize("center", [True, False], ids=["beta", "moving mean"])
@pytest.mark.parametrize("bits", [2, 4])
def test_means_are_those_of_the_float_network(bits, center):
    model = plain_cnn(center=center)
    qmodel = quantized(model, bits)
    checked = ("a_bn", "b_bn", "c")
    before = [np.abs(means(qmodel, name) - means(model, name)).max() for name in checked]
    assert max(before) > 0.01
    assert tfmix.correct_bias(qmodel, X) == ("a", "b", "c")
    for name in checked:
        np.testing.assert_allclose(means(qmodel, name), means(model, name), atol=2e-3)


def test_folded_batch_norm():
    model = plain_cnn()
    qmodel = quantized(model, 2, batch_norm="fold")
    assert tfmix.correct_bias(qmodel, X, reference=model) == ("a", "b", "c")
    np.testing.assert_allclose(means(qmodel, "c"), means(model, "c"), atol=2e-3)


def test_a_reference_makes_it_a_fixed_point():
    model = plain_cnn()
    qmodel = quantized(model, 2)
    tfmix.correct_bias(qmodel, X, reference=model)
    first = qmodel.get_weights()
    tfmix.correct_bias(qmodel, X, reference=model)
    for a, b in zip(qmodel.get_weights(), first, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def changed(model: tf_keras.Model, action: Callable[[], object]) -> set[str]:
    before = [v.numpy() for v in model.variables]
    action()
    pairs = zip(model.variables, before, strict=True)
    return {v.name.split("/")[-1] for v, old in pairs if not np.array_equal(v.numpy(), old)}


@pytest.mark.parametrize("seed", range(6))
def test_only_offsets_change_and_they_come_back(seed):
    model = random_model(seed + 20)
    x = random_inputs(model, 40, seed)
    qmodel = tfmix.quantize_model(model, None, calibration_data=x, verbose=0)
    tfmix.set_policy(qmodel, random_policy(model, seed))
    correction = BiasCorrection(qmodel, x)
    original = qmodel.get_weights()
    names = changed(qmodel, correction.correct)
    assert names <= {"bias:0", "beta:0", "moving_mean:0"}
    once = qmodel.get_weights()
    assert all(np.isfinite(w).all() for w in once)
    correction.correct()  # begins with the original biases again
    for a, b in zip(qmodel.get_weights(), once, strict=True):
        np.testing.assert_array_equal(a, b)
    correction.undo()
    for a, b in zip(qmodel.get_weights(), original, strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_measurement_serves_all_bits():
    qmodel = quantized(plain_cnn(), 8)
    correction = BiasCorrection(qmodel, X)
    for bits in (2, 4, 8):
        tfmix.set_policy(qmodel, tfmix.QuantizationPolicy.uniform(qmodel, bits))
        correction.correct()
        np.testing.assert_allclose(means(qmodel, "c"), means(plain_cnn(), "c"), atol=2e-3)


def test_refuses_what_it_cannot_use():
    with pytest.raises(TfmixError, match="not a fake-quant model"):
        tfmix.correct_bias(plain_cnn(), X)
    qmodel = quantized(plain_cnn(), 4)
    with pytest.raises(CalibrationError, match="is empty"):
        tfmix.correct_bias(qmodel, X[:0])
    with pytest.raises(TfmixError, match="reference: layers 'a', .* are not in it"):
        tfmix.correct_bias(qmodel, X, reference=small_cnn())
