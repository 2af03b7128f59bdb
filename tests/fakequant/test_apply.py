"""The fake-quant model: bits, training, freezing, files, and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import tf_keras
from keras_models import random_inputs, small_cnn

import tfmix
from tfmix.errors import CalibrationError, TfmixError
from tfmix.fakequant.apply import float_activations, init_ranges, quantizers_of
from tfmix.ir.quant import BIT_WIDTHS

CLASSES = 5


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """Noisy copies of one image per class, and which it is."""
    y = np.arange(256) % CLASSES
    images = random_inputs(small_cnn(), CLASSES, seed=1)
    return images[y] + random_inputs(small_cnn(), len(y)) / 2, y


@pytest.fixture(scope="module")
def calibrated_model(data) -> tf_keras.Model:
    return tfmix.quantize_model(small_cnn(), None, calibration_data=data[0], verbose=0)


@pytest.fixture
def qmodel(calibrated_model) -> Iterator[tf_keras.Model]:
    """As calibrated; what a test does to it is undone."""
    weights = [w.copy() for w in calibrated_model.get_weights()]
    yield calibrated_model
    calibrated_model.trainable = True
    calibrated_model.set_weights(weights)


def compiled(model: tf_keras.Model, rate: float = 0.01, **settings) -> tf_keras.Model:
    model.compile(tf_keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", **settings)
    return model


def run_python(code: str, *arguments: str, **environment: str) -> str:
    """Output of a fresh interpreter."""
    env = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"} | environment
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- policy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_get_policy_returns_what_was_set(qmodel, bits):
    policy = tfmix.QuantizationPolicy.uniform(qmodel, bits).replace(weights={"pw": 4})
    tfmix.set_policy(qmodel, policy)
    found = tfmix.get_policy(qmodel)
    assert found == policy
    assert list(found.weight_bits) == ["conv", "dw", "pw", "dense"]
    assert list(found.activation_bits) == [
        "image", "conv_relu", "dw", "pw", "add", "bn", "pool", "dense",
    ]  # fmt: skip


def test_bits_change_the_output(qmodel, data):
    outputs = []
    for bits in (8, 4, 2, 8):
        tfmix.set_policy(qmodel, tfmix.QuantizationPolicy.uniform(qmodel, bits))
        outputs.append(qmodel.predict(data[0], verbose=0))
    np.testing.assert_array_equal(outputs[0], outputs[3])
    errors = [np.abs(y - outputs[0]).mean() for y in outputs[1:3]]
    assert 0 < errors[0] < errors[1]


def test_eight_bits_are_close_to_float(qmodel, data):
    expected = small_cnn().predict(data[0], verbose=0)
    np.testing.assert_allclose(qmodel.predict(data[0], verbose=0), expected, atol=0.05)


class _CountTraces(tf_keras.layers.Layer):
    """Its Python runs only while a function is traced."""

    traces = 0

    def call(self, x):
        type(self).traces += 1
        return x


def test_set_policy_never_retraces(qmodel, data):
    counted = compiled(tf_keras.Sequential([qmodel, _CountTraces()]))
    x, y = data

    def train_and_predict():
        counted.fit(x, y, batch_size=64, verbose=0)
        counted.predict(x, batch_size=64, verbose=0)

    train_and_predict()
    before = _CountTraces.traces
    assert before >= 2
    for bits in (2, 4, 8):
        tfmix.set_policy(qmodel, tfmix.QuantizationPolicy.uniform(qmodel, bits))
        train_and_predict()
    assert _CountTraces.traces == before


def test_a_policy_of_another_network_changes_nothing(qmodel):
    before = tfmix.get_policy(qmodel)
    for policy in (
        tfmix.QuantizationPolicy({"conv": 2}, {"image": 8}),
        before.replace(activations={"image": 4}),
        before.weight_bits,
    ):
        with pytest.raises(TfmixError, match="policy"):
            tfmix.set_policy(qmodel, policy)
    assert tfmix.get_policy(qmodel) == before


@pytest.mark.parametrize("function", [tfmix.get_policy, tfmix.convert])
def test_a_float_model_has_no_policy(function):
    with pytest.raises(TfmixError, match="not a fake-quant model; make one with"):
        function(small_cnn())


def test_activations_in_float_and_back(qmodel, data):
    x = data[0]
    policy = tfmix.QuantizationPolicy.uniform(qmodel, 4)
    tfmix.set_policy(qmodel, policy)
    all_at_4 = qmodel.predict(x, verbose=0)
    with float_activations(qmodel):
        weights_at_4 = qmodel.predict(x, verbose=0)
    assert tfmix.get_policy(qmodel) == policy
    np.testing.assert_array_equal(qmodel.predict(x, verbose=0), all_at_4)
    policy = policy.replace(weights=dict.fromkeys(policy.weight_bits, 8))
    tfmix.set_policy(qmodel, policy)
    with pytest.raises(RuntimeError), float_activations(qmodel):
        weights_at_8 = qmodel.predict(x, verbose=0)
        raise RuntimeError
    assert tfmix.get_policy(qmodel) == policy
    expected = small_cnn().predict(x, verbose=0)
    errors = [np.abs(y - expected).mean() for y in (all_at_4, weights_at_4, weights_at_8)]
    assert errors[0] > errors[1] > errors[2] > 0


def test_grids_of_weights_follow_the_kernels_when_asked_to(qmodel):
    bound = quantizers_of(qmodel).weights["pw"]
    before = bound.variables["log_step"].numpy()
    bound.kernel.assign(2 * bound.kernel)
    np.testing.assert_array_equal(bound.variables["log_step"], before)
    init_ranges(qmodel)
    np.testing.assert_allclose(bound.variables["log_step"], before + np.log(2), rtol=1e-4)


# -- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 2])
def test_training_learns_weights_and_ranges(qmodel, data, bits):
    tfmix.set_policy(qmodel, tfmix.QuantizationPolicy.uniform(qmodel, bits))
    steps = {n: q.variables["log_step"] for n, q in quantizers_of(qmodel).activations.items()}
    before = {name: step.numpy() for name, step in steps.items()}
    loss = compiled(qmodel).fit(*data, epochs=10, verbose=0).history["loss"]
    assert loss[-1] < 0.8 * loss[0]
    moved = {name: (step.numpy() != before[name]).tolist() for name, step in steps.items()}
    inner = {name: flags for name, flags in moved.items() if name not in ("image", "dense")}
    assert moved["image"] == [False] * 3, "the input's range is a fact"
    assert any(flags[BIT_WIDTHS.index(bits)] for flags in inner.values())
    for other in set(BIT_WIDTHS) - {bits}:
        assert not any(flags[BIT_WIDTHS.index(other)] for flags in inner.values())


@pytest.mark.parametrize("settings", [{}, {"run_eagerly": True}], ids=str)
def test_the_first_batch_of_fit_calibrates(data, settings):
    qmodel = compiled(tfmix.quantize_model(small_cnn(), None, verbose=0), **settings)
    with pytest.raises(CalibrationError, match="image: the range of this activation is not known"):
        tfmix.convert(qmodel)
    qmodel.fit(data[0][:32], data[1][:32], verbose=0)
    for name, bound in quantizers_of(qmodel).activations.items():
        assert int(bound.variables["calibrated"]) == 1, name
    tfmix.convert(qmodel)


def test_a_frozen_layer_keeps_its_kernel_and_its_range(data):
    model = small_cnn()
    model.get_layer("pw").trainable = False
    qmodel = tfmix.quantize_model(model, None, calibration_data=data[0], verbose=0)
    frozen, free = qmodel.get_layer("quant_pw"), qmodel.get_layer("quant_dense")
    before = [w.copy() for w in frozen.get_weights()], [w.copy() for w in free.get_weights()]
    compiled(qmodel).fit(*data, verbose=0)
    assert frozen.trainable_weights == []
    for old, new in zip(before[0], frozen.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert any((a != b).any() for a, b in zip(before[1], free.get_weights(), strict=True))


def test_freezing_does_not_change_the_order_of_weights(qmodel):
    names = [w.name for w in qmodel.weights]
    for layer in qmodel.layers:
        own = [w.name for w in layer.weights]
        layer.trainable = False
        assert [w.name for w in layer.weights] == own
    assert not qmodel.trainable_weights
    assert sorted(w.name for w in qmodel.weights) == sorted(names)


def test_the_original_model_is_left_alone(data):
    model = compiled(small_cnn())
    weights, config = [w.copy() for w in model.get_weights()], model.to_json()
    compiled(tfmix.quantize_model(model, None, calibration_data=data[0], verbose=0)).fit(
        *data, verbose=0
    )
    assert model.to_json() == config
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# -- files --------------------------------------------------------------------------------------

_LOAD = """
import sys
import numpy as np
import tfmix
import tf_keras

path, data = sys.argv[1:]
qmodel = tf_keras.models.load_model(path)
with np.load(data) as file:
    x, y, expected = (file[key] for key in ("x", "y", "expected"))
np.testing.assert_array_equal(qmodel.predict(x, verbose=0), expected)
print(tfmix.get_policy(qmodel).to_json())
assert tfmix.convert(qmodel) == tfmix.load(path + ".tflite")
qmodel.fit(x, y, verbose=0)
tfmix.convert(qmodel)
qmodel.save(path)
"""


@pytest.mark.parametrize("suffix", [".h5", ".keras", ".savedmodel"])
def test_saves_and_loads_in_a_fresh_process(qmodel, data, tmp_path, suffix):
    """With nothing but `import tfmix`: policy, outputs, further training, saving again."""
    x, y = data
    policy = tfmix.QuantizationPolicy.uniform(qmodel, 4).replace(weights={"dw": 2})
    tfmix.set_policy(qmodel, policy)
    compiled(qmodel).fit(x, y, verbose=0)
    path, arrays = tmp_path / f"model{suffix}", tmp_path / "data.npz"
    qmodel.save(path, save_format="tf" if suffix == ".savedmodel" else None)
    tfmix.export(qmodel, f"{path}.tflite")
    np.savez(arrays, x=x, y=y, expected=qmodel.predict(x, verbose=0))
    found = run_python(_LOAD, str(path), str(arrays))
    assert tfmix.QuantizationPolicy.from_json(found) == policy


def test_weights_alone_save_and_load(qmodel, data, tmp_path):
    compiled(qmodel).fit(*data, verbose=0)
    other = tfmix.quantize_model(small_cnn(), None, verbose=0)
    for name in ("weights.h5", "weights.weights.h5", "checkpoint"):
        qmodel.save_weights(tmp_path / name)
        other.load_weights(tmp_path / name)
        np.testing.assert_array_equal(
            other.predict(data[0], verbose=0), qmodel.predict(data[0], verbose=0)
        )


def test_variables_have_names_of_their_own(qmodel):
    names = [w.name for w in qmodel.weights]
    assert len(names) == len(set(names))


# -- the user's environment ---------------------------------------------------------------------

_IMPORT = """
import os
import tensorflow as tf
before = dict(os.environ)
import tfmix
assert dict(os.environ) == before, "environment changed"
print(tf.keras.Model.__module__.split(".")[0])
"""


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, "keras"), ({"TF_USE_LEGACY_KERAS": "1"}, "tf_keras")],
    ids=["Keras 3", "Keras 2"],
)
def test_importing_leaves_the_environment_and_tf_keras_alone(environment, expected):
    assert run_python(_IMPORT, **environment).strip() == expected
