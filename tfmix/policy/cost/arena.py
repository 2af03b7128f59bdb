"""Where each buffer lies in the tensor arena: dynamic storage allocation with known lifetimes.

The lower bound is the largest sum of what is alive at one step, less what a step may write over its
input (`Step.over`); `plan` reaches it on chains and on the networks of the MobileNet and ResNet
families, where a greedy planner wastes up to a third. The general problem is NP-hard, so beyond
those the plan is a good one, and always a valid one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tfmix.errors import TfmixError
from tfmix.ir.schedule import Schedule, Step

#: Every buffer in the arena begins at a multiple of this, as TensorFlow Lite Micro has it.
ALIGNMENT = 16

# Work limits of the two searches. They are counts and not seconds, so that a plan does not depend
# on the machine; together they stay below 0.2 s.
_BACKTRACK_VISITS = 10_000
_LOCAL_SEARCH_PLACEMENTS = 30_000


@dataclass(frozen=True)
class ArenaPlan:
    """Offsets in bytes from the start of the arena.

    offsets:          by buffer
    scratch_offsets:  by step, of the steps that need scratch
    total:            bytes of the arena
    """

    offsets: Mapping[str, int] = field(hash=False)
    scratch_offsets: Mapping[str, int] = field(hash=False)
    total: int


def align(size: int, alignment: int = ALIGNMENT) -> int:
    """`size` rounded up to a multiple of `alignment`."""
    return -(-size // alignment) * alignment


def lower_bound(schedule: Schedule, alignment: int = ALIGNMENT) -> int:
    """Bytes below which no plan can be: the most, over the steps, that what is alive takes."""
    blocks = _blocks(schedule, alignment)
    shared = [shared_bytes(schedule, step, alignment) for step in schedule.steps] or [0]
    return max(
        sum(b.size for b in blocks if b.first <= time <= b.last) - saved
        for time, saved in enumerate(shared)
    )


def shared_bytes(schedule: Schedule, step: Step, alignment: int = ALIGNMENT) -> int:
    """Bytes that the output of a step and the input that it may write over can have in common."""
    if step.over is None:
        return 0
    over, distance = step.over
    source = align(schedule.buffers[over], alignment)
    output = align(schedule.buffers[step.writes], alignment)
    return source + output - max(output, align(distance, alignment) + source)


def plan(schedule: Schedule, alignment: int = ALIGNMENT) -> ArenaPlan:
    """A valid plan, of `lower_bound(schedule)` bytes wherever one is found.

    Three attempts, cheapest first: lean each block against what lives longest, in an arena of
    exactly the lower bound, taking back what leads nowhere; first-fit in several orders; and a
    seeded local search over orders or, where outputs may lie over inputs, which first-fit does not
    see to, leaning in higher arenas. Deterministic.
    """
    blocks = _blocks(schedule, alignment)
    overs = _overs(schedule, alignment)
    neighbours = _neighbours(blocks, overs)
    bound = lower_bound(schedule, alignment)
    places = _lean(blocks, neighbours, bound)
    if places is None:
        rounds = 0 if overs else _LOCAL_SEARCH_PLACEMENTS // len(blocks)
        places = _best_first_fit(blocks, neighbours, bound, rounds)
        if overs:
            places = _lean_lower(blocks, neighbours, bound, places, alignment)
    result = ArenaPlan(
        offsets={b.name: p for b, p in zip(blocks, places, strict=True) if not b.scratch},
        scratch_offsets={b.name: p for b, p in zip(blocks, places, strict=True) if b.scratch},
        total=_height(blocks, places),
    )
    verify(schedule, result, alignment)
    return result


def fits(schedule: Schedule, height: int, alignment: int = ALIGNMENT) -> bool:
    """Whether leaning alone finds a plan within `height` bytes: quick, and mostly right."""
    if lower_bound(schedule, alignment) > height:
        return False
    blocks = _blocks(schedule, alignment)
    return _lean(blocks, _neighbours(blocks, _overs(schedule, alignment)), height) is not None


def verify(schedule: Schedule, plan: ArenaPlan, alignment: int = ALIGNMENT) -> None:
    """TfmixError unless every block has an aligned place inside the arena that no other block uses
    during its lifetime, but for outputs far enough below the input that they are written over."""
    blocks = _blocks(schedule, 1)
    places: list[int] = []
    for block in blocks:
        place = (plan.scratch_offsets if block.scratch else plan.offsets).get(block.name)
        if place is None:
            raise TfmixError(f"arena: {block} has no offset")
        if place < 0 or place % alignment or place + block.size > plan.total:
            raise TfmixError(
                f"arena: {block}, {block.size} bytes at offset {place}, is not a multiple of "
                f"{alignment} within the arena's {plan.total} bytes"
            )
        places.append(place)
    for i, others in enumerate(_neighbours(blocks, _overs(schedule, 1))):
        for other in others:
            low, high = other.forbidden(places)
            if low < places[i] < high:
                j = other.index
                raise TfmixError(
                    f"arena: {blocks[i]} at {places[i]} and {blocks[j]} at {places[j]} overlap"
                )


# -- blocks: what both buffers and scratch are to the planner -----------------------------------


@dataclass(frozen=True)
class _Block:
    """`size` bytes wanted during steps first to last."""

    name: str
    size: int
    first: int
    last: int
    scratch: bool

    def __str__(self) -> str:
        return f"{'scratch of step' if self.scratch else 'buffer'} {self.name!r}"


def _blocks(schedule: Schedule, alignment: int) -> list[_Block]:
    """Blocks in order of birth; within a step scratch comes last: nothing is born beside it."""
    blocks = [
        _Block(name, align(size, alignment), *schedule.lifetimes[name], scratch=False)
        for name, size in schedule.buffers.items()
    ]
    blocks += [
        _Block(step.name, align(step.scratch, alignment), time, time, scratch=True)
        for time, step in enumerate(schedule.steps)
        if step.scratch
    ]
    return sorted(blocks, key=lambda b: (b.first, b.scratch))


@dataclass(frozen=True)
class _Neighbour:
    """Another block, alive at some time with this one, which begins `below` bytes or more below it
    or `above` bytes or more above."""

    index: int
    below: int
    above: int

    def forbidden(self, places: Sequence[int]) -> tuple[int, int]:
        """This block may begin at either, and not between."""
        place = places[self.index]
        return place - self.below, place + self.above


#: (an input, an output that may overwrite it) -> how far above the output the input must begin.
_Overs = Mapping[tuple[str, str], int]


def _overs(schedule: Schedule, alignment: int) -> _Overs:
    return {
        (step.over[0], step.writes): align(step.over[1], alignment)
        for step in schedule.steps
        if step.over is not None
    }


def _neighbours(blocks: Sequence[_Block], overs: _Overs) -> list[list[_Neighbour]]:
    """For each block those alive at some time with it."""

    def distance(upper: _Block, lower: _Block) -> int:
        if upper.scratch or lower.scratch:
            return lower.size
        return overs.get((upper.name, lower.name), lower.size)

    return [
        [
            _Neighbour(j, below=distance(b, a), above=distance(a, b))
            for j, b in enumerate(blocks)
            if j != i and b.first <= a.last and a.first <= b.last
        ]
        for i, a in enumerate(blocks)
    ]


def _height(blocks: Sequence[_Block], places: Sequence[int]) -> int:
    return max((p + b.size for b, p in zip(blocks, places, strict=True)), default=0)


# -- leaning ------------------------------------------------------------------------------------


def _lean(
    blocks: Sequence[_Block], neighbours: Sequence[Sequence[_Neighbour]], height: int
) -> list[int] | None:
    """Offsets within `height`, or None if a bounded depth-first search finds none.

    Blocks are placed in order of birth. A block's candidates are the two ends of every free gap,
    the best first: that against the neighbour that dies last, so that what is freed next joins the
    free space. The walls of the arena never die, hence a chain alternates between its two ends.
    What is to come depends only on the places of what is still alive: none are tried twice.
    """
    places: list[int | None] = [None] * len(blocks)
    alive = [
        [i for i, other in enumerate(blocks[:index]) if other.last >= block.first]
        for index, block in enumerate(blocks)
    ]
    tried: set[tuple[int, ...]] = set()

    def candidates(index: int) -> Iterator[int]:
        block = blocks[index]
        state = (index, *(places[i] for i in alive[index]))
        if state in tried:
            return iter(())
        tried.add(state)
        busy = sorted(
            (*other.forbidden(places), blocks[other.index].last)
            for other in neighbours[index]
            if places[other.index] is not None
        )
        wall = blocks[-1].last + 1
        top = height - block.size
        found: list[tuple[int, int]] = []
        floor, floor_dies = 0, wall
        for low, high, dies in [*busy, (top, height, wall)]:
            low = min(low, top)  # an output over its input may end above it
            if low >= floor:
                found += [(-floor_dies, floor), (-dies, low)]
            if high > floor:
                floor, floor_dies = high, dies
        found.sort()
        # Nothing is born beside a scratch: any place is as good as another.
        return (place for _, place in (found[:1] if block.scratch else found))

    open_choices = [candidates(0)] if blocks else []
    for _ in range(max(_BACKTRACK_VISITS, 2 * len(blocks))):
        if not open_choices:
            break
        index = len(open_choices) - 1
        places[index] = next(open_choices[-1], None)
        if places[index] is None:
            open_choices.pop()
        elif len(open_choices) == len(blocks):
            return [place for place in places if place is not None]
        else:
            open_choices.append(candidates(index + 1))
    return [] if not blocks else None


def _lean_lower(
    blocks: Sequence[_Block],
    neighbours: Sequence[Sequence[_Neighbour]],
    bound: int,
    places: list[int],
    alignment: int,
) -> list[int]:
    """The lowest offsets found by leaning in arenas higher than `bound`, lower than `places`."""
    too_low, height = bound, _height(blocks, places)
    while height - too_low > alignment:
        middle = align((too_low + height) // 2, alignment)
        found = _lean(blocks, neighbours, middle) if middle < height else None
        if found is None:
            too_low = middle
        else:
            places, height = found, _height(blocks, found)
    return places


# -- first-fit ----------------------------------------------------------------------------------


def _first_fit(
    blocks: Sequence[_Block], neighbours: Sequence[Sequence[_Neighbour]], order: Iterable[int]
) -> list[int]:
    """Offsets when each block in turn takes the lowest place free during its lifetime."""
    places = [-1] * len(blocks)
    for index in order:
        place = 0
        for low, high in sorted(
            other.forbidden(places) for other in neighbours[index] if places[other.index] >= 0
        ):
            if low >= place:
                break
            place = max(place, high)
        places[index] = place
    return places


def _best_first_fit(
    blocks: Sequence[_Block],
    neighbours: Sequence[Sequence[_Neighbour]],
    bound: int,
    rounds: int,
) -> list[int]:
    """The lowest of several orders, improved by moving up whatever sticks out, so many times.

    The local search is "squeaky wheel" optimisation: after each first-fit, the blocks that end
    at the best height so far or above get an earlier turn, by a random stretch.
    """
    indices = range(len(blocks))
    keys = (
        lambda i: (-blocks[i].size, blocks[i].first),
        lambda i: (-(blocks[i].last - blocks[i].first), -blocks[i].size),
        lambda i: (-blocks[i].size * (blocks[i].last - blocks[i].first + 1), blocks[i].first),
        lambda i: (blocks[i].first, -blocks[i].last, -blocks[i].size),
        lambda i: (-blocks[i].last, blocks[i].first, -blocks[i].size),
    )
    orders = [sorted(indices, key=key) for key in keys]
    trials = [(_first_fit(blocks, neighbours, order), order) for order in orders]
    best, best_order = min(trials, key=lambda trial: _height(blocks, trial[0]))
    best_height = _height(blocks, best)

    rng = random.Random(0)
    places, order = best, best_order
    for _ in range(rounds):
        if best_height == bound:
            break
        order = list(order)
        for index in [i for i in indices if places[i] + blocks[i].size >= best_height]:
            at = order.index(index)
            order.insert(rng.randint(0, at), order.pop(at))
        at, to = rng.randrange(len(order)), rng.randrange(len(order))
        order.insert(to, order.pop(at))
        places = _first_fit(blocks, neighbours, order)
        height = _height(blocks, places)
        if height <= best_height:
            best, best_order, best_height = places, order, height
        elif rng.random() < 0.2:
            places, order = best, best_order  # wandered off: back to the best
    return best
