"""Measures trials on a fake-quant model, in this process: what a policy search asks of a network.

Bits are variables: all trials run through functions that were traced once.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tfmix.errors import TfmixError
from tfmix.fakequant.apply import (
    float_activations,
    graph_of,
    quantizers_of,
    require_quantized,
    set_policy,
    unwrap,
)
from tfmix.fakequant.batch_norm import following_statistics
from tfmix.fakequant.bias_correction import BiasCorrection
from tfmix.fakequant.data import Samples, chosen_samples, read_samples
from tfmix.fakequant.fisher import fisher_table
from tfmix.fakequant.objective import objective_for_labels, objective_for_outputs
from tfmix.fakequant.rebuild import build_float
from tfmix.frontend.keras import read
from tfmix.policy.search.base import Trial
from tfmix.policy.sensitivity import SensitivityTable

#: Samples the loss is measured on, where there are more: differences between losses of one set of
#: samples are far less noisy than the losses.
LOSS_SAMPLES = 1024
#: Samples the sensitivities are estimated from.
ESTIMATE_SAMPLES = 256
#: Samples biases are corrected on.
CORRECTION_SAMPLES = 128


class ModelEvaluator:
    """Measures trials: `evaluator(trials)` gives (position, value) of each, see `Trial`.

    "accuracy" is the share of all samples of `data` whose most likely class is the labelled one.
    "loss" is the mean over at most `loss_samples` samples of balanced classes, in nats a sample:
    cross entropy where `data` has labels, else the KL divergence from the float network's outputs;
    where outputs are no probabilities see `objective.Values`.

    A trial that does not train is measured with biases corrected on at most 128 of the samples:
    `calibrate` and training both repair the mean errors of layers, whatever the policy, and what is
    left tells policies apart. Without, the policy found for ResNet-8 in (40 kB, 32 kB) is 14 points
    worse once biases are corrected.

    A trial that trains begins with the model's weights, ranges and statistics as they are, and a
    new optimizer: Adam, whose rate falls from `learning_rate` to 0 along half a cosine, over one
    epoch of `train_data`, within which batch-norm statistics follow. All trials see the same
    batches: a value depends on the trial and `seed` alone, not on what was measured before.

    After each trial the model is as it was before.

    Args:
      model: a fake-quant model with known ranges.
      data, train_data: see `read_samples`.
      batch_size: of measuring and of training.

    Raises TfmixError for data that is empty, not finite, or does not fit the network.
    """

    def __init__(
        self,
        model: tf_keras.Model,
        data: Any,
        *,
        train_data: Any = None,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        loss_samples: int = LOSS_SAMPLES,
        seed: int = 0,
    ):
        require_quantized(model)
        self.model = model
        self.graph = graph_of(model)
        self._seed = seed
        self._settings = {
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "loss_samples": loss_samples,
            "seed": seed,
        }
        self._samples = read_samples(data, "validation data", self.graph)
        self._train_samples: Samples | None = None
        self._trainer: _Trainer | None = None
        if train_data is not None:
            self._train_samples = read_samples(train_data, "training data", self.graph)
            self._trainer = _Trainer(model, self._train_samples, batch_size, learning_rate)
        self._quantized = self._traced_once(model)
        self._float = self._traced_once(build_float(read(model, unwrap)))

        chosen = chosen_samples(self._samples, loss_samples, seed)
        x, y = self._samples[chosen].x, self._samples.y
        self._estimate_inputs = self._samples[
            chosen_samples(self._samples, min(loss_samples, ESTIMATE_SAMPLES), seed)
        ].x
        correction = self._samples[chosen_samples(self._samples, CORRECTION_SAMPLES, seed)]
        self._correction = BiasCorrection(model, correction.x)
        self._measurements: dict[str, _Measurement] = {}
        if y is None:
            outputs = [self._float(batch) for batch in _batches(x, batch_size)]
            objective = objective_for_outputs(self.graph, np.concatenate(outputs))
            targets = objective.targets
        else:
            objective = objective_for_labels(self.graph, y, "validation data")
            targets = objective.targets[chosen]
            if objective.has_accuracy:
                self._measurements["accuracy"] = _Measurement(
                    objective.hits, self._samples.x, objective.targets, batch_size
                )
        self._measurements["loss"] = _Measurement(objective.losses, x, targets, batch_size)

    @property
    def measures(self) -> frozenset[str]:
        """What trials may ask for."""
        return frozenset(self._measurements)

    @property
    def trains(self) -> bool:
        """Whether trials may train."""
        return self._trainer is not None

    def float_accuracy(self) -> float | None:
        """Top-1 accuracy in [0, 1] of the model's weights without quantization; None where there
        are no classes."""
        if "accuracy" not in self._measurements:
            return None
        return self._measurements["accuracy"].of(self._float)

    def estimate(self) -> SensitivityTable:
        """Sensitivities of all tensors from a few backward passes; see `fisher_table`."""
        return fisher_table(self.model, self._estimate_inputs, seed=self._seed)

    def recipe(self) -> dict[str, Any]:
        """Arguments which, with a copy of the model, make an evaluator of the same values."""
        return {"data": self._samples, "train_data": self._train_samples, **self._settings}

    def identity(self) -> str:
        """Equal for evaluators that give the same values: a digest of weights, ranges, statistics,
        data and settings. Bits do not count."""
        bits = {id(variable) for variable in bits_of(self.model)}
        arrays = [v.numpy() for v in self.model.variables if id(v) not in bits]
        for samples in (self._samples, self._train_samples):
            arrays += [] if samples is None else [samples.x, samples.y]
        return f"{digest_of(arrays)} {self._settings} corrected"

    def __call__(self, trials: Sequence[Trial]) -> Iterator[tuple[int, float]]:
        """Measures one after the other. TfmixError for what cannot be measured, and where the
        network's outputs are not finite."""
        for position, trial in enumerate(trials):
            yield position, self._value(trial)

    def _traced_once(self, network: tf_keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
        shape = self.graph.tensors[self.graph.input].shape
        signature = [tf.TensorSpec([None, *shape], tf.float32)]

        @tf.function(input_signature=signature, autograph=False)
        def outputs(x: tf.Tensor) -> tf.Tensor:
            return network(x, training=False)

        return outputs

    def _value(self, trial: Trial) -> float:
        if trial.measure not in self._measurements:
            raise TfmixError(
                f"the search asks for the {trial.measure}, which needs data with class labels"
            )
        if trial.train and self._trainer is None:
            raise TfmixError("the search asks for training, which needs train_data")
        variables = self.model.variables if trial.train else bits_of(self.model)
        with restored(variables), contextlib.ExitStack() as stack:
            set_policy(self.model, trial.policy)
            if trial.float_activations:
                stack.enter_context(float_activations(self.model))
            if trial.train:
                self._trainer.epoch(self._seed)
            else:
                stack.callback(self._correction.undo)
                self._correction.correct()
            return self._measurements[trial.measure].of(self._quantized)


class _Measurement:
    """The mean of one figure over the samples of a data set, which is held as tensors.

    figure: (outputs, targets) -> float32 [n], see `Objective`
    """

    def __init__(
        self,
        figure: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        x: np.ndarray,
        targets: np.ndarray,
        batch_size: int,
    ):
        self._count = len(x)
        self._inputs = _batches(x, batch_size)
        self._targets = _batches(targets, batch_size, dtype=None)

        @tf.function(reduce_retracing=True, autograph=False)
        def total(outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
            is_finite = tf.reduce_all(tf.math.is_finite(outputs))
            # What is not finite must not pass for a class.
            return tf.where(is_finite, tf.reduce_sum(figure(outputs, targets)), np.nan)

        self._total = total

    def of(self, network: Callable[[tf.Tensor], tf.Tensor]) -> float:
        total = 0.0
        for x, targets in zip(self._inputs, self._targets, strict=True):
            total += float(self._total(network(x), targets))
        if not np.isfinite(total):
            raise TfmixError(
                "the network gives NaN or infinite values; where it was trained for the trial, a "
                "smaller learning_rate may help"
            )
        return total / self._count


class _Trainer:
    """Trains a model for one epoch, always in the same way."""

    def __init__(
        self, model: tf_keras.Model, samples: Samples, batch_size: int, learning_rate: float
    ):
        if samples.y is None:
            raise TfmixError("training data has no labels")
        self._count = len(samples)
        self._batch_size = batch_size
        objective = objective_for_labels(graph_of(model), samples.y, "training data")
        x, targets = tf.constant(samples.x), tf.constant(objective.targets)
        steps = -(-self._count // batch_size)
        schedule = tf_keras.optimizers.schedules.CosineDecay(learning_rate, steps)
        optimizer = tf_keras.optimizers.Adam(schedule)
        optimizer.build(model.trainable_variables)
        self._model, self._optimizer, self._steps = model, optimizer, steps

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)], autograph=False)
        def step(chosen: tf.Tensor) -> None:
            with tf.GradientTape() as tape:
                outputs = model(tf.cast(tf.gather(x, chosen), tf.float32), training=True)
                loss = tf.reduce_mean(objective.losses(outputs, tf.gather(targets, chosen)))
                loss = tf.add_n([loss, *model.losses])
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

        self._step = step

    def epoch(self, seed: int) -> None:
        """One epoch with a new optimizer; the order of samples depends on `seed` alone."""
        order = np.random.default_rng(seed).permutation(self._count)
        with restored(self._optimizer.variables), following_statistics(self._model, self._steps):
            for start in range(0, self._count, self._batch_size):
                self._step(tf.constant(order[start : start + self._batch_size]))


# -- state of a model -------------------------------------------------------------------------


def bits_of(model: tf_keras.Model) -> list[tf.Variable]:
    """The bits of all quantizers of a fake-quant model."""
    quantizers = quantizers_of(model)
    bound = (*quantizers.weights.values(), *quantizers.activations.values())
    return [quantizer.variables["bits"] for quantizer in bound]


@contextlib.contextmanager
def restored(variables: Sequence[tf.Variable]) -> Iterator[None]:
    """Gives variables back the values they have now."""
    variables = list(variables)
    values = [tf.identity(variable) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def digest_of(arrays: Iterable[np.ndarray | None]) -> str:
    """Equal for equal arrays, and in practice for no others."""
    digest = hashlib.sha256()
    for array in arrays:
        if array is not None:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _batches(
    x: np.ndarray, batch_size: int, dtype: tf.DType | None = tf.float32
) -> list[tf.Tensor]:
    return [tf.cast(x[i : i + batch_size], dtype or x.dtype) for i in range(0, len(x), batch_size)]
