"""The planner of chains: exact about what each takes, optimal, and what it plans has a place."""

from __future__ import annotations

import itertools
import random
import time

import graphs
import numpy as np
import pytest

from tfmix.errors import TfmixError
from tfmix.ir.schedule import schedule
from tfmix.policy.cost import arena
from tfmix.policy.cost.memory import StreamingMemory
from tfmix.policy.cost.streaming import (
    BANDS,
    NO_CHAINS,
    ChainPlan,
    ChainPlanner,
    added_instructions,
    planner_of,
)
from tfmix.policy.policy import QuantizationPolicy


def random_graph(rng: random.Random, steps: int = 6):
    """Windows, adds of what came before, a branch now and then, a pool and a classifier."""
    b = graphs.GraphBuilder(rng.choice((8, 11, 16)), rng.choice((8, 12)), rng.choice((2, 3)))
    x, seen = "input", []
    for i in range(steps):
        shape = b.tensors[x].shape
        same = [t for t in seen if b.tensors[t].shape == shape and t != x]
        kind = rng.choice(("conv", "depthwise", "relu", "max_pool", "add", "add"))
        before = x
        if kind == "add" and same:
            x = b.add(f"t{i}", rng.choice(same), x)
        elif kind == "depthwise":
            x = b.depthwise(f"t{i}", x, rng.choice((3, 5)), rng.choice((1, 1, 2)))
        elif kind == "relu":
            x = b.relu(f"t{i}", x)
        elif kind == "max_pool" and min(shape[:2]) > 2:
            x = b.max_pool(f"t{i}", x)
        else:
            channels = rng.choice((shape[2], 4, 8, 16))
            x = b.conv(f"t{i}", x, channels, rng.choice((1, 3)), rng.choice((1, 1, 2)))
        seen.append(before)
    b.dense("classifier", b.global_average_pool("pool", x), 10)
    return b.graph()


def random_bits(graph, rng):
    return {
        t: 8 if t in graph.fixed_tensors else rng.choice((2, 4, 8)) for t in graph.quantized_tensors
    }


def eight(graph):
    return dict.fromkeys(graph.quantized_tensors, 8)


def all_chains(graph, bits, band):
    """Every chain there can be, with the step it is in the schedule: found by trying."""
    names = [node.name for node in graph.steps]
    for first, last in itertools.combinations_with_replacement(range(len(names)), 2):
        plan = ChainPlan((tuple(names[first : last + 1]),), dict.fromkeys(names, band))
        try:
            yield first, last, schedule(graph, bits, plan.chains, plan.bands)
        except TfmixError:
            continue


def alive(order, time):
    """Bytes that a step takes: the bound of a schedule of which the other steps take nothing."""
    step = order.steps[time]
    whole = sum(arena.align(order.buffers[name]) for name in order.live[time])
    return whole + arena.align(step.scratch) - arena.shared_bytes(order, step)


@pytest.mark.parametrize("seed", range(12))
def test_what_each_chain_takes_is_what_the_schedule_says(seed):
    rng = random.Random(seed)
    graph = random_graph(rng)
    bits = random_bits(graph, rng)
    ways = ChainPlanner(graph)._ways(bits)
    for b, band in enumerate(BANDS):
        found = set()
        for first, last, order in all_chains(graph, bits, band):
            assert ways.ram[b, last, first] == alive(order, first)
            assert ways.shared[b, last, first] == arena.shared_bytes(order, order.steps[first])
            found.add((last, first))
        planned = {(int(j), int(i)) for j, i in np.argwhere(np.isfinite(ways.ram[b]))}
        assert planned == found
    order = schedule(graph, bits)
    for time_ in range(len(order.steps)):
        assert ways.single[time_] == alive(order, time_)


def partitions(ways, steps):
    """(largest part, cost) of every way to cut the steps into parts."""

    def go(first):
        if first == steps:
            yield 0.0, 0.0
            return
        parts = [(first, ways.single[first], 0.0)]
        parts += [
            (last, ways.ram[b, last, first], ways.cost[b, last, first])
            for last in range(first, steps)
            for b in range(len(BANDS))
            if np.isfinite(ways.ram[b, last, first])
        ]
        for last, ram, cost in parts:
            for rest_ram, rest_cost in go(last + 1):
                yield max(ram, rest_ram), cost + rest_cost

    return list(go(0))


@pytest.mark.parametrize("seed", range(6))
def test_plans_are_optimal(seed):
    rng = random.Random(100 + seed)
    graph = random_graph(rng, steps=4)
    bits = random_bits(graph, rng)
    planner = ChainPlanner(graph)
    ways = planner._ways(bits)
    every = partitions(ways, len(graph.steps))
    assert planner.least_bytes(bits) == min(ram for ram, _ in every)
    for limit in sorted({int(ram) for ram, _ in every})[:20]:
        cost, path = ways.cheapest(limit)
        assert cost == pytest.approx(min(c for ram, c in every if ram <= limit))
        plan = planner.cheapest(bits, limit)
        assert added_instructions(graph, bits, plan) == pytest.approx(cost)
        assert arena.lower_bound(planner.schedule(bits, plan)) <= limit
        assert len(plan.chains) == len(path)
    assert planner.cheapest(bits, planner.least_bytes(bits) - 1) is None


@pytest.mark.parametrize("seed", range(10))
def test_what_fits_has_a_place_and_the_same_one_each_time(seed):
    rng = random.Random(200 + seed)
    graph = random_graph(rng, steps=9)
    bits = random_bits(graph, rng)
    planner = planner_of(graph)
    smallest = planner.smallest(bits)
    least = arena.plan(planner.schedule(bits, smallest)).total
    most = arena.plan(planner.schedule(bits, NO_CHAINS)).total
    assert planner.least_bytes(bits) <= least <= most
    for limit in range(least, most + 1, max(16, (most - least) // 4)):
        plan = planner.fitting(bits, limit) or smallest
        assert arena.plan(planner.schedule(bits, plan)).total <= limit
        assert plan == (ChainPlanner(graph).fitting(bits, limit) or smallest)
    assert planner.fitting(bits, most) == NO_CHAINS


def test_what_lies_beside_the_arena_counts():
    graph = graphs.mobilenet_v1(0.25, 96)
    planner, bits = planner_of(graph), eight(graph)
    most = arena.plan(planner.schedule(bits, NO_CHAINS)).total
    beside = lambda order: 100 * len(order.steps)  # noqa: E731
    steps = len(graph.steps)
    assert planner.fitting(bits, most + 100 * steps, beside) == NO_CHAINS
    plan = planner.fitting(bits, most + 100 * steps - 1, beside)
    order = planner.schedule(bits, plan)
    assert plan != NO_CHAINS
    assert arena.plan(order).total + beside(order) <= most + 100 * steps - 1


def test_less_ram_costs_more_instructions():
    graph = graphs.mobilenet_v2(0.35, 96)
    planner, bits = planner_of(graph), eight(graph)
    ways = planner._ways(bits)
    least, most = planner.least_bytes(bits), int(ways.single.max())
    costs = [ways.cheapest(limit)[0] for limit in np.linspace(least, most, 10).astype(int)]
    assert costs == sorted(costs, reverse=True) and costs[-1] == 0 < costs[0]


def test_bands_are_used_where_there_is_room():
    graph = graphs.mobilenet_v1(1.0, 96)
    planner, bits = planner_of(graph), eight(graph)
    least = planner.least_bytes(bits)
    tight, loose = planner.cheapest(bits, least), planner.cheapest(bits, 2 * least)
    assert max(loose.bands.values()) == max(BANDS)
    assert sum(tight.bands.values()) < sum(len(chain) * max(BANDS) for chain in tight.chains)


def test_an_input_by_rows_is_never_whole():
    graph = graphs.mobilenet_v1(0.25, 64)
    planner, bits = planner_of(graph, input_by_rows=True), eight(graph)
    plan = planner.smallest(bits)
    order = planner.schedule(bits, plan)
    assert "input" not in order.buffers and plan.chains[0][0] == "conv1"
    whole = planner_of(graph)
    assert arena.plan(order).total < arena.plan(whole.schedule(bits, whole.smallest(bits))).total
    ways = planner._ways(bits)
    names = [node.name for node in graph.steps]
    for last in range(8):
        chain = (tuple(names[: last + 1]),)
        order = schedule(graph, bits, chain, input_by_rows=True)
        assert ways.ram[0, last, 0] == alive(order, 0)


def test_a_network_that_cannot_take_its_input_by_rows():
    b = graphs.GraphBuilder(16)
    b.dense("classifier", "input", 10)
    with pytest.raises(TfmixError, match="'input' by rows: the network does not begin with"):
        planner_of(b.graph(), input_by_rows=True).smallest(eight(b.graph()))


def test_a_plan_for_mobilenet_v2_takes_less_than_a_second():
    graph = graphs.mobilenet_v2()
    planner, bits = ChainPlanner(graph), eight(graph)
    planner._geometry  # noqa: B018  once for the network, about a second
    start = time.process_time()
    assert planner.fitting(bits, 256_000) is not None
    assert time.process_time() - start < 1.0


# -- the networks of the papers, all activations at 8 bits -----------------------------------------

KILOBYTE = 1024
V1 = {
    f"v1 {alpha} {size}": (lambda a=alpha, s=size: graphs.mobilenet_v1(a, s))
    for alpha in (1.0, 0.75, 0.5)
    for size in (224, 192, 160)
}
V2 = {f"v2 {size}": (lambda s=size: graphs.mobilenet_v2(1.0, s)) for size in (224, 192, 160)}
LIMITS = [
    *((name, make, 512) for name, make in (V1 | V2 | {"mnasnet": graphs.mnasnet_a1}).items()),
    *((name, make, 256) for name, make in (V1 | V2).items()),
    ("v1 0.5 160", V1["v1 0.5 160"], 128),
    ("v2 160", V2["v2 160"], 128),
]


@pytest.mark.parametrize(
    ("name", "make", "kilobytes"), LIMITS, ids=[f"{name} in {kb} kB" for name, _, kb in LIMITS]
)
def test_the_papers_networks_fit(name, make, kilobytes):
    """The arena of TensorFlow Lite Micro, interpreter included, as `docs/streaming.md` has it."""
    graph = make()
    policy = QuantizationPolicy.uniform(graph, 8)
    memory = StreamingMemory(graph, lambda policy, plan: 0, kilobytes * KILOBYTE)
    assert memory.ram_bytes(policy) <= kilobytes * KILOBYTE
    plan = memory.at(policy.activation_bits).plan
    macs = sum(graph.macs(node) for node in graph.nodes)
    added = added_instructions(graph, policy.activation_bits, plan)
    assert added / macs < {512: 0.01, 256: 0.02, 128: 0.05}[kilobytes]
