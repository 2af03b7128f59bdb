"""Equalization leaves the float network as it is, and its channels alike."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras
from keras_models import chain, functional, random_inputs
from random_networks import random_model

import tfmix
from tfmix.errors import CalibrationError, TfmixError
from tfmix.fakequant.apply import quantizers_of, unwrap
from tfmix.fakequant.rebuild import build_float
from tfmix.frontend.keras import read

layers = tf_keras.layers
X = random_inputs(chain(layers.ReLU()), 48)


def uneven(model: tf_keras.Model) -> tf_keras.Model:
    """Kernels, gammas and betas with channels up to 20 times apart."""
    rng = np.random.default_rng(3)
    for variable in model.variables:
        if "moving" not in variable.name:
            spread = np.exp(rng.uniform(-1.5, 1.5, variable.shape[-1]))
            variable.assign(rng.normal(size=variable.shape) * spread)
    return model


def float_of(qmodel: tf_keras.Model) -> tf_keras.Model:
    return build_float(read(qmodel, unwrap))


def quantized(model: tf_keras.Model, **settings) -> tf_keras.Model:
    return tfmix.quantize_model(model, None, calibration_data=X, verbose=0, **settings)


def largest(model: tf_keras.Model, layer: str) -> np.ndarray:
    """Greatest value of each channel of a layer's output on the data."""
    y = tf_keras.Model(model.inputs, model.get_layer(layer).output)(X).numpy()
    return np.abs(y).max((0, 1, 2))


def spread(values: np.ndarray) -> float:
    return float(values.max() / values.min())


def test_channels_before_a_depthwise_get_one_range():
    model = uneven(
        chain(
            layers.Conv2D(6, 3, use_bias=False, name="a"),
            layers.BatchNormalization(name="a_bn"),
            layers.ReLU(name="relu"),
            layers.DepthwiseConv2D(3, name="b"),
        )
    )
    qmodel = quantized(model)
    assert tfmix.equalize(qmodel, X) == (("a", "b"),)
    new = float_of(qmodel)
    assert spread(largest(model, "relu")) > 4
    assert spread(largest(new, "relu")) < 1.01
    np.testing.assert_allclose(new(X), model(X), rtol=1e-4, atol=1e-4)


def test_between_convolutions_both_sides_give():
    model = uneven(
        chain(
            layers.Conv2D(6, 3, activation="relu", name="a"),
            layers.MaxPooling2D(name="pool"),
            layers.Conv2D(4, 1, name="b"),
        )
    )
    qmodel = quantized(model)
    assert tfmix.equalize(qmodel, X) == (("a", "b"),)
    new = float_of(qmodel)
    np.testing.assert_allclose(new(X), model(X), rtol=1e-4, atol=1e-4)

    def imbalance(m: tf_keras.Model) -> float:
        kernel = np.abs(m.get_layer("b").kernel[0, 0])
        return spread(largest(m, "a") / (kernel / kernel.max(axis=0)).max(axis=1))

    assert imbalance(new) < 0.5 * imbalance(model)


def test_the_grids_follow_the_kernels():
    model = uneven(chain(layers.Conv2D(6, 3, activation="relu", name="a"), layers.Conv2D(4, 1)))
    qmodel = quantized(model)
    tfmix.equalize(qmodel, X)
    fresh = quantized(float_of(qmodel))
    for name, bound in quantizers_of(qmodel).weights.items():
        other = quantizers_of(fresh).weights[name]
        for found, expected in zip(
            bound.quantizer.quantize(bound.kernel, bound.variables),
            other.quantizer.quantize(other.kernel, other.variables),
            strict=True,
        ):
            np.testing.assert_array_equal(found, expected)


def _read_twice(x):
    x = layers.Conv2D(4, 1, activation="relu")(x)
    return layers.Concatenate()([layers.Conv2D(4, 1)(x), x])


def _two_convs(*between, activation=None):
    return chain(
        layers.Conv2D(4, 1, activation=activation), *between, layers.Conv2D(4, 1, name="b")
    )


ILLEGAL = {
    "relu6": lambda: _two_convs(activation="relu6"),
    "ReLU(6)": lambda: _two_convs(layers.ReLU(6.0)),
    "softmax": lambda: _two_convs(layers.Softmax()),
    "batch norm without scale": lambda: _two_convs(layers.BatchNormalization(scale=False)),
    "batch norm without center": lambda: _two_convs(layers.BatchNormalization(center=False)),
    "batch norm after relu": lambda: _two_convs(
        layers.ReLU(), layers.BatchNormalization(name="alone")
    ),
    "two readers": lambda: functional(_read_twice),
    "one layer": lambda: chain(layers.Conv2D(4, 1)),
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_leaves_alone_what_would_change(case):
    qmodel = quantized(uneven(ILLEGAL[case]()))
    before = qmodel.get_weights()
    assert tfmix.equalize(qmodel, X) == ()
    for a, b in zip(qmodel.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seed", range(10))
def test_a_random_network_stays_the_same(seed):
    model = random_model(seed)
    x = random_inputs(model, 20, seed)
    flavour = {
        "weights": ("per_channel", "per_layer")[seed % 2],
        "batch_norm": ("icn", "fold")[seed // 2 % 2],
    }
    qmodel = tfmix.quantize_model(model, None, calibration_data=x, verbose=0, **flavour)
    tfmix.equalize(qmodel, x)
    scale = np.abs(model(x)).max()
    np.testing.assert_allclose(float_of(qmodel)(x), model(x), rtol=1e-3, atol=1e-4 * scale)


def test_refuses_what_it_cannot_use():
    with pytest.raises(TfmixError, match="not a fake-quant model"):
        tfmix.equalize(_two_convs(), X)
    with pytest.raises(CalibrationError, match="is empty"):
        tfmix.equalize(quantized(_two_convs()), X[:0])
