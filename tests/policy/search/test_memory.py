"""The rule-based search: published figures, no-solution cases, rules, properties."""

import time

import graphs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfmix.budget import Budget
from tfmix.errors import BudgetError
from tfmix.policy.cost.memory import DeployedMemory, PaperMemory
from tfmix.policy.search.base import Pinned, SearchProblem, get_searcher
from tfmix.policy.search.memory import search

PAPER_BUDGET = Budget(2_048_000, 512_000, "paper")


def below_8(bits):
    """{index: bits} of what was cut. Activation k is the input of layer k."""
    return {i: b for i, b in enumerate(bits.values()) if b < 8}


def indices(four=(), two=()):
    return dict.fromkeys(four, 4) | dict.fromkeys(two, 2)


def deployed(graph):
    """A file of about the right size: what stands beside the weights, and a header."""
    paper = PaperMemory(graph)
    return DeployedMemory(graph, lambda policy: paper.flash_bytes(policy) + 4096)


def solve(memory, flash=None, ram=None, **pinned):
    pinned = Pinned.parse(memory.graph, pinned)
    return search(SearchProblem(memory, Budget(flash, ram), pinned))


def test_is_registered():
    assert get_searcher("memory") is search


# -- MobileNetV1 in (2,048,000 B, 512,000 B), as published --------------------------------------


@pytest.mark.parametrize(
    ("alpha", "weights", "activations", "flash", "ram"),
    [
        (1.0, indices((14, 16, 18, 20, 24), (26, 27)), indices((1, 2, 5, 6, 7), (3,)),
         1_984_884, 401_408),
        (0.75, indices((26, 27)), indices((2, 3, 6)), 1_978_532, 451_584),
        (0.5, {}, indices((3,)), 1_381_588, 401_408),
        (0.25, {}, {}, 498_180, 301_056),
    ],
)  # fmt: skip
def test_mobilenet_v1_as_published(alpha, weights, activations, flash, ram):
    memory = PaperMemory(graphs.mobilenet_v1(alpha, 224))
    policy = search(SearchProblem(memory, PAPER_BUDGET))
    assert len(policy.weight_bits) == 28
    assert below_8(policy.weight_bits) == weights
    assert below_8(policy.activation_bits) == activations
    assert memory.flash_bytes(policy) == flash
    assert memory.ram_bytes(policy) == ram


def test_no_solution_in_flash():
    memory = PaperMemory(graphs.mobilenet_v1())
    with pytest.raises(BudgetError, match="weights of 'pw13' do not fit") as error:
        solve(memory, 1_024_000, 512_000)
    assert error.value.tensor == "pw13"
    assert error.value.smallest == 1_168_932
    assert solve(memory, 1_168_932, 512_000).weight_bits["conv1"] == 2
    with pytest.raises(BudgetError):
        solve(memory, 1_168_931, 512_000)


def test_no_solution_in_ram():
    memory = PaperMemory(graphs.mobilenet_v1())
    with pytest.raises(BudgetError, match="tensor 'pw1' does not fit") as error:
        solve(memory, 2_048_000, 256_000)
    assert error.value.tensor == "pw1"
    assert error.value.smallest == 301_056 == 112 * 112 * (32 + 64) * 2 // 8
    assert memory.ram_bytes(solve(memory, 2_048_000, 301_056)) == 301_056
    with pytest.raises(BudgetError):
        solve(memory, 2_048_000, 301_055)


@pytest.mark.parametrize("make", [graphs.mobilenet_v1, graphs.mobilenet_v2, graphs.resnet50])
def test_large_networks_are_quick_and_ask_for_few_files(make):
    graph = make()
    asked = []

    def file_size(policy):
        asked.append(policy)
        return PaperMemory(graph).flash_bytes(policy) + 10_000

    memory = DeployedMemory(graph, file_size)
    start = time.perf_counter()
    policy = solve(memory, "7 MB" if make is graphs.resnet50 else "2 MB", "1 MB")
    assert time.perf_counter() - start < 2
    assert len(asked) <= 30  # 10 to 50 ms each
    assert memory.ram_bytes(policy) <= 2**20


# -- the rules, one by one ----------------------------------------------------------------------


def test_no_limit_no_cut():
    policy = solve(PaperMemory(graphs.resnet()))
    assert set(policy.weight_bits.values()) == set(policy.activation_bits.values()) == {8}


def test_the_first_layer_cuts_its_output_and_the_last_its_input():
    graph = graphs.chain(4, 4, 4, resolution=8)
    memory = PaperMemory(graph)  # input 192 B, then 256 B each
    assert below_8(solve(memory, ram=447).activation_bits) == {1: 4, 2: 4}
    graph = graphs.chain(1, 4, resolution=8)  # 192, 64, 256: only the last layer is over
    assert below_8(solve(PaperMemory(graph), ram=300).activation_bits) == {1: 4}


def test_a_tie_goes_to_the_larger_side_and_then_to_the_output():
    def middle(*channels, ram):  # a chain whose second layer alone is over
        return below_8(solve(PaperMemory(graphs.chain(*channels)), ram=ram).activation_bits)

    assert middle(8, 8, 1, ram=900) == {2: 4}
    assert middle(8, 9, 1, ram=900) == {2: 4}
    assert middle(9, 8, 1, ram=900) == {1: 4}


def test_the_side_with_more_bits_is_cut():
    memory = PaperMemory(graphs.chain(8, 12, 1))  # 192, 512, 768, 64 B
    assert below_8(solve(memory, ram=900).activation_bits) == {2: 4}
    assert below_8(solve(memory, ram=800).activation_bits) == {1: 4, 2: 4}


def test_pinned_bits_stay_and_the_other_side_is_cut():
    memory = PaperMemory(graphs.chain(8, 12, 1))
    policy = solve(memory, ram=900, activations={"c1": 8})
    assert below_8(policy.activation_bits) == {1: 2}
    with pytest.raises(BudgetError, match=r"'c1' does not fit.*'c0' 128 B at 2 bits") as error:
        solve(memory, ram=800, activations={"c1": 8})
    assert error.value.smallest == 768 + 128


def test_pinned_weights_stay():
    memory = PaperMemory(graphs.chain(8, 12, 1))
    full = memory.flash_bytes(solve(memory))
    policy = solve(memory, flash=full - 100, weights={"c1": 8})
    assert policy.weight_bits["c1"] == 8 and min(policy.weight_bits.values()) < 8
    policy = solve(memory, weights={"c1": 2})
    assert dict(policy.weight_bits) == {"c0": 8, "c1": 2, "c2": 8}


def test_a_max_pool_shares_the_bits_of_its_source():
    b = graphs.GraphBuilder(8, 8, 3)
    x = b.conv("conv", "input", 8)
    x = b.max_pool("pool", x, kernel=3, stride=1)
    b.conv("last", x, 1)
    memory = deployed(b.graph())  # conv and pool: 512 B each
    policy = solve(memory, ram=600 + memory.interpreter_bytes)
    assert policy.activation_bits == {"input": 8, "conv": 4, "last": 8}


def test_a_skip_counts_with_the_inputs():
    b = graphs.GraphBuilder(8, 8, 3)
    skip = b.conv("skip", "input", 16)
    x = b.conv("narrow", skip, 1)
    x = b.conv("widen", x, 16)
    b.add("sum", skip, x)
    b.conv("last", "sum", 1)
    memory = PaperMemory(b.graph())  # skip, widen and sum take 1024 B each, narrow 64 B
    assert below_8(solve(memory, ram=2600).activation_bits) == {4: 4}  # the sum
    # "widen" with the skip across it takes 2112 B: a tie, which goes to its output.
    assert below_8(solve(memory, ram=2100).activation_bits) == {3: 4, 4: 4}
    # With outputs at 4 bits the skip is what the sum wants cut, though "widen" is an input too.
    assert below_8(solve(memory, ram=1700).activation_bits) == {1: 4, 3: 4, 4: 4}


def test_weights_are_cut_by_share_and_then_by_order():
    graph = graphs.chain(16, 16, 16, resolution=4)  # weights 432, 2304, 2304 B
    memory = PaperMemory(graph)
    full = memory.flash_bytes(solve(memory))
    assert below_8(solve(memory, flash=full - 1).weight_bits) == {1: 4}
    assert below_8(solve(memory, flash=full - 1153).weight_bits) == {1: 4, 2: 4}


def test_a_network_without_weights():
    b = graphs.GraphBuilder(4, 4, 3)
    b.relu("relu", "input")
    memory = DeployedMemory(b.graph(), lambda policy: 500)
    with pytest.raises(BudgetError, match="without weights needs 500 B"):
        solve(memory, flash=499)


class WastefulPlanner(DeployedMemory):
    """Needs a tenth more than the lower bound, as a plan may where the bound cannot be reached."""

    def ram_bytes(self, policy):
        return self.ram_lower_bound(policy.activation_bits) * 11 // 10


def test_the_planner_has_the_last_word():
    memory = WastefulPlanner(graphs.resnet(), lambda policy: 0)
    for ram in range(60_000, 15_000, -1500):
        try:
            assert memory.ram_bytes(solve(memory, ram=ram)) <= ram
        except BudgetError as error:
            assert error.smallest > ram
            assert memory.ram_bytes(solve(memory, ram=error.smallest)) == error.smallest


# -- any network --------------------------------------------------------------------------------


@st.composite
def networks(draw):
    """Convolutions, pools, sums and concatenations in any order."""
    b = graphs.GraphBuilder(draw(st.integers(3, 9)), draw(st.integers(3, 9)), 3)
    tensors = [b.conv("stem", "input", draw(st.integers(1, 12)), kernel=3)]
    for i in range(draw(st.integers(0, 7))):
        x = draw(st.sampled_from(tensors[-3:]))
        kind = draw(st.sampled_from(("conv", "depthwise", "max_pool", "relu", "add", "concat")))
        alike = [t for t in tensors if b.tensors[t].shape == b.tensors[x].shape]
        if kind == "conv":
            y = b.conv(f"n{i}", x, draw(st.integers(1, 12)), draw(st.sampled_from((1, 3))))
        elif kind == "depthwise":
            y = b.depthwise(f"n{i}", x)
        elif kind == "max_pool":
            y = b.max_pool(f"n{i}", x, kernel=3, stride=1)
        elif kind == "relu":
            y = b.relu(f"n{i}", x)
        elif kind == "add":
            y = b.add(f"n{i}", x, draw(st.sampled_from(alike)))
        else:
            y = b.concatenate(f"n{i}", x, draw(st.sampled_from(alike)))
        tensors.append(y)
    x = b.global_average_pool("pool", tensors[-1])
    b.softmax("softmax", b.dense("classifier", x, 10))
    return b.graph()


@settings(deadline=None)
@given(
    networks(),
    st.sampled_from((PaperMemory, deployed)),
    st.floats(0.2, 1.1),
    st.floats(0.2, 1.1),
    st.data(),
)
def test_holds_the_budget_or_says_which_would_do(graph, model, flash_share, ram_share, data):
    memory = model(graph)
    free = [t for t in graph.quantized_tensors if t not in graph.fixed_tensors]
    pinned = {
        kind: dict.fromkeys(data.draw(st.lists(st.sampled_from(names), max_size=2)), 4)
        for kind, names in (("weights", [n.name for n in graph.weighted_nodes]),
                            ("activations", free))
    }  # fmt: skip
    most = solve(memory)
    flash = max(1, int(memory.flash_bytes(most) * flash_share))
    ram = max(1, int(memory.ram_bytes(most) * ram_share))
    for _ in range(3):
        try:
            policy = solve(memory, flash, ram, **pinned)
            break
        except BudgetError as error:  # first RAM, then FLASH; the third time it must work
            assert error.tensor in graph.tensors or error.tensor in most.weight_bits
            if "of RAM" in str(error):
                assert error.smallest > ram
                ram = error.smallest
            else:
                assert error.smallest > flash
                flash = error.smallest
    policy.validate(graph)
    assert memory.flash_bytes(policy) <= flash and memory.ram_bytes(policy) <= ram
    for name, bits in pinned["weights"].items():
        assert policy.weight_bits[name] == bits
    for name, bits in pinned["activations"].items():
        assert policy.activation_bits[name] == bits


@settings(deadline=None)
@given(networks(), st.floats(0.3, 1.0), st.floats(1.0, 2.0))
def test_a_larger_budget_has_a_solution_too_and_never_fewer_weight_bits(graph, share, factor):
    memory = PaperMemory(graph)
    most = solve(memory)
    flash, ram = (int(share * s) for s in (memory.flash_bytes(most), memory.ram_bytes(most)))
    try:
        small = solve(memory, flash, ram)
    except BudgetError:
        return
    large = solve(memory, int(flash * factor), int(ram * factor))
    assert all(large.weight_bits[n] >= bits for n, bits in small.weight_bits.items())
