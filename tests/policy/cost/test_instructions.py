"""The model of instructions against whole networks, none of which it was fitted to."""

import json
from itertools import product
from pathlib import Path

import graphs
import pytest
import real_data

from tfmix.integer.abi import parse_variant
from tfmix.integer.model import BINARY_KERNELS, Kernel
from tfmix.ir.graph import Graph, as_graph
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.cost.instructions import (
    _AMOUNTS,
    Call,
    amounts,
    call_of,
    instructions,
    network_instructions,
    table,
)
from tfmix.policy.policy import QuantizationPolicy

MEASURED = json.loads((Path(__file__).parents[3] / "benchmarks" / "networks.json").read_text())[
    "networks"
]
FILES = {
    "resnet8": "resnet8_cifar10_jpeg_ft",
    "resnet8_4_2": "resnet8_cifar10_jpeg_ft",
    "ds_cnn": "kws_ref_model",
    "vww": "vww_96",
    "str_ww": "str_ww_ref_model",
    "ad01": "ad01",
}


def policy_of(graph: Graph, layers: list[dict]) -> QuantizationPolicy:
    """The bits that the measured variants have."""
    variants = {layer["name"]: parse_variant(layer["variant"]) for layer in layers}
    policy = QuantizationPolicy.uniform(graph, 8)
    own = {n.output: n.name for n in graph.steps if n.output in policy.activation_bits}
    return policy.replace(
        weights={name: variants[name].weight_bits for name in policy.weight_bits},
        activations={tensor: variants[name].output_bits for tensor, name in own.items()},
    )


@pytest.mark.parametrize("network", MEASURED, ids=lambda network: network["name"])
def test_whole_networks(network):
    graph = as_graph(real_data.model(FILES[network["name"]]))
    found = network_instructions(graph, policy_of(graph, network["layers"]))
    assert sum(found.values()) == pytest.approx(network["instructions"], rel=0.07)
    for layer in network["layers"]:
        if layer["instructions"] > 0.05 * network["instructions"]:
            assert found[layer["name"]] == pytest.approx(layer["instructions"], rel=0.3), layer


def test_the_table_holds_all_kinds_of_work_and_no_other():
    """Windows 1x1 and 3x3, narrow and wide maps, depths in words and not, at all bits."""
    kinds = set()
    choices = product(_AMOUNTS, ((1, 1), (3, 3)), (4, 5), (8, 16), *[BIT_WIDTHS] * 3)
    for kernel, window, depth, size, w, a, o in choices:
        shape = (size, size, depth)
        inputs = 2 if kernel in BINARY_KERNELS else 1
        call = Call(kernel, (shape,) * inputs, shape, (a,) * inputs, o, w, window)
        kinds |= amounts(call).keys()
    assert kinds == table().keys()
    assert all(per_unit >= 0 for per_unit in table().values())


def test_fewer_products_take_fewer_instructions():
    def conv(channels: int) -> int:
        return instructions(
            Call("conv2d", ((8, 8, 16),), (8, 8, channels), (8,), 8, 4, window=(3, 3))
        )

    assert 0 < conv(8) < conv(16) < conv(64)


def test_a_kernel_that_was_not_measured_has_no_figure():
    shape = (4, 4, 8)
    unknown = [kernel.value for kernel in Kernel if kernel.value not in _AMOUNTS]
    assert unknown
    for kernel in unknown:
        assert instructions(Call(kernel, (shape, shape), shape, (8, 8), 8)) is None


def test_every_node_of_a_graph_has_a_call():
    graph = graphs.resnet()
    policy = QuantizationPolicy.uniform(graph, 4)
    found = network_instructions(graph, policy)
    assert list(found) == [node.name for node in graph.steps]
    for node in graph.steps:
        assert found[node.name] == instructions(call_of(graph, node, policy)) > 0
