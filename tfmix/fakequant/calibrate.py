"""Activation ranges from data: one pass of the float network over a sample."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tfmix.errors import CalibrationError
from tfmix.fakequant.apply import quantizers_of, unwrap
from tfmix.fakequant.quantizers import mse_ranges
from tfmix.fakequant.rebuild import build_float
from tfmix.frontend.keras import read
from tfmix.ir.graph import Graph, Op
from tfmix.ir.quant import BIT_WIDTHS, max_level, round_half_up

#: Values of each tensor that the search for the best range looks at.
SAMPLED_VALUES = 1 << 15
#: Samples used where more are given.
MAX_SAMPLES = 1024
_BATCH = 32
#: Inputs remembered, for `convert` to compare on.
_REMEMBERED = 8
_remembered: weakref.WeakKeyDictionary[tf_keras.Model, np.ndarray] = weakref.WeakKeyDictionary()


def set_ranges(model: tf_keras.Model, data: Any, seed: int) -> None:
    """Sets the activation ranges of a fake-quant model from `data`.

    For each tensor and each bit-width the range of least mean squared error is taken, from the
    float network's values; logits take the range that changes their softmax least, the input keeps
    its full range.

    data: see `batches`; up to 1,024 samples are used. seed: chooses which values of large tensors
    are looked at. CalibrationError where the data is empty, of a wrong shape, or not finite.
    """
    network, quantizers = read(model, unwrap), quantizers_of(model)
    graph = network.graph
    logits = _logits(graph)
    first: list[np.ndarray] = []
    observed = _observe(
        build_float(network), graph, _keeping_first(batches(data, graph), first), seed
    )
    for tensor, (low, high, values) in observed.items():
        bound = quantizers.activations[tensor]
        quantizer = bound.quantizer
        if quantizer.fixed:
            continue
        if tensor == graph.input:
            lows, highs = [low] * len(BIT_WIDTHS), [high] * len(BIT_WIDTHS)
            if low == high:  # an image of one colour, zero
                highs = [1.0] * len(BIT_WIDTHS)
        elif tensor in logits:
            lows, highs = softmax_ranges(values.reshape(-1, logits[tensor]), low, high)
        else:
            lows, highs = mse_ranges(
                tf.constant(values),
                tf.constant(low),
                tf.constant(high),
                quantizer.signed,
                quantizer.maximum,
            )
        quantizer.set_ranges(bound.variables, lows, highs)
    _remembered[model] = first[0][:_REMEMBERED].copy()


def remembered_inputs(model: tf_keras.Model) -> np.ndarray | None:
    """A few of the inputs that a model's ranges were last set from, if that was in this process."""
    return _remembered.get(model)


def _keeping_first(parts: Iterable[np.ndarray], first: list[np.ndarray]) -> Iterator[np.ndarray]:
    for part in parts:
        if not first:
            first.append(part)
        yield part


def _observe(
    model: tf_keras.Model, graph: Graph, data: Iterable[np.ndarray], seed: int
) -> dict[str, tuple[float, float, np.ndarray]]:
    """Tensor -> (least value or 0, greatest value or 0, a sample of its values), in float."""
    names, logits = graph.quantized_tensors, _logits(graph)
    outputs = [model.get_layer(name).output for name in names]
    forward = tf.function(tf_keras.Model(model.inputs, outputs), reduce_retracing=True)
    rng = np.random.default_rng(seed)
    low, high = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    samples: dict[str, list[np.ndarray]] = {name: [] for name in names}
    per_batch = max(SAMPLED_VALUES * _BATCH // MAX_SAMPLES, 1)
    for batch in data:
        tensors = forward(tf.constant(batch))
        for name, tensor in zip(names, tf.nest.flatten(tensors), strict=True):
            flat = tensor.numpy().reshape(-1)
            low[name] = float(np.minimum(low[name], flat.min()))  # NaN stays NaN
            high[name] = float(np.maximum(high[name], flat.max()))
            # The first batches give more, so that small data sets give a full sample too.
            held = sum(map(len, samples[name]))
            count = min(max(per_batch, (SAMPLED_VALUES - held) // 4), SAMPLED_VALUES - held)
            if name in logits:  # whole rows
                rows = min(count, flat.size) // logits[name]
                samples[name].append(flat[: rows * logits[name]])
            else:
                samples[name].append(flat[rng.integers(0, flat.size, min(count, flat.size))])
    if not np.isfinite(list(low.values()) + list(high.values())).all():
        bad = next(n for n in names if not np.isfinite([low[n], high[n]]).all())
        raise CalibrationError(f"{bad}: the float network gives NaN or infinite values here")
    return {n: (low[n], high[n], np.concatenate(samples[n])) for n in names}


def _logits(graph: Graph) -> dict[str, int]:
    """Quantized tensors that softmax reads, and their number of classes."""
    return {
        graph.quantizer_of(node.inputs[0]): graph.hwc(node.inputs[0])[2]
        for node in graph.nodes
        if node.op is Op.SOFTMAX
    }


def softmax_ranges(rows: np.ndarray, low: float, high: float) -> tuple[list[float], list[float]]:
    """Ranges of logits that change their softmax least, one per bit-width.

    rows: float32 [n, classes]. Logits far below the greatest make no difference after softmax; a
    range that keeps them wastes resolution where classes are decided. So the range of least mean
    Kullback-Leibler divergence is taken, over 16 x 16 fractions of [low, 0] x [0, high].
    """
    high = max(high, 1e-3)
    rows = rows.astype(np.float64)
    expected = _log_softmax(rows)
    ratios = np.arange(1, 17) / 16
    lows, highs = [], []
    for bits in BIT_WIDTHS:
        losses = {}
        for lo, hi in itertools.product(low * ratios, high * ratios):
            scale = (hi - lo) / max_level(bits)
            zero_point = round_half_up(-lo / scale)
            q = np.clip(round_half_up(rows / scale) + zero_point, 0, max_level(bits))
            divergence = expected - _log_softmax((q - zero_point) * scale)
            losses[lo, hi] = (np.exp(expected) * divergence).sum(axis=-1).mean()
        lo, hi = min(losses, key=losses.__getitem__)
        lows.append(float(lo))
        highs.append(float(hi))
    return lows, highs


def _log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def inputs_from(data: Any, graph: Graph, samples: int = MAX_SAMPLES) -> np.ndarray:
    """Up to `samples` inputs, float32 [n, *input shape], from whatever `calibrate` takes."""
    return np.concatenate(list(batches(data, graph, samples)))


def batches(data: Any, graph: Graph, samples: int = MAX_SAMPLES) -> Iterator[np.ndarray]:
    """Float32 batches [<= 32, *input shape] of up to `samples` inputs, each one checked.

    data: inputs as the network takes them: an array [n, ...], a tf.data.Dataset or any iterable of
    batches; labels beside the inputs are ignored.
    """
    shape = graph.tensors[graph.input].shape
    taken = 0
    for chunk in _chunks(data):
        x = np.asarray(chunk)
        if x.shape[1:] != shape or x.ndim != len(shape) + 1:
            raise CalibrationError(
                f"calibration data of shape {x.shape}; {graph.input} takes (n, "
                f"{', '.join(map(str, shape))})"
            )
        if x.dtype.kind not in "fiub":
            raise CalibrationError(f"calibration data of dtype {x.dtype}; numbers are needed")
        x = x[: samples - taken].astype(np.float32)
        if not np.isfinite(x).all():
            raise CalibrationError("calibration data holds NaN or infinite values")
        taken += len(x)
        for start in range(0, len(x), _BATCH):
            yield x[start : start + _BATCH]
        if taken >= samples:
            return
    if not taken:
        raise CalibrationError("calibration data is empty; a few hundred typical inputs are needed")


def _chunks(data: Any) -> Iterator[Any]:
    """Input arrays from an array, (x, y), a tf.data.Dataset or an iterable of either."""
    if isinstance(data, tuple) and len(data) in (2, 3):
        data = data[0]
    if isinstance(data, (np.ndarray, tf.Tensor)):
        yield data
        return
    if not isinstance(data, Iterable):
        raise CalibrationError(
            f"calibration data of type {type(data).__name__}; an array, a tf.data.Dataset or an "
            "iterable of batches is needed"
        )
    for item in data:
        yield item[0] if isinstance(item, (tuple, list)) else item
