"""Row by row: which rows exist when, and the space that takes."""

from __future__ import annotations

import graphs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfmix.errors import TfmixError
from tfmix.ir.schedule import row_bytes_of, schedule, stream_of
from tfmix.ir.stream import RowLayer, Stream, simulate


def bits(graph, value=8):
    return dict.fromkeys(graph.quantized_tensors, value)


def layer(name, source, rows, kernel=1, stride=1, pad=0, **fields) -> RowLayer:
    sources = source if isinstance(source, tuple) else (source,)
    made = (rows + 2 * pad - kernel) // stride + 1
    return RowLayer(name, sources, name, rows, made, kernel, stride, pad, **fields)


@st.composite
def chains(draw):
    """Layers that each read the last tensor, some adds of any earlier one of as many rows."""
    rows = {"x": draw(st.integers(4, 20))}
    layers, last = [], "x"
    for i in range(draw(st.integers(1, 6))):
        band = draw(st.sampled_from((1, 1, 2, 3)))
        same = [t for t, count in rows.items() if count == rows[last] and t != last]
        if same and draw(st.booleans()):
            pair = (draw(st.sampled_from(same)), last)
            new = layer(f"t{i}", pair if draw(st.booleans()) else pair[::-1], rows[last], band=band)
        else:
            kernel = draw(st.integers(1, min(5, rows[last])))
            pad = draw(st.integers(0, kernel - 1))
            new = layer(f"t{i}", last, rows[last], kernel, draw(st.integers(1, 3)), pad, band=band)
        layers.append(new)
        rows[new.output], last = new.output_rows, new.output
    return layers


@given(chains())
def test_what_holds_of_a_chain_holds_of_every_end_of_it(layers):
    whole = simulate(layers)
    for begin in range(1, len(layers)):
        end = layers[begin:]
        part = simulate(end)
        inner = {one.output for one in end[:-1]}
        for tensor in inner & set(part.rows):
            assert part.rows[tensor] == whole.rows[tensor]
            assert part.moved[tensor] == whole.moved[tensor]
        for tensor in end[0].inputs:
            assert part.kept[tensor, 0] == whole.kept[tensor, begin]


@settings(max_examples=50)
@given(chains())
def test_one_row_of_each_tensor_is_the_least_and_all_are_the_most(layers):
    rows_of = {"x": layers[0].input_rows} | {one.output: one.output_rows for one in layers}
    found = simulate(layers)
    for tensor, rows in found.rows.items():
        assert 1 <= rows <= rows_of[tensor]
    for corners in found.kept.values():
        assert corners == tuple(sorted(corners)) and corners[-1][0] == rows_of[layers[-1].output]


def test_rows_between_a_pointwise_and_a_depthwise_convolution():
    stream = Stream.of(
        [
            layer("pw", "x", 8),
            layer("dw", "pw", 8, kernel=3, pad=1),
            layer("again", "dw", 8),
        ]
    )
    # Three rows under the window, one row passed on; each new row moves the two before it, but for
    # the first three, which fit, and the last, which is not a row of `pw`.
    assert stream.rows == {"x": 1, "pw": 3, "dw": 1}
    assert stream.moved == {"pw": 5 * 2, "dw": 0}
    assert stream.fixed_scratch == 12 * 4
    assert stream.scratch({"x": 1, "pw": 5, "dw": 3, "again": 7}) == 48 + 16 + 4
    assert stream.scratch(dict.fromkeys(("x", "pw", "dw", "again"), 4), input_by_rows=True) == (
        48 + 4 + 12 + 4
    )
    # Output row y is written when rows up to y + 1 are consumed: row y + 2 is needed.
    assert stream.distance(dict.fromkeys(("x", "again"), 10)) == 0
    assert stream.distance({"x": 10, "again": 20}) == 80


def test_a_residual_holds_rows_back():
    # Rows of `a` wait for the sum until the window has passed over them.
    stream = Stream.of(
        [
            layer("a", "x", 9),
            layer("b", "a", 9, kernel=5, pad=2),
            layer("sum", ("a", "b"), 9),
        ]
    )
    assert stream.rows == {"x": 1, "a": 5, "b": 1}
    assert Stream.of([layer("b", "x", 9, 5, 1, 2), layer("sum", ("x", "b"), 9)]).rows["x"] == 5


def test_bands():
    stream = Stream.of([layer("pw", "x", 8, band=2), layer("dw", "pw", 8, kernel=3, pad=1, band=2)])
    assert stream.rows["pw"] == 5  # a call reads rows 1 to 4, and 5 is made together with 4


def test_a_pool_over_the_whole_image_adds_up_rows():
    pool = RowLayer("pool", ("a",), "pool", 7, 1, kernel=7, sum_channels=16)
    stream = Stream.of([layer("a", "x", 7), pool])
    assert stream.rows["a"] == 1 and stream.fixed_scratch == 12 * 3 + 4 * 16
    inside = Stream.of([layer("a", "x", 7), pool, layer("b", "pool", 1)])
    assert inside.rows["a"] == 7 and inside.fixed_scratch == 12 * 4


def test_rows_that_no_window_reads():
    stream = Stream.of([layer("a", "x", 9), layer("b", "a", 9, kernel=1, stride=3)])
    assert stream.rows == {"x": 1, "a": 1}
    assert stream.kept == ((1, 1), (3, 7))  # rows 7 and 8 of `a` are never made


def test_figures_of_mobilenet_v1():
    """Those of the prototype that was run in an arena, but for its scratch."""
    graph = graphs.mobilenet_v1()
    names = [node.name for node in graph.steps]
    stream = stream_of(graph, graph.steps[: names.index("pw4") + 1], {})
    assert [stream.rows[t] for t in stream.inner] == [3, 1, 3, 1, 3, 1, 3, 1]
    assert stream.distance(row_bytes_of(graph, stream, bits(graph))) == 50_176


# -- in a schedule ------------------------------------------------------------------------------


def test_a_chain_is_one_step():
    graph = graphs.mobilenet_v1(0.25, 32)
    chain = ("conv1", "dw1", "pw1")
    found = schedule(graph, bits(graph), [chain])
    step = found.steps[0]
    assert (step.name, step.reads, step.writes) == ("conv1..pw1", ("input",), "pw1")
    assert set(found.buffers).isdisjoint({"conv1", "dw1"})
    assert step.over == ("input", 16 * 16 * 16 - 32 * 32 * 3)
    by_rows = schedule(graph, bits(graph), [chain], input_by_rows=True)
    assert "input" not in by_rows.buffers and by_rows.steps[0].over is None
    assert by_rows.steps[0].scratch == step.scratch + 3 * 32 * 3


def test_an_input_that_is_needed_later_is_not_overwritten():
    graph = graphs.resnet()
    found = schedule(graph, bits(graph), [("a0_0", "b0_0")])
    assert found.steps[1].reads == ("conv1",) and found.steps[1].over is None
    found = schedule(graph, bits(graph), [("a0_0", "b0_0", "add0_0")])
    assert found.steps[1].over is not None


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (("conv1", "b0_0"), "not a run of neighbours"),
        (("pool", "classifier"), "classifier, a dense, cannot run row by row"),
        (("conv1", "a0_0"), r"conv1\.\.a0_0: \['conv1'\] is needed outside it"),
        (("b0_0", "add0_0", "a1_0", "b1_0", "shortcut1_0"), "needed outside it"),
        (("b1_0", "shortcut1_0", "add1_0"), "reads 'add0_0', made neither"),
    ],
)
def test_what_is_no_chain(chain, message):
    graph = graphs.resnet()
    with pytest.raises(TfmixError, match=message):
        schedule(graph, bits(graph), [chain])


def test_chains_that_share_a_step():
    graph = graphs.chain(4, 4, 4)
    with pytest.raises(TfmixError, match="shares steps"):
        schedule(graph, bits(graph), [("c0", "c1"), ("c1", "c2")])


def test_rows_end_with_a_byte():
    graph = graphs.chain(3, 8, resolution=5)
    with pytest.raises(TfmixError, match="'c0', 5 x 3 values of 4 bits, does not end with a byte"):
        schedule(graph, {"input": 8, "c0": 4, "c1": 8}, [("c0", "c1")])


def test_an_input_by_rows_that_others_need():
    graph = graphs.chain(4, 4)
    with pytest.raises(TfmixError, match="no chain begins with it"):
        schedule(graph, bits(graph), [("c1",)], input_by_rows=True)
    b = graphs.GraphBuilder(4, 4, 2)
    x = b.conv("a", "input", 2)
    b.concatenate("join", "input", x)
    with pytest.raises(TfmixError, match="needed after the first chain"):
        schedule(b.graph(), bits(b.graph()), [("a",)], input_by_rows=True)
