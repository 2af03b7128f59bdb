"""Parts of a training recipe for fake-quant models, as Keras callbacks; each works alone.

Each also works on a `Distiller`, whose student it then looks at. `state` holds the variables of
those that remember something: put it in a tf.train.Checkpoint to go on where training stopped, as
`tfmix.finetune` does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import tensorflow as tf
import tf_keras

from tfmix.errors import TfmixError
from tfmix.fakequant.apply import (
    BoundQuantizer,
    get_policy,
    graph_of,
    quantizers_of,
    require_quantized,
    set_policy,
)
from tfmix.fakequant.batch_norm import reestimate_batch_norm
from tfmix.fakequant.distill import trained_model
from tfmix.fakequant.quantizers.grid import levels_of
from tfmix.ir.graph import Op
from tfmix.ir.quant import check_bits
from tfmix.policy.policy import QuantizationPolicy


class _Callback(tf_keras.callbacks.Callback):
    """A callback that never looks at a batch's logs: Keras need not wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self._supports_tf_logs = True


class StatefulCallback(_Callback):
    """A callback that remembers something between batches, in variables of `state`."""

    state: tf.Module | None = None

    def prepare(self, model: tf_keras.Model) -> None:
        """Makes `state` for the model that is trained, where there is none yet."""
        if self.state is None:
            self.state = self._new_state(model)

    def _new_state(self, model: tf_keras.Model) -> tf.Module:
        raise NotImplementedError


class BatchNormReestimation(_Callback):
    """Measures batch-norm statistics anew when training ends, see `reestimate_batch_norm`.

    The moving averages of training lag behind weights that still flip between levels; at few bits
    that costs points. X. Sun et al., Hybrid 8-bit Floating Point, NeurIPS 2019; M. Nagel et al.,
    Overcoming Oscillations in Quantization-Aware Training, ICML 2022, section 4.1.

    Args:
      data: clean training images, no labels needed; they must look like those trained on. A crop
        padded with black, say, in training alone, makes the statistics wrong.
      samples: at most this many are used.
    """

    def __init__(self, data: Any, samples: int = 5120):
        super().__init__()
        self.data = data
        self.samples = samples

    def on_train_end(self, logs: Any = None) -> None:
        reestimate_batch_norm(trained_model(self.model), self.data, samples=self.samples)


class ExponentialMovingAverage(StatefulCallback):
    """Leaves the moving average of all trained weights, steps of quantizers included.

    After each batch average += (1 - decay) * (weights - average), and the averages become the
    weights when training ends. B. Polyak and A. Juditsky, 1992; with the start of A. Tarvainen and
    H. Valpola, 2017: decay is at most (batches + 1) / (batches + 10). Batch-norm statistics belong
    to the weights of training: put BatchNormReestimation after this callback.

    Args:
      decay: 0 to 1. The average looks back over about 1 / (1 - decay) batches.
    """

    def __init__(self, decay: float = 0.99):
        super().__init__()
        if not 0 <= decay < 1:
            raise TfmixError(f"decay {decay!r} is not in [0, 1)")
        self.decay = decay

    def _new_state(self, model: tf_keras.Model) -> tf.Module:
        state = tf.Module()
        state.batches = tf.Variable(0.0, trainable=False)
        state.averages = [tf.Variable(w, trainable=False) for w in model.trainable_variables]
        return state

    def on_train_begin(self, logs: Any = None) -> None:
        self.prepare(trained_model(self.model))
        self._update = tf.function(self._update_averages)

    def _update_averages(self) -> None:
        batches = self.state.batches
        batches.assign_add(1.0)
        rate = 1 - tf.minimum(self.decay, (batches + 1) / (batches + 10))
        weights = trained_model(self.model).trainable_variables
        for average, weight in zip(self.state.averages, weights, strict=True):
            average.assign_add(rate * (tf.cast(weight, average.dtype) - average))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._update()

    def on_train_end(self, logs: Any = None) -> None:
        weights = trained_model(self.model).trainable_variables
        for average, weight in zip(self.state.averages, weights, strict=True):
            weight.assign(average)


class ProgressiveBits(_Callback):
    """Begins with more bits than the policy has, and comes down to it: 8, then 4, then 2.

    No tensor ever has fewer bits than the policy gives it. When weights change their bits, the
    grid of the new width is fitted to the kernel as it is then. B. Zhuang et al., Towards Effective
    Low-bitwidth Convolutional Neural Networks, CVPR 2018, section 3.2.

    Args:
      policy: where to end, as get_policy gives it before training.
      until: {bits: epoch}: tensors have at least `bits` before this epoch, counted from 0.
    """

    def __init__(self, policy: QuantizationPolicy, until: dict[int, int]):
        super().__init__()
        if not isinstance(policy, QuantizationPolicy):
            raise TfmixError(f"policy {policy!r} is not a tfmix.QuantizationPolicy")
        self.policy = policy
        self.until = {check_bits(bits, "ProgressiveBits"): end for bits, end in until.items()}

    def policy_at(self, epoch: int) -> QuantizationPolicy:
        least = max((bits for bits, end in self.until.items() if epoch < end), default=0)

        def raised(bits: dict[str, int]) -> dict[str, int]:
            return {name: max(value, least) for name, value in bits.items()}

        return QuantizationPolicy(
            raised(self.policy.weight_bits), raised(self.policy.activation_bits)
        )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._change_to(self.policy_at(epoch))

    def on_train_end(self, logs: Any = None) -> None:
        self._change_to(self.policy)

    def _change_to(self, policy: QuantizationPolicy) -> None:
        model = trained_model(self.model)
        before = get_policy(model)
        set_policy(model, policy)
        for name, bound in quantizers_of(model).weights.items():
            if policy.weight_bits[name] < before.weight_bits[name]:
                bound.quantizer.init_ranges(bound.variables, bound.kernel)


class OscillationFreezing(StatefulCallback):
    """Freezes weights that jump to and fro between two levels, at the level they are at most.

    Near the border of two levels the straight-through gradient pushes a weight back as soon as it
    has crossed: it never settles, and batch-norm statistics cannot follow. Depthwise layers suffer
    most, having few weights a channel. M. Nagel et al., Overcoming Oscillations in
    Quantization-Aware Training, ICML 2022, algorithm 1: a weight oscillates in a step if its
    integer changed, and in the other direction than the last time; the moving average of that is
    its frequency, and above a threshold, that falls along half a cosine, it is frozen at its
    average integer until training ends.

    Args:
      layers: "depthwise" or "all" weights, or the names of layers.
      threshold: frequencies (at the beginning, at the end) of training.
      momentum: of the moving averages.
    """

    def __init__(
        self,
        layers: Literal["depthwise", "all"] | Sequence[str] = "depthwise",
        threshold: tuple[float, float] = (0.04, 0.01),
        momentum: float = 0.01,
    ):
        super().__init__()
        if not 0 < momentum < 1:
            raise TfmixError(f"momentum {momentum!r} is not between 0 and 1")
        self.layers = layers
        self.threshold = threshold
        self.momentum = momentum

    def _new_state(self, model: tf_keras.Model) -> tf.Module:
        state = tf.Module()
        state.batches = tf.Variable(0.0, trainable=False)
        state.weights = {name: _Oscillations(b) for name, b in self._chosen(model).items()}
        return state

    def frozen(self) -> dict[str, float]:
        """Layer -> share of its weights that are frozen."""
        return {
            name: float(tf.reduce_mean(tf.cast(weights.frozen, tf.float32)))
            for name, weights in self.state.weights.items()
        }

    def _chosen(self, model: tf_keras.Model) -> dict[str, BoundQuantizer]:
        require_quantized(model)
        bound = quantizers_of(model).weights
        if self.layers == "all":
            return dict(bound)
        if self.layers == "depthwise":
            nodes = graph_of(model).weighted_nodes
            return {n.name: bound[n.name] for n in nodes if n.op is Op.DEPTHWISE_CONV2D}
        unknown = sorted(set(self.layers) - set(bound))
        if unknown:
            raise TfmixError(f"layers {unknown} have no quantized weights; allowed: {list(bound)}")
        return {name: bound[name] for name in self.layers}

    def on_train_begin(self, logs: Any = None) -> None:
        model = trained_model(self.model)
        self.prepare(model)
        pairs = [(self.state.weights[name], b) for name, b in self._chosen(model).items()]

        @tf.function
        def update(threshold: tf.Tensor) -> None:
            self.state.batches.assign_add(1.0)
            for oscillations, bound in pairs:
                oscillations.update(bound, self.momentum, threshold)

        self._update = update

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        total = (self.params.get("steps") or 0) * self.params.get("epochs", 1)
        done = min(float(self.state.batches.numpy()) / total, 1.0) if total else 0.0
        first, last = self.threshold
        threshold = last + (first - last) * (1 + math.cos(math.pi * done)) / 2
        self._update(tf.constant(threshold))


class _Oscillations(tf.Module):
    """What is known of the integers of one kernel: all tensors of the kernel's shape."""

    def __init__(self, bound: BoundQuantizer):
        super().__init__()
        q, _, zero_point = bound.quantizer.quantize(bound.kernel, bound.variables)
        centred = q - zero_point
        zeros = tf.zeros_like(centred)

        def variable(value: tf.Tensor) -> tf.Variable:
            return tf.Variable(value, trainable=False)

        self.bits = variable(tf.convert_to_tensor(bound.variables["bits"]))
        self.integer, self.average = variable(centred), variable(centred)
        self.direction, self.frequency = variable(zeros), variable(zeros)
        self.frozen = variable(zeros > 0)

    def update(self, bound: BoundQuantizer, momentum: float, threshold: tf.Tensor) -> None:
        """Algorithm 1 of Nagel et al. 2022, after an optimizer's step."""
        q, step, zero_point = bound.quantizer.quantize(bound.kernel, bound.variables)
        centred = q - zero_point
        # Integers of another bit-width cannot be compared: the kernel begins anew.
        same = tf.equal(self.bits, bound.variables["bits"])
        self.bits.assign(bound.variables["bits"])
        frozen = self.frozen & same
        average = tf.where(same, self.average, centred)
        # The step may have been learned further: a frozen weight keeps its integer.
        centred = tf.where(frozen, tf.floor(average + 0.5), centred)
        change = tf.sign(tf.where(same, centred - self.integer, 0.0))
        oscillates = tf.cast(change * self.direction < 0, tf.float32)
        frequency = tf.where(same, self.frequency, 0.0)
        frequency += momentum * (oscillates - frequency)
        average = tf.where(frozen, average, average + momentum * (centred - average))
        frozen |= frequency > threshold
        top = levels_of(bound.variables["bits"]) - zero_point
        level = tf.clip_by_value(tf.floor(average + 0.5), -zero_point, top)
        bound.kernel.assign(tf.where(frozen, level * step, bound.kernel))
        self.frozen.assign(frozen)
        self.frequency.assign(frequency)
        self.average.assign(average)
        self.integer.assign(tf.where(frozen, level, centred))
        self.direction.assign(tf.where(tf.equal(change, 0.0), self.direction, change))
