"""A small network that has learned something, so that bits and training make a difference."""

from __future__ import annotations

from functools import cache

import numpy as np
import tf_keras
from keras_models import chain

import tfmix

layers = tf_keras.layers

CLASSES = 4


@cache
def data(count: int = 256, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Noisy pictures of one of four patterns: float32 [count, 8, 8, 2], labels [count]."""
    patterns = np.random.default_rng(0).normal(size=(CLASSES, 8, 8, 2))
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, count)
    noise = rng.normal(size=(count, 8, 8, 2))
    return (patterns[y] + 3 * noise).astype(np.float32), y


@cache
def weights() -> list[np.ndarray]:
    tf_keras.utils.set_random_seed(0)
    model = network()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*data(1024, seed=2), batch_size=32, epochs=4, verbose=0)
    return model.get_weights()


def network() -> tf_keras.Model:
    return chain(
        layers.Conv2D(16, 3, padding="same", name="a"),
        layers.BatchNormalization(name="a_bn"),
        layers.ReLU(name="a_relu"),
        layers.DepthwiseConv2D(3, 2, "same", activation="relu", name="b"),
        layers.Conv2D(32, 1, activation="relu", name="c"),
        layers.Flatten(name="flat"),
        layers.Dense(CLASSES, name="d"),
        layers.Softmax(name="e"),
        shape=(8, 8, 2),
        name="searchable",
    )


def trained() -> tf_keras.Model:
    """Float; about 90 % of `data` right."""
    model = network()
    model.set_weights(weights())
    return model


def quantized() -> tf_keras.Model:
    """At 8 bits, calibrated."""
    return tfmix.quantize_model(trained(), None, calibration_data=data()[0], verbose=0)


def budget(share: float = 0.65) -> tfmix.Budget:
    """Of what the weights and the largest step take at 8 bits this share, plus what is fixed."""
    policies = [tfmix.QuantizationPolicy.uniform(trained(), bits) for bits in (2, 8)]
    low, high = (tfmix.memory_report(trained(), policy) for policy in policies)
    return tfmix.Budget(
        *(
            int(getattr(low, name) + share * (getattr(high, name) - getattr(low, name)))
            for name in ("flash_bytes", "ram_bytes")
        )
    )
