"""Estimated sensitivities: exact where theory says so, in the order of measured ones elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import real_data
import searchable
import tensorflow as tf
import tf_keras
from keras_models import SUPPORTED, chain, random_inputs
from scipy.stats import spearmanr

import tfmix
from tfmix.fakequant.apply import graph_of, quantizers_of
from tfmix.fakequant.evaluate import ModelEvaluator
from tfmix.fakequant.fisher import fisher_table
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.search.base import Trial
from tfmix.policy.sensitivity import SensitivityTable

layers = tf_keras.layers


def quantize(model: tf_keras.Model, x: np.ndarray) -> tf_keras.Model:
    return tfmix.quantize_model(model, None, calibration_data=x, verbose=0)


def measured(model: tf_keras.Model, x: np.ndarray) -> SensitivityTable:
    """Each tensor alone at few bits, all others at 8; the increase of the divergence."""
    base = tfmix.QuantizationPolicy.uniform(model, 8)
    free = [t for t in base.activation_bits if t not in graph_of(model).fixed_tensors]
    trials, rows = [Trial(base, "loss")], []
    for kind, names in (("weights", base.weight_bits), ("activations", free)):
        for name in names:
            rows.append((kind, name))
            trials += [Trial(base.replace(**{kind: {name: bits}}), "loss") for bits in (2, 4)]
    at_8, *losses = (value for _, value in ModelEvaluator(model, x)(trials))
    table: dict[str, dict] = {"weights": {}, "activations": {}}
    for (kind, name), two, four in zip(rows, losses[::2], losses[1::2], strict=True):
        table[kind][name] = {2: two - at_8, 4: four - at_8}
    return SensitivityTable(**table)


def rank_correlation(one: SensitivityTable, other: SensitivityTable) -> float:
    pairs = [
        (row[bits], getattr(other, kind)[name][bits])
        for kind in ("weights", "activations")
        for name, row in getattr(one, kind).items()
        for bits in (2, 4)
    ]
    return spearmanr(*zip(*pairs, strict=True)).statistic


@pytest.mark.parametrize("depthwise", [False, True])
def test_it_is_the_squared_error_of_a_linear_network(depthwise):
    """There the second order is all there is: half the mean squared error over the variance, the
    mean of each channel corrected."""
    kind = layers.DepthwiseConv2D if depthwise else layers.Conv2D
    arguments = () if depthwise else (3,)
    model = chain(kind(*arguments, kernel_size=3, strides=2, padding="same", name="w"))
    x = random_inputs(model, 40)
    qmodel = quantize(model, x)
    table = fisher_table(qmodel, x, draws=400)
    outputs = model.predict(x, verbose=0)
    variance = outputs.reshape(len(x), -1).var(axis=0).sum()
    bound = quantizers_of(qmodel).weights["w"]
    kernel = model.get_layer("w").weights[0]
    original = kernel.numpy()
    for bits in BIT_WIDTHS:
        kernel.assign(
            bound.quantizer(
                tf.constant(original), False, {**bound.variables, "bits": tf.constant(bits)}
            )
        )
        error = model.predict(x, verbose=0) - outputs
        error -= error.mean((0, 1, 2))
        error = np.square(error).reshape(len(x), -1).sum(axis=1)
        assert table.weights["w"][bits] == pytest.approx(error.mean() / 2 / variance, rel=0.05)
    kernel.assign(original)


def test_it_is_the_divergence_of_small_changes():
    model = searchable.trained()
    x, _ = searchable.data()
    qmodel = quantize(model, x)
    estimated, exact = fisher_table(qmodel, x, draws=60), measured(qmodel, x)
    for kind in ("weights", "activations"):
        for name, row in getattr(exact, kind).items():
            assert getattr(estimated, kind)[name][4] == pytest.approx(row[4], rel=0.35, abs=1e-4)
    assert rank_correlation(exact, estimated) > 0.9


@pytest.mark.parametrize(
    "name",
    ["small CNN", "dense on time steps", "softmax in the middle"],
)
def test_every_kind_of_layer(name):
    model = SUPPORTED[name]()
    x = random_inputs(model, 4)
    qmodel = quantize(model, x)
    table = fisher_table(qmodel, x, draws=1)
    table.validate(graph_of(qmodel))
    assert list(table.weights) == [node.name for node in graph_of(qmodel).weighted_nodes]
    assert list(table.activations) == list(graph_of(qmodel).quantized_tensors)
    assert all(value >= 0 for row in table.weights.values() for value in row.values())


def test_it_is_reproducible_and_changes_nothing():
    model = chain(layers.Dense(3), layers.Softmax(), shape=(4,))
    x = random_inputs(model, 30)
    qmodel = quantize(model, x)
    before = [v.numpy() for v in qmodel.variables]
    first = fisher_table(qmodel, x, seed=1)
    assert fisher_table(qmodel, x, seed=1) == first
    assert fisher_table(qmodel, x, seed=2) != first
    for old, variable in zip(before, qmodel.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())
    assert str(first).startswith("loss increase in nats a sample, Fisher information, 30 samples")


def test_it_ranks_the_tensors_of_resnet_8_as_they_are_measured():
    x, _ = real_data.cifar10("train", 512)
    qmodel = quantize(real_data.model("resnet8_cifar10_jpeg_ft"), x)
    estimated = fisher_table(qmodel, x[:128], draws=1)
    assert rank_correlation(measured(qmodel, x[:128]), estimated) > 0.9
