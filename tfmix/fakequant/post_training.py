"""`calibrate`: a fake-quant model that needs no training, from a few hundred unlabelled inputs."""

from __future__ import annotations

import os
import weakref
from typing import Any, Literal, get_args

import numpy as np
import tensorflow as tf
import tf_keras

from tfmix.errors import TfmixError
from tfmix.fakequant.apply import require_quantized, unwrap
from tfmix.fakequant.bias_correction import correct_bias
from tfmix.fakequant.calibrate import MAX_SAMPLES, inputs_from, set_ranges
from tfmix.fakequant.equalize import equalize as equalize_channels
from tfmix.fakequant.layerwise import in_batches
from tfmix.fakequant.rebuild import build_float
from tfmix.fakequant.rounding import STEPS, learn_rounding
from tfmix.frontend.keras import read
from tfmix.ir.graph import Graph

Method = Literal["ranges", "quick", "full"]

#: What the last call did to each model: (weights before, weights after).
_last: weakref.WeakKeyDictionary[tf_keras.Model, tuple[list, list]] = weakref.WeakKeyDictionary()


def calibrate(
    model: tf_keras.Model,
    data: Any,
    *,
    method: Method = "full",
    equalize: bool | Literal["auto"] = "auto",
    steps: int = STEPS,
    samples: int = MAX_SAMPLES,
    state_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    verbose: int = 1,
) -> None:
    """Fits a fake-quant model to its float network at the bits now set; no labels, no training.

    In this order: channels are equalized (`tfmix.equalize`), activation ranges are searched for,
    biases corrected (`tfmix.correct_bias`), weights rounded (`tfmix.learn_rounding`).

    The float network is the model itself with its quantizers off. A model that has not changed
    since the last call is first put back to what it was before it: so calls do not add up, and
    after `set_policy` one calibrates again. In this process only: calibrate a model loaded from a
    file anew from the float model.

    Args:
      model: a fake-quant model; it changes in place. Its bits stay.
      data: inputs as the network takes them: an array [n, ...], a tf.data.Dataset or any iterable
        of batches; labels beside the inputs are ignored. A few hundred, like those it will see.
      method: "ranges" sets the activation ranges, at all bit-widths, and nothing else; "quick" also
        equalizes and corrects, in seconds; "full" also learns the rounding, in minutes.
      equalize: "auto" equalizes where that brings the network's output closer to the float one.
      steps, state_dir: of `learn_rounding`: optimizer steps a block, and where to keep the state
        after each block, so that a call that was cut short goes on when repeated.
      samples: at most this many inputs are used.
      seed: of every random choice.
      verbose: 1 prints what is done.

    Raises CalibrationError where the data is empty, of a wrong shape, or not finite; TfmixError for
    a state directory that cannot be used.
    """
    require_quantized(model)
    if method not in get_args(Method):
        raise TfmixError(f"method {method!r} is not one of {get_args(Method)}")
    if not (isinstance(equalize, bool) or equalize == "auto"):
        raise TfmixError(f"equalize {equalize!r} is not one of (True, False, 'auto')")
    network = read(model, unwrap)
    x = inputs_from(data, network.graph, samples)
    if method == "ranges":
        set_ranges(model, x, seed)
        return
    _undo_last(model)
    before = model.get_weights()
    reference = _equalize_and_correct(model, x, equalize, seed, verbose)
    if method == "full":
        learn_rounding(
            model,
            x,
            reference=reference,
            steps=steps,
            samples=len(x),
            state_dir=state_dir,
            seed=seed,
            verbose=verbose,
        )
    _last[model] = (before, model.get_weights())


def _undo_last(model: tf_keras.Model) -> None:
    """Puts the weights back that the last call found, if nothing but bits changed since."""
    if model not in _last:
        return
    before, after = _last[model]
    bits = [np.issubdtype(np.asarray(w).dtype, np.integer) for w in after]
    now = model.get_weights()
    if all(b or np.array_equal(a, w) for a, w, b in zip(after, now, bits, strict=True)):
        model.set_weights([w if b else old for old, w, b in zip(before, now, bits, strict=True)])


def _equalize_and_correct(
    model: tf_keras.Model, x: np.ndarray, equalize: bool | str, seed: int, verbose: int
) -> tf_keras.Model:
    """The cheap part; returns the float network, equalized as the model is."""
    original = model.get_weights()
    reference, error = _corrected(model, x, seed) if equalize is not True else (None, np.inf)
    pairs: tuple = ()
    if equalize:
        plain = model.get_weights()
        model.set_weights(original)
        pairs = equalize_channels(model, x)
        if pairs:
            equalized, new_error = _corrected(model, x, seed)
            if new_error < error:
                reference, error = equalized, new_error
            else:
                pairs = ()
        if not pairs:
            model.set_weights(plain)
    if reference is None:  # told to equalize, and nothing was there
        reference, error = _corrected(model, x, seed)
    if verbose:
        print(f"equalized {len(pairs)} pairs of layers; ranges set, biases corrected: {error:.4g} ")
    return reference


def _corrected(model: tf_keras.Model, x: np.ndarray, seed: int) -> tuple[tf_keras.Model, float]:
    """Sets ranges and corrects biases; the float network, and how far the model's output is."""
    network = read(model, unwrap)
    reference = build_float(network)
    set_ranges(model, x, seed)
    correct_bias(model, x, reference=reference, samples=len(x))
    return reference, _output_error(network.graph, reference, model, x)


def _output_error(
    graph: Graph, reference: tf_keras.Model, model: tf_keras.Model, x: np.ndarray
) -> float:
    """Mean Kullback-Leibler divergence of probabilities in nats, else mean squared error."""
    wanted, found = (
        in_batches(tf.function(m, reduce_retracing=True), [x]).astype(np.float64)
        for m in (reference, model)
    )
    if graph.is_softmax_output(graph.output):
        wanted, found = np.maximum(wanted, 1e-30), np.maximum(found, 1e-30)
        return float((wanted * np.log(wanted / found)).sum(axis=-1).mean())
    return float(np.square(wanted - found).mean())
