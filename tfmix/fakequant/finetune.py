"""The training recipe: `tfmix.finetune`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tfmix.errors import TfmixError
from tfmix.fakequant.apply import graph_of, require_quantized
from tfmix.fakequant.callbacks import BatchNormReestimation, StatefulCallback
from tfmix.fakequant.data import read_samples
from tfmix.fakequant.distill import Distiller, TaughtBefore, ends_in_softmax
from tfmix.fakequant.layerwise import in_batches


@dataclass(frozen=True)
class Finetuned:
    """What `finetune` did.

    Attributes:
      history: name -> value after each epoch, as of Keras' History; epochs before an interruption
        included. They are measured before batch norm is.
      validation: name -> value on the validation data at the very end; empty without such data.
    """

    history: dict[str, list[float]]
    validation: dict[str, float]


def finetune(
    model: tf_keras.Model,
    train: Any,
    validation: Any = None,
    epochs: int = 6,
    *,
    teacher: Any = None,
    learning_rate: float = 1e-3,
    batch_size: int = 32,
    loss: Any = None,
    metrics: Sequence[Any] | None = None,
    temperature: float = 4.0,
    distillation: float = 0.5,
    batch_norm_samples: int = 5120,
    callbacks: Sequence[tf_keras.callbacks.Callback] = (),
    checkpoint_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    verbose: int = 1,
) -> Finetuned:
    """Trains a fake-quant model in place, by the recipe that measured best (docs/training.md).

    Adam, whose rate falls from `learning_rate` to 0 along half a cosine; half of the loss from a
    teacher, if there is one; batch-norm statistics measured anew at the end. Each part can also be
    had alone: `Distiller`, `tfmix.callbacks`, and compile and fit as of any Keras model.

    Args:
      model: a fake-quant model. Afterwards it is compiled, and so ready for evaluate.
      train: (inputs, labels), shuffled anew each epoch; or a batched, finite tf.data.Dataset of
        such pairs, which brings its own order and augmentation.
      validation: the same, or None; evaluated after each epoch and at the end.
      epochs: passes over the training data.
      teacher: the float model, or any other for the same classes; None to learn from labels alone.
        Of (inputs, labels) it is asked once, before training; of a Dataset with each batch.
      learning_rate: of the first batch.
      batch_size: of (inputs, labels). Few bits want many steps: see docs/training.md.
      loss: as for compile; None takes cross entropy where labels are classes or probabilities, and
        mean squared error where they are other real values.
      metrics: as for compile; None takes accuracy, where the loss is a cross entropy.
      temperature, distillation: see `Distiller`, whose `weight` is `distillation`.
      batch_norm_samples: how many training inputs the statistics are measured on; 0 keeps those of
        training.
      callbacks: more of them; they run before batch norm is measured anew.
      checkpoint_dir: where to save the whole state after each epoch. If a state is there already,
        training goes on from it and ends as if it had never stopped: weights, optimizer, order of
        the samples, callbacks of `tfmix.callbacks`. (The order of a Dataset is not ours to keep.)
      seed: of the order of the samples.
      verbose: as for fit: 0 is silent, 1 a progress bar, 2 a line an epoch.

    Raises TfmixError for data, settings or a checkpoint that do not fit, naming the value.
    """
    require_quantized(model)
    for name, value, least in (
        ("epochs", epochs, 1),
        ("batch_size", batch_size, 1),
        ("batch_norm_samples", batch_norm_samples, 0),
    ):
        if not isinstance(value, (int, np.integer)) or value < least:
            raise TfmixError(f"{name} {value!r} is not a whole number of at least {least}")
    data = _training_data(model, train, batch_size, seed)
    if validation is not None:
        validation = _validation_data(model, validation, batch_size)
    if loss is None:
        loss, usual_metrics = _loss_for(model, data.labels)
        metrics = usual_metrics if metrics is None else metrics
    metrics = list(metrics or ())

    optimizer = tf_keras.optimizers.Adam(
        tf_keras.optimizers.schedules.CosineDecay(learning_rate, epochs * data.steps)
    )
    trainer = model
    if teacher is not None:
        trainer = data.distiller(model, teacher, temperature=temperature, weight=distillation)
        trainer.compile(optimizer, loss, metrics)
        optimizer = trainer.optimizer  # mixed precision wraps it
    model.compile(optimizer, loss, metrics)

    callbacks = list(callbacks)
    settings = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "steps an epoch": data.steps,
        "seed": seed,
        "temperature": temperature if teacher is not None else None,
        "distillation": distillation if teacher is not None else None,
    }
    run = _Run(settings)
    if checkpoint_dir is not None:
        run.keep_in(checkpoint_dir, model, callbacks)
    if batch_norm_samples:
        inputs = data.sample(batch_norm_samples)
        callbacks.append(BatchNormReestimation(inputs, batch_norm_samples))
    if verbose:
        since = f", from epoch {run.epoch + 1} on" if run.epoch else ""
        print(f"{model.name}: {epochs} epochs of {data.steps} steps{since}")
    trainer.fit(
        data.epochs(run.epoch, epochs),
        epochs=epochs,
        initial_epoch=run.epoch,
        steps_per_epoch=data.steps,
        validation_data=validation,
        callbacks=[*callbacks, run],
        verbose=verbose,
    )
    result = {}
    if validation is not None:
        result = model.evaluate(validation, verbose=0, return_dict=True)
        if verbose:
            print("at the end: " + ", ".join(f"{k} {v:.4f}" for k, v in result.items()))
    return Finetuned(run.history, result)


# -- data -------------------------------------------------------------------------------------


class _Arrays:
    """Training data in memory. The order of each epoch follows from seed and epoch alone."""

    def __init__(self, x: np.ndarray, y: np.ndarray, batch_size: int, seed: int):
        self.x, self.labels = x, tf.TensorSpec(y.shape, y.dtype)
        self.steps = -(-len(x) // batch_size)
        self._tensors: tuple[tf.Tensor, ...] = tf.constant(x), tf.constant(y)
        self._batch_size, self._seed = batch_size, seed

    def distiller(self, student: tf_keras.Model, teacher: Any, **settings: Any) -> Distiller:
        """For batches that bring the teacher's outputs: it is asked once, not in each epoch."""
        distiller = TaughtBefore(student, teacher, **settings)
        self._tensors += (tf.constant(in_batches(distiller.teach, [self.x])),)
        return distiller

    def epochs(self, start: int, end: int) -> tf.data.Dataset:
        """The batches of epochs start ... end - 1, one after the other."""

        def order(epoch: tf.Tensor) -> tf.data.Dataset:
            seed = tf.stack([tf.constant(self._seed, tf.int64), epoch])
            order = tf.random.experimental.stateless_shuffle(tf.range(len(self.x)), seed)
            return tf.data.Dataset.from_tensor_slices(order).batch(self._batch_size)

        def batch(chosen: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return tuple(tf.gather(tensor, chosen) for tensor in self._tensors)

        return _plain(tf.data.Dataset.range(start, end).flat_map(order).map(batch).prefetch(2))

    def sample(self, count: int) -> np.ndarray:
        """Up to `count` inputs, drawn from all."""
        rng = np.random.default_rng(self._seed)
        return self.x[np.sort(rng.permutation(len(self.x))[:count])]


class _Stream:
    """Training data of a tf.data.Dataset."""

    def __init__(self, dataset: tf.data.Dataset):
        self.steps = int(dataset.cardinality())
        if self.steps < 1:
            raise TfmixError(
                "train is a tf.data.Dataset that is empty, endless or of unknown length; allowed: "
                "a finite one, see Dataset.take and tf.data.experimental.assert_cardinality"
            )
        spec = dataset.element_spec
        if not isinstance(spec, tuple) or len(spec) not in (2, 3):
            raise TfmixError(f"train is a tf.data.Dataset of {spec}; (inputs, labels) are needed")
        self.labels = spec[1]
        self._dataset = dataset

    def distiller(self, student: tf_keras.Model, teacher: Any, **settings: Any) -> Distiller:
        return Distiller(student, teacher, **settings)

    def epochs(self, start: int, end: int) -> tf.data.Dataset:
        return _plain(self._dataset.repeat(end - start))

    def sample(self, count: int) -> tf.data.Dataset:
        return self._dataset


def _training_data(
    model: tf_keras.Model, train: Any, batch_size: int, seed: int
) -> _Arrays | _Stream:
    if isinstance(train, tf.data.Dataset):
        return _Stream(train)
    samples = read_samples(train, "train", graph_of(model))
    if samples.y is None:
        raise TfmixError("train has no labels; (inputs, labels) are needed")
    return _Arrays(samples.x, samples.y, batch_size, seed)


def _validation_data(model: tf_keras.Model, data: Any, batch_size: int) -> tf.data.Dataset:
    if isinstance(data, tf.data.Dataset):
        return _plain(data)
    samples = read_samples(data, "validation", graph_of(model))
    if samples.y is None:
        raise TfmixError("validation has no labels; (inputs, labels) are needed")
    arrays = tf.data.Dataset.from_tensor_slices((samples.x, samples.y))
    return _plain(arrays.batch(batch_size).prefetch(2))


def _plain(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Without autotuning, which can stall the end of an epoch for seconds on few cores."""
    options = tf.data.Options()
    options.autotune.enabled = False
    # One worker reads all the data; its replicas share each batch.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)


def _loss_for(model: tf_keras.Model, labels: tf.TensorSpec) -> tuple[Any, list[str]]:
    """The usual loss for these labels, and its metrics."""
    softmax = ends_in_softmax(model)
    of_output_shape = labels.shape.rank == len(model.output_shape) and (
        labels.shape[-1] == model.output_shape[-1]
    )
    if labels.dtype.is_integer and not of_output_shape or softmax and not of_output_shape:
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=not softmax)
        return loss, ["accuracy"]
    if softmax:
        return tf_keras.losses.CategoricalCrossentropy(), ["accuracy"]
    return tf_keras.losses.MeanSquaredError(), []


# -- checkpoints ------------------------------------------------------------------------------


class _Run(tf_keras.callbacks.Callback):
    """How far a run has come, and its checkpoints: one is written whole before the last one goes.

    `epoch` is the number of epochs done.
    """

    def __init__(self, settings: dict[str, Any]):
        super().__init__()
        self._progress = _Progress(settings)
        self._manager: tf.train.CheckpointManager | None = None

    @property
    def epoch(self) -> int:
        return self._progress.epoch

    @property
    def history(self) -> dict[str, list[float]]:
        return self._progress.history

    def keep_in(
        self,
        directory: str | os.PathLike[str],
        model: tf_keras.Model,
        callbacks: Sequence[tf_keras.callbacks.Callback],
    ) -> None:
        """Saves there from now on; restores what is there."""
        optimizer = model.optimizer
        optimizer.build(model.trainable_variables)
        stateful = [c for c in callbacks if isinstance(c, StatefulCallback)]
        for callback in stateful:
            callback.prepare(model)
        checkpoint = tf.train.Checkpoint(
            model=model,
            optimizer=optimizer,
            callbacks=[callback.state for callback in stateful],
            progress=self._progress,
        )
        settings = dict(self._progress.settings)
        try:
            self._manager = tf.train.CheckpointManager(checkpoint, os.fspath(directory), 1)
            if self._manager.latest_checkpoint is None:
                return
            restored = checkpoint.restore(self._manager.latest_checkpoint)
            restored.assert_existing_objects_matched()
        except (AssertionError, ValueError, tf.errors.OpError, OSError) as error:
            raise TfmixError(
                f"the checkpoint in {directory} is not of this model and these callbacks, or "
                f"cannot be read: {error}"
            ) from error
        for name, value in settings.items():
            found = self._progress.settings.get(name)
            if found != value:
                raise TfmixError(
                    f"the checkpoint in {directory} is of a run with {name} {found}, not {value}; "
                    "use another directory to begin anew"
                )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._progress.epoch = epoch + 1
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        if self._manager is not None:
            self._manager.save(checkpoint_number=epoch + 1)


class _Progress(tf.train.experimental.PythonState):
    """Settings, epochs done and history, as a checkpoint holds them: JSON."""

    def __init__(self, settings: dict[str, Any]):
        self.settings = settings
        self.epoch = 0
        self.history: dict[str, list[float]] = {}

    def serialize(self) -> str:
        return json.dumps([self.settings, self.epoch, self.history])

    def deserialize(self, string_value: str | bytes) -> None:
        self.settings, self.epoch, self.history = json.loads(string_value)
