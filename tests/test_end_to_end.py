"""From a Keras model to bytes that run: random networks, real models, figures on real data."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import real_data
import tf_keras
from keras_models import random_inputs
from random_networks import random_model, random_policy

import tfmix
from tfmix.fakequant.apply import graph_of
from tfmix.integer.schedule import schedule_of
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.ir.schedule import schedule
from tfmix.policy.cost.arena import plan, verify
from tfmix.policy.cost.memory import MemoryReport


def checked(
    qmodel: tf_keras.Model, x: np.ndarray, path: Path, foretold: MemoryReport
) -> tfmix.IntegerModel:
    """The integer model of `qmodel`, after all that holds for any: the file comes back, backends
    agree on every tensor bit for bit, sizes and schedule are those of structure and policy."""
    model = tfmix.convert(qmodel)
    tfmix.export(model, path)
    loaded = tfmix.load(path)
    assert loaded == model
    in_c, expected = loaded.tensors(x, "c"), model.tensors(x, "reference")
    assert list(in_c) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(in_c[name], values, err_msg=name)
    found = schedule_of(model.network)
    bits = tfmix.get_policy(qmodel).activation_bits
    assert found == schedule(graph_of(qmodel), bits, model.network.chains, model.network.bands)
    arena = plan(found)
    verify(found, arena)
    for report in (foretold, tfmix.memory_report(qmodel)):
        assert report.flash_bytes == path.stat().st_size
        assert report.activation_bytes == arena.total
    return model


def assert_near_fake_quant(
    qmodel: tf_keras.Model, model: tfmix.IntegerModel, x: np.ndarray
) -> None:
    for difference in tfmix.compare(qmodel, model, x):
        assert difference.max_lsb <= 1, difference


# -- random networks ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(72))
def test_a_random_network(seed, tmp_path):
    """2 to 8 layers, random shapes and bits, each flavour of batch norm and weights in turn."""
    flavour = {
        "weights": ("per_channel", "per_layer")[seed % 2],
        "batch_norm": ("icn", "fold")[seed // 2 % 2],
    }
    model = random_model(seed)
    assert tfmix.check(model) == []
    policy, x = random_policy(model, seed), random_inputs(model, 32, seed)
    foretold = tfmix.memory_report(model, policy, **flavour)
    qmodel = tfmix.quantize_model(
        model, None, policy=policy, calibration_data=x, verbose=0, **flavour
    )
    integer = checked(qmodel, x[:4], tmp_path / "model.tflite", foretold)
    assert_near_fake_quant(qmodel, integer, x)


# -- the real models ----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=real_data.MODELS)
def real(request) -> tuple[tf_keras.Model, tf_keras.Model, np.ndarray]:
    """(model, its calibrated fake-quant model, 64 inputs)."""
    model = real_data.model(request.param)
    inputs: dict[str, Callable[[], np.ndarray]] = {
        "resnet8_cifar10_jpeg_ft": lambda: real_data.cifar10("dev", 64)[0],
        "kws_ref_model": lambda: real_data.keyword_spotting()[0][:64],
        "vww_96": lambda: np.random.default_rng(0).random((64, 96, 96, 3), np.float32),
    }
    x = inputs.get(request.param, lambda: random_inputs(model, 64))()
    return model, tfmix.quantize_model(model, None, calibration_data=x, verbose=0), x


def mixed_policy(model: tf_keras.Model) -> tfmix.QuantizationPolicy:
    """Bits in turns, so that every combination of neighbours occurs."""
    policy = tfmix.QuantizationPolicy.uniform(model, 8)
    lower = tfmix.QuantizationPolicy.uniform(model, 4).activation_bits
    free = [name for name, bits in lower.items() if bits == 4]
    return policy.replace(
        weights={name: BIT_WIDTHS[i % 3] for i, name in enumerate(policy.weight_bits)},
        activations={name: BIT_WIDTHS[i // 2 % 3] for i, name in enumerate(free)},
    )


@pytest.mark.parametrize("bits", [*BIT_WIDTHS, "mixed"])
def test_a_real_model(real, bits, tmp_path):
    model, qmodel, x = real
    uniform = tfmix.QuantizationPolicy.uniform
    policy = mixed_policy(model) if bits == "mixed" else uniform(model, bits)
    tfmix.set_policy(qmodel, policy)
    foretold = tfmix.memory_report(model, policy)
    integer = checked(qmodel, x, tmp_path / "model.tflite", foretold)
    assert_near_fake_quant(qmodel, integer, x[:16])


# -- figures on real data -----------------------------------------------------------------------


def classes(scores: np.ndarray) -> np.ndarray:
    return scores.argmax(axis=-1)


def percent(found: np.ndarray, expected: np.ndarray) -> float:
    """Of equal elements."""
    return 100 * float((found == expected).mean())


class TestResNet8:
    """8 bits per channel, after calibration alone, on all of cifar10_dev."""

    @pytest.fixture(scope="class")
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        return real_data.cifar10("dev", 5000)

    @pytest.fixture(scope="class")
    def model(self) -> tf_keras.Model:
        return real_data.model("resnet8_cifar10_jpeg_ft")

    @pytest.fixture(scope="class")
    def qmodel(self, model) -> tf_keras.Model:
        images, _ = real_data.cifar10("train", 1024)
        return tfmix.quantize_model(model, None, calibration_data=images, verbose=0)

    @pytest.fixture(scope="class")
    def predicted(self, model, qmodel, data) -> dict[str, np.ndarray]:
        x, _ = data
        return {
            "float": classes(model.predict(x, batch_size=250, verbose=0)),
            "fake-quant": classes(qmodel.predict(x, batch_size=250, verbose=0)),
            "integer": classes(tfmix.convert(qmodel).predict(x)),
        }

    @pytest.fixture(scope="class")
    def accuracy(self, predicted, data) -> dict[str, float]:
        return {kind: percent(found, data[1]) for kind, found in predicted.items()}

    def test_float_is_as_good_as_it_is_known_to_be(self, accuracy):
        assert accuracy["float"] == pytest.approx(84.64, abs=0.05)

    def test_loses_half_a_point_at_most(self, accuracy):
        assert accuracy["fake-quant"] >= accuracy["float"] - 0.5
        assert accuracy["integer"] >= accuracy["float"] - 0.5

    def test_integers_decide_as_fake_quant_does(self, predicted):
        assert percent(predicted["integer"], predicted["fake-quant"]) >= 99.5

    def test_integers_are_as_good_as_fake_quant(self, accuracy):
        assert accuracy["integer"] == pytest.approx(accuracy["fake-quant"], abs=0.1)

    def test_every_layer_is_within_one_step(self, qmodel, data):
        assert_near_fake_quant(qmodel, tfmix.convert(qmodel), data[0][:256])

    def test_a_thousand_images_take_less_than_15_seconds(self, qmodel, data):
        integer = tfmix.convert(qmodel)
        start = time.process_time()  # of this one core
        integer.predict(data[0][:1000])
        assert time.process_time() - start <= 15


def test_keyword_spotting_calibrated_on_100_inputs():
    x, labels = real_data.keyword_spotting()
    model = real_data.model("kws_ref_model")
    qmodel = tfmix.quantize_model(model, None, calibration_data=x[:100], verbose=0)
    assert percent(classes(tfmix.convert(qmodel).predict(x)), labels) >= 90.0


@pytest.mark.parametrize(("flash", "ram"), [("48kB", "36kB"), ("32kB", "28kB")])
def test_resnet8_holds_tight_budgets(flash, ram, tmp_path):
    budget = tfmix.Budget(flash, ram)
    model, (images, _) = real_data.model("resnet8_cifar10_jpeg_ft"), real_data.cifar10("train", 64)
    qmodel = tfmix.quantize_model(model, budget, calibration_data=images, verbose=0)
    integer = checked(
        qmodel, images[:2], tmp_path / "model.tflite", tfmix.memory_report(qmodel, budget=budget)
    )
    assert (tmp_path / "model.tflite").stat().st_size <= budget.flash
    assert plan(schedule_of(integer.network)).total <= budget.ram
    assert tfmix.memory_report(qmodel).ram_bytes <= budget.ram


def test_mobilenet_v1_fits_2_mb_and_512_kb(tmp_path):
    model = tf_keras.applications.MobileNet(weights=None)
    start = time.monotonic()
    qmodel = tfmix.quantize_model(model, tfmix.Budget("2MB", "512kB"), verbose=0)
    searched = time.monotonic()
    tfmix.calibrate(qmodel, random_inputs(model, 4), method="ranges")
    calibrated = time.monotonic()
    integer = tfmix.convert(qmodel)
    path = tfmix.export(integer, tmp_path / "model.tflite")
    assert searched - start <= 60
    assert time.monotonic() - calibrated <= 60
    assert path.stat().st_size <= 2_097_152
    assert plan(schedule_of(integer.network)).total <= 524_288
    assert tfmix.memory_report(qmodel).ram_bytes <= 524_288
    assert tfmix.load(path) == integer
