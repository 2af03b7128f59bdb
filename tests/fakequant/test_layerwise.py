"""Node by node gives what the model gives."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import tf_keras
from keras_models import SUPPORTED, quantized, random_inputs
from random_networks import random_model, random_policy

import tfmix
from tfmix.fakequant.layerwise import Layerwise, LiveTensors, in_batches
from tfmix.ir.graph import WEIGHTED_OPS


def outputs(layers: Layerwise, x: np.ndarray) -> np.ndarray:
    image = layers.graph.input
    tensors = LiveTensors(layers.graph, in_batches(partial(layers.quantize, image), [x]))
    for node in layers.graph.nodes:
        xs = tensors.inputs_of(node)
        tensors.put(node.output, in_batches(lambda *b, node=node: layers.run(node, *b), xs))
    return tensors[layers.graph.output]


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Float sums in another order may cross a rounding edge: a few values may be a step off."""
    scale = np.abs(expected).max() + 1e-6
    assert (np.abs(found - expected) < 1e-4 * scale).mean() > 0.98
    assert np.abs(found - expected).mean() < 0.01 * scale


@pytest.mark.parametrize("case", SUPPORTED)
def test_is_the_model(case):
    model, qmodel = quantized(case)
    x = random_inputs(model, 5)
    np.testing.assert_allclose(outputs(Layerwise(model), x), model(x), rtol=1e-3, atol=1e-4)
    assert_close(outputs(Layerwise(qmodel), x), qmodel(x).numpy())
    float_again = outputs(Layerwise(qmodel, quantized=False), x)
    np.testing.assert_allclose(float_again, model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_a_random_network(seed):
    model = random_model(seed)
    x = random_inputs(model, 5, seed)
    np.testing.assert_allclose(outputs(Layerwise(model), x), model(x), rtol=1e-3, atol=1e-4)
    folded = tfmix.quantize_model(model, None, batch_norm="fold", calibration_data=x, verbose=0)
    tfmix.set_policy(folded, random_policy(model, seed))
    assert_close(outputs(Layerwise(folded), x), folded(x).numpy())


def test_reads_the_variables_anew(case="conv2d"):
    qmodel = tf_keras.models.clone_model(quantized(case)[1])
    layers = Layerwise(qmodel)
    (node,) = (node for node in layers.graph.nodes if node.op in WEIGHTED_OPS)
    layers.bias(node).assign(layers.bias(node) + 1)
    x = random_inputs(qmodel, 3)
    before = layers.compute(node, x)
    layers.bias(node).assign(layers.bias(node) + 2)
    np.testing.assert_allclose(layers.compute(node, x), before + 2, rtol=1e-5, atol=1e-5)


def test_tensors_are_let_go_after_their_last_reader():
    layers = Layerwise(quantized("add of three, relu")[0])
    tensors = LiveTensors(layers.graph, np.zeros((1, 8, 9, 3), np.float32))
    for node in layers.graph.nodes:
        tensors.put(node.output, layers.run(node, *tensors.inputs_of(node)))
    assert list(tensors._values) == [layers.graph.output]
