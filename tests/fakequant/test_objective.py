"""Losses and hits, against the textbook; which kind of labels is which."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras_models import chain
from scipy.stats import entropy

from tfmix.errors import TfmixError
from tfmix.fakequant.objective import (
    ClassLabels,
    Divergence,
    SoftLabels,
    Values,
    objective_for_labels,
    objective_for_outputs,
)
from tfmix.ir.graph import as_graph

layers = tf_keras.layers
RNG = np.random.default_rng(0)


def graph(classes: int = 3, softmax: bool = True, positions: tuple[int, ...] = ()):
    steps = [layers.Dense(classes), *([layers.Softmax()] if softmax else [])]
    return as_graph(chain(*steps, shape=(*positions, 4)))


def probabilities(*shape: int) -> np.ndarray:
    return tf.nn.softmax(RNG.normal(size=shape).astype(np.float32)).numpy()


@pytest.mark.parametrize("positions", [(), (5,)])
@pytest.mark.parametrize("softmax", [True, False])
def test_cross_entropy_and_hits_of_class_numbers(positions, softmax):
    z = RNG.normal(size=(7, *positions, 3)).astype(np.float32)
    y = RNG.integers(0, 3, (7, *positions))
    objective = objective_for_labels(graph(3, softmax, positions), y, "data")
    assert type(objective) is ClassLabels
    p = tf.nn.softmax(z).numpy()
    outputs = tf.constant(p if softmax else z)
    losses = objective.losses(outputs, tf.constant(objective.targets))
    expected = -np.log(np.take_along_axis(p, y[..., None], -1)[..., 0])
    np.testing.assert_allclose(losses, expected.reshape(7, -1).mean(1), rtol=1e-5)
    hits = objective.hits(outputs, tf.constant(objective.targets))
    np.testing.assert_allclose(hits, (p.argmax(-1) == y).reshape(7, -1).mean(1))


def test_one_hot_is_the_same_as_sparse():
    p, y = probabilities(9, 3), RNG.integers(0, 3, 9)
    figures = []
    for labels in (y, y[:, None], y.astype(float), np.eye(3)[y]):
        objective = objective_for_labels(graph(), labels, "data")
        targets = tf.constant(objective.targets)
        figures.append([f(tf.constant(p), targets) for f in (objective.losses, objective.hits)])
    for other in figures[1:]:
        np.testing.assert_allclose(other, figures[0], rtol=1e-6)


def test_soft_labels():
    p, t = probabilities(9, 3), probabilities(9, 3)
    objective = objective_for_labels(graph(), t, "data")
    assert type(objective) is SoftLabels
    losses = objective.losses(tf.constant(p), tf.constant(t))
    np.testing.assert_allclose(losses, entropy(t, axis=1) + entropy(t, p, axis=1), rtol=1e-5)


def test_divergence_from_the_float_outputs():
    p, t = probabilities(9, 3), probabilities(9, 3)
    objective = objective_for_outputs(graph(), t)
    assert type(objective) is Divergence
    np.testing.assert_allclose(objective.losses(p, t), entropy(t, p, axis=1), rtol=1e-4)
    np.testing.assert_allclose(objective.losses(t, t), 0, atol=1e-6)


def test_probabilities_of_zero_have_a_finite_loss():
    p, t = np.array([[0.0, 1.0, 0.0]], np.float32), np.array([[1.0, 0.0, 0.0]], np.float32)
    for objective in (objective_for_outputs(graph(), t), objective_for_labels(graph(), t, "data")):
        (loss,) = objective.losses(tf.constant(p), tf.constant(t)).numpy()
        assert 60 < loss < 100


@pytest.mark.parametrize("positions", [(), (5,)])
def test_values(positions):
    """Half the squared error over the variance, both summed over a sample."""
    t = RNG.normal(3, 2, size=(50, *positions, 3)).astype(np.float32)
    y = t + RNG.normal(size=t.shape).astype(np.float32)
    linear = graph(3, False, positions)
    expected = ((y - t) ** 2).reshape(50, -1).sum(1) / (2 * t.reshape(50, -1).var(0).sum())
    for objective in (objective_for_labels(linear, t, "data"), objective_for_outputs(linear, t)):
        assert type(objective) is Values
        assert not objective.has_accuracy
        np.testing.assert_allclose(objective.losses(y, t), expected, rtol=1e-4)


def test_values_that_never_change_are_no_division_by_zero():
    t = np.ones((5, 3), np.float32)
    objective = objective_for_outputs(graph(3, False), t)
    np.testing.assert_allclose(objective.losses(t + 1, t), 1.5)


def test_a_network_of_one_output():
    y = RNG.normal(size=8)
    objective = objective_for_labels(graph(1, False), y, "data")
    assert type(objective) is Values
    assert objective.targets.shape == (8, 1)


@pytest.mark.parametrize(
    ("labels", "softmax", "message"),
    [
        ([0, 3], True, "data has a label 3; the network's classes are 0 to 2"),
        ([0, -1], True, "data has a label -1"),
        ([0.5, 1], True, "data has a label 0.5"),
        (
            np.zeros((2, 4)),
            True,
            r"labels of shape \(2, 4\); .* \('n',\) class numbers",
        ),
        (np.ones((2, 3)), True, "labels of the output's shape that do not sum to 1"),
        (np.zeros((2, 4)), False, r"labels of shape \(2, 4\)"),
    ],
)
def test_refuses(labels, softmax, message):
    with pytest.raises(TfmixError, match=message):
        objective_for_labels(graph(3, softmax), np.array(labels), "data")
