"""The memory models on figures worked out by hand, and the report."""

import random

import graphs
import pytest

from tfmix.budget import Budget
from tfmix.errors import TfmixError
from tfmix.export.flatbuffer import file_size
from tfmix.integer.convert import skeleton
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.cost import arena
from tfmix.policy.cost.memory import DeployedMemory, PaperMemory, memory_report
from tfmix.policy.policy import QuantizationPolicy


def eight(graph):
    return QuantizationPolicy.uniform(graph, 8)


def step(memory, name):
    return next(s for s in memory.steps if s.name == name)


# -- paper: FLASH -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "batch_norm", "hidden", "classifier"),
    [
        ("per_layer", "fold", 4 * 5 + 20, 4 * 10 + 20),
        ("per_layer", "icn", 9 * 5 + 12, 4 * 10 + 20),
        ("per_channel", "icn", 10 * 5 + 8, 7 * 10 + 4),
        ("per_channel", "fold", 10 * 5 + 8, 7 * 10 + 4),
    ],
)
def test_bytes_beside_the_weights(weights, batch_norm, hidden, classifier):
    b = graphs.GraphBuilder(4, 4, 3)
    x = b.conv("conv", "input", 5, kernel=3)
    x = b.dense("classifier", b.global_average_pool("pool", x), 10)
    b.softmax("softmax", x)
    graph = b.graph()
    policy = QuantizationPolicy({"conv": 2, "classifier": 4}, eight(graph).activation_bits)
    packed = -(-(3 * 3 * 3 * 5 * 2) // 8) + 5 * 10 * 4 // 8  # 33.75 bytes, rounded up
    flash = PaperMemory(graph, weights, batch_norm).flash_bytes(policy)
    assert flash == packed + hidden + classifier


def test_without_batch_norm_there_is_nothing_to_normalize():
    b = graphs.GraphBuilder(8)
    b.dense("classifier", b.dense("hidden", "input", 6), 10)
    policy = eight(b.graph())
    flash = PaperMemory(b.graph(), "per_layer", "icn").flash_bytes(policy)
    assert flash == 48 + (4 * 6 + 20) + 60 + (4 * 10 + 20)


def test_bad_flavour():
    with pytest.raises(TfmixError, match="weights 'per_tensor' is not one of"):
        PaperMemory(graphs.chain(4), weights="per_tensor")
    with pytest.raises(TfmixError, match="batch_norm 'keep' is not one of"):
        PaperMemory(graphs.chain(4), batch_norm="keep")


# -- paper: RAM ---------------------------------------------------------------------------------


def test_paper_counts_layers_and_what_is_held_across_them():
    graph = graphs.resnet()
    memory = PaperMemory(graph)
    ops = {s.nodes[0].op.value for s in memory.steps}
    assert ops == {"conv2d", "dense", "add"}
    held = step(memory, "b0_0")
    assert (held.inputs, held.output, held.held) == (("a0_0",), "b0_0", ("conv1",))
    assert memory.live_bytes(held, eight(graph).activation_bits) == 3 * 32 * 32 * 16
    assert memory.ram_bytes(eight(graph)) == 3 * 32 * 32 * 16


def test_paper_does_not_count_pools():
    b = graphs.GraphBuilder(9, 9, 1)  # odd, so that nothing happens to be aligned
    x = b.conv("conv", "input", 9)
    x = b.max_pool("pool", x, kernel=9, stride=9)
    b.dense("dense", b.reshape("flatten", x, 9), 3)
    policy = eight(b.graph())
    assert PaperMemory(b.graph()).ram_bytes(policy) == 81 + 729  # conv, and not 729 + 9
    assert step(PaperMemory(b.graph()), "dense").inputs == ("pool",)


def test_a_tensor_added_to_itself_is_in_memory_once():
    b = graphs.GraphBuilder(4, 4, 1)
    x = b.conv("conv", "input", 1)
    b.add("add", x, x)
    assert step(PaperMemory(b.graph()), "add").buffers == ("conv", "add")


# -- deployed -----------------------------------------------------------------------------------


def test_deployed():
    b = graphs.GraphBuilder(3, 3, 3)
    b.conv("conv", "input", 5, kernel=3)
    graph = b.graph()
    memory = DeployedMemory(graph, file_size=lambda policy: 1000 + policy.weight_bits["conv"])
    policy = QuantizationPolicy.uniform(graph, 4)
    assert memory.flash_bytes(policy) == 1004
    # 27 B of input, 45 B of logits (always 8 bits), 8 * 28 B of columns, each rounded up to 16.
    assert memory.ram_bytes(policy) == memory.ram_lower_bound(policy.activation_bits)
    assert memory.ram_bytes(policy) == 32 + 48 + 224 + memory.interpreter_bytes
    # Allocators 124 B, subgraph 8, three tensors of 12, node 32: 200 B. Its data end at 224, a
    # scratch handle at 228. Input and output: 4 B, which end at 240 and 304, and 52 B each.
    assert memory.interpreter_bytes == 356


def test_deployed_ram_is_the_planned_arena():
    for graph in (graphs.mobilenet_v2(0.35, 96), graphs.resnet(), graphs.dense_block()):
        memory = DeployedMemory(graph, file_size=lambda policy: 0)
        policy = QuantizationPolicy.uniform(graph, 4)
        assert (memory.ram_bytes(policy) - memory.interpreter_bytes) % arena.ALIGNMENT == 0
        assert memory.ram_bytes(policy) == memory.ram_lower_bound(policy.activation_bits)


# -- report -------------------------------------------------------------------------------------


# -- bounds of FLASH ----------------------------------------------------------------------------


def random_policy(graph, rng):
    """Of one to three widths, so that nodes share more or fewer kernel variants."""
    widths = rng.sample(BIT_WIDTHS, rng.randint(1, 3))
    policy = eight(graph)
    return policy.replace(
        weights={name: rng.choice(widths) for name in policy.weight_bits},
        activations={
            tensor: rng.choice(widths)
            for tensor in policy.activation_bits
            if tensor not in graph.fixed_tensors
        },
    )


def odd_network():
    """A dense layer applied to pixels, channels that fill no byte, max pool, concatenation."""
    b = graphs.GraphBuilder(9, 7, 3)
    x = b.conv("conv", "input", 5, kernel=3)
    y = b.dense("pixels", x, 7)
    x = b.concatenate("concat", b.max_pool("max", x, kernel=3, stride=1), b.depthwise("dw", y))
    x = b.add("sum", b.relu("relu", x), x)
    b.softmax("softmax", b.dense("classifier", b.global_average_pool("pool", x), 10))
    return b.graph()


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(
    ("make", "loose"),
    [
        (graphs.resnet, 160),
        (graphs.mobilenet_v2, 512),
        (graphs.dense_block, 256),
        (odd_network, 300),
    ],
)
def test_files_are_never_below_the_bound_and_little_above(make, loose, per_channel):
    graph = make()
    memory = DeployedMemory(graph, lambda p: file_size(skeleton(graph, p, per_channel=per_channel)))
    rng = random.Random(0)
    for _ in range(40):
        policy = random_policy(graph, rng)
        above = memory.flash_bytes(policy) - memory.flash_lower_bound(policy)
        assert 0 <= above <= loose


def test_the_papers_flash_is_its_own_bound():
    graph = graphs.resnet()
    memory = PaperMemory(graph)
    policy = random_policy(graph, random.Random(0))
    assert memory.flash_lower_bound(policy) == memory.flash_bytes(policy)
    assert memory.packed_bytes(policy) + memory.flash_rest == memory.flash_bytes(policy)


@pytest.mark.parametrize("kind", ["paper", "deployed"])
@pytest.mark.parametrize("graph", [graphs.resnet(), graphs.dense_block(), graphs.chain(4, 5)])
def test_report_adds_up(graph, kind):
    memory = PaperMemory(graph) if kind == "paper" else DeployedMemory(graph, lambda policy: 99_999)
    policy = QuantizationPolicy.uniform(graph, 4)
    report = memory_report(memory, policy)
    assert report.flash_bytes == memory.flash_bytes(policy)
    assert report.ram_bytes == memory.ram_bytes(policy)
    assert report.activation_bytes == report.peak_step.live_bytes
    assert report.interpreter_bytes == memory.interpreter_bytes
    elements = [graph.weight_elements(node) for node in graph.weighted_nodes]
    assert report.weight_bytes == sum(-(-count // 2) for count in elements)
    for s in report.steps:
        parts = s.input_bytes + s.output_bytes + s.held_bytes + s.scratch_bytes
        assert s.live_bytes == parts
        assert (s.weight_bits is None) == (s.weight_bytes == 0)
    assert report.fits and report.flash_percent is None and report.ram_percent is None


def test_report_against_a_budget():
    graph = graphs.resnet()
    memory, policy = PaperMemory(graph), eight(graph)
    flash, ram = memory.flash_bytes(policy), memory.ram_bytes(policy)
    exact = memory_report(memory, policy, Budget(flash, ram))
    assert exact.fits and exact.flash_percent == exact.ram_percent == 100
    assert not memory_report(memory, policy, Budget(flash - 1, ram)).fits
    assert not memory_report(memory, policy, Budget(flash, ram - 1)).fits
    assert memory_report(memory, policy, Budget(None, 2 * ram)).ram_percent == 50


def test_report_of_another_networks_policy():
    with pytest.raises(TfmixError, match="does not belong"):
        memory_report(PaperMemory(graphs.resnet()), eight(graphs.chain(4)))


def test_report_reads_well():
    b = graphs.GraphBuilder(8, 8, 3)
    x = b.conv("stem", "input", 16, kernel=3)
    x = b.add("sum", x, b.conv("branch", x, 16, relu=False))
    b.dense("logits", b.global_average_pool("pool", x), 10)
    memory = DeployedMemory(b.graph(), lambda policy: 2048)
    text = str(memory_report(memory, eight(b.graph()), Budget("4 kB", "4 kB")))
    assert text == REPORT


REPORT = """\
step    op             in  w  out  weights B  input B  output B  held B  scratch B  live B
------------------------------------------------------------------------------------------
stem    conv2d          8  8    8        432      192     1,024                224   1,440
branch  conv2d          8  8    8        256    1,024     1,024                128   2,176
sum     add           8+8       8               2,048     1,024                      3,072  <- peak
pool    average_pool    8       8               1,024        16                      1,040
logits  dense           8  8    8        160       16        16                 32      64
------------------------------------------------------------------------------------------
FLASH  2,048 B (2 kB), 50.0 % of 4 kB
       of which weights 848 B, beside them 1,200 B
RAM    3,684 B (3.6 kB), 89.9 % of 4 kB
       of which activations 3,072 B, interpreter 612 B
fits the budget"""
