"""Batch-norm statistics measured anew."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras_models import chain, random_inputs, small_cnn
from random_networks import random_model, random_policy

import tfmix
from tfmix.errors import CalibrationError
from tfmix.fakequant.batch_norm import following_statistics
from tfmix.fakequant.layerwise import Layerwise

layers = tf_keras.layers
X = random_inputs(small_cnn(), 70)


def batch_norms(model: tf_keras.Model) -> dict[str, tf_keras.layers.Layer]:
    layerwise = Layerwise(model)
    return {
        n.batch_norm: layerwise.batch_norm_layer(n) for n in layerwise.graph.nodes if n.batch_norm
    }


def statistics(model: tf_keras.Model) -> dict[str, np.ndarray]:
    return {
        name: np.stack([layer.moving_mean, layer.moving_variance])
        for name, layer in batch_norms(model).items()
    }


@pytest.fixture
def qmodel() -> tf_keras.Model:
    return tfmix.quantize_model(small_cnn(), None, calibration_data=X, verbose=0)


def normalized(model: tf_keras.Model, x: np.ndarray) -> dict[str, np.ndarray]:
    """What each batch norm of the Keras model itself gives, before gamma and beta."""
    found = {}
    for name, layer in batch_norms(model).items():
        outer = next(o for o in model.layers if layer in (o, getattr(o, "layer", None)))
        z = tf_keras.Model(model.inputs, outer.input)(x).numpy()
        scale = np.sqrt(layer.moving_variance + layer.epsilon)
        found[name] = (z - layer.moving_mean.numpy()) / scale
    return found


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_batch_norm_gives_mean_0_and_variance_1_on_the_data(qmodel, bits):
    tfmix.set_policy(qmodel, tfmix.QuantizationPolicy.uniform(qmodel, bits))
    assert tfmix.reestimate_batch_norm(qmodel, X) == tuple(batch_norms(qmodel))
    for name, z in normalized(qmodel, X).items():
        axes = tuple(range(z.ndim - 1))
        np.testing.assert_allclose(z.mean(axes), 0, atol=0.02, err_msg=name)
        # epsilon, and channels of zeros
        variance = batch_norms(qmodel)[name].moving_variance.numpy()
        expected = variance / (variance + batch_norms(qmodel)[name].epsilon)
        np.testing.assert_allclose(z.var(axes), expected, atol=0.03, err_msg=name)


@pytest.mark.parametrize("seed", range(6))
def test_a_random_network_of_random_bits(seed):
    model = random_model(seed + 50)
    x = random_inputs(model, 40, seed)
    qmodel = tfmix.quantize_model(model, None, calibration_data=x, verbose=0)
    tfmix.set_policy(qmodel, random_policy(model, seed))
    assert len(tfmix.reestimate_batch_norm(qmodel, x)) == len(batch_norms(qmodel))
    first = statistics(qmodel)
    tfmix.reestimate_batch_norm(qmodel, x)  # it is a fixed point
    for name, values in statistics(qmodel).items():
        np.testing.assert_array_equal(values, first[name], err_msg=name)


def test_batches_do_not_matter(qmodel):
    found = []
    for data in (X, [X[:1], X[1:33], X[33:]], tf.data.Dataset.from_tensor_slices(X).batch(64)):
        tfmix.reestimate_batch_norm(qmodel, data)
        found.append(statistics(qmodel))
    for other in found[1:]:
        for name, values in other.items():
            np.testing.assert_array_equal(values, found[0][name])


def test_nothing_else_changes(qmodel):
    qmodel.layers[3].trainable = False
    trainable = [layer.trainable for layer in qmodel.layers]
    names = [v.name for v in qmodel.trainable_variables]
    before = {v.name: v.numpy() for v in qmodel.variables}
    tfmix.reestimate_batch_norm(qmodel, X)
    assert [layer.trainable for layer in qmodel.layers] == trainable
    assert [v.name for v in qmodel.trainable_variables] == names
    changed = {v.name for v in qmodel.variables if not np.array_equal(v.numpy(), before[v.name])}
    assert changed
    assert all("moving_" in name for name in changed)


def test_a_float_model_too():
    model = small_cnn()
    tfmix.reestimate_batch_norm(model, X)
    z = normalized(model, X)["bn"]
    np.testing.assert_allclose(z.mean((0, 1, 2)), 0, atol=1e-5)


def test_folded_ones_are_not_there_any_more(capsys):
    model = chain(layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU())
    qmodel = tfmix.quantize_model(model, None, batch_norm="fold", calibration_data=X, verbose=0)
    before = qmodel.get_weights()
    assert tfmix.reestimate_batch_norm(qmodel, X, verbose=1) == ()
    assert "no batch norm to re-estimate: they are folded" in capsys.readouterr().out
    for a, b in zip(qmodel.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_uses_no_more_samples_than_told(qmodel, capsys):
    tfmix.reestimate_batch_norm(qmodel, np.concatenate([X, X * 100]), samples=70, verbose=1)
    assert capsys.readouterr().out == "2 batch norms re-estimated on 70 samples\n"
    found = statistics(qmodel)
    tfmix.reestimate_batch_norm(qmodel, X)
    for name, values in statistics(qmodel).items():
        np.testing.assert_array_equal(values, found[name])


def test_bad_data_changes_nothing(qmodel):
    before = statistics(qmodel)
    for data in (X[:0], X * np.nan, X[:, 1:]):
        with pytest.raises(CalibrationError):
            tfmix.reestimate_batch_norm(qmodel, data)
    for name, values in statistics(qmodel).items():
        np.testing.assert_array_equal(values, before[name])


def test_statistics_follow_within_an_episode(qmodel):
    momenta = {name: layer.momentum for name, layer in batch_norms(qmodel).items()}
    before = statistics(qmodel)
    shifted = X[:8] + 5
    steps = 4
    with following_statistics(qmodel, steps):
        for _ in range(steps):
            qmodel(shifted, training=True)
    after = statistics(qmodel)
    with following_statistics(qmodel, 1):  # what the last batches show, nearly alone
        for _ in range(20):
            qmodel(shifted, training=True)
    shown = statistics(qmodel)
    for name in before:
        left = np.abs(after[name] - shown[name]).max() / np.abs(before[name] - shown[name]).max()
        assert left < 0.3, name
    assert {name: layer.momentum for name, layer in batch_norms(qmodel).items()} == momenta


def test_statistics_that_follow_already_are_left_alone(qmodel):
    with following_statistics(qmodel, 10**6):
        assert all(layer.momentum == 0.99 for layer in batch_norms(qmodel).values())
