"""IntegerModel: floats and integers in and out, on either backend, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras
from keras_models import IMAGE, chain, random_inputs, small_cnn

import tfmix
from tfmix.errors import TfmixError

layers = tf_keras.layers
BACKENDS = ("c", "reference")


def converted(model: tf_keras.Model) -> tfmix.IntegerModel:
    data = random_inputs(model, 64)
    return tfmix.convert(tfmix.quantize_model(model, None, calibration_data=data, verbose=0))


@pytest.fixture(scope="module")
def model() -> tfmix.IntegerModel:
    return converted(small_cnn())


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return random_inputs(small_cnn(), 5)


# -- what it computes ---------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_predict_is_quantize_run_dequantize(model, x, backend):
    quant = model.quantization
    q = quant["image"].quantize(x)
    y = model.run(q, backend=backend)
    assert (y.dtype, y.shape) == (np.uint8, (5, *model.output_shape))
    predicted = model.predict(x, backend=backend)
    assert (predicted.dtype, predicted.shape) == (np.float32, (5, *model.output_shape))
    np.testing.assert_array_equal(predicted, y / np.float32(256))


@pytest.mark.parametrize("backend", BACKENDS)
def test_tensors_are_all_there_in_execution_order(model, x, backend):
    tensors = model.tensors(x, backend=backend)
    assert list(tensors) == list(model.quantization)
    assert list(tensors) == [
        "image", "conv_relu", "dw", "pw", "add", "bn", "pool", "dense", "dense_softmax",
    ]  # fmt: skip
    for name, values in tensors.items():
        assert values.dtype == np.uint8
        assert values.shape == (5, *model.network.tensors[name].shape)
    np.testing.assert_array_equal(tensors["dense_softmax"], model.run(tensors["image"]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_input_at_a_time_gives_the_same(model, x, backend):
    together = model.predict(x, backend=backend)
    apart = [model.predict(image[None], backend=backend)[0] for image in x]
    np.testing.assert_array_equal(together, apart)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_inputs_give_no_outputs(model, backend):
    assert model.predict(np.zeros((0, *IMAGE)), backend=backend).shape == (0, *model.output_shape)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.uint8, np.bool_])
def test_real_inputs_may_have_any_dtype(model, dtype):
    x = np.ones((2, *IMAGE), dtype)
    np.testing.assert_array_equal(model.predict(x), model.predict(x.astype(np.float32)))


def test_real_inputs_may_be_a_list(model, x):
    np.testing.assert_array_equal(model.predict(x.tolist()), model.predict(x))


def test_inputs_outside_the_calibrated_range_saturate(model):
    q = model.quantize(np.full((1, *IMAGE), 1e30))
    assert q.min() == 255
    assert model.quantize(np.full((1, *IMAGE), -1e30)).max() == 0


@pytest.mark.parametrize("shape", [(3, 9, 4), (108,)])
def test_shapes_are_those_of_the_keras_model(shape):
    model = chain(
        layers.Reshape((9, 4, 3)), layers.Conv2D(2, 3), layers.Reshape((2, 14)), shape=shape
    )
    integer = converted(model)
    assert (integer.input_shape, integer.output_shape) == (shape, (2, 14))
    for backend in BACKENDS:
        assert integer.predict(random_inputs(model, 2), backend).shape == (2, 2, 14)


# -- value ----------------------------------------------------------------------------------------


def test_equal_networks_make_equal_models(model):
    assert model == tfmix.IntegerModel(model.network)
    assert model != converted(chain(layers.ReLU()))
    assert model != "model"
    assert repr(model) == "IntegerModel((8, 9, 3) -> (5,), 8 nodes)"


# -- what it refuses ----------------------------------------------------------------------------

_SHAPE = r"of shape \({}\); image takes \(n, 8, 9, 3\)"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 9, 8, 3), _SHAPE.format("2, 9, 8, 3")),
        (IMAGE, _SHAPE.format("8, 9, 3")),
        ((1, 1, *IMAGE), _SHAPE.format("1, 1, 8, 9, 3")),
        ((), _SHAPE.format("")),
    ],
)
def test_refuses_another_shape(model, backend, shape, message):
    for call, dtype in ((model.predict, float), (model.tensors, float), (model.run, np.uint8)):
        with pytest.raises(TfmixError, match=message):
            call(np.zeros(shape, dtype), backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("q", "found"),
    [
        (np.zeros((1, *IMAGE)), "float64"),
        (np.zeros((1, *IMAGE), np.int8), "int8"),
        (np.zeros((1, *IMAGE)).tolist(), "list"),
        (None, "NoneType"),
    ],
    ids=["float64", "int8", "list", "None"],
)
def test_run_refuses_all_but_uint8(model, backend, q, found):
    with pytest.raises(TfmixError, match=f"run takes uint8 values, not {found}; use predict"):
        model.run(q, backend=backend)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.full((1, *IMAGE), np.nan), "NaN or infinite"),
        (np.full((1, *IMAGE), np.inf), "NaN or infinite"),
        (np.full((1, *IMAGE), 1j), "dtype complex128; real numbers are needed"),
        (np.full((1, *IMAGE), "1"), "dtype <U1; real numbers are needed"),
        (None, "dtype object; real numbers are needed"),
    ],
    ids=["NaN", "infinity", "complex", "text", "None"],
)
def test_predict_refuses_what_is_no_real_number(model, value, message):
    for call in (model.predict, model.tensors, model.quantize):
        with pytest.raises(TfmixError, match=message):
            call(value)


@pytest.mark.parametrize("backend", ["C", "numpy", None])
def test_refuses_an_unknown_backend(model, x, backend):
    for call, values in (
        (model.predict, x),
        (model.tensors, x),
        (model.run, model.quantize(x)),
    ):
        with pytest.raises(TfmixError, match=r"backend .* is not one of \('c', 'reference'\)"):
            call(values, backend=backend)
