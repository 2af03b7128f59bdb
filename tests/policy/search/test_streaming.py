"""Searches that may run layers row by row: RAM is that of the best schedule for the bits."""

from __future__ import annotations

import random
from dataclasses import replace

import graphs
import pytest

from tfmix.budget import Budget
from tfmix.errors import BudgetError
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.cost import arena
from tfmix.policy.cost.memory import (
    DeployedMemory,
    PaperMemory,
    StreamingMemory,
    impossible,
    memory_report,
)
from tfmix.policy.cost.streaming import NO_CHAINS, planner_of
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search import memory as rules
from tfmix.policy.search import uniform
from tfmix.policy.search.base import Pinned, SearchProblem
from tfmix.policy.search.enforce import enforce, promote
from tfmix.policy.search.optimum import bits_of, cuttable, minimise
from tfmix.policy.search.random import random_policy
from tfmix.policy.sensitivity import SensitivityTable


def separable():
    """Depthwise and pointwise convolutions one after the other."""
    b = graphs.GraphBuilder(32, 32, 3)
    x = b.conv("conv1", "input", 8, kernel=3, stride=2)
    for i, (channels, stride) in enumerate([(16, 1), (32, 2), (32, 1)]):
        x = b.conv(f"pw{i}", b.depthwise(f"dw{i}", x, stride=stride), channels)
    b.dense("classifier", b.global_average_pool("pool", x), 10)
    return b.graph()


def inverted():
    """Inverted residuals: sums within a chain, and across."""
    b = graphs.GraphBuilder(32, 32, 3)
    x = b.conv("conv1", "input", 8, kernel=3, stride=2)
    for i in range(2):
        skip = x
        x = b.depthwise(f"dw{i}", b.conv(f"expand{i}", x, 48))
        x = b.add(f"add{i}", skip, b.conv(f"project{i}", x, 8, relu=False))
    b.dense("classifier", b.global_average_pool("pool", x), 10)
    return b.graph()


V1, V2 = separable(), inverted()


def streaming(graph, ram) -> StreamingMemory:
    """Files that hold what the paper counts, and 100 B for each chain."""
    paper = PaperMemory(graph)
    return StreamingMemory(
        graph, lambda policy, plan: paper.flash_bytes(policy) + 100 * len(plan.chains), ram
    )


def problem_of(graph, ram, flash=None, **fields) -> SearchProblem:
    return SearchProblem(streaming(graph, ram), Budget(flash, ram), **fields)


def by_layers(problem: SearchProblem) -> SearchProblem:
    paper = PaperMemory(problem.graph)
    return replace(problem, memory=DeployedMemory(problem.graph, paper.flash_bytes))


def at(graph, bits):
    policy = QuantizationPolicy.uniform(graph, 8)
    free = [t for t in policy.activation_bits if t not in graph.fixed_tensors]
    return policy.replace(activations=dict.fromkeys(free, bits))


def least_ram(graph, bits) -> int:
    """RAM under the tightest chains."""
    policy = at(graph, bits)
    return streaming(graph, 1).tightest(policy.activation_bits).ram_bytes(policy)


def table_of(problem, seed=0) -> SensitivityTable:
    rng = random.Random(seed)
    rows = {"weights": {}, "activations": {}}
    for kind, name in cuttable(problem):
        four = rng.random()
        rows[kind][name] = {8: 0.0, 4: four, 2: four + rng.random()}
    return SensitivityTable(rows["weights"], rows["activations"])


# -- the memory model ---------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [V1, V2, graphs.resnet()])
def test_chains_only_where_the_ram_needs_them(graph):
    policy = at(graph, 8)
    most = DeployedMemory(graph, lambda policy: 0).ram_bytes(policy)
    assert streaming(graph, most).at(policy.activation_bits).plan == NO_CHAINS
    assert streaming(graph, most).ram_bytes(policy) == most
    least = least_ram(graph, 8)
    assert least < most
    for ram in range(least, most, (most - least) // 5):
        memory = streaming(graph, ram)
        steps = memory.at(policy.activation_bits)
        assert steps.plan != NO_CHAINS
        assert memory.ram_lower_bound(policy.activation_bits) <= memory.ram_bytes(policy) <= ram
        assert steps.ram_lower_bound(policy.activation_bits) <= steps.ram_bytes(policy)
    assert streaming(graph, least - 1).ram_bytes(policy) == least


@pytest.mark.parametrize("seed", range(8))
def test_live_bytes_and_their_linear_bounds(seed):
    """Live bytes of a chain are those of the schedule, at any bits; the program's rows are not
    above, and little below."""
    rng = random.Random(seed)
    graph = rng.choice((V1, V2, graphs.resnet()))
    plan = planner_of(graph).smallest(at(graph, rng.choice(BIT_WIDTHS)).activation_bits)
    memory = DeployedMemory(graph, lambda policy: 0, plan)
    policy = random_policy(SearchProblem(memory, Budget()), rng)
    bits = policy.activation_bits
    order = planner_of(graph).schedule(bits, plan)
    assert memory.ram_lower_bound(bits) - memory.interpreter_bytes == arena.lower_bound(order)
    for step, name in zip(memory.steps, (s.name for s in order.steps), strict=True):
        assert step.name == name
        sums = [
            beside + sum(sizes[graph.tensor_bits(t, bits)] for t, sizes in tensors.items())
            for tensors, beside in memory.linear_bounds(step)
        ]
        live = memory.live_bytes(step, bits)
        assert live - 3 * arena.ALIGNMENT < max(sums) <= live
        assert not impossible(graph, step)
        if step.stream is None:
            assert sums == [live]


def test_rows_that_do_not_end_with_a_byte_cannot_be():
    b = graphs.GraphBuilder(9, 9, 3)
    x = b.conv("c1", b.conv("c0", "input", 6), 8)
    b.dense("logits", b.global_average_pool("pool", x), 4)
    plan = planner_of(b.graph()).smallest(at(b.graph(), 8).activation_bits)
    steps = DeployedMemory(b.graph(), lambda policy: 0, plan).steps
    assert ("c0", 2) in [pair for step in steps for pair in impossible(b.graph(), step)]


# -- searches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [V1, V2])
def test_bits_stay_where_chains_do(graph):
    """What takes cuts layer by layer takes none with chains."""
    ram = least_ram(graph, 8)
    problem = problem_of(graph, ram)
    assert not by_layers(problem).fits(problem.start())
    assert rules.search(problem) == problem.start()
    assert uniform.search(problem) == problem.start()
    assert enforce(problem, problem.start()) == problem.start()
    policy, proof = minimise(problem, table_of(problem))
    assert policy == problem.start()
    assert proof.optimal and proof.objective == 0 and proof.chains > 0
    assert f"and its {proof.chains} chains" in str(proof)


SEARCHES = {
    "memory": rules.search,
    "uniform": uniform.search,
    "enforce": lambda problem: enforce(problem, random_policy(problem, random.Random(0))),
    "minimise": lambda problem: minimise(problem, table_of(problem))[0],
}


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("graph", [V1, V2])
def test_joint_choice_where_chains_alone_do_not_fit(graph, name):
    """Down to the least that the fewest bits take with the best chains, and not below."""
    eight, two = least_ram(graph, 8), least_ram(graph, 2)
    assert two < eight
    for ram in (two, (2 * two + eight) // 3, eight - 1):
        problem = problem_of(graph, ram)
        assert problem.fits(at(graph, 2))
        policy = SEARCHES[name](problem)
        assert problem.fits(policy)
        assert name == "uniform" or policy.activation_bits != at(graph, 8).activation_bits
    impossible = planner_of(graph).least_bytes(at(graph, 2).activation_bits) - 1
    with pytest.raises(BudgetError) as error:
        SEARCHES[name](problem_of(graph, impossible))
    assert problem_of(graph, error.value.smallest).fits(at(graph, 2))


@pytest.mark.parametrize("seed", range(3))
def test_the_program_is_at_least_as_good_as_the_rules_and_as_layer_by_layer(seed):
    ram = (least_ram(V2, 2) + least_ram(V2, 8)) // 2
    weights = sum(V2.weight_elements(node) for node in V2.weighted_nodes)
    flash = PaperMemory(V2).flash_bytes(at(V2, 8)) + 300 - weights // 2
    problem = problem_of(V2, ram, flash)
    table = table_of(problem, seed)
    policy, proof = minimise(problem, table)
    assert problem.fits(policy) and proof.ram_slack >= 0 and proof.flash_slack >= 0

    def cost(found):
        return sum(getattr(table, k)[n][bits_of(found, (k, n))] for k, n in cuttable(problem))

    assert proof.objective == pytest.approx(cost(policy))
    assert cost(policy) <= cost(rules.search(problem))
    assert cost(policy) <= cost(enforce(problem, problem.start()))
    # Nothing of it can be raised.
    assert promote(problem, policy, lambda before, after: cost(before) - cost(after)) == policy


def test_a_program_over_all_bits_and_chains():
    """On a network small enough to try every policy, each with its best chains."""
    b = graphs.GraphBuilder(12, 12, 4)
    x = b.conv("c0", "input", 8, kernel=3)
    x = b.depthwise("c1", x)
    x = b.conv("c2", x, 8)
    b.dense("logits", b.global_average_pool("pool", x), 4)
    graph = b.graph()
    pinned = Pinned(weights={node.name: 8 for node in graph.weighted_nodes})
    least, most = least_ram(graph, 2), least_ram(graph, 8)
    for ram in (least, (2 * least + most) // 3, (least + 2 * most) // 3):
        problem = problem_of(graph, ram, pinned=pinned)
        table = table_of(problem, ram)
        names = [name for _, name in cuttable(problem)]
        every = [problem.start()]
        for name in names:
            every = [p.replace(activations={name: bit}) for p in every for bit in BIT_WIDTHS]

        def cost(policy, table=table, names=names):
            return sum(table.activations[n][policy.activation_bits[n]] for n in names)

        policy, _ = minimise(problem, table)
        assert cost(policy) == pytest.approx(min(cost(p) for p in every if problem.fits(p)))


def test_another_budget_has_chains_of_its_own():
    least = least_ram(V1, 8)
    problem = problem_of(V1, least).within(Budget(None, 10 * least))
    assert problem.memory.at(problem.start().activation_bits).plan == NO_CHAINS
    assert not problem.within(Budget(None, least - 1)).fits(problem.start())


# -- the report ---------------------------------------------------------------------------------


def test_the_report_shows_chains():
    policy = at(V1, 8)
    memory = streaming(V1, least_ram(V1, 8))
    report = memory_report(memory, policy, Budget(None, memory.ram))
    assert report.fits and report.ram_bytes == memory.ram_bytes(policy)
    assert [c.name for c in report.chains] == [
        f"{chain[0]}..{chain[-1]}" for chain in memory.at(policy.activation_bits).plan.chains
    ]
    for step in report.steps:
        parts = step.input_bytes + step.output_bytes + step.held_bytes + step.scratch_bytes
        assert step.live_bytes == parts - step.shared_bytes
        assert sum(layer.weight_bytes for layer in step.layers) in (0, step.weight_bytes)
        assert sum(layer.scratch_bytes for layer in step.layers) <= step.scratch_bytes
    elements = sum(V1.weight_elements(node) for node in V1.weighted_nodes)
    assert report.weight_bytes == elements
    text = str(report)
    assert "shared B" in text and "\n  conv1 " in text
    layers = sum(len(chain.layers) for chain in report.chains)
    assert f"{len(report.chains)} chains of {layers} layers run row by row" in text
