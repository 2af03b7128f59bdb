"""The arena planner: valid always, at the lower bound on the networks that matter."""

import itertools
import random
import time
from dataclasses import replace

import graphs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tfmix.errors import TfmixError
from tfmix.ir.schedule import Schedule, Step, schedule
from tfmix.policy.cost import arena
from tfmix.policy.policy import QuantizationPolicy

NETWORKS = {
    "mobilenet_v1": graphs.mobilenet_v1(),
    "mobilenet_v1_small": graphs.mobilenet_v1(0.25, 128),
    "mobilenet_v2": graphs.mobilenet_v2(),
    "mobilenet_v2_small": graphs.mobilenet_v2(0.35, 96),
    "resnet8": graphs.resnet(),
    "resnet20": graphs.resnet(3),
    "resnet50": graphs.resnet50(),
    "densenet": graphs.dense_block(8),
}


def random_bits(graph, rng):
    """A policy's activation bits, each drawn from 2, 4, 8."""
    policy = QuantizationPolicy.uniform(graph, 8)
    free = [t for t in policy.activation_bits if t not in graph.fixed_tensors]
    return policy.replace(activations={t: rng.choice((2, 4, 8)) for t in free}).activation_bits


@st.composite
def schedules(draw, max_steps=12):
    """Any schedule: each step reads up to three recent buffers, and may write over one that nothing
    needs later."""
    steps, buffers = [], {"t0": draw(st.integers(1, 200))}
    for i in range(draw(st.integers(1, max_steps))):
        recent = list(buffers)[-5:]
        reads = draw(st.lists(st.sampled_from(recent), min_size=1, max_size=3))
        scratch = draw(st.sampled_from((0, 0, 16, 100)))
        steps.append(Step(f"s{i}", tuple(reads), f"t{i + 1}", scratch))
        buffers[f"t{i + 1}"] = draw(st.integers(1, 200))
    output = draw(st.sampled_from(list(buffers)))
    return with_overs(
        Schedule(tuple(steps), buffers, output),
        lambda step, over, most: draw(st.none() | st.integers(0, most)),
    )


def with_overs(sequence, distance):
    """Steps write over an input that nothing needs later, where `distance` gives one."""
    steps = []
    for time_, step in enumerate(sequence.steps):
        last = [name for name in step.reads if sequence.lifetimes[name][1] == time_]
        found = None
        if last and last[0] != sequence.output:
            found = distance(step, last[0], sequence.buffers[step.writes])
        steps.append(step if found is None else replace(step, over=(last[0], found)))
    return replace(sequence, steps=tuple(steps))


@pytest.mark.parametrize("name", NETWORKS)
def test_real_networks_reach_the_lower_bound(name):
    graph, rng = NETWORKS[name], random.Random(0)
    for bits in [dict.fromkeys(graph.quantized_tensors, 8)] + [
        random_bits(graph, rng) for _ in range(20)
    ]:
        sequence = schedule(graph, bits)
        start = time.perf_counter()
        plan = arena.plan(sequence)
        assert time.perf_counter() - start < 0.2
        arena.verify(sequence, plan)
        assert plan.total == arena.lower_bound(sequence)


@given(st.lists(st.integers(1, 300), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_chains_reach_the_lower_bound(sizes, rng):
    buffers = {f"t{i}": size for i, size in enumerate(sizes)}
    steps = tuple(
        Step(f"s{i}", (f"t{i}",), f"t{i + 1}", rng.choice((0, 0, 40, 500)))
        for i in range(len(sizes) - 1)
    )
    sequence = Schedule(steps, buffers, f"t{len(steps)}")
    assert arena.plan(sequence).total == arena.lower_bound(sequence)


def test_chains_with_an_output_over_its_input_mostly_reach_the_lower_bound():
    """One such step in each; with more of them there may be no plan that does."""
    rng, excess = random.Random(0), []
    for _ in range(60):
        sizes = [16 * rng.randint(1, 40) for _ in range(rng.randint(3, 12))]
        buffers = {f"t{i}": size for i, size in enumerate(sizes)}
        steps = tuple(
            Step(f"s{i}", (f"t{i}",), f"t{i + 1}", rng.choice((0, 0, 40, 200)))
            for i in range(len(sizes) - 1)
        )
        over = rng.choice(steps).name
        sequence = with_overs(
            Schedule(steps, buffers, f"t{len(steps)}"),
            lambda step, _, most, over=over: rng.randint(0, most) if step.name == over else None,
        )
        excess.append(arena.plan(sequence).total / arena.lower_bound(sequence) - 1)
    assert sum(e == 0 for e in excess) >= 54


@settings(deadline=None)
@given(schedules(), st.sampled_from((1, 4, 16, 64)))
def test_every_plan_is_valid(sequence, alignment):
    plan = arena.plan(sequence, alignment)
    arena.verify(sequence, plan, alignment)
    assert plan.total >= arena.lower_bound(sequence, alignment)
    assert set(plan.offsets) == set(sequence.buffers)
    assert set(plan.scratch_offsets) == {s.name for s in sequence.steps if s.scratch}
    assert plan == arena.plan(sequence, alignment)  # deterministic


OVER_THE_WALL = Schedule(
    (Step("s0", ("t0",), "t1", scratch=16, over=("t0", 1)),), {"t0": 1, "t1": 33}, "t1"
)


@settings(deadline=None, max_examples=30)
@example(OVER_THE_WALL)
@given(schedules(max_steps=4))
def test_small_plans_are_optimal(sequence):
    """First-fit in the best of all orders is optimal, and few blocks have few orders."""
    blocks = arena._blocks(sequence, 16)
    if len(blocks) > 6:
        return
    neighbours = arena._neighbours(blocks, arena._overs(sequence, 16))
    best = min(
        arena._height(blocks, arena._first_fit(blocks, neighbours, order))
        for order in itertools.permutations(range(len(blocks)))
    )
    assert arena.plan(sequence).total == best


def test_crowded_schedules_come_close():
    """Long lives that cross, as in no network: here first-fit and local search do the work."""
    rng = random.Random(3)
    excess = []
    for _ in range(10):
        buffers, steps = {"t0": 16}, []
        for i in range(40):
            reads = {f"t{i}", *rng.sample(list(buffers)[-20:], k=min(len(buffers), 2))}
            steps.append(Step(f"s{i}", tuple(reads), f"t{i + 1}", 16 * rng.choice((0, 1, 5))))
            buffers[f"t{i + 1}"] = 16 * rng.randint(1, 40)
        sequence = Schedule(tuple(steps), buffers, "t40")
        excess.append(arena.plan(sequence).total / arena.lower_bound(sequence) - 1)
    assert max(excess) < 0.1 and sorted(excess)[5] < 0.01


# -- verify -------------------------------------------------------------------------------------

TWO_STEPS = Schedule(
    (Step("s0", ("x",), "y", scratch=16), Step("s1", ("y",), "z")), {"x": 16, "y": 20, "z": 16}, "z"
)
GOOD = {"x": 0, "y": 16, "z": 0}


def test_verify_accepts():
    arena.verify(TWO_STEPS, arena.ArenaPlan(GOOD, {"s0": 48}, 64))


@pytest.mark.parametrize(
    ("offsets", "scratch", "total", "message"),
    [
        ({"z": 32}, {"s0": 48}, 64, "buffer 'y' at 16 and buffer 'z' at 32 overlap"),
        ({}, {"s0": 32}, 64, "'y' at 16 and scratch of step 's0' at 32 overlap"),
        ({}, {}, 64, "scratch of step 's0' has no offset"),
        ({"x": 8}, {"s0": 48}, 64, "not a multiple of 16 within"),
        ({"x": -16}, {"s0": 48}, 64, "buffer 'x', 16 bytes at offset -16"),
        ({}, {"s0": 48}, 63, "within the arena's 63 bytes"),
    ],
)
def test_verify_refuses(offsets, scratch, total, message):
    plan = arena.ArenaPlan({**GOOD, **offsets}, scratch, total)
    with pytest.raises(TfmixError, match=message):
        arena.verify(TWO_STEPS, plan)


OVER = Schedule((Step("s", ("x",), "y", over=("x", 20)),), {"x": 64, "y": 64}, "y")


@pytest.mark.parametrize(
    ("x", "y", "fits"),
    [(32, 0, True), (64, 0, True), (0, 64, True), (16, 0, False), (0, 0, False), (0, 32, False)],
)
def test_verify_knows_how_far_an_output_must_lie_below_its_input(x, y, fits):
    plan = arena.ArenaPlan({"x": x, "y": y}, {}, 128)
    if fits:
        arena.verify(OVER, plan)
    else:
        with pytest.raises(TfmixError, match="overlap"):
            arena.verify(OVER, plan)
    assert arena.lower_bound(OVER) == arena.plan(OVER).total == 32 + 64


def test_align():
    assert [arena.align(n) for n in (0, 1, 16, 17)] == [0, 16, 16, 32]
