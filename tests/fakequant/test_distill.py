"""Distillation: what the loss is, who is trained, what is saved."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
import tf_keras
from keras_models import chain, random_inputs, randomize

import tfmix
from tfmix.errors import TfmixError

layers = tf_keras.layers


def network(softmax: bool = True, seed: int = 0) -> tf_keras.Model:
    dense = layers.Dense(3, activation="softmax" if softmax else None, name="dense")
    return randomize(chain(layers.Conv2D(2, 3), layers.Flatten(), dense), seed)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return random_inputs(network(), 48)


def distiller(student: tf_keras.Model, teacher, **settings) -> tfmix.Distiller:
    model = tfmix.Distiller(student, teacher, **settings)
    model.compile(tf_keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("softmax", [True, False], ids=["probabilities", "logits"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distance_is_the_scaled_divergence_of_softened_outputs(softmax, temperature):
    teacher, student = np.random.default_rng(0).normal(size=(2, 5, 7)) * 3
    model = tfmix.Distiller(network(softmax), network(), temperature=temperature)
    outputs = [scipy.special.softmax(z, axis=1) if softmax else z for z in (teacher, student)]
    found = model.distance(*(tf.constant(o, tf.float32) for o in outputs))
    p, q = (scipy.special.softmax(z / temperature, axis=1) for z in (teacher, student))
    expected = temperature**2 * scipy.special.rel_entr(p, q).sum(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_classes_without_any_probability_keep_the_loss_finite():
    model = tfmix.Distiller(network(), network())
    sure, other = tf.constant([[1.0, 0.0, 0.0]]), tf.constant([[0.0, 1.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(other)
        distance = model.distance(sure, other)
    assert np.isfinite(distance).all()
    assert np.isfinite(tape.gradient(distance, other)).all()


def test_without_weight_it_is_plain_training(x):
    y = np.arange(len(x)) % 3
    plain, student = network(), network()
    plain.compile(tf_keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    settings = {"epochs": 3, "shuffle": False, "verbose": 0}
    expected = plain.fit(x, y, **settings).history["loss"]
    found = distiller(student, network(seed=1), weight=0.0).fit(x, y, **settings).history["loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_teacher_alone_teaches_and_is_not_trained(x):
    """Labels are wrong on purpose."""
    teacher, student = network(seed=1), network()
    expected = teacher.predict(x, verbose=0)
    before = [w.copy() for w in teacher.get_weights()]
    model = distiller(student, teacher, weight=1.0, temperature=1.0)
    history = model.fit(x, expected.argmin(axis=1), epochs=40, verbose=0).history
    assert history["distillation"][-1] < 0.3 * history["distillation"][0]
    assert history["loss"][-1] > history["distillation"][-1], "the compiled loss, of wrong labels"
    assert len(model.trainable_variables) == len(student.trainable_variables)
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_any_callable_teaches(x):
    model = distiller(network(), lambda images: tf.fill([tf.shape(images)[0], 3], 1 / 3))
    assert model.fit(x, np.zeros(len(x)), verbose=0).history["distillation"][0] > 0


def test_samples_without_weight_teach_nothing(x):
    y = np.zeros(len(x))
    none, student = np.zeros(len(x)), network()
    before = [w.copy() for w in student.get_weights()]
    distiller(student, network(seed=1)).fit(x, y, sample_weight=none, verbose=0)
    for old, new in zip(before, student.get_weights(), strict=True):
        np.testing.assert_allclose(old, new, atol=1e-6)


def test_saves_the_student(x, tmp_path):
    model = distiller(network(), network(seed=1))
    model.fit(x, np.zeros(len(x)), verbose=0)
    model.save(tmp_path / "student.keras")
    again = tf_keras.models.load_model(tmp_path / "student.keras")
    assert type(again) is type(network())
    expected = model.student.predict(x, verbose=0)
    np.testing.assert_array_equal(again.predict(x, verbose=0), expected)
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)


def test_evaluates_the_student(x):
    y = np.arange(len(x)) % 3
    model = distiller(network(), network(seed=1))
    model.student.compile(loss="sparse_categorical_crossentropy")
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    assert found == pytest.approx(model.student.evaluate(x, y, verbose=0, return_dict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": "resnet"}, "teacher 'resnet' is not a model"),
        ({"temperature": 0}, "temperature 0 is not above 0"),
        ({"weight": 1.5}, r"weight 1.5 is not in \[0, 1\]"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(TfmixError, match=message):
        tfmix.Distiller(network(), **{"teacher": network(), **settings})
