"""What a network's outputs are measured by: the loss and the top-1 hits of each sample."""

from __future__ import annotations

import abc
import math

import numpy as np
import tensorflow as tf

from tfmix.errors import TfmixError
from tfmix.ir.graph import Graph

#: Probabilities below count as this: float32 softmax gives exact zeros.
_LEAST_PROBABILITY = 1e-30


class Objective(abc.ABC):
    """Compares outputs [n, ...] with `targets`, of which there is one a sample."""

    #: Whether `hits` means anything.
    has_accuracy = True

    def __init__(self, graph: Graph, targets: np.ndarray):
        self._is_softmax = graph.is_softmax_output(graph.output)
        self.targets = targets

    @abc.abstractmethod
    def losses(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Loss of each sample in nats, float32 [n]; means over positions where outputs have any."""

    def hits(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Share of each sample's positions whose class is right, float32 [n]."""
        hits = tf.equal(tf.argmax(outputs, axis=-1), self._classes(targets))
        return _mean_per_sample(tf.cast(hits, tf.float32))

    def _classes(self, targets: tf.Tensor) -> tf.Tensor:
        return tf.argmax(targets, axis=-1)

    def _log_probabilities(self, outputs: tf.Tensor) -> tf.Tensor:
        """Networks without a softmax give logits."""
        if self._is_softmax:
            return tf.math.log(tf.maximum(outputs, _LEAST_PROBABILITY))
        return tf.nn.log_softmax(outputs)


class ClassLabels(Objective):
    """Cross entropy with class numbers, targets int64 [n, positions...]."""

    def losses(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        log_p = self._log_probabilities(outputs)
        return -_mean_per_sample(tf.gather(log_p, targets, axis=-1, batch_dims=targets.shape.rank))

    def _classes(self, targets: tf.Tensor) -> tf.Tensor:
        return targets


class SoftLabels(Objective):
    """Cross entropy with distributions over classes, targets float32 [n, positions..., classes]."""

    def losses(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        return -_mean_per_sample(tf.reduce_sum(targets * self._log_probabilities(outputs), axis=-1))


class Divergence(SoftLabels):
    """KL(float || quantized): targets are the probabilities that the float network gives."""

    has_accuracy = False

    def losses(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        log_targets = tf.math.log(tf.maximum(targets, _LEAST_PROBABILITY))
        entropy = -_mean_per_sample(tf.reduce_sum(targets * log_targets, axis=-1))
        return super().losses(outputs, targets) - entropy


class Values(Objective):
    """Outputs that are no classes: half the squared error over the variance of the targets.

    |y - t|^2 / (2 v), v = the targets' variance summed over a sample's outputs: the KL divergence
    between normal distributions around t and y, whose spread is that of the data.
    """

    has_accuracy = False

    def __init__(self, graph: Graph, targets: np.ndarray):
        super().__init__(graph, targets)
        variance = float(targets.reshape(len(targets), -1).var(axis=0).sum())
        self._scale = 0.5 / (variance or 1.0)

    def losses(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        error = tf.math.squared_difference(outputs, targets)
        return self._scale * tf.reduce_sum(tf.reshape(error, [tf.shape(error)[0], -1]), axis=1)


def objective_for_labels(graph: Graph, y: np.ndarray, what: str) -> Objective:
    """The objective for labels of one of these kinds, told apart by shape and values:

    - class numbers [n] (or [n, 1], or one per position): `ClassLabels`
    - one distribution over classes a sample, one-hot or soft: `SoftLabels`
    - for networks without a softmax, numbers of the output's shape: `Values`

    TfmixError for all others.
    """
    shape = graph.tensors[graph.output].shape
    *positions, classes = shape
    if classes > 1 and y.shape[1:] in {tuple(positions), (*positions, 1)}:
        _check_classes(y, classes, what)
        return ClassLabels(graph, y.reshape(len(y), *positions).astype(np.int64))
    # A network of one output may have labels without an axis for it.
    if math.prod(y.shape[1:]) == math.prod(shape) and (y.shape[1:] == shape or classes == 1):
        y = y.reshape(len(y), *shape).astype(np.float32)
        if classes > 1 and (y >= 0).all() and np.allclose(y.sum(axis=-1), 1, atol=1e-3):
            return SoftLabels(graph, y)
        if not graph.is_softmax_output(graph.output):
            return Values(graph, y)
        raise TfmixError(f"{what} has labels of the output's shape that do not sum to 1")
    raise TfmixError(
        f"{what} has labels of shape {y.shape}; for the output {graph.output} of shape "
        f"{('n', *shape)}, {('n', *positions)} class numbers or an array of its shape are needed"
    )


def objective_for_outputs(graph: Graph, outputs: np.ndarray) -> Objective:
    """The objective where there are no labels: to stay near `outputs`, those of the float network.

    `Divergence` after a softmax, else `Values`: whether numbers are logits cannot be known.
    """
    if graph.is_softmax_output(graph.output):
        return Divergence(graph, outputs)
    return Values(graph, outputs)


def _check_classes(y: np.ndarray, classes: int, what: str) -> None:
    wrong = y[(y != np.floor(y)) | (y < 0) | (y >= classes)]
    if wrong.size:
        raise TfmixError(
            f"{what} has a label {wrong.flat[0]}; the network's classes are 0 to {classes - 1}"
        )


def _mean_per_sample(values: tf.Tensor) -> tf.Tensor:
    """[n, ...] -> [n]"""
    return tf.reduce_mean(tf.reshape(values, [tf.shape(values)[0], -1]), axis=1)
