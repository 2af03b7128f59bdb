"""Graph -> float model in normal form: the same function, and the same graph when read again."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras
from keras_models import SUPPORTED, chain, random_inputs, randomize, small_cnn

import tfmix
from tfmix.fakequant.apply import apply, graph_of
from tfmix.fakequant.rebuild import build_float, fold_batch_norm
from tfmix.frontend.keras import read

layers = tf_keras.layers


def outputs(model: tf_keras.Model, x: np.ndarray) -> np.ndarray:
    return model(x, training=False).numpy()


@pytest.mark.parametrize("case", SUPPORTED)
def test_computes_what_the_model_does(case):
    model = randomize(SUPPORTED[case]())
    x = random_inputs(model, 4)
    network = read(model)
    expected = outputs(model, x)
    for rebuilt in (build_float(network), build_float(fold_batch_norm(network))):
        np.testing.assert_allclose(outputs(rebuilt, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", SUPPORTED)
def test_reading_a_model_in_normal_form_gives_the_graph_it_was_built_from(case):
    graph = read(SUPPORTED[case]()).graph
    rebuilt = build_float(read(SUPPORTED[case]()), input_carrier="carrier")
    again = read(rebuilt).graph
    assert [node.op for node in again.nodes] == [node.op for node in graph.nodes]
    assert [t.shape for t in again.tensors.values()] == [t.shape for t in graph.tensors.values()]


def test_folding_leaves_no_batch_norm_but_those_that_stand_alone():
    network = fold_batch_norm(read(small_cnn()))
    assert [n.name for n in network.graph.nodes if n.batch_norm] == ["bn"]
    folded = network.graph.producers["conv_relu"]
    assert (folded.name, folded.use_bias) == ("conv", True)
    assert network.weights["conv"].batch_norm is None


@pytest.mark.parametrize("case", [case for case in SUPPORTED if "batch norm" in case])
def test_a_folded_fake_quant_model_has_the_tensors_of_the_network(case):
    """So that a policy fits the network folded and not."""
    model = SUPPORTED[case]()
    folded = fold_batch_norm(read(model))
    qmodel = apply(folded, per_channel=True)
    assert graph_of(qmodel) == folded.graph
    assert tfmix.get_policy(qmodel) == tfmix.QuantizationPolicy.uniform(model, 8)


def test_layers_keep_what_the_user_has_set():
    """Regularizers, constraints, initializers and momentum matter as soon as training goes on."""
    model = chain(
        layers.Conv2D(
            4,
            3,
            kernel_regularizer=tf_keras.regularizers.L2(0.25),
            kernel_constraint=tf_keras.constraints.MaxNorm(2.0),
            name="conv",
        ),
        layers.BatchNormalization(momentum=0.5, name="bn"),
    )
    rebuilt = build_float(read(model))
    conv, bn = rebuilt.get_layer("conv"), rebuilt.get_layer("bn")
    assert conv is not model.get_layer("conv")
    assert conv.kernel_regularizer.l2 == 0.25
    assert conv.kernel_constraint.max_value == 2.0
    assert bn.momentum == 0.5


def test_frozen_layers_stay_frozen():
    model = small_cnn()
    model.get_layer("conv").trainable = False
    model.get_layer("conv_bn").trainable = False
    rebuilt = build_float(read(model))
    trainable = {layer.name for layer in rebuilt.layers if layer.trainable_weights}
    assert trainable == {"dw", "pw", "bn", "dense"}
