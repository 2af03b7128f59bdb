"""The recipe: what it takes, that it resumes exactly, several devices, mixed precision."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras_models import chain, random_inputs

import tfmix
from tfmix import callbacks
from tfmix.errors import TfmixError
from tfmix.fakequant.finetune import _Arrays, _loss_for

layers = tf_keras.layers


def network(activation: str | None = "softmax", outputs: int = 3) -> tf_keras.Model:
    tf_keras.utils.set_random_seed(0)
    return chain(
        layers.Conv2D(4, 3, strides=2, use_bias=False, name="conv"),
        layers.BatchNormalization(name="bn"),
        layers.ReLU(name="relu"),
        layers.GlobalAveragePooling2D(name="pool"),
        layers.Dense(outputs, activation=activation, name="dense"),
    )


X = random_inputs(network(), 90)
Y = (X.mean(axis=(1, 2, 3)) > 0).astype(np.int64) + (X[:, 0, 0, 0] > 1)


def quantized(**settings) -> tf_keras.Model:
    qmodel = tfmix.quantize_model(network(**settings), None, calibration_data=X, verbose=0)
    tfmix.set_policy(qmodel, tfmix.QuantizationPolicy.uniform(qmodel, 4))
    return qmodel


@pytest.fixture(scope="module")
def qmodel() -> tf_keras.Model:
    """For tests that leave it as it was."""
    return quantized()


SHORT = {"batch_size": 32, "learning_rate": 0.02, "verbose": 0}

# -- what it does ---------------------------------------------------------------------------------


def test_it_learns_and_can_be_converted(capsys):
    qmodel = quantized()
    result = tfmix.finetune(qmodel, (X, Y), (X, Y), 15, teacher=network(), **SHORT | {"verbose": 2})
    losses = result.history["loss"]
    assert len(losses) == len(result.history["val_accuracy"]) == 15
    assert losses[-1] < 0.9 * losses[0]
    assert len(result.history["distillation"]) == 15
    assert qmodel.evaluate(X, Y, verbose=0, return_dict=True) == pytest.approx(result.validation)
    shown = capsys.readouterr().out
    assert "15 epochs of 3 steps" in shown
    assert "at the end: loss" in shown
    tfmix.convert(qmodel)
    # Batch norm has the statistics of the training inputs, as re-estimation leaves them.
    bn = qmodel.get_layer("bn")
    found = bn.moving_mean.numpy()
    tfmix.reestimate_batch_norm(qmodel, X)
    np.testing.assert_allclose(found, bn.moving_mean, rtol=1e-4, atol=1e-6)


def test_a_dataset_trains_as_it_comes():
    """Without a teacher, and with batch norm as training leaves it: as compile and fit do."""
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(32)
    qmodel, plain = quantized(), quantized()
    found = tfmix.finetune(qmodel, dataset, dataset, 2, batch_norm_samples=0, **SHORT)
    rate = tf_keras.optimizers.schedules.CosineDecay(SHORT["learning_rate"], 6)
    plain.compile(tf_keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", ["accuracy"])
    history = plain.fit(dataset, validation_data=dataset, epochs=2, verbose=0).history
    assert found.history.keys() == history.keys()
    for name, values in history.items():
        assert found.history[name] == pytest.approx(values, rel=1e-5), name
    assert found.validation["loss"] == pytest.approx(history["val_loss"][-1])


def test_a_teacher_of_arrays_is_asked_once_and_teaches_the_same():
    """As a Distiller that asks it in each step; the batches in the order of `_Arrays`."""
    asked, teacher = [], network()

    def counted(x: tf.Tensor) -> tf.Tensor:
        asked.append(len(x))
        return teacher(x, training=False)

    batches = _Arrays(X, Y, 32, seed=5).epochs(0, 2)
    dataset = batches.apply(tf.data.experimental.assert_cardinality(6))
    found, expected = quantized(), quantized()
    history = tfmix.finetune(found, (X, Y), epochs=2, teacher=counted, seed=5, **SHORT).history
    assert sum(asked) == len(X)
    distiller = tfmix.Distiller(expected, teacher)
    rate = tf_keras.optimizers.schedules.CosineDecay(SHORT["learning_rate"], 6)
    distiller.compile(tf_keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    alone = distiller.fit(dataset, epochs=2, steps_per_epoch=3, verbose=0).history
    assert history["distillation"] == pytest.approx(alone["distillation"], rel=1e-4)
    for one, other in zip(found.trainable_variables, expected.trainable_variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_each_epoch_has_every_sample_once_in_an_order_of_its_own():
    data = _Arrays(np.arange(10.0), np.arange(10), 4, seed=3)
    batches = [[*map(int, y)] for _, y in data.epochs(0, 3)]
    assert [len(batch) for batch in batches] == [4, 4, 2] * 3
    epochs = [sum(batches[3 * n : 3 * n + 3], []) for n in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    later = [[*map(int, y)] for _, y in data.epochs(1, 3)]
    assert later == batches[3:], "the order of an epoch does not depend on where training began"
    other = _Arrays(np.arange(10.0), np.arange(10), 4, seed=4)
    assert [[*map(int, y)] for _, y in other.epochs(0, 1)] != batches[:3]


@pytest.mark.parametrize(
    ("network_settings", "labels", "expected"),
    [
        ({}, Y, "sparse_categorical_crossentropy"),
        ({}, Y.astype(np.float32), "sparse_categorical_crossentropy"),
        ({}, np.eye(3)[Y], "categorical_crossentropy"),
        ({"activation": None}, Y, "sparse_categorical_crossentropy"),
        ({"activation": None}, np.ones((90, 3), np.float32), "mean_squared_error"),
        ({"activation": None, "outputs": 1}, np.ones(90, np.float32), "mean_squared_error"),
    ],
)
def test_the_loss_follows_from_the_labels(network_settings, labels, expected):
    model = network(**network_settings)
    loss, metrics = _loss_for(model, tf.TensorSpec(labels.shape, labels.dtype))
    assert loss.name == expected
    assert metrics == ([] if expected == "mean_squared_error" else ["accuracy"])
    assert np.isfinite(loss(labels, model.predict(X, verbose=0)))


# -- interruption ---------------------------------------------------------------------------------


class Killed(Exception):
    pass


class KillBefore(tf_keras.callbacks.Callback):
    def __init__(self, epoch: int):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise Killed


def recipe(qmodel: tf_keras.Model) -> list:
    return [
        callbacks.ProgressiveBits(tfmix.get_policy(qmodel), {8: 2}),
        callbacks.ExponentialMovingAverage(0.5),
        callbacks.OscillationFreezing("all", (0.02, 0.0), 0.1),
    ]


def test_goes_on_as_if_it_had_never_stopped(tmp_path):
    def train(*more, **settings):
        qmodel = quantized()
        result = tfmix.finetune(
            qmodel, (X, Y), (X, Y), 4, teacher=network(), **SHORT, **settings,
            callbacks=[*recipe(qmodel), *more],
        )  # fmt: skip
        return result, qmodel.get_weights()

    expected, weights = train()
    with pytest.raises(Killed):
        train(KillBefore(3), checkpoint_dir=tmp_path)
    for _ in range(2):  # resumed; then, with nothing left to do, once more
        found, again = train(checkpoint_dir=tmp_path)
        assert found == expected
        for a, b in zip(weights, again, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    tfmix.finetune(quantized(), (X, Y), epochs=1, checkpoint_dir=tmp_path, **SHORT)
    with pytest.raises(TfmixError, match="of a run with epochs 1, not 2; use another directory"):
        tfmix.finetune(quantized(), (X, Y), epochs=2, checkpoint_dir=tmp_path, **SHORT)
    other = quantized(outputs=4)
    with pytest.raises(TfmixError, match="not of this model and these callbacks"):
        tfmix.finetune(other, (X, Y), epochs=1, checkpoint_dir=tmp_path, **SHORT)


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": network()}, "is not a fake-quant model"),
        ({"epochs": 0}, "epochs 0 is not a whole number of at least 1"),
        ({"batch_size": 1.5}, "batch_size 1.5 is not a whole number"),
        ({"batch_norm_samples": -1}, "batch_norm_samples -1"),
        ({"train": X}, "train has no labels"),
        ({"train": (X[:, 1:], Y)}, r"train has inputs of shape \(90, 7, 9, 3\)"),
        ({"train": (X, Y[:5])}, "90 inputs and labels of shape"),
        ({"validation": X}, "validation has no labels"),
        (
            {"train": tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).repeat()},
            "empty, endless or of unknown length",
        ),
        ({"train": tf.data.Dataset.from_tensor_slices(X).batch(8)}, "labels"),
        ({"teacher": 5}, "teacher 5 is not a model"),
    ],
)
def test_refuses(qmodel, settings, message):
    settings = {"model": qmodel, "train": (X, Y), **settings}
    with pytest.raises(TfmixError, match=message):
        tfmix.finetune(**settings)


# -- devices and precision ------------------------------------------------------------------------


def test_two_devices_give_the_same_losses_as_one():
    path = Path(__file__).with_name("train_on_two_devices.py")
    tests = os.fspath(path.parents[1])
    done = subprocess.run(
        [sys.executable, path],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": tests},
    )
    assert done.returncode == 0, done.stderr


def test_trains_with_mixed_precision(tmp_path):
    before = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        qmodel = quantized()
        result = tfmix.finetune(qmodel, (X, Y), epochs=15, teacher=network(), **SHORT)
    finally:
        tf_keras.mixed_precision.set_global_policy(before)
    assert qmodel.get_layer("quant_conv").layer.compute_dtype == "float16"
    assert result.history["loss"][-1] < 0.9 * result.history["loss"][0]
    assert {v.dtype for v in qmodel.variables} == {tf.float32, tf.int32}
    qmodel.save(tmp_path / "model.keras")
    again = tf_keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(X, verbose=0), qmodel.predict(X, verbose=0))
    # The integers are those of a float32 model of the same weights.
    exact = quantized()
    exact.set_weights(qmodel.get_weights())
    assert tfmix.convert(exact) == tfmix.convert(qmodel)
