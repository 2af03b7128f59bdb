"""The papers' networks: their sizes, and the way of MNasNet-A1 to integers."""

from __future__ import annotations

from pathlib import Path

import graphs
import numpy as np
import pytest
import tf_keras
from keras_models import random_inputs
from random_networks import random_policy

import tfmix
from tfmix import models
from tfmix.errors import TfmixError
from tfmix.ir.graph import Op, as_graph
from tfmix.policy.cost.memory import PaperMemory
from tfmix.policy.search.base import Pinned, SearchProblem
from tfmix.policy.search.memory import search

MODELS = {
    "mobilenet_v1": models.mobilenet_v1,
    "mobilenet_v2": models.mobilenet_v2,
    "mnasnet_a1": models.mnasnet_a1,
}


@pytest.fixture(scope="module")
def a1() -> tf_keras.Model:
    return tfmix.models.mnasnet_a1(resolution=224, width=1.0)


def test_mnasnet_has_the_size_of_the_paper(a1):
    """Tan et al. 2019, table 1: 3.9 M parameters and 312 M multiply-adds."""
    assert round(sum(w.shape.num_elements() for w in a1.trainable_weights) / 1e6, 1) == 3.9
    graph = as_graph(a1)
    assert round(sum(map(graph.macs, graph.nodes)) / 1e6, -1) == 310


def test_mnasnet_is_the_graph_that_searches_are_tested_on(a1):
    def layers(graph):
        return [
            (node.op, node.window and node.window.kernel, graph.hwc(node.output), node.relu)
            for node in graph.steps
        ]

    assert layers(as_graph(a1)) == layers(graphs.mnasnet_a1())


@pytest.mark.parametrize("name", MODELS)
def test_width_resolution_and_classes(name):
    model = MODELS[name](resolution=96, width=0.35, classes=7)
    assert model.input_shape == (None, 96, 96, 3) and model.output_shape == (None, 7)
    assert tfmix.check(model) == []
    assert model.count_params() < MODELS[name](32, 0.5, 7).count_params()


@pytest.mark.parametrize("gate", models.GATES)
def test_gates(gate):
    graph = as_graph(models.mnasnet_a1(32, 0.35, 2, gate))
    functions = [node.function for node in graph.nodes if node.op is Op.LOOKUP]
    assert functions == [gate] * 8


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": 31}, "resolution 31 is not a whole number of at least 32"),
        ({"resolution": 64.0}, "resolution 64.0 is not a whole number"),
        ({"width": 0}, "width 0 is not a number above 0"),
        ({"width": "1"}, "width '1' is not a number"),
        ({"classes": 0}, "classes 0 is not a whole number of at least 1"),
    ],
)
def test_bad_arguments(name, arguments, message):
    with pytest.raises(TfmixError, match=message):
        MODELS[name](**arguments)


def test_a_gate_and_weights_that_are_not_there():
    with pytest.raises(TfmixError, match="mnasnet_a1: gate 'tanh' is not one of "):
        models.mnasnet_a1(gate="tanh")
    with pytest.raises(TfmixError, match="^MobileNet: .*imagenet"):
        models.mobilenet_v1(classes=10, weights="imagenet")


def test_mnasnet_fits_the_papers_budget():
    """2 MB and 512 kB as the paper counts: by cutting bits, with those of sums left at 8."""
    graph = graphs.mnasnet_a1()
    memory, budget = PaperMemory(graph), tfmix.Budget(2_048_000, 512_000, "paper")
    at_8_bits = tfmix.QuantizationPolicy.uniform(graph, 8)
    assert memory.flash_bytes(at_8_bits) > budget.flash and memory.ram_bytes(at_8_bits) > budget.ram
    problem = SearchProblem(memory, budget, Pinned.parse(graph, graphs.residual_sums(graph)))
    policy = search(problem)
    assert problem.fits(policy)
    # The largest of the gated maps, and its gate, are at one multiplication.
    step = next(step for step in memory.steps if step.nodes[0].op is Op.MULTIPLY)
    assert step.output == "gate3" and set(step.inputs) == {"dw3", "sigmoid3"}
    assert memory.live_bytes(step, at_8_bits.activation_bits) == 2 * 28 * 28 * 72 + 72
    # Until then the map waits for its gate.
    waiting = [s.nodes[0].name for s in memory.steps if "dw3" in s.held]
    assert waiting == ["reduce3", "excite3"]


def test_mnasnet_runs_in_integers(tmp_path: Path):
    """Keras -> fake-quant -> integers -> file -> kernels: as NumPy says, at mixed bits."""
    model = models.mnasnet_a1(64, 0.35, 10)
    data = random_inputs(model, 8)
    policy = random_policy(model, 0)
    qmodel = tfmix.quantize_model(model, None, policy=policy, calibration_data=data, verbose=0)
    tfmix.export(qmodel, tmp_path / "a1.tflite")
    loaded = tfmix.load(tmp_path / "a1.tflite")
    assert loaded == tfmix.convert(qmodel)
    q = loaded.quantize(data[:2])
    np.testing.assert_array_equal(loaded.run(q), loaded.run(q, backend="reference"))
