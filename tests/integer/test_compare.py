"""Node by node: how far integers are from fake-quant."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tf_keras
from keras_models import random_inputs, small_cnn

import tfmix
from tfmix.errors import TfmixError
from tfmix.fakequant.apply import graph_of


@pytest.fixture(scope="module")
def qmodel() -> tf_keras.Model:
    model = small_cnn()
    data = random_inputs(model, 64)
    return tfmix.quantize_model(model, None, calibration_data=data, verbose=0)


def test_lists_every_node_in_order(qmodel):
    found = tfmix.compare(qmodel, tfmix.convert(qmodel), random_inputs(qmodel, 4))
    assert [d.node for d in found] == [node.name for node in graph_of(qmodel).steps]


def test_finds_the_node_that_is_wrong_and_blames_no_other(qmodel):
    network = tfmix.convert(qmodel).network
    nodes = tuple(
        replace(node, weights=replace(node.weights, bias=node.weights.bias + (3 << 20)))
        if node.name == "pw"
        else node
        for node in network.nodes
    )
    wrong = tfmix.IntegerModel(replace(network, nodes=nodes))
    found = {d.node: d for d in tfmix.compare(qmodel, wrong, random_inputs(qmodel, 8))}
    assert [name for name, d in found.items() if d.max_lsb > 1] == ["pw"]
    assert found["pw"].fraction_different > 0.5


@pytest.mark.parametrize("count", [1, 127, 129])
def test_takes_any_number_of_inputs(qmodel, count):
    for difference in tfmix.compare(qmodel, tfmix.convert(qmodel), random_inputs(qmodel, count)):
        assert difference.max_lsb <= 1
        assert difference.fraction_different < 0.01


def test_needs_a_fake_quant_model(qmodel):
    with pytest.raises(TfmixError, match="not a fake-quant model"):
        tfmix.compare(small_cnn(), tfmix.convert(qmodel), random_inputs(qmodel, 4))
