"""Trains on one and on two logical CPUs; run by test_finetune in an interpreter of its own."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tf_keras
from keras_models import chain

import tfmix

layers = tf_keras.layers


def model() -> tf_keras.Model:
    tf_keras.utils.set_random_seed(0)
    return chain(
        layers.Conv2D(4, 3, use_bias=False, name="conv"),
        layers.BatchNormalization(name="bn"),
        layers.ReLU(name="relu"),
        layers.DepthwiseConv2D(3, name="dw"),
        layers.GlobalAveragePooling2D(name="pool"),
        layers.Dense(5, activation="softmax", name="dense"),
    )


def losses(strategy: tf.distribute.Strategy) -> list[float]:
    """Of each epoch. Both halves of every batch are alike, so that batch-norm statistics, which
    each replica takes for itself, and ranges do not depend on the number of replicas."""
    rng = np.random.default_rng(0)
    halves = rng.normal(size=(6, 8, 8, 9, 3)).astype(np.float32)
    x = np.concatenate([halves, halves], axis=1).reshape(-1, 8, 9, 3)
    y = np.tile(np.arange(8) % 5, 12)
    teacher = model()
    with strategy.scope():
        qmodel = tfmix.quantize_model(model(), None, verbose=0)  # the first batch calibrates
        tfmix.set_policy(qmodel, tfmix.QuantizationPolicy.uniform(qmodel, 4))
        dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
        result = tfmix.finetune(
            qmodel, dataset, (x, y), 3, teacher=teacher, learning_rate=0.01, verbose=0,
            callbacks=[
                tfmix.callbacks.ExponentialMovingAverage(0.5),
                tfmix.callbacks.OscillationFreezing("all", (0.01, 0.01), 0.2),
            ],
        )  # fmt: skip
    tfmix.convert(qmodel)
    history = result.history
    return [*history["loss"], *history["distillation"], result.validation["loss"]]


def main() -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    one = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [one, one])
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert two.num_replicas_in_sync == 2
    expected = losses(tf.distribute.get_strategy())
    assert expected[0] > expected[2]
    np.testing.assert_allclose(losses(two), expected, rtol=1e-4)


if __name__ == "__main__":
    main()
