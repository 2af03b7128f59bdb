"""Reinforcement learning after HAQ (Wang et al. 2019) with the limits of Rusci et al. 2020.

An episode walks through the network; at each tensor an agent chooses its bits. The policy is cut
until it fits, tried, and its accuracy is the reward. docs/search-rl.md says what the agent sees,
and lists each deviation from the papers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from tfmix.errors import BudgetError, TfmixError
from tfmix.ir.graph import FIXED_BITS, WEIGHTED_OPS, Graph, Node, Op
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search.base import Found, Pinned, SearchProblem, Steps, Trial, searcher
from tfmix.policy.search.ddpg import DDPG
from tfmix.policy.search.enforce import enforce

Strategy = Literal["concurrent", "independent", "weights"]

#: Episodes of each phase, and one in so many of them is warm-up: 60 of 300, 120 of 600.
EPISODES: dict[Strategy, int] = {"concurrent": 600, "independent": 300, "weights": 300}
WARM_UP_SHARE = 5

#: Reward of an accuracy above the float network's, per point (a hundredth).
REWARD_PER_POINT = 0.1


@searcher("rl")
def search(
    problem: SearchProblem,
    *,
    strategy: Strategy = "concurrent",
    episodes: int | None = None,
    warm_up: int | None = None,
    batch: int = 1,
    pin_residuals: bool = True,
) -> Steps:
    """The policy of highest accuracy that an agent of deep reinforcement learning met.

    strategy: "concurrent": weights and activations of each layer in turn
              "independent": first all weights, with activations in float; then, with the best
              weights, all activations: a phase of `episodes` each
              "weights": weights only; activations have 8 bits, or what `enforce` leaves of them
    episodes: of each phase; EPISODES of the strategy by default
    warm_up:  so many of them choose at random, to fill the memory that the agent learns from; by
              default one in WARM_UP_SHARE
    batch:    episodes asked for at once, by the same agent, for a cluster to share; the search is
              another one with each value
    pin_residuals: activations that enter or leave an addition have 8 bits

    TfmixError without labelled data or for a bad option, BudgetError where nothing fits.
    """
    problem.require("accuracy", "rl")
    if strategy not in get_args(Strategy):
        raise TfmixError(f"search 'rl': strategy {strategy!r} is not one of {get_args(Strategy)}")
    episodes = EPISODES[strategy] if episodes is None else _count("episodes", episodes, 1)
    if warm_up is None:
        warm_up = episodes // WARM_UP_SHARE
    if _count("warm_up", warm_up, 0) > episodes:
        raise TfmixError(f"search 'rl': warm_up {warm_up} is more than {episodes} episodes")
    schedule = _Schedule(episodes, warm_up, _count("batch", batch, 1))
    if pin_residuals:
        problem = _with_pinned_residuals(problem)
    base = enforce(problem, problem.start())
    return _search(problem, base, strategy, schedule)


def _search(
    problem: SearchProblem, base: QuantizationPolicy, strategy: Strategy, schedule: _Schedule
) -> Steps:
    decisions = decisions_of(problem)
    weights = [decision for decision in decisions if decision.kind == "weights"]
    if strategy == "concurrent":
        return (yield from _Phase(problem, "concurrent", decisions, schedule).run(base))
    if strategy == "weights":
        return (yield from _Phase(problem, "weights", weights, schedule).run(base))
    activations = [decision for decision in decisions if decision.kind == "activations"]
    second = _Phase(problem, "activations", activations, schedule)
    first = _Phase(problem, "weights", weights, schedule, True, after=second.episodes)
    found = yield from first.run(base)
    return (yield from second.run(found.policy))


def _count(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise TfmixError(f"search 'rl': {name} {value!r} is not a whole number of at least {least}")
    return value


# -- what is pinned -----------------------------------------------------------------------------


def residual_tensors(graph: Graph) -> tuple[str, ...]:
    """The quantized tensors that enter or leave an addition, in execution order."""
    found = {
        graph.quantizer_of(tensor)
        for node in graph.nodes
        if node.op is Op.ADD
        for tensor in (*node.inputs, node.output)
    }
    return tuple(tensor for tensor in graph.quantized_tensors if tensor in found)


def _with_pinned_residuals(problem: SearchProblem) -> SearchProblem:
    """What a person pinned goes before. BudgetError where the budget holds only without."""
    residuals = dict.fromkeys(residual_tensors(problem.graph), FIXED_BITS)
    pinned = Pinned(problem.pinned.weights, {**residuals, **problem.pinned.activations})
    tighter = dataclasses.replace(problem, pinned=pinned)
    try:
        enforce(tighter, tighter.start())
    except BudgetError as error:
        enforce(problem, problem.start())  # raises what is to be said where that fails as well
        raise BudgetError(
            f"with the activations that enter or leave an addition pinned at {FIXED_BITS} bits, "
            f"{error}. Without, the budget can be held: pass pin_residuals=False",
            tensor=error.tensor,
            smallest=error.smallest,
        ) from None
    return tighter


# -- what the agent sees and chooses ------------------------------------------------------------


@dataclass(frozen=True)
class Decision:
    """One step of an episode.

    kind, name: whose bits: a node's weights, or an activation tensor
    layer:      index of the node, by execution
    state:      float32 [10], see `docs/search-rl.md`; the previous action is filled in on the way
    """

    kind: Literal["weights", "activations"]
    name: str
    layer: int
    state: np.ndarray = dataclasses.field(compare=False)


#: Features of a state, and where the previous action stands among them.
STATE_SIZE = 10
_PREVIOUS_ACTION = 8


def decisions_of(problem: SearchProblem) -> list[Decision]:
    """All that may be chosen, in execution order: of each node its weights, then its output."""
    graph = problem.graph
    quantized = set(graph.quantized_tensors)
    layers = [n for n in graph.nodes if n.op in WEIGHTED_OPS or n.output in quantized]
    features = np.array([_features(graph, i, node) for i, node in enumerate(layers)], float)
    low, high = features.min(axis=0), features.max(axis=0)
    features = (features - low) / np.where(high > low, high - low, 1)

    def decision(kind: Literal["weights", "activations"], name: str, layer: int) -> Decision:
        state = np.array([*features[layer], 0.0, kind == "weights"], np.float32)
        return Decision(kind, name, layer, state)

    decisions = []
    for i, node in enumerate(layers):
        if node.op in WEIGHTED_OPS and problem.may_cut_weights(node.name):
            decisions.append(decision("weights", node.name, i))
        if node.output in quantized and problem.may_cut_activation(node.output):
            decisions.append(decision("activations", node.output, i))
    return decisions


def _features(graph: Graph, index: int, node: Node) -> tuple[int, ...]:
    """The part of the state that stays: a row for each node, normalised over all of them."""
    rows, columns, channels = graph.hwc(node.inputs[0])
    return (
        node.op is Op.DEPTHWISE_CONV2D,
        channels,
        graph.output_channels(node),
        node.window.strides[0] if node.window else 0,
        node.window.kernel[0] if node.window else 1,
        graph.weight_elements(node) if node.op in WEIGHTED_OPS else 0,
        rows * columns,
        index,
    )


def bits_of(action: float) -> int:
    """Thirds of [0, 1]: 2, 4, 8 bits."""
    return BIT_WIDTHS[min(int(action * len(BIT_WIDTHS)), len(BIT_WIDTHS) - 1)]


# -- episodes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Schedule:
    """See the options of `search`."""

    episodes: int
    warm_up: int
    batch: int


@dataclass(frozen=True)
class _Phase:
    """Episodes of one agent that makes `decisions`.

    after: episodes of the phases to come
    """

    problem: SearchProblem
    name: str
    decisions: Sequence[Decision]
    schedule: _Schedule
    float_activations: bool = False
    after: int = 0

    @property
    def episodes(self) -> int:
        """Where nothing is left to choose, one says how good it is."""
        return self.schedule.episodes if self.decisions else 1

    def run(self, base: QuantizationPolicy) -> Generator[Sequence[Trial], Sequence[float], Found]:
        """The best policy met that is as `base` in all that this phase does not decide."""
        schedule, float_accuracy = self.schedule, self.problem.float_accuracy
        layers = len({decision.layer for decision in self.decisions})
        agent = DDPG(STATE_SIZE, max(layers, 1), np.random.default_rng(self.problem.seed))
        best: Found | None = None
        for start in range(0, self.episodes, schedule.batch):
            asked = range(start, min(start + schedule.batch, self.episodes))
            walks = [self._walk(agent, base, episode) for episode in asked]
            accuracies = yield [
                self._trial(walk.policy, episode, left=self.episodes - start + self.after)
                for episode, walk in zip(asked, walks, strict=True)
            ]
            for episode, walk, accuracy in zip(asked, walks, accuracies, strict=True):
                if best is None or accuracy > best.score:
                    best = Found(walk.policy, score=accuracy)
                reward = REWARD_PER_POINT * 100 * (accuracy - float_accuracy)
                update = episode >= schedule.warm_up
                agent.learn(walk.states, walk.actions, reward, update=update)
        return best

    def _walk(self, agent: DDPG, base: QuantizationPolicy, episode: int) -> _Walk:
        since_warm_up = episode - self.schedule.warm_up
        chosen: dict[str, dict[str, int]] = {"weights": {}, "activations": {}}
        states, actions, bits = [], [], BIT_WIDTHS[-1]
        for decision in self.decisions:
            state = decision.state.copy()
            state[_PREVIOUS_ACTION] = bits / BIT_WIDTHS[-1]
            if since_warm_up < 0:
                action = agent.random_action()
            else:
                action = agent.act(state, agent.sigma(since_warm_up))
            bits = bits_of(action)
            chosen[decision.kind][decision.name] = bits
            states.append(state)
            actions.append(action)
        return _Walk(states, actions, enforce(self.problem, base.replace(**chosen)))

    def _trial(self, policy: QuantizationPolicy, episode: int, left: int) -> Trial:
        return Trial(
            policy,
            measure="accuracy",
            train=self.problem.trains,
            float_activations=self.float_activations,
            note={
                "phase": self.name,
                "episode": episode,
                "warm_up": episode < self.schedule.warm_up,
                "left": left,
            },
        )


@dataclass(frozen=True)
class _Walk:
    """States [10] and actions of an episode's steps, and the policy they make, in the budget."""

    states: list[np.ndarray]
    actions: list[float]
    policy: QuantizationPolicy
