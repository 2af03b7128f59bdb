"""Schedules: order, sizes, lifetimes and scratch."""

import pytest
from graphs import GraphBuilder, chain, resnet

from tfmix.ir.schedule import (
    Schedule,
    Step,
    depthwise_scratch_bytes,
    node_scratch_bytes,
    schedule,
    scratch_bytes,
)


def bits(graph, value=8):
    return dict.fromkeys(graph.quantized_tensors, value)


def test_chain():
    graph = chain(4, 6, resolution=5)
    plan = schedule(graph, {"input": 8, "c0": 4, "c1": 2})
    assert plan.steps == (
        Step("c0", ("input",), "c0", scratch=8 * 28),
        Step("c1", ("c0",), "c1", scratch=8 * 3 * 3 * 4),
    )
    assert plan.buffers == {"input": 75, "c0": 50, "c1": 38}  # 150 values of 2 bits: 37.5 bytes
    assert plan.lifetimes == {"input": (0, 0), "c0": (0, 1), "c1": (1, 1)}
    assert plan.live == (("input", "c0"), ("c0", "c1"))
    assert plan.output == "c1"


def test_a_skip_lives_until_it_is_added():
    graph = resnet()
    plan = schedule(graph, bits(graph))
    index = {step.name: i for i, step in enumerate(plan.steps)}
    assert plan.lifetimes["conv1"] == (index["conv1"], index["add0_0"])
    assert "conv1" in plan.live[index["b0_0"]]


def test_reshapes_vanish():
    b = GraphBuilder(4, 4, 3)
    x = b.conv("conv", "input", 2)
    x = b.reshape("flatten", x, 32)
    x = b.dense("dense", x, 10)
    b.reshape("rows", x, 2, 5)
    graph = b.graph()
    plan = schedule(graph, bits(graph))
    assert [(s.name, s.reads, s.writes) for s in plan.steps] == [
        ("conv", ("input",), "conv"),
        ("dense", ("conv",), "dense"),
    ]
    assert plan.output == "dense" and set(plan.buffers) == {"input", "conv", "dense"}


def test_the_output_survives_steps_that_read_it():
    plan = Schedule((Step("a", ("x",), "y"), Step("b", ("y",), "z")), {"x": 1, "y": 1, "z": 1}, "y")
    assert plan.lifetimes["y"] == (0, 1)
    plan = Schedule((Step("a", ("x",), "y"), Step("b", ("x",), "z")), {"x": 1, "y": 1, "z": 1}, "y")
    assert plan.lifetimes["y"] == (0, 1)


def test_what_is_written_over_must_not_be_needed():
    steps = (Step("a", ("x",), "y", over=("x", 0)), Step("b", ("x", "y"), "z"))
    with pytest.raises(ValueError, match="'a' writes over 'x', which is needed"):
        Schedule(steps, dict.fromkeys("xyz", 1), "z")
    with pytest.raises(ValueError, match="'a' writes over 'w'"):
        Schedule((Step("a", ("x",), "y", over=("w", 0)),), dict.fromkeys("xy", 1), "y")


def test_no_steps():
    assert Schedule((), {"x": 4}, "x").lifetimes == {"x": (0, 0)}


@pytest.mark.parametrize(
    ("steps", "buffers", "message"),
    [
        ((Step("a", ("y",), "z"), Step("b", ("x",), "y")), "xyz", r"'a' reads \['y'\] before"),
        ((Step("a", ("x",), "y"), Step("b", ("x",), "y")), "xy", "'b' writes 'y', which is taken"),
        ((Step("a", ("x",), "y"),), "x", r"without a use: \['y'\]"),
        ((Step("a", ("x",), "y"),), "xyz", r"without a use: \['z'\]"),
    ],
)
def test_contradictions(steps, buffers, message):
    with pytest.raises(ValueError, match=message):
        Schedule(steps, dict.fromkeys(buffers, 1), "y")


# -- scratch ------------------------------------------------------------------------------------


def test_scratch_is_columns_of_int16():
    assert scratch_bytes("conv2d", (3, 5), 7) == 4 * 2 * (3 * 5 * 7 + 3)
    assert scratch_bytes("fully_connected", (1, 1), 8) == scratch_bytes("dense", (1, 1), 7) == 2 * 8


def test_scratch_of_a_depthwise_convolution():
    # Three rows of (24 + 2) / 2 pairs of columns, weights, a row of output; of four channels.
    assert scratch_bytes("depthwise_conv2d", (3, 3), 7, output=(24, 24)) == (
        4 * 4 * 3 * 13 + 4 * 4 * 3 * 2 * 4 + 4 * 24
    )
    # It does not grow with the image: not with its rows, and from 64 columns on not at all.
    assert depthwise_scratch_bytes((3, 3), (1, 1), (96, 64)) == depthwise_scratch_bytes(
        (3, 3), (1, 1), (1000, 2000)
    )
    # A narrow image lies on its side.
    assert depthwise_scratch_bytes((10, 1), (2, 1), (40, 1)) == depthwise_scratch_bytes(
        (1, 10), (1, 2), (1, 40)
    )


def test_depthwise_layers_of_mobilenet_v1_need_less_than_8_kb():
    layers = [(112, 1), (56, 2), (56, 1), (28, 2), (28, 1), (14, 2), (14, 1), (7, 2), (7, 1)]
    for size, stride in layers:
        assert depthwise_scratch_bytes((3, 3), (stride, stride), (size, size)) <= 8192


def test_a_dense_over_pixels_is_a_1x1_convolution():
    b = GraphBuilder(4, 4, 3)
    pixels = b.dense("pixels", "input", 5)
    b.dense("features", b.reshape("flatten", pixels, 80), 10)
    pixels, _, features = b.graph().nodes
    assert node_scratch_bytes(b.graph(), pixels) == 8 * 4
    assert node_scratch_bytes(b.graph(), features) == 2 * 80
