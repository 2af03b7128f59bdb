"""Activation ranges from data: every kind of data, and what is wrong with it."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras_models import IMAGE, chain, random_inputs, small_cnn

import tfmix
from tfmix.errors import CalibrationError
from tfmix.fakequant.apply import quantizers_of
from tfmix.fakequant.calibrate import MAX_SAMPLES, batches, set_ranges
from tfmix.frontend.keras import read

layers = tf_keras.layers
X = random_inputs(small_cnn(), 70)
Y = np.arange(len(X)) % 5


@pytest.fixture(scope="module")
def qmodel() -> tf_keras.Model:
    return tfmix.quantize_model(small_cnn(), None, verbose=0)


def ranges(qmodel: tf_keras.Model) -> dict[str, list[float]]:
    return {
        f"{tensor} {name}": limits.tolist()
        for tensor, bound in quantizers_of(qmodel).activations.items()
        for name, limits in zip(
            ("low", "high"), bound.quantizer.ranges(bound.variables), strict=True
        )
    }


# -- kinds of data ------------------------------------------------------------------------------

GOOD = {
    "array": lambda: X,
    "tensor": lambda: tf.constant(X),
    "float64": lambda: X.astype(np.float64),
    "(x, y)": lambda: (X, Y),
    "(x, y, weights)": lambda: (X, Y, Y),
    "dataset": lambda: tf.data.Dataset.from_tensor_slices(X).batch(16),
    "dataset of (x, y)": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(16),
    "list of batches": lambda: [X[:30], X[30:]],
    "generator": lambda: (X[i : i + 7] for i in range(0, len(X), 7)),
    "generator of (x, y)": lambda: ((X[i : i + 7], Y[i : i + 7]) for i in range(0, len(X), 7)),
}


@pytest.mark.parametrize("kind", GOOD)
def test_takes(kind):
    graph = read(small_cnn()).graph
    found = list(batches(GOOD[kind](), graph))
    assert all(batch.dtype == np.float32 and len(batch) <= 32 for batch in found)
    np.testing.assert_array_equal(np.concatenate(found), X)


def test_integers_are_taken_as_they_are():
    (batch,) = batches(np.full((3, *IMAGE), 200, np.uint8), read(small_cnn()).graph)
    assert (batch.dtype, batch.max()) == (np.float32, 200)


def test_stops_after_enough_samples_of_endless_data():
    def endless():
        while True:
            yield X

    assert sum(map(len, batches(endless(), read(small_cnn()).graph))) == MAX_SAMPLES


# -- ranges -------------------------------------------------------------------------------------


def test_the_same_data_gives_the_same_ranges(qmodel):
    set_ranges(qmodel, X, 0)
    first = ranges(qmodel)
    set_ranges(qmodel, X[::2], 0)
    assert ranges(qmodel) != first
    set_ranges(qmodel, (X, Y), 0)
    assert ranges(qmodel) == first


def test_quantize_model_sets_ranges(qmodel):
    set_ranges(qmodel, X, 0)
    for settings in ({"calibration_data": X}, {"validation_data": (X, Y)}):
        other = tfmix.quantize_model(small_cnn(), None, **settings, verbose=0)
        assert ranges(other) == ranges(qmodel)


def test_the_input_keeps_its_full_range(qmodel):
    set_ranges(qmodel, X, 0)
    low, high = np.array(ranges(qmodel)["image low"]), np.array(ranges(qmodel)["image high"])
    step = (X.max() - X.min()) / [3, 15, 255]
    np.testing.assert_allclose(high - low, X.max() - X.min(), rtol=1e-6)
    assert (np.abs(low - X.min()) <= 0.501 * step).all(), "moved so that zero is exact"


def test_ranges_do_not_depend_on_the_bits_now_set(qmodel):
    set_ranges(qmodel, X, 0)
    expected = ranges(qmodel)
    tfmix.set_policy(qmodel, tfmix.QuantizationPolicy.uniform(qmodel, 2))
    set_ranges(qmodel, X, 0)
    assert ranges(qmodel) == expected


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0])
def test_inputs_of_one_colour(value):
    model = chain(layers.Conv2D(2, 3), layers.ReLU())
    x = np.full((4, *IMAGE), value, np.float32)
    qmodel = tfmix.quantize_model(model, None, calibration_data=x, verbose=0)
    assert np.isfinite(tfmix.convert(qmodel).predict(x)).all()


# -- errors -------------------------------------------------------------------------------------

_SHAPE = r"calibration data of shape \({}\); image takes \(n, 8, 9, 3\)"
BAD = {
    "empty array": (lambda: X[:0], "calibration data is empty"),
    "empty list": (list, "calibration data is empty"),
    "empty generator": (lambda: iter([]), "calibration data is empty"),
    "empty dataset": (
        lambda: tf.data.Dataset.from_tensor_slices(X).batch(16).take(0),
        "calibration data is empty",
    ),
    "NaN": (lambda: np.where(X > 2, np.nan, X), "holds NaN or infinite values"),
    "infinity": (lambda: np.where(X > 2, np.inf, X), "holds NaN or infinite values"),
    "NaN in a later batch": (lambda: [X, X * np.nan], "holds NaN or infinite values"),
    "other rows": (lambda: X[:, 1:], _SHAPE.format("70, 7, 9, 3")),
    "one image": (lambda: X[0], _SHAPE.format("8, 9, 3")),
    "dataset without batches": (
        lambda: tf.data.Dataset.from_tensor_slices(X),
        _SHAPE.format("8, 9, 3"),
    ),
    "one number": (lambda: np.float32(1), "calibration data of type float32"),
    "complex": (lambda: X.astype(complex), "dtype complex128; numbers are needed"),
    "text": (lambda: np.full(X.shape, "x"), "dtype <U1; numbers are needed"),
    "objects": (lambda: np.full(X.shape, None), "dtype object; numbers are needed"),
    "a number": (lambda: 5, "calibration data of type int"),
    "nothing": (lambda: None, "calibration data of type NoneType"),
    "a dict": (lambda: {"x": X}, r"calibration data of shape \(\)"),
}


@pytest.mark.parametrize("kind", BAD)
def test_refuses(qmodel, kind):
    build, message = BAD[kind]
    set_ranges(qmodel, X, 0)
    before = ranges(qmodel)
    with pytest.raises(CalibrationError, match=message):
        set_ranges(qmodel, build(), 0)
    assert ranges(qmodel) == before


def test_a_float_network_that_gives_nan_is_named():
    """Two products overflow to infinities of either sign, which no tensor shows by itself."""
    model = chain(layers.Conv2D(1, 1, use_bias=False, name="conv"), shape=(1, 1, 2))
    model.layers[1].set_weights([np.array([3e38, -3e38], np.float32).reshape(1, 1, 2, 1)])
    with pytest.raises(CalibrationError, match="conv: the float network gives NaN"):
        x = np.full((4, 1, 1, 2), 100, np.float32)
        tfmix.quantize_model(model, None, calibration_data=x, verbose=0)
