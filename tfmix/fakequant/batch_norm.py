"""Batch-norm statistics of a fake-quant model, measured anew on data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import tf_keras

from tfmix.fakequant.calibrate import MAX_SAMPLES, inputs_from
from tfmix.fakequant.layerwise import Layerwise, LiveTensors, in_batches

#: What is left in the moving averages, after an episode, of what they held before.
_LEFT = 0.2


def reestimate_batch_norm(
    model: tf_keras.Model, data: Any, *, samples: int = MAX_SAMPLES, verbose: int = 0
) -> tuple[str, ...]:
    """Sets moving mean and variance of every batch norm to what it sees in `data`.

    The moving averages that training leaves are those of a model that has changed since, and at
    few bits they are far off. Here the layers are visited in order, each with the layers before it
    already corrected and all quantizers at work, and the statistics are exact: those of all
    samples, every pixel counted once, not an average over batches. Weights, gamma and beta stay,
    and so does whether a layer is trainable. Labels are not needed.

    The inputs should look like those trained on, augmentation included, and there should be
    enough: a thousand, or thousands of small images. Live activations of all samples are held in
    memory: some 200 kB a sample for a ResNet-8 on 32x32 images.

    Args:
      model: a fake-quant model, or a float one.
      data: inputs, as `calibrate` takes them.
      samples: at most this many of them are used.
      verbose: 1 prints one line that says what was done.

    Returns the names of the batch norms set; none where they were folded.

    Raises CalibrationError where the data is empty, of a wrong shape, or not finite.
    """
    layers = Layerwise(model)
    graph = layers.graph
    x = inputs_from(data, graph, samples)
    tensors = LiveTensors(graph, in_batches(partial(layers.quantize, graph.input), [x]))
    names = [node.batch_norm for node in graph.nodes if node.batch_norm is not None]
    left = len(names)
    for node in graph.nodes:
        if not left:
            break
        z = in_batches(lambda *xs, node=node: layers.compute(node, *xs), tensors.inputs_of(node))
        batch_norm = layers.batch_norm_layer(node)
        if batch_norm is not None:
            axes = tuple(range(z.ndim - 1))
            batch_norm.moving_mean.assign(z.mean(axes, dtype=np.float64))
            batch_norm.moving_variance.assign(z.var(axes, dtype=np.float64))
            left -= 1
        y = in_batches(lambda z, node=node: layers.finish(node, layers.normalize(node, z)), [z])
        tensors.put(node.output, y)
    if verbose:
        if names:
            print(f"{len(names)} batch norms re-estimated on {len(x)} samples")
        else:
            print(
                "no batch norm to re-estimate: they are folded into the weights, or there are none"
            )
    return tuple(names)


@contextlib.contextmanager
def following_statistics(model: tf_keras.Model, steps: int) -> Iterator[None]:
    """Batch norms traced within keep moving averages that follow the model in `steps` batches.

    With the usual momentum of 0.99 they hardly move in the few batches of a search's episode: what
    is measured then is how wrong they are, not how good the policy is.
    """
    layers = [m for m in model.submodules if isinstance(m, tf_keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = min(layer.momentum, _LEFT ** (1 / steps))
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
