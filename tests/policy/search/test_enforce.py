"""Bits cut until they fit, and raised as far as they do."""

import random

import graphs
import pytest

from tfmix.budget import Budget
from tfmix.errors import BudgetError
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.cost.memory import DeployedMemory, PaperMemory
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search.base import Pinned, SearchProblem
from tfmix.policy.search.enforce import enforce, promote
from tfmix.policy.search.random import random_policy


def solve(memory, policy=None, flash=None, ram=None, **pinned):
    problem = SearchProblem(memory, Budget(flash, ram), Pinned.parse(memory.graph, pinned))
    return enforce(problem, policy or problem.start())


def below_8(bits):
    return {i: b for i, b in enumerate(bits.values()) if b < 8}


def test_what_fits_is_left_as_it_is():
    memory = PaperMemory(graphs.resnet())
    policy = QuantizationPolicy.uniform(memory.graph, 4)
    assert solve(memory, policy) == policy
    assert solve(memory, policy, memory.flash_bytes(policy), memory.ram_bytes(policy)) == policy


def test_the_largest_weights_are_halved_the_first_on_a_tie():
    memory = PaperMemory(graphs.chain(16, 16, 16, resolution=4))  # weights 432, 2304, 2304 B
    full = memory.flash_bytes(solve(memory))
    assert below_8(solve(memory, flash=full - 1).weight_bits) == {1: 4}
    assert below_8(solve(memory, flash=full - 1153).weight_bits) == {1: 4, 2: 4}
    assert below_8(solve(memory, flash=full - 2305).weight_bits) == {1: 2, 2: 4}
    assert below_8(solve(memory, flash=full - 1, weights={"c1": 8}).weight_bits) == {2: 4}


def test_the_largest_live_buffer_is_halved_the_output_on_a_tie():
    memory = PaperMemory(graphs.chain(8, 12, 1))  # 192, 512, 768, 64 B
    assert below_8(solve(memory, ram=1000).activation_bits) == {2: 4}
    assert below_8(solve(memory, ram=800).activation_bits) == {1: 4, 2: 4}
    tie = PaperMemory(graphs.chain(8, 8, 1))
    assert below_8(solve(tie, ram=1000).activation_bits) == {2: 4}


def test_a_held_skip_may_be_the_largest():
    b = graphs.GraphBuilder(8, 8, 3)
    skip = b.conv("skip", "input", 16)
    x = b.conv("narrow", skip, 1)
    x = b.conv("widen", x, 8)
    x = b.conv("same", x, 16)
    b.add("sum", skip, x)
    b.conv("last", "sum", 1)
    memory = PaperMemory(b.graph())  # "widen" runs with 64 + 512 + 1024 B
    assert below_8(solve(memory, ram=1600, activations={"same": 4, "sum": 4}).activation_bits) == {
        1: 4, 4: 4, 5: 4
    }  # fmt: skip


def test_a_max_pool_shares_the_bits_of_its_source():
    b = graphs.GraphBuilder(8, 8, 3)
    x = b.conv("conv", "input", 8)
    x = b.max_pool("pool", x, kernel=3, stride=1)
    b.conv("last", x, 1)
    memory = PaperMemory(b.graph())
    assert solve(memory, ram=600).activation_bits == {"input": 8, "conv": 4, "last": 8}


def test_pinned_and_fixed_bits_are_put_in_their_place():
    graph = graphs.resnet()
    memory = PaperMemory(graph)
    policy = QuantizationPolicy.uniform(graph, 2).replace(activations={"input": 4})
    policy = solve(memory, policy, weights={"conv1": 8}, activations={"a0_0": 8})
    assert policy.weight_bits["conv1"] == policy.activation_bits["a0_0"] == 8
    assert policy.activation_bits["input"] == policy.activation_bits["classifier"] == 8
    policy.validate(graph)


@pytest.mark.parametrize("limits", [{"flash": 100}, {"ram": 100}])
def test_says_when_nothing_fits(limits):
    memory = PaperMemory(graphs.resnet())
    with pytest.raises(BudgetError) as error:
        solve(memory, **limits)
    (kind,) = limits
    assert solve(memory, **{kind: error.value.smallest})
    with pytest.raises(BudgetError):
        solve(memory, **{kind: error.value.smallest - 1})


class WastefulPlanner(DeployedMemory):
    flash_items = ()

    def ram_bytes(self, policy):
        return self.ram_lower_bound(policy.activation_bits) * 11 // 10


@pytest.mark.parametrize(
    "model", [PaperMemory, lambda g: WastefulPlanner(g, PaperMemory(g).flash_bytes)]
)
def test_random_bits_are_made_to_fit_and_filled_up(model):
    """Cuts go down only; promotion goes up only, and ends where nothing more fits."""
    graph = graphs.resnet()
    memory = model(graph)
    rng = random.Random(0)
    for _ in range(30):
        budget = Budget(rng.randint(30_000, 80_000), rng.randint(22_000, 50_000))
        problem = SearchProblem(memory, budget, Pinned.parse(graph, {"weights": {"b2_0": 2}}))
        guess = random_policy(problem, rng)
        policy = enforce(problem, guess)
        full = promote(problem, policy, lambda before, after: rng.random())
        for one, more in ((policy, guess), (policy, full)):
            assert all(b <= more.weight_bits[n] for n, b in one.weight_bits.items())
            assert all(b <= more.activation_bits[n] for n, b in one.activation_bits.items())
        assert problem.fits(policy) and problem.fits(full)
        for name, bits in full.weight_bits.items():
            if bits < 8 and name != "b2_0":
                assert not problem.fits(full.replace(weights={name: 2 * bits}))
        for name, bits in full.activation_bits.items():
            if bits < 8:
                assert not problem.fits(full.replace(activations={name: 2 * bits}))


def test_promotion_leaves_what_is_worth_less_than_nothing():
    memory = PaperMemory(graphs.chain(4, 4))
    problem = SearchProblem(memory, Budget(None, None))
    low = QuantizationPolicy.uniform(memory.graph, BIT_WIDTHS[0])
    full = promote(problem, low, lambda before, after: after.weight_bits["c0"] - 4.5)
    assert full == low
    full = promote(problem, low, lambda before, after: 0.0)
    assert full == problem.start()
