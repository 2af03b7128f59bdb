"""Weight quantizers that the papers compare with, for any number of bits from 2 to 8.

For simulation only: no kernel runs what they give, and `convert` refuses it.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import tensorflow as tf
import tf_keras

from tfmix.errors import TfmixError
from tfmix.fakequant.quantizers.base import Variables, WeightQuantizer
from tfmix.fakequant.quantizers.minmax import MinMaxWeightQuantizer

#: Bits that these quantizers take.
SIMULATED_BITS = tuple(range(2, 9))
_MOST_CENTROIDS = 1 << SIMULATED_BITS[-1]
_MAX_ITERATIONS = 300


@tf_keras.utils.register_keras_serializable(package="tfmix")
class UniformWeightQuantizer(MinMaxWeightQuantizer):
    """`MinMaxWeightQuantizer` at any of 2 to 8 bits."""


@tf_keras.utils.register_keras_serializable(package="tfmix")
class KMeansWeightQuantizer(WeightQuantizer):
    """Weights shared by clusters: y = codebook[cluster of w], one codebook of 2^bits per tensor.

    Clusters are found by k-means on the kernel (`init_ranges`) and stay; their centroids learn,
    each by the mean gradient of its weights: Han et al. 2016 (Deep Compression), section 3, as HAQ
    (Wang et al. 2019) uses it for its "k-means quantization".
    """

    def build(self, tensor_shape: Any, name: str, layer: Any) -> Variables:
        def add(suffix: str, columns: int, trainable: bool) -> tf.Variable:
            return layer.add_weight(
                f"{name}_{suffix}",
                shape=(len(SIMULATED_BITS), columns),
                dtype=tf.float32,
                initializer="zeros",
                trainable=trainable,
            )

        return {
            **super().build(tensor_shape, name, layer),
            "codebook": add("codebook", _MOST_CENTROIDS, trainable=True),
            "limits": add("limits", _MOST_CENTROIDS - 1, trainable=False),
            # What clusters were found for: a regularizer goes on moving the kernel itself.
            "clustered": layer.add_weight(
                f"{name}_clustered",
                shape=tensor_shape,
                dtype=tf.float32,
                initializer="zeros",
                trainable=False,
            ),
        }

    def init_ranges(self, variables: Variables, w: Any) -> None:
        codebooks = np.zeros(variables["codebook"].shape, np.float32)
        limits = np.full(variables["limits"].shape, np.finfo(np.float32).max)
        for row, bits in enumerate(SIMULATED_BITS):
            centroids = k_means(np.asarray(w, np.float64).ravel(), 1 << bits)
            codebooks[row, : len(centroids)] = centroids
            limits[row, : len(centroids) - 1] = (centroids[1:] + centroids[:-1]) / 2
        variables["clustered"].assign(w)
        variables["codebook"].assign(codebooks)
        variables["limits"].assign(limits)

    def fake_quant(self, w: tf.Tensor, variables: Variables) -> tf.Tensor:
        row = tf.minimum(variables["bits"], SIMULATED_BITS[-1]) - SIMULATED_BITS[0]
        limits = tf.convert_to_tensor(variables["limits"])[row]
        cells = tf.searchsorted(limits, tf.reshape(variables["clustered"], [-1]))

        @tf.custom_gradient
        def shared(w, codebook):
            def gradient(dy):
                mean = tf.math.unsorted_segment_mean(tf.reshape(dy, [-1]), cells, _MOST_CENTROIDS)
                return tf.zeros_like(w), mean

            return tf.reshape(tf.gather(codebook, cells), tf.shape(w)), gradient

        return tf.ensure_shape(shared(w, tf.convert_to_tensor(variables["codebook"])[row]), w.shape)

    def grid_of(self, w: tf.Tensor, variables: Variables) -> NoReturn:
        raise TfmixError("k-means weights are for simulation only: they lie on no grid")


def k_means(values: np.ndarray, k: int) -> np.ndarray:
    """At most k centroids, ascending, of values [n]: Lloyd's algorithm from two beginnings, evenly
    spaced and at quantiles; of both results the one of less squared error."""
    values = np.sort(values)
    unique = np.unique(values)
    if len(unique) <= k:
        return unique
    even = np.linspace(values[0], values[-1], k)
    quantiles = np.quantile(values, (np.arange(k) + 0.5) / k)
    return min((_lloyd(values, c) for c in (even, quantiles)), key=lambda c: _error(values, c))


def _lloyd(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    sums = np.concatenate([[0.0], np.cumsum(values)])
    for _ in range(_MAX_ITERATIONS):
        # On a line a cluster is what lies between the middles of neighbouring centroids.
        ends = np.searchsorted(values, (centroids[1:] + centroids[:-1]) / 2)
        ends = np.concatenate([[0], ends, [len(values)]])
        counts = np.diff(ends)
        means = np.where(counts > 0, np.diff(sums[ends]) / np.maximum(counts, 1), centroids)
        if np.array_equal(means, centroids):
            break
        centroids = means
    return centroids


def _error(values: np.ndarray, centroids: np.ndarray) -> float:
    cells = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)
    return float(np.square(values - centroids[cells]).sum())
