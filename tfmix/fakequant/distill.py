"""Knowledge distillation as a Keras model: the student learns from labels and from a teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras

from tfmix.errors import TfmixError
from tfmix.ir.graph import as_graph

#: Least probability told from zero; its logarithm is far below any logit that still counts.
_LEAST_PROBABILITY = 1e-30


class Distiller(tf_keras.Model):
    """Trains `student` to give the labels, and the class probabilities of `teacher`:

    loss = (1 - weight) * compiled loss + weight * T^2 * KL(teacher_T || student_T),

    where p_T is the softmax of logits / T. G. Hinton et al., Distilling the Knowledge in a Neural
    Network, 2015; A. Mishra and D. Marr, Apprentice, ICLR 2018, for low-precision students. T^2
    keeps the gradients of both terms alike in size, whatever T.

        distiller = tfmix.Distiller(qmodel, float_model)
        distiller.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
        distiller.fit(x, y)            # trains qmodel in place

    In all else it is the student: predict, evaluate, save, weights; the "loss" that fit shows is
    the compiled one, "distillation" the other. Sample weights apply to both.

    Args:
      student: a classifier, such as a fake-quant model; logits or softmax [batch, classes].
      teacher: a float model, or any callable from inputs to outputs of the student's kind; it is
        not trained, and run in inference mode.
      temperature: T > 0; greater values tell more of how the teacher ranks the wrong classes.
      weight: share of distillation in the loss, 0 to 1.
      from_logits: whether outputs are logits rather than probabilities; None to tell from whether
        the student ends in softmax.
    """

    def __init__(
        self,
        student: tf_keras.Model,
        teacher: Callable[[Any], Any],
        *,
        temperature: float = 4.0,
        weight: float = 0.5,
        from_logits: bool | None = None,
    ):
        if not callable(teacher):
            raise TfmixError(f"teacher {teacher!r} is not a model, and no other callable")
        if not temperature > 0:
            raise TfmixError(f"temperature {temperature!r} is not above 0")
        if not 0 <= weight <= 1:
            raise TfmixError(f"weight {weight!r} is not in [0, 1]")
        super().__init__(name=f"{student.name}_distiller")
        if from_logits is None:
            from_logits = not ends_in_softmax(student)
        self.student = student
        self.temperature = temperature
        self.weight = weight
        self.from_logits = from_logits
        # Behind a function, Keras does not count the teacher's weights among its own.
        if isinstance(teacher, tf_keras.layers.Layer):
            self.teach = lambda x: teacher(x, training=False)
        else:
            self.teach = lambda x: teacher(x)
        self._distillation = tf_keras.metrics.Mean("distillation")

    def call(self, inputs: Any, training: Any = None) -> Any:
        return self.student(inputs, training=training)

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight = tf_keras.utils.unpack_x_y_sample_weight(data)
        return self._learn(x, y, self.teach(x), sample_weight)

    def _learn(self, x: Any, y: Any, taught: Any, sample_weight: Any = None) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            outputs = self.student(x, training=True)
            distance = self.distance(taught, outputs)
            if sample_weight is not None:
                distance *= tf.cast(sample_weight, distance.dtype)
            distance = tf.reduce_mean(distance)
            # Gradients of replicas are added up, so each has its share of the mean.
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            loss = (1 - self.weight) * self.compute_loss(x, y, outputs, sample_weight)
            loss += self.weight * distance / replicas
        self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
        self._distillation.update_state(distance)
        return self.compute_metrics(x, y, outputs, sample_weight)

    def test_step(self, data: Any) -> dict[str, Any]:
        logs = super().test_step(data)
        logs.pop("distillation", None)
        return logs

    def distance(self, teacher_outputs: Any, student_outputs: Any) -> tf.Tensor:
        """T^2 * KL(teacher_T || student_T) of each sample, [batch]."""
        teacher, student = (self._log_softened(o) for o in (teacher_outputs, student_outputs))
        teacher = tf.stop_gradient(teacher)
        divergence = tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=-1)
        return self.temperature**2 * divergence

    def _log_softened(self, outputs: Any) -> tf.Tensor:
        logits = tf.cast(outputs, tf.float32)
        if not self.from_logits:
            logits = tf.math.log(tf.maximum(logits, _LEAST_PROBABILITY))
        return tf.nn.log_softmax(logits / self.temperature)

    def save(self, *args: Any, **kwargs: Any) -> Any:
        """Saves the student, which is all there is to use later."""
        return self.student.save(*args, **kwargs)

    def save_weights(self, *args: Any, **kwargs: Any) -> Any:
        return self.student.save_weights(*args, **kwargs)

    def load_weights(self, *args: Any, **kwargs: Any) -> Any:
        return self.student.load_weights(*args, **kwargs)


class TaughtBefore(Distiller):
    """A Distiller whose training data brings the teacher's outputs: (inputs, labels, outputs)."""

    def train_step(self, data: Any) -> dict[str, Any]:
        return self._learn(*data)


def trained_model(model: tf_keras.Model) -> tf_keras.Model:
    """The model whose weights `fit` changes: the student of a Distiller, else the model."""
    return model.student if isinstance(model, Distiller) else model


def ends_in_softmax(model: tf_keras.Model) -> bool:
    graph = as_graph(model)
    return graph.is_softmax_output(graph.output)
