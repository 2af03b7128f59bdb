"""How good the float, the fake-quant and the integer network are on the same labelled samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from tfmix.errors import TfmixError
from tfmix.fakequant.data import Samples, classes_of
from tfmix.fakequant.layerwise import in_batches
from tfmix.integer.inference import IntegerModel


@dataclass(frozen=True)
class Scores:
    """What `evaluate` measured.

    measure: "accuracy", top-1 in [0, 1], where labels are classes; "mean_squared_error" where they
      are other numbers; "agreement" without labels
    values: network -> that; for "agreement" the share of samples for which the network's most
      likely class is that of the first network
    """

    measure: str
    samples: int
    values: Mapping[str, float] = field(hash=False)


def evaluate(networks: Mapping[str, Any], samples: Samples) -> Scores:
    """Scores of networks, by name: tf_keras models and IntegerModels; those that are None are left
    out. TfmixError where labels do not fit the outputs."""
    outputs = {
        name: outputs_of(network, samples.x)
        for name, network in networks.items()
        if network is not None
    }
    return score_outputs(outputs, samples)


def score_outputs(outputs: Mapping[str, np.ndarray], samples: Samples) -> Scores:
    """The same, of outputs [n, ...] that are there already."""
    if samples.y is None:
        first = next(iter(outputs.values())).argmax(axis=-1)
        values = {n: float(np.mean(y.argmax(axis=-1) == first)) for n, y in outputs.items()}
        return Scores("agreement", len(samples), values)
    measure = "accuracy" if _are_classes(samples, outputs) else "mean_squared_error"
    return Scores(
        measure, len(samples), {n: _score(measure, y, samples) for n, y in outputs.items()}
    )


def outputs_of(network: Any, x: np.ndarray) -> np.ndarray:
    """float32 [n, ...] of a tf_keras model or an IntegerModel."""
    if isinstance(network, IntegerModel):
        return in_batches(network.predict, [x])
    forward = tf.function(lambda batch: network(batch, training=False), reduce_retracing=True)
    return in_batches(lambda batch: forward(tf.cast(batch, tf.float32)), [x])


def _are_classes(samples: Samples, outputs: Mapping[str, np.ndarray]) -> bool:
    return classes_of(samples.y) is not None and all(
        y.ndim == 2 and y.shape[1] > 1 for y in outputs.values()
    )


def _score(measure: str, outputs: np.ndarray, samples: Samples) -> float:
    if measure == "accuracy":
        classes = classes_of(samples.y)
        if classes.min() < 0 or classes.max() >= outputs.shape[1]:
            raise TfmixError(
                f"labels are {classes.min()} to {classes.max()}; the network has "
                f"{outputs.shape[1]} classes, from 0"
            )
        return float(np.mean(outputs.argmax(axis=1) == classes))
    if outputs.size != samples.y.size:
        raise TfmixError(f"labels of shape {samples.y.shape}; the outputs' is {outputs.shape}")
    return float(np.mean(np.square(outputs - samples.y.reshape(outputs.shape))))
