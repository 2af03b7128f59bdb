"""From a Keras model to integers that run, on random networks and on the real ones."""

from __future__ import annotations

import time
from functools import cache

import numpy as np
import pytest
import real_data
import tf_keras
from random_networks import random_model, random_policy

import tfmix
from tfmix.integer.schedule import schedule_of
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.cost import arena


def sample(model: tf_keras.Model, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, *model.input_shape[1:])).astype(np.float32)


def mixed_policy(model: tf_keras.Model) -> tfmix.QuantizationPolicy:
    """Bits in turns, so that every combination of neighbours occurs."""
    policy = tfmix.QuantizationPolicy.uniform(model, 8)
    lower = tfmix.QuantizationPolicy.uniform(model, 4).activation_bits
    free = [name for name, bits in lower.items() if bits == 4]
    return policy.replace(
        weights={name: BIT_WIDTHS[i % 3] for i, name in enumerate(policy.weight_bits)},
        activations={name: BIT_WIDTHS[(i // 2) % 3] for i, name in enumerate(free)},
    )


def check_integer_model(qmodel: tf_keras.Model, x: np.ndarray, path) -> tfmix.IntegerModel:
    """What holds for every model: both backends agree, the file comes back, sizes are foretold."""
    integer_model = tfmix.convert(qmodel)
    fast, slow = integer_model.tensors(x, "c"), integer_model.tensors(x, "reference")
    for name in slow:
        np.testing.assert_array_equal(fast[name], slow[name], err_msg=name)
    tfmix.export(integer_model, path)
    assert tfmix.load(path) == integer_model
    report = tfmix.memory_report(qmodel)
    assert path.stat().st_size == report.flash_bytes
    assert arena.plan(schedule_of(integer_model.network)).total == report.activation_bytes
    return integer_model


@pytest.mark.parametrize("seed", range(60))
def test_random_networks(seed, tmp_path):
    model = random_model(seed)
    rng = np.random.default_rng(seed)
    qmodel = tfmix.quantize_model(
        model,
        None,
        policy=random_policy(model, seed),
        calibration_data=sample(model, 32, seed),
        weights=("per_channel", "per_layer")[rng.integers(2)],
        verbose=0,
    )
    x = sample(model, 4, seed + 1)
    integer_model = check_integer_model(qmodel, x, tmp_path / "model.tflite")
    for difference in tfmix.compare(qmodel, integer_model, x):
        assert difference.max_lsb <= 1, difference


@pytest.mark.parametrize("name", real_data.MODELS)
def test_real_networks_at_all_bits(name, tmp_path):
    model = real_data.model(name)
    qmodel = tfmix.quantize_model(model, None, calibration_data=sample(model, 64), verbose=0)
    x = sample(model, 64, seed=1)
    policies = [tfmix.QuantizationPolicy.uniform(model, bits) for bits in BIT_WIDTHS]
    for policy in [*policies, mixed_policy(model)]:
        tfmix.set_policy(qmodel, policy)
        check_integer_model(qmodel, x, tmp_path / "model.tflite")


# -- accuracy on real data ---------------------------------------------------------------------


def top1(scores: np.ndarray, labels: np.ndarray) -> float:
    return 100 * float((scores.argmax(axis=-1) == labels).mean())


@cache
def resnet8() -> tuple[tf_keras.Model, np.ndarray, np.ndarray]:
    """8 bits everywhere, calibrated on 1,024 images; fake-quant and integer scores on dev."""
    calibration, _ = real_data.cifar10("train", 1024)
    qmodel = tfmix.quantize_model(
        real_data.model("resnet8_cifar10_jpeg_ft"), None, calibration_data=calibration, verbose=0
    )
    x, _ = real_data.cifar10("dev", 5000)
    return qmodel, qmodel.predict(x, 500, verbose=0), tfmix.convert(qmodel).predict(x)


def test_resnet8_keeps_its_accuracy_at_8_bits():
    _, fake_quant, integers = resnet8()
    _, labels = real_data.cifar10("dev", 5000)
    assert top1(fake_quant, labels) >= 84.64 - 0.5
    assert abs(top1(integers, labels) - top1(fake_quant, labels)) <= 0.1


def test_resnet8_in_integers_decides_as_fake_quant():
    _, fake_quant, integers = resnet8()
    assert np.mean(fake_quant.argmax(axis=-1) == integers.argmax(axis=-1)) >= 0.995


def test_resnet8_node_by_node():
    qmodel, _, _ = resnet8()
    x, _ = real_data.cifar10("dev", 100)
    for difference in tfmix.compare(qmodel, tfmix.convert(qmodel), x):
        assert difference.max_lsb <= 1, difference


def test_a_thousand_images_take_seconds():
    qmodel, _, _ = resnet8()
    x, _ = real_data.cifar10("dev", 1000)
    integer_model = tfmix.convert(qmodel)
    start = time.process_time()  # of this one core
    integer_model.predict(x)
    assert time.process_time() - start <= 15


def test_keyword_spotting_keeps_its_accuracy_at_8_bits():
    x, labels = real_data.keyword_spotting()
    model = real_data.model("kws_ref_model")
    qmodel = tfmix.quantize_model(model, None, calibration_data=x[:100], verbose=0)
    assert top1(tfmix.convert(qmodel).predict(x), labels) >= 90.0


@pytest.mark.parametrize("budget", [("48 kB", "36 kB"), ("32 kB", "28 kB")])
def test_resnet8_holds_its_budgets(budget, tmp_path):
    budget = tfmix.Budget(*budget)
    calibration, _ = real_data.cifar10("train", 64)
    model = real_data.model("resnet8_cifar10_jpeg_ft")
    qmodel = tfmix.quantize_model(model, budget, calibration_data=calibration, verbose=0)
    path = tfmix.export(qmodel, tmp_path / "model.tflite")
    assert path.stat().st_size <= budget.flash
    assert tfmix.memory_report(qmodel, budget=budget).ram_bytes <= budget.ram


def test_mobilenet_holds_2_mb_and_512_kb(tmp_path):
    budget = tfmix.Budget("2 MB", "512 kB")
    model = tf_keras.applications.MobileNet(weights=None)
    start = time.time()
    qmodel = tfmix.quantize_model(model, budget, verbose=0)
    assert time.time() - start <= 60  # the search itself takes a second or two
    tfmix.calibrate(qmodel, sample(model, 4))
    start = time.time()
    path = tfmix.export(qmodel, tmp_path / "model.tflite")
    assert time.time() - start <= 60
    assert path.stat().st_size <= 2_097_152
    assert tfmix.memory_report(qmodel).ram_bytes <= 524_288
