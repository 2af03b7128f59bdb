"""Weight rounding learned block by block from unlabelled inputs.

Nearest rounding of each weight is not what changes a layer's output least. Here each weight learns
whether to go up or down (M. Nagel et al., Up or Down? Adaptive Rounding for Post-Training
Quantization, ICML 2020), for the output of the block it is in (Y. Li et al., BRECQ, ICLR 2021).
With it are learned one offset per output channel and the activations' step sizes.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tfmix.errors import TfmixError
from tfmix.fakequant.apply import BoundQuantizer, get_policy, require_quantized, unwrap
from tfmix.fakequant.bias_correction import offset_variable, shift_output
from tfmix.fakequant.calibrate import MAX_SAMPLES, inputs_from
from tfmix.fakequant.layerwise import (
    Layerwise,
    LiveTensors,
    activate,
    float_layers,
    in_batches,
)
from tfmix.fakequant.quantizers import MinMaxWeightQuantizer
from tfmix.fakequant.rebuild import build_float
from tfmix.frontend.keras import read
from tfmix.ir.graph import WEIGHTED_OPS, Graph, Node, Op
from tfmix.ir.quant import BIT_WIDTHS, max_level

#: Optimizer steps a block: at 4-bit weights and activations, 1000 leave half a point on ResNet-8.
STEPS = 2500
#: Stretch of the rectified sigmoid, Nagel et al. 2020, eq. (23).
_ZETA, _GAMMA = 1.1, -0.1
#: Adam's rate for the rounding variables; offsets and log steps change this much more slowly.
_LEARNING_RATE = 1e-2
_SLOW = 0.1
#: Part of the steps before weights are driven to decide; then eq. (24)'s beta falls from 20 to 2.
_FREE = 0.2
_BETA = (20.0, 2.0)
#: Weight of the regularizer, in errors of the block before learning for a mean weight undecided.
_REGULARIZATION = 50.0
#: Errors below are none, and nothing is to be learned.
_LEAST_ERROR = 1e-12
_STATE_FILE = "rounding.npz"


def blocks_of(graph: Graph) -> tuple[tuple[Node, ...], ...]:
    """The nodes in consecutive blocks with one input and one output tensor each.

    The shortest there are, so that a block holds a whole residual branch and its shortcut; but
    nodes without weights, and a depthwise convolution, go with what follows.
    """
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    readers[graph.output] += 1
    live = {graph.input}
    blocks: list[tuple[Node, ...]] = []
    block: list[Node] = []
    for node in graph.nodes:
        block.append(node)
        readers.subtract(node.inputs)
        live = {name for name in {*live, node.output} if readers[name]}
        weighted = [n for n in block if n.op in WEIGHTED_OPS]
        only_depthwise = len(weighted) == 1 and weighted[0].op is Op.DEPTHWISE_CONV2D
        if live == {node.output} and weighted and not only_depthwise:
            blocks.append(tuple(block))
            block = []
    if block and any(n.op in WEIGHTED_OPS for n in block):
        blocks.append(tuple(block))
    elif block:
        last = blocks.pop() if blocks else ()
        blocks.append((*last, *block))
    return tuple(blocks)


@dataclass(frozen=True)
class BlockResult:
    """What learning did to one block: its error on the data before and after.

    nodes: names in execution order. The error is the mean over samples and pixels of the squared
    difference from the float block's output, summed over channels; of the last block, where it
    ends in softmax, the mean Kullback-Leibler divergence in nats.
    """

    nodes: tuple[str, ...]
    before: float
    after: float


def learn_rounding(
    model: tf_keras.Model,
    data: Any,
    *,
    reference: tf_keras.Model | None = None,
    steps: int = STEPS,
    batch_size: int = 32,
    samples: int = MAX_SAMPLES,
    state_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    verbose: int = 1,
) -> tuple[BlockResult, ...]:
    """Learns at the bits now set which weights to round up, and writes the result into the kernels.

    Block after block (`blocks_of`), each behind those already done, Adam minimizes

        error of the block's output / error with nearest rounding
        + 50 * mean(1 - |2 h - 1|^beta),    w = step * (clip(floor(w / step) + h + z, 0, L) - z)

    where h in [0, 1] says how far a weight is rounded up: eq. (21) to (24) of Nagel et al. 2020
    with the objective of Li et al. 2021, eq. (10), unweighted, made independent of the network's
    scale. At the end each h is 0 or 1. The kernels then hold step * (q - z) exactly, which the
    weight quantizers, and conversion, round to that very q: so other bits should be set, and
    training started, from the weights before. A block that gained nothing stays as it was.

    Args:
      model: a fake-quant model with calibrated ranges, biases best corrected.
      data: inputs, as `calibrate` takes them; a few hundred. All of them, and the input and output
        of a block, are held in memory.
      reference: a model with the float layers to imitate; None is `model` with its quantizers off.
      steps, batch_size: of the optimizer, in each block.
      samples: at most this many inputs are used.
      state_dir: a directory, made if its parent is there, for the state after each block. Called
        again with the same model, data and arguments, learning goes on after the last block done,
        and gives what it would have given.
      seed: of the batches.
      verbose: 1 prints a line for each block.

    Raises CalibrationError where the data is empty, of a wrong shape, or not finite; TfmixError
    where `state_dir` holds the state of something else, or cannot be written.
    """
    require_quantized(model)
    if reference is None:  # as it is now: the kernels are about to change
        reference = build_float(read(model, unwrap))
    layers, source = Layerwise(model), float_layers(model, reference)
    graph = layers.graph
    x = inputs_from(data, graph, samples)
    settings = (steps, min(batch_size, len(x)), seed)
    state = _State.open(state_dir, model, layers, x, settings)
    found = LiveTensors(graph, in_batches(partial(layers.quantize, graph.input), [x]))
    wanted = LiveTensors(source.graph, x)
    blocks = blocks_of(graph)
    for index, nodes in enumerate(blocks):
        start = time.monotonic()
        learner = None
        if index >= len(state.results):
            learner = _Block(layers, nodes, found[nodes[0].inputs[0]])
        _run_float(source, nodes, wanted, learner)
        if learner is not None:
            before, after = learner.learn(steps, settings[1], np.random.default_rng((seed, index)))
            state.add(BlockResult(tuple(node.name for node in nodes), before, after))
        if verbose:
            _report(index, len(blocks), state.results[index], time.monotonic() - start)
        for node in nodes:
            found.put(node.output, in_batches(partial(layers.run, node), found.inputs_of(node)))
    return tuple(state.results)


def _run_float(
    source: Layerwise, nodes: tuple[Node, ...], tensors: LiveTensors, learner: _Block | None
) -> None:
    """Runs the float twins of `nodes`, and shows the learner what they give."""
    twins = {node.name: node for node in source.graph.nodes}
    for node in nodes:
        twin = twins[node.name]
        y = in_batches(partial(source.linear, twin), tensors.inputs_of(twin))
        if learner is not None:
            learner.expect(node, y)
        y = in_batches(partial(source.finish, twin), [y])
        if learner is not None and node is learner.last:
            learner.target = y
        tensors.put(twin.output, y)


def _report(index: int, count: int, result: BlockResult, seconds: float) -> None:
    first, last = result.nodes[0], result.nodes[-1]
    name = first if first == last else f"{first} .. {last}"
    print(
        f"rounding {index + 1}/{count}  {name}: error {result.before:.3g} -> {result.after:.3g}, "
        f"{seconds:.0f} s",
        flush=True,
    )


# -- one block --------------------------------------------------------------------------------


class _Block:
    """Learns one block: its rounding, an offset per output channel, its activations' steps."""

    def __init__(self, layers: Layerwise, nodes: tuple[Node, ...], inputs: np.ndarray):
        self.layers = layers
        self.input = nodes[0].inputs[0]
        self.inputs = inputs
        graph = layers.graph
        self.ends_in_softmax = nodes[-1].op is Op.SOFTMAX and nodes[-1].output == graph.output
        #: The nodes that run; probabilities are compared by their logits.
        self.nodes = nodes[:-1] if self.ends_in_softmax else nodes
        self.last = self.nodes[-1]
        self.target: np.ndarray | None = None
        self.kernels = {
            node.name: _SoftKernel(bound)
            for node in self.nodes
            if (bound := layers.quantizers.weights.get(node.name)) and _bits(bound) in BIT_WIDTHS
        }
        self.steps = {
            node.output: _SoftStep(bound, node.output)
            for node in self.nodes
            if (bound := layers.quantizers.activations.get(node.output))
            and _bits(bound) in BIT_WIDTHS
            and node.output not in graph.fixed_tensors
            and not bound.quantizer.fixed
        }
        self.offsets: dict[str, tf.Variable] = {}
        self._units: dict[str, float] = {}

    def expect(self, node: Node, y: np.ndarray) -> None:
        """Hands over the float node's output before its ReLU: the unit of the node's offsets."""
        if node in self.nodes and offset_variable(self.layers, node) is not None:
            self._units[node.name] = _SLOW * max(float(y.std()), 1e-6)
            self.offsets[node.name] = tf.Variable(np.zeros(y.shape[-1], np.float32))

    def learn(self, steps: int, batch_size: int, rng: np.random.Generator) -> tuple[float, float]:
        """Returns the block's error before and after; the model's variables hold the result."""
        before = self._error()
        if before < _LEAST_ERROR:
            return before, before
        free = [kernel.logits for kernel in self.kernels.values()]
        free += [step.variable for step in self.steps.values()] + list(self.offsets.values())
        if not free:
            return before, before
        optimizer = tf_keras.optimizers.Adam(_LEARNING_RATE, jit_compile=False)
        optimizer.build(free)
        for kernel in self.kernels.values():
            kernel.learn()
        inputs, target = tf.constant(self.inputs), tf.constant(self.target)

        @tf.function
        def step(chosen: tf.Tensor, beta: tf.Tensor, weight: tf.Tensor) -> None:
            with tf.GradientTape() as tape:
                y = self._run(tf.gather(inputs, chosen))
                loss = tf.reduce_mean(self._errors(y, tf.gather(target, chosen))) / before
                if self.kernels:
                    loss += weight * self._undecided(beta)
            gradients = tape.gradient(loss, free)
            optimizer.apply_gradients(zip(gradients, free, strict=True))

        for i, chosen in enumerate(_batches(len(self.inputs), batch_size, steps, rng)):
            progress = max(i / steps - _FREE, 0) / (1 - _FREE)
            beta = _BETA[1] + (_BETA[0] - _BETA[1]) * (1 + np.cos(np.pi * progress)) / 2
            weight = _REGULARIZATION if i >= _FREE * steps else 0.0
            step(tf.constant(chosen), tf.constant(np.float32(beta)), tf.constant(weight))
        for kernel in self.kernels.values():
            kernel.decide()
        after = self._error()
        if after >= before:
            return before, before
        self._write()
        return before, after

    def _run(self, x: tf.Tensor) -> tf.Tensor:
        """The output of the block as it is being learned."""
        layers, values = self.layers, {self.input: x}
        for node in self.nodes:
            kernel = self.kernels.get(node.name)
            y = layers.linear(
                node,
                *(values[name] for name in node.inputs),
                kernel=None if kernel is None else kernel.value(),
            )
            if node.name in self.offsets:
                y += self.offsets[node.name] * self._units[node.name]
            y = activate(node, y)
            step = self.steps.get(node.output)
            values[node.output] = y if step is None else step(y)
        return values[self.last.output]

    def _errors(self, y: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """Error of each sample and pixel."""
        if not self.ends_in_softmax:
            return tf.reduce_sum(tf.square(y - target), axis=-1)
        wanted, found = tf.nn.log_softmax(target), tf.nn.log_softmax(y)
        return tf.reduce_sum(tf.exp(wanted) * (wanted - found), axis=-1)

    def _error(self) -> float:
        def errors(x: np.ndarray, target: np.ndarray) -> tf.Tensor:
            return self._errors(self._run(x), target)

        assert self.target is not None
        return float(in_batches(errors, [self.inputs, self.target]).mean(dtype=np.float64))

    def _undecided(self, beta: tf.Tensor) -> tf.Tensor:
        """Eq. (24) of Nagel et al. 2020, a mean instead of a sum."""
        ups = [tf.reshape(kernel.up(), [-1]) for kernel in self.kernels.values()]
        return tf.reduce_mean(1 - tf.pow(tf.abs(2 * tf.concat(ups, 0) - 1), beta))

    def _write(self) -> None:
        for node in self.nodes:
            if node.name in self.kernels:
                self.kernels[node.name].write()
            if node.name in self.offsets:
                shift = self.offsets[node.name].numpy() * self._units[node.name]
                shift_output(self.layers, node, shift)
        for step in self.steps.values():
            step.write()


def _bits(bound: BoundQuantizer) -> int:
    return int(bound.variables["bits"])


def _batches(count: int, size: int, steps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Indices of `steps` batches, each sample once before any comes again."""
    left = np.zeros(0, np.int64)
    for _ in range(steps):
        if len(left) < size:
            left = rng.permutation(count)
        chosen, left = left[:size], left[size:]
        yield chosen


class _SoftKernel:
    """A kernel whose weights lie between the two levels around them while they learn."""

    def __init__(self, bound: BoundQuantizer):
        self._bound = bound
        w = tf.convert_to_tensor(bound.kernel)
        _, self._step, self._zero_point = bound.quantizer.quantize(w, bound.variables)
        self._levels = float(max_level(_bits(bound)))
        self._floor = tf.floor(w / self._step)
        self._nearest = tf.floor(w / self._step + 0.5) - self._floor
        self._held = tf.zeros_like(w, tf.bool)
        if isinstance(bound.quantizer, MinMaxWeightQuantizer):
            # The grid is that of the least and the greatest weight: they must keep their levels.
            axes = bound.quantizer.shared_axes(w.shape.rank)
            ends = [reduce(w, axes, keepdims=True) for reduce in (tf.reduce_min, tf.reduce_max)]
            self._held = tf.logical_or(tf.equal(w, ends[0]), tf.equal(w, ends[1]))
        fraction = tf.clip_by_value(w / self._step - self._floor, 0.01, 0.99)
        self.logits = tf.Variable(-tf.math.log((_ZETA - _GAMMA) / (fraction - _GAMMA) - 1))
        #: Each weight up (1) or down (0); None while they learn.
        self.decided: tf.Tensor | None = self._nearest

    def up(self) -> tf.Tensor:
        """h: how far each weight is rounded up, in [0, 1]; eq. (23) of Nagel et al. 2020."""
        h = tf.clip_by_value(tf.sigmoid(self.logits) * (_ZETA - _GAMMA) + _GAMMA, 0.0, 1.0)
        return tf.where(self._held, self._nearest, h)

    def learn(self) -> None:
        self.decided = None

    def decide(self) -> None:
        self.decided = tf.cast(self.up() >= 0.5, tf.float32)

    def value(self) -> tf.Tensor:
        h = self.up() if self.decided is None else self.decided
        q = tf.clip_by_value(self._floor + h + self._zero_point, 0.0, self._levels)
        return (q - self._zero_point) * self._step

    def write(self) -> None:
        self._bound.kernel.assign(self.value())


class _SoftStep:
    """The quantizer of an activation, whose step is learned straight through its rounding."""

    def __init__(self, bound: BoundQuantizer, tensor: str):
        self._bound = bound
        quant = bound.quantizer.quant_params(bound.variables, tensor)
        self._levels, self._zero_point = float(max_level(quant.bits)), float(quant.zero_point)
        self._initial = np.float32(np.log(quant.scale))
        top = bound.quantizer.maximum
        self._top = np.inf if top is None else np.log(top / self._levels)
        self.variable = tf.Variable(0.0)

    def step(self) -> tf.Tensor:
        return tf.exp(tf.minimum(self._initial + _SLOW * self.variable, self._top))

    def __call__(self, y: tf.Tensor) -> tf.Tensor:
        step = self.step()
        v = y / step
        rounded = v + tf.stop_gradient(tf.floor(v + 0.5) - v)
        low, high = -self._zero_point, self._levels - self._zero_point
        return tf.clip_by_value(rounded, low, high) * step

    def write(self) -> None:
        """Sets the range at the bits now set; those of other bits stay."""
        quantizer, variables = self._bound.quantizer, self._bound.variables
        lows, highs = (np.array(limit, np.float32) for limit in quantizer.ranges(variables))
        index, step = BIT_WIDTHS.index(_bits(self._bound)), float(self.step())
        lows[index] = -self._zero_point * step
        highs[index] = (self._levels - self._zero_point) * step
        quantizer.set_ranges(variables, lows, highs)


# -- state ------------------------------------------------------------------------------------


class _State:
    """The blocks done, and a file that holds them together with all weights of the model."""

    def __init__(self, model: tf_keras.Model, path: Path | None, identity: str):
        self.results: list[BlockResult] = []
        self._model, self._path, self._identity = model, path, identity

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str] | None,
        model: tf_keras.Model,
        layers: Layerwise,
        x: np.ndarray,
        settings: tuple[int, ...],
    ) -> _State:
        """The state in `directory`, with the model's weights set from it; else a new one."""
        if directory is None:
            return cls(model, None, "")
        path = Path(directory) / _STATE_FILE
        state = cls(model, path, _identity(model, layers, x, settings))
        try:
            path.parent.mkdir(exist_ok=True)
            if path.exists():
                state._read()
        except OSError as error:
            raise TfmixError(f"state_dir: cannot use {path}: {error.strerror}") from error
        return state

    def _read(self) -> None:
        assert self._path is not None
        try:
            with np.load(self._path) as archive:
                head = json.loads(str(archive["head"]))
                weights = [archive[f"weight_{i}"] for i in range(head["weights"])]
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise TfmixError(f"state_dir: {self._path} is not the state of a rounding") from error
        if head["identity"] != self._identity:
            raise TfmixError(
                f"state_dir: {self._path} is of another model, policy, data or other arguments, or "
                "of a model already rounded; give another directory, or delete the file"
            )
        self.results = [BlockResult(tuple(nodes), *errors) for nodes, *errors in head["results"]]
        self._model.set_weights(weights)

    def add(self, result: BlockResult) -> None:
        self.results.append(result)
        if self._path is None:
            return
        weights = self._model.get_weights()
        head = {
            "identity": self._identity,
            "results": [(r.nodes, r.before, r.after) for r in self.results],
            "weights": len(weights),
        }
        arrays = {f"weight_{i}": weight for i, weight in enumerate(weights)}
        new = self._path.with_name(f".{secrets.token_hex(4)}.npz")
        try:
            np.savez(new, head=json.dumps(head), **arrays)
            os.replace(new, self._path)
        except OSError as error:
            raise TfmixError(f"state_dir: cannot write {self._path}: {error.strerror}") from error
        finally:
            new.unlink(missing_ok=True)


def _identity(
    model: tf_keras.Model, layers: Layerwise, x: np.ndarray, settings: tuple[int, ...]
) -> str:
    """A digest of all that the result depends on, but for what calibration sets."""
    policy = get_policy(model)
    # Not the names: Keras gives a model built again in one process other ones.
    bits = [*policy.weight_bits.values(), *policy.activation_bits.values()]
    digest = hashlib.sha256(repr((settings, bits, x.shape)).encode())
    digest.update(x.tobytes())
    for bound in layers.quantizers.weights.values():
        digest.update(bound.kernel.numpy().tobytes())
    return digest.hexdigest()
