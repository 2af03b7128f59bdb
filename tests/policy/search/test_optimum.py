"""The integer program against brute force, and on the networks of the papers."""

import math
import random
import time
from itertools import product

import graphs
import pytest
from fake_network import random_table

from tfmix.budget import Budget
from tfmix.errors import BudgetError, TfmixError
from tfmix.export.flatbuffer import file_size
from tfmix.integer.convert import skeleton
from tfmix.ir.graph import Op
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.cost.memory import DeployedMemory, PaperMemory
from tfmix.policy.search.base import Pinned, SearchProblem
from tfmix.policy.search.optimum import (
    PREFERENCE,
    Interaction,
    bits_of,
    cuttable,
    minimise,
    with_bits,
)
from tfmix.policy.sensitivity import SensitivityTable


class ConstantFile(DeployedMemory):
    """Arena and interpreter as deployed, and a file that has always as much beside its weights."""

    flash_items = ()

    def __init__(self, graph):
        paper = PaperMemory(graph)
        super().__init__(graph, lambda policy: paper.flash_bytes(policy) + 4096)

    @property
    def flash_rest(self):
        return PaperMemory(self.graph).flash_rest + 4096


def with_real_files(graph):
    return DeployedMemory(graph, lambda p: file_size(skeleton(graph, p, per_channel=True)))


def small_network(rng):
    """A few convolutions, pools, sums and concatenations in any order."""
    b = graphs.GraphBuilder(rng.randint(3, 9), rng.randint(3, 9), 3)
    tensors = [b.conv("stem", "input", rng.randint(1, 12), kernel=3)]
    for i in range(rng.randint(1, 5)):
        x = rng.choice(tensors[-3:])
        alike = [t for t in tensors if b.tensors[t].shape == b.tensors[x].shape]
        kind = rng.choice(("conv", "conv", "depthwise", "max_pool", "add", "concat"))
        if kind == "conv":
            y = b.conv(f"n{i}", x, rng.randint(1, 12), rng.choice((1, 3)))
        elif kind == "depthwise":
            y = b.depthwise(f"n{i}", x)
        elif kind == "max_pool":
            y = b.max_pool(f"n{i}", x, kernel=3, stride=1)
        elif kind == "add":
            y = b.add(f"n{i}", x, rng.choice(alike))
        else:
            y = b.concatenate(f"n{i}", x, rng.choice(alike))
        tensors.append(y)
    x = b.global_average_pool("pool", tensors[-1])
    b.softmax("softmax", b.dense("classifier", x, 10))
    return b.graph()


def small_problem(rng, model, most_tensors):
    """Pinned at random until at most so many tensors have a choice; a budget of any tightness."""
    memory = model(small_network(rng))
    tensors = list(cuttable(SearchProblem(memory, Budget())))
    rng.shuffle(tensors)
    pinned = {"weights": {}, "activations": {}}
    for kind, name in tensors[most_tensors - rng.randint(0, 2) :]:
        pinned[kind][name] = rng.choice(BIT_WIDTHS)
    pinned = Pinned.parse(memory.graph, pinned)
    most = SearchProblem(memory, Budget(), pinned)
    least = with_bits(most.start(), dict.fromkeys(cuttable(most), 2))

    def between(size):
        low, high = size(least), size(most.start())
        return rng.choice((None, max(1, round(low + rng.uniform(-0.1, 1) * (high - low)))))

    return SearchProblem(
        memory, Budget(between(memory.flash_bytes), between(memory.ram_bytes)), pinned
    )


def policies(problem, kind=None):
    """All there are, or all that differ in the tensors of one kind."""
    tensors = [t for t in cuttable(problem) if kind in (None, t[0])]
    for bits in product(BIT_WIDTHS, repeat=len(tensors)):
        yield with_bits(problem.start(), dict(zip(tensors, bits, strict=True)))


def cost(problem, table, policy, kind=None):
    return math.fsum(
        getattr(table, k)[name].get(bits_of(policy, (k, name)), 0.0)
        for k, name in cuttable(problem)
        if kind in (None, k)
    )


def tolerance(problem, table, interactions=()):
    """What the preference for more bits may cost."""
    most = cost(problem, table, with_bits(problem.start(), dict.fromkeys(cuttable(problem), 2)))
    return 1.01 * PREFERENCE * (most + sum(abs(i.increase) for i in interactions)) + 1e-12


def brute_force(problem, table):
    """The least cost of all policies that fit, None if none does.

    All combinations of weight bits and all of activation bits: FLASH asks for the first alone, and
    RAM for the second.
    """
    total = 0.0
    for kind, size, limit in (
        ("weights", problem.memory.flash_bytes, problem.budget.flash),
        ("activations", problem.memory.ram_bytes, problem.budget.ram),
    ):
        costs = [
            cost(problem, table, policy, kind)
            for policy in policies(problem, kind)
            if limit is None or size(policy) <= limit
        ]
        if not costs:
            return None
        total += min(costs)
    return total


@pytest.mark.parametrize("model", [PaperMemory, ConstantFile])
def test_equals_brute_force_over_all_policies(model):
    """100 instances each of two ways to count: pinned tensors, residuals, shared quantizers."""
    seen = {"add": 0, "pinned": 0, "infeasible": 0, "cut": 0}
    for seed in range(100):
        rng = random.Random(seed)
        problem = small_problem(rng, model, most_tensors=8)
        table = random_table(problem.graph, seed, share_of_zeros=0.1)
        least = brute_force(problem, table)
        if least is None:
            seen["infeasible"] += 1
            with pytest.raises(BudgetError):
                minimise(problem, table)
            continue
        policy, proof = minimise(problem, table)
        assert problem.fits(policy)
        assert proof.objective == pytest.approx(cost(problem, table, policy), abs=1e-12)
        assert proof.objective <= least + tolerance(problem, table), seed
        assert proof.optimal, seed
        seen["add"] += any(node.op is Op.ADD for node in problem.graph.nodes)
        seen["pinned"] += bool(problem.pinned.weights or problem.pinned.activations)
        seen["cut"] += policy != problem.start()
    assert min(seen.values()) >= 5 and seen["cut"] >= 50, seen


def test_is_within_its_gap_on_real_files():
    """FLASH of a real file depends on all bits: every single policy is tried."""
    optimal = 0
    for seed in range(25):
        rng = random.Random(seed)
        problem = small_problem(rng, with_real_files, most_tensors=5)
        table = random_table(problem.graph, seed)
        costs = [cost(problem, table, p) for p in policies(problem) if problem.fits(p)]
        if not costs:
            continue
        try:
            policy, proof = minimise(problem, table)
        except BudgetError as error:  # a few bytes above the least there is, none may be found
            assert error.smallest - problem.budget.flash <= 64
            continue
        assert problem.fits(policy)
        slack = tolerance(problem, table)
        assert proof.objective - proof.gap - slack <= min(costs) <= proof.objective + slack
        if proof.optimal:
            optimal += 1
            assert proof.objective <= min(costs) + slack
    assert optimal >= 15


def test_equals_brute_force_with_interactions():
    """Pairs within and across weights and activations, good and bad ones."""
    for seed in range(40):
        rng = random.Random(seed)
        problem = small_problem(rng, PaperMemory, most_tensors=6)
        table = random_table(problem.graph, seed)
        tensors = cuttable(problem)
        if len(tensors) < 2:
            continue
        interactions = [
            Interaction(one, rng.choice((2, 4)), other, rng.choice((2, 4)), rng.uniform(-0.05, 0.2))
            for one, other in (rng.sample(tensors, 2) for _ in range(4))
        ]

        def total(policy, problem=problem, table=table, interactions=interactions):
            pairs = sum(
                i.increase
                for i in interactions
                if bits_of(policy, i.one) <= i.one_bits and bits_of(policy, i.other) <= i.other_bits
            )
            return cost(problem, table, policy) + pairs

        costs = [total(policy) for policy in policies(problem) if problem.fits(policy)]
        if costs:
            policy, proof = minimise(problem, table, interactions)
            assert proof.objective == pytest.approx(total(policy), abs=1e-12)
            slack = tolerance(problem, table, interactions)
            assert proof.objective <= min(costs) + slack, seed
            assert proof.optimal


# -- networks of the papers ---------------------------------------------------------------------


NETWORKS = {
    "MobileNetV1": graphs.mobilenet_v1,
    "MobileNetV2": graphs.mobilenet_v2,
    "MNasNet-A1": graphs.mnasnet_a1,
}


def test_mnasnet_has_the_size_of_the_paper():
    """Tan et al. 2019, table 1: 3.9 M parameters and 312 M multiply-adds."""
    graph = graphs.mnasnet_a1()
    parameters = sum(graph.weight_elements(node) for node in graph.weighted_nodes)
    for node in graph.weighted_nodes:  # gamma and beta, or a bias
        parameters += graph.output_channels(node) * (1 if node.op is Op.DENSE else 2)
    assert round(parameters / 1e6, 1) == 3.9
    assert 305e6 < sum(graph.macs(node) for node in graph.nodes) < 320e6


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("model", [PaperMemory, ConstantFile])
def test_papers_networks_are_solved_to_optimality_in_seconds(name, model):
    """At the papers' budget, with residual sums at 8 bits."""
    graph = NETWORKS[name]()
    memory = model(graph)
    problem = SearchProblem(
        memory, Budget(2_048_000, 512_000), Pinned.parse(graph, graphs.residual_sums(graph))
    )
    for seed in range(3):
        start = time.process_time()
        policy, proof = minimise(problem, random_table(graph, seed))
        assert time.process_time() - start <= 5
        assert proof.optimal and problem.fits(policy)
        assert proof.flash_slack == 2_048_000 - memory.flash_bytes(policy) >= 0
        assert proof.ram_slack == 512_000 - memory.ram_bytes(policy) >= 0
        assert min(proof.step_slack.values()) >= proof.ram_slack
        assert set(proof.step_slack) == {step.name for step in memory.steps}


@pytest.mark.parametrize("name", NETWORKS)
def test_real_files_leave_a_small_gap(name):
    """Some padding is all that is not exact."""
    graph = NETWORKS[name]()
    problem = SearchProblem(
        with_real_files(graph),
        Budget(2_048_000, 512_000),
        Pinned.parse(graph, graphs.residual_sums(graph)),
    )
    policy, proof = minimise(problem, random_table(graph, 1))
    assert problem.fits(policy)
    assert proof.gap <= 0.001 * proof.objective


def test_nothing_can_be_raised():
    for name, make in (*NETWORKS.items(), ("ResNet-8", graphs.resnet)):
        graph = make()
        budget = Budget(40_000, 32_000) if name == "ResNet-8" else Budget(2_048_000, 512_000)
        problem = SearchProblem(with_real_files(graph), budget)
        policy, _ = minimise(problem, random_table(graph, 1))
        for tensor in cuttable(problem):
            if bits_of(policy, tensor) < 8:
                assert not problem.fits(with_bits(policy, {tensor: 2 * bits_of(policy, tensor)}))


def test_two_solutions_of_equal_cost_differ_by_bits():
    """Where the table says nothing, nothing is cut that need not be."""
    graph = graphs.resnet()
    table = random_table(graph, share_of_zeros=1.0)
    problem = SearchProblem(PaperMemory(graph), Budget(60_000, 30_000))
    policy, proof = minimise(problem, table)
    assert proof.objective == 0
    problem = SearchProblem(PaperMemory(graph), Budget(None, 30_000))
    policy, _ = minimise(problem, table)
    assert set(policy.weight_bits.values()) == {8}


# -- errors and odd cases -----------------------------------------------------------------------


class WastefulPlanner(DeployedMemory):
    """Needs a tenth more than the lower bound, as a plan may where the bound cannot be reached."""

    def ram_bytes(self, policy):
        return self.ram_lower_bound(policy.activation_bits) * 11 // 10


def test_the_planner_has_the_last_word():
    graph = graphs.resnet()
    memory = WastefulPlanner(graph, lambda policy: 0)
    for ram in range(60_000, 20_000, -5000):
        policy, proof = minimise(SearchProblem(memory, Budget(None, ram)), random_table(graph, ram))
        assert memory.ram_bytes(policy) <= ram
        # A planner that reaches the bound in ten elevenths of the RAM does the same.
        perfect = DeployedMemory(graph, lambda policy: 0)
        same = SearchProblem(perfect, Budget(None, (10 * ram + 9) // 11))
        table = random_table(graph, ram)
        least = minimise(same, table)[1].objective
        slack = tolerance(same, table)
        assert proof.objective - proof.gap - slack <= least <= proof.objective + slack


def test_a_table_that_does_not_serve():
    graph = graphs.resnet()
    problem = SearchProblem(PaperMemory(graph), Budget(60_000, 30_000))
    table = random_table(graph)
    weights = {name: row for name, row in table.weights.items() if name != "a0_0"}
    with pytest.raises(TfmixError, match="holds nothing on weights 'a0_0'"):
        minimise(problem, SensitivityTable(weights, table.activations))
    pinned = SearchProblem(
        problem.memory, problem.budget, Pinned.parse(graph, {"weights": {"a0_0": 4}})
    )
    assert (
        minimise(pinned, SensitivityTable(weights, table.activations))[0].weight_bits["a0_0"] == 4
    )


def test_everything_pinned():
    graph = graphs.chain(4, 4)
    pinned = Pinned.parse(graph, {"weights": {"c0": 4, "c1": 2}, "activations": {"c0": 4}})
    problem = SearchProblem(PaperMemory(graph), Budget(10_000, 10_000), pinned)
    policy, proof = minimise(problem, SensitivityTable({}, {}))
    assert policy == problem.start() and proof.optimal and proof.objective == 0
    for budget in (Budget(10, None), Budget(None, 10)):
        with pytest.raises(BudgetError):
            minimise(SearchProblem(problem.memory, budget, pinned), SensitivityTable({}, {}))


def test_a_proof_reads_well():
    graph = graphs.resnet()
    problem = SearchProblem(PaperMemory(graph), Budget(60_000, 30_000))
    text = str(minimise(problem, random_table(graph))[1])
    assert "optimal for its table" in text and "FLASH left: " in text and "tightest steps: " in text
