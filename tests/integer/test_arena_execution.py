"""Chains in one byte arena of exactly the planned size: the same bytes, nothing lost."""

from __future__ import annotations

import numpy as np
import pytest
from arena_executor import Lost, execute
from random_chains import random_chain

from tfmix.integer.model import IntegerNetwork
from tfmix.integer.packing import pack
from tfmix.integer.reference import run
from tfmix.integer.schedule import schedule_of, stream_of
from tfmix.ir.schedule import Schedule, Step, chain_name
from tfmix.policy.cost import arena

SEEDS = range(60)


def setting(seed: int) -> tuple[IntegerNetwork, np.ndarray, np.ndarray]:
    """A network with a chain, a sample, and its packed output."""
    model = random_chain(seed)
    q = np.random.default_rng(seed).integers(0, 256, (1, *model.input_shape), np.uint8)
    output = run(model, q)[model.output]
    return model, q[0], pack(output, model.tensors[model.output].quant.bits)


def chain_step(model: IntegerNetwork, schedule: Schedule) -> Step:
    return next(s for s in schedule.steps if s.name == chain_name(model.chains[0]))


def place(model: IntegerNetwork, schedule: Schedule, distance: int) -> arena.ArenaPlan:
    """The first input of the chain so far above its output; nothing else shares a byte."""
    step = chain_step(model, schedule)
    offsets, scratch, at = {}, {}, 0
    for name, size in schedule.buffers.items():
        if name not in (step.over[0], step.writes):
            offsets[name] = at
            at += size
    for other in schedule.steps:
        if other.scratch:
            scratch[other.name] = at
            at += other.scratch
    offsets[step.writes], offsets[step.over[0]] = at, at + distance
    ends = (offsets[name] + schedule.buffers[name] for name in (step.over[0], step.writes))
    return arena.ArenaPlan(offsets, scratch, max(ends))


@pytest.mark.parametrize("seed", SEEDS)
def test_planned_arena(seed):
    model, q, expected = setting(seed)
    plan = arena.plan(schedule_of(model))
    output, used = execute(model, plan, q, np.random.default_rng(seed))
    np.testing.assert_array_equal(output, expected)
    assert used.canaries_are_intact()


@pytest.mark.parametrize("seed", SEEDS)
def test_output_as_close_below_the_input_as_it_may_lie_and_no_closer(seed):
    model, q, expected = setting(seed)
    schedule = schedule_of(model)
    over = chain_step(model, schedule).over
    if over is None:
        return  # something needs the input later
    plan = place(model, schedule, over[1])
    output, used = execute(model, plan, q, np.random.default_rng(seed))
    np.testing.assert_array_equal(output, expected)
    assert used.canaries_are_intact()
    nodes = [node for node in model.nodes if node.name in model.chains[0]]
    stream, row_bytes = stream_of(model, nodes)
    out, into = row_bytes[stream.output], row_bytes[over[0]]
    # Where the input is all consumed, that the output may not end above it is a mere convention.
    rows = schedule.buffers[over[0]] // into
    needed = [n * out - first * into for n, first in stream.kept if first < rows]
    if over[1] == max([0, *needed]) > 0:
        with pytest.raises(Lost):
            execute(model, place(model, schedule, over[1] - 1), q, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_one_row_fewer_is_caught(seed):
    model, q, _ = setting(seed)
    plan = arena.plan(schedule_of(model))
    nodes = [node for node in model.nodes if node.name in model.chains[0]]
    stream, _ = stream_of(model, nodes)
    for tensor in stream.inner:
        with pytest.raises(Lost):
            execute(model, plan, q, np.random.default_rng(seed), fewer={tensor: 1})
