"""The public functions: arguments, errors, and that nothing is written on error."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras

import tfmix

layers = tf_keras.layers


@pytest.fixture(scope="module")
def model() -> tf_keras.Model:
    tf_keras.utils.set_random_seed(0)
    return tf_keras.Sequential(
        [
            tf_keras.Input((12, 10, 3)),
            layers.Conv2D(16, 3, padding="same", name="first"),
            layers.BatchNormalization(),
            layers.ReLU(name="a"),
            layers.Conv2D(24, 3, strides=2, activation="relu", name="second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, activation="softmax", name="classes"),
        ]
    )


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 12, 10, 3)).astype(np.float32)


@pytest.fixture
def qmodel(model, x) -> tf_keras.Model:
    return tfmix.quantize_model(model, None, calibration_data=x, verbose=0)


# -- quantize_model -----------------------------------------------------------------------------


def test_a_budget_is_held_by_the_file_and_by_the_report(model, x, tmp_path):
    eight = tfmix.memory_report(model, tfmix.QuantizationPolicy.uniform(model, 8))
    budget = tfmix.Budget(eight.flash_bytes - 1500, eight.ram_bytes - 800)
    qmodel = tfmix.quantize_model(model, budget, calibration_data=x, verbose=0)
    report = tfmix.memory_report(qmodel, budget=budget)
    assert report.fits
    assert tfmix.export(qmodel, tmp_path / "m.tflite").stat().st_size == report.flash_bytes
    assert report.flash_bytes <= budget.flash and report.ram_bytes <= budget.ram


def test_without_limits_all_is_at_8_bits(model, qmodel):
    assert tfmix.get_policy(qmodel) == tfmix.QuantizationPolicy.uniform(model, 8)


@pytest.mark.parametrize("budget", [tfmix.Budget(flash=500), tfmix.Budget(ram=500)])
def test_a_budget_nobody_can_meet_names_the_tensor_and_what_would_do(model, budget):
    with pytest.raises(tfmix.BudgetError) as error:
        tfmix.quantize_model(model, budget, verbose=0)
    assert error.value.smallest > 500 and error.value.tensor in str(error.value)
    enough = tfmix.Budget(*(limit and error.value.smallest for limit in (budget.flash, budget.ram)))
    tfmix.quantize_model(model, enough, verbose=0)


def test_a_policy_of_ones_own(model, x):
    policy = tfmix.QuantizationPolicy.uniform(model, 8).replace(weights={"second": 2})
    qmodel = tfmix.quantize_model(model, None, policy=policy, calibration_data=x, verbose=0)
    assert tfmix.get_policy(qmodel) == policy


def test_a_policy_beyond_the_budget_is_refused(model):
    policy = tfmix.QuantizationPolicy.uniform(model, 8)
    with pytest.raises(tfmix.BudgetError, match="second"):
        tfmix.quantize_model(model, tfmix.Budget(flash=3000), policy=policy, verbose=0)


def test_pinned_bits_stay(model):
    flash = tfmix.memory_report(model, tfmix.QuantizationPolicy.uniform(model, 4)).flash_bytes
    qmodel = tfmix.quantize_model(
        model,
        tfmix.Budget(flash=flash),
        pinned={"weights": {"first": 8}, "activations": {"a": 4}},
        verbose=0,
    )
    policy = tfmix.get_policy(qmodel)
    assert policy.weight_bits["first"] == 8 and policy.activation_bits["a"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"search": "magic"}, "magic.*memory"),
        ({"weights": "per_row"}, "per_row.*per_channel"),
        ({"batch_norm": "drop"}, "drop.*icn"),
        ({"pinned": {"weights": {"nowhere": 8}}}, "nowhere"),
        ({"policy": "8 bits"}, "8 bits"),
        ({"calibration_data": []}, "empty"),
        ({"calibration_data": np.zeros((4, 3))}, "shape"),
        ({"calibration_data": np.full((4, 12, 10, 3), np.nan)}, "NaN"),
    ],
)
def test_bad_arguments(model, arguments, message):
    with pytest.raises(tfmix.TfmixError, match=message):
        tfmix.quantize_model(model, None, verbose=0, **arguments)


def test_a_budget_is_a_budget(model):
    with pytest.raises(tfmix.TfmixError, match="512 kB"):
        tfmix.quantize_model(model, "512 kB")


def test_a_fake_quant_model_is_not_quantized_again(qmodel):
    with pytest.raises(tfmix.TfmixError, match="set_policy"):
        tfmix.quantize_model(qmodel, None)


def test_the_report_is_printed(model, capsys):
    tfmix.quantize_model(model, tfmix.Budget("1 MB", "1 MB"))
    assert "fits the budget" in capsys.readouterr().out


# -- memory_report ------------------------------------------------------------------------------


def test_both_accountings(model):
    policy = tfmix.QuantizationPolicy.uniform(model, 8)
    deployed = tfmix.memory_report(model, policy)
    paper = tfmix.memory_report(model, policy, accounting="paper")
    assert paper.flash_bytes < deployed.flash_bytes and paper.ram_bytes < deployed.ram_bytes
    assert deployed.peak_step.name in str(deployed)


def test_a_float_model_needs_a_policy(model):
    with pytest.raises(tfmix.TfmixError, match="needs a policy"):
        tfmix.memory_report(model)


# -- convert, run, export, load -----------------------------------------------------------------


def test_convert_takes_a_fake_quant_model(model):
    with pytest.raises(tfmix.TfmixError, match="quantize_model"):
        tfmix.convert(model)


def test_backends_give_the_same_bytes(qmodel, x):
    integer_model = tfmix.convert(qmodel)
    q = integer_model.quantize(x)
    np.testing.assert_array_equal(integer_model.run(q), integer_model.run(q, backend="reference"))
    np.testing.assert_array_equal(
        integer_model.predict(x), integer_model.predict(x, backend="reference")
    )
    assert integer_model.predict(x).shape == (40, 5)
    assert integer_model.tensors(x)["a"].shape == (40, 12, 10, 16)


@pytest.mark.parametrize(
    ("method", "data", "message"),
    [
        ("run", np.zeros((1, 12, 10, 3), np.float32), "uint8.*float32"),
        ("run", np.zeros((1, 10, 12, 3), np.uint8), "shape"),
        ("run", np.zeros((12, 10, 3), np.uint8), "shape"),
        ("predict", np.zeros((1, 12, 10)), "shape"),
        ("predict", np.full((1, 12, 10, 3), np.inf), "infinite"),
        ("predict", np.array([["text"]]), "dtype"),
    ],
)
def test_bad_input(qmodel, method, data, message):
    with pytest.raises(tfmix.TfmixError, match=message):
        getattr(tfmix.convert(qmodel), method)(data)


def test_unknown_backend(qmodel, x):
    with pytest.raises(tfmix.TfmixError, match="gpu"):
        tfmix.convert(qmodel).predict(x, backend="gpu")


def test_export_takes_either_model(qmodel, tmp_path):
    a = tfmix.export(qmodel, tmp_path / "a.tflite")
    b = tfmix.export(tfmix.convert(qmodel), tmp_path / "b.tflite")
    assert a.read_bytes() == b.read_bytes()
    assert tfmix.load(a) == tfmix.convert(qmodel)


def test_nothing_is_written_on_error(model, tmp_path):
    uncalibrated = tfmix.quantize_model(model, None, verbose=0)
    with pytest.raises(tfmix.CalibrationError, match="calibration_data"):
        tfmix.export(uncalibrated, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + bytes(64), b"TFL3" * 40])
def test_load_refuses_what_is_not_ours(content, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(tfmix.FormatError, match="model.tflite"):
        tfmix.load(path)


def test_check_lists_and_never_raises(model):
    assert tfmix.check(model) == []
    assert tfmix.check("not a model")
