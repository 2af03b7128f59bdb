"""Deep deterministic policy gradient (Lillicrap et al. 2016) as HAQ (Wang et al. 2019) uses it.

One continuous action in [0, 1] a step, one reward an episode, given to every step of it. Networks
of 90,000 parameters, batches of 64: NumPy is enough, and an update takes about two milliseconds.
docs/search-rl.md lists what differs from HAQ.

Each network keeps its parameters in one vector, of which weights and biases are views. So the
optimizer and the moving average of the target networks are a few operations on a vector each.

BLAS gets one thread: sums are then added up in the same order wherever the agent runs, so that a
search can be resumed with other threads than it began with; and two would hardly be faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from threadpoolctl import ThreadpoolController


@dataclass(frozen=True)
class DDPGOptions:
    """Hyper-parameters, as HAQ's.

    hidden:            units in each of the two hidden layers of actor and critic
    actor_rate, critic_rate: Adam's step sizes
    discount:          gamma: share of the next step's value in that of a step
    target_rate:       tau: share of the new parameters that a target network takes in an update
    batch:             transitions in an update
    replay_per_layer:  the replay buffer holds this many transitions times the layers
    sigma, sigma_decay: noise after warm-up: sigma x sigma_decay^(episodes since warm-up)
    baseline_rate:     share of a batch's mean reward that the moving average takes
    """

    hidden: int = 300
    actor_rate: float = 1e-4
    critic_rate: float = 1e-3
    discount: float = 1.0
    target_rate: float = 0.01
    batch: int = 64
    replay_per_layer: int = 128
    sigma: float = 0.5
    sigma_decay: float = 0.99
    baseline_rate: float = 0.5


class Perceptron:
    """relu(sum_i x_i W_i + b_i) -> relu(h W + b) -> h W + b, one output a sample.

    input_sizes: features of each x_i; each has a projection of its own onto the first layer
    parameters:  all weights and biases, one vector; a change of it is a change of the network

    Weights and biases begin uniform in +-1 / sqrt(fan-in) of their own projection.
    """

    def __init__(
        self,
        input_sizes: Sequence[int],
        hidden: int,
        rng: np.random.Generator,
        dtype: type[np.floating] = np.float32,
    ) -> None:
        self._shapes = [*((size, hidden) for size in input_sizes), (hidden, hidden), (hidden, 1)]
        self.parameters = np.empty(sum((n + 1) * m for n, m in self._shapes), dtype)
        for weights, bias in self._layers(self.parameters):
            bound = 1 / np.sqrt(len(weights))
            weights[...] = rng.uniform(-bound, bound, weights.shape)
            bias[...] = rng.uniform(-bound, bound, bias.shape)

    def _layers(self, vector: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """(weights [n, m], bias [m]) of every layer, as views of a vector like `parameters`."""
        views, start = [], 0
        for n, m in self._shapes:
            middle, end = start + n * m, start + (n + 1) * m
            views.append((vector[start:middle].reshape(n, m), vector[middle:end]))
            start = end
        return views

    def copy(self) -> Perceptron:
        twin = object.__new__(Perceptron)
        twin._shapes, twin.parameters = self._shapes, self.parameters.copy()
        return twin

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        """inputs: [samples, features] each. Returns [samples, 1]."""
        return self.forward(*inputs)[-1]

    def forward(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Inputs, both hidden layers and the output: the tape that the gradients are had from."""
        *projections, (weights2, bias2), (weights3, bias3) = self._layers(self.parameters)
        hidden1 = sum(x @ w + b for x, (w, b) in zip(inputs, projections, strict=True))
        np.maximum(hidden1, 0, out=hidden1)
        hidden2 = hidden1 @ weights2 + bias2
        np.maximum(hidden2, 0, out=hidden2)
        return (*inputs, hidden1, hidden2, hidden2 @ weights3 + bias3)

    def parameter_gradient(self, tape: tuple[np.ndarray, ...], gradient: np.ndarray) -> np.ndarray:
        """A vector like `parameters`. gradient: by the output, [samples, 1]."""
        *inputs, hidden1, hidden2, _ = tape
        by_hidden1, by_hidden2 = self._hidden_gradients(tape, gradient)
        result = np.empty_like(self.parameters)
        pairs = [*((x, by_hidden1) for x in inputs), (hidden1, by_hidden2), (hidden2, gradient)]
        for (weights, bias), (x, by_sum) in zip(self._layers(result), pairs, strict=True):
            np.matmul(x.T, by_sum, out=weights)
            np.sum(by_sum, axis=0, out=bias)
        return result

    def input_gradient(self, tape: tuple[np.ndarray, ...], gradient: np.ndarray) -> np.ndarray:
        """By the last of the inputs, [samples, features]. gradient: by the output, [samples, 1]."""
        *_, (weights, _), _, _ = self._layers(self.parameters)
        return self._hidden_gradients(tape, gradient)[0] @ weights.T

    def _hidden_gradients(
        self, tape: tuple[np.ndarray, ...], gradient: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """By the sums that enter the first and the second ReLU, [samples, hidden] each."""
        *_, hidden1, hidden2, _ = tape
        *_, (weights2, _), (weights3, _) = self._layers(self.parameters)
        by_hidden2 = (gradient @ weights3.T) * (hidden2 > 0)
        return (by_hidden2 @ weights2.T) * (hidden1 > 0), by_hidden2


class Adam:
    """Kingma and Ba 2015, algorithm 1."""

    def __init__(self, parameters: np.ndarray, rate: float) -> None:
        self._parameters, self._rate, self._steps = parameters, rate, 0
        self._mean, self._square = np.zeros_like(parameters), np.zeros_like(parameters)

    def step(self, gradient: np.ndarray) -> None:
        """Changes the parameters in place, against the gradient."""
        beta1, beta2, epsilon = 0.9, 0.999, 1e-8
        self._steps += 1
        self._mean += (1 - beta1) * (gradient - self._mean)
        self._square += (1 - beta2) * (gradient * gradient - self._square)
        scale = np.sqrt(self._square / (1 - beta2**self._steps))
        scale += epsilon
        self._parameters -= self._rate / (1 - beta1**self._steps) * (self._mean / scale)


class Replay:
    """The latest `size` transitions.

    A transition is (state, action, reward, next state, 0 at the episode's last step and else 1).
    """

    def __init__(self, size: int, state_size: int) -> None:
        self._rows = np.empty((size, 2 * state_size + 3), np.float32)
        self._splits = np.cumsum([state_size, 1, 1, state_size])
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, len(self._rows))

    def add(self, *columns: np.ndarray | Sequence[float]) -> None:
        """columns: [features] each, in the order above."""
        self._rows[self._added % len(self._rows)] = np.concatenate(columns)
        self._added += 1

    def sample(self, count: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Columns [count, features]; no transition twice, as long as there are enough."""
        rows = rng.choice(len(self), count, replace=len(self) < count, shuffle=False)
        return np.split(self._rows[rows], self._splits, axis=1)


class DDPG:
    """The agent. Deterministic, given `rng`."""

    def __init__(
        self,
        state_size: int,
        layers: int,
        rng: np.random.Generator,
        options: DDPGOptions = DDPGOptions(),
    ) -> None:
        self.options, self._rng = options, rng
        self._actor = Perceptron([state_size], options.hidden, rng)
        self._critic = Perceptron([state_size, 1], options.hidden, rng)
        self._target_actor, self._target_critic = self._actor.copy(), self._critic.copy()
        self._actor_adam = Adam(self._actor.parameters, options.actor_rate)
        self._critic_adam = Adam(self._critic.parameters, options.critic_rate)
        self._replay = Replay(options.replay_per_layer * layers, state_size)
        self._baseline: float | None = None
        self._threads = ThreadpoolController()

    def act(self, state: np.ndarray, sigma: float = 0.0) -> float:
        """The action for a state [features], in [0, 1].

        sigma: of the normal distribution around the actor's answer, truncated to [0, 1], that the
        action is drawn from; 0: the answer itself
        """
        with self._one_thread():
            mean = float(_sigmoid(self._actor(state[np.newaxis]))[0, 0])
        return truncated_normal(mean, sigma, self._rng) if sigma > 0 else mean

    def random_action(self) -> float:
        """Uniform in [0, 1): for the warm-up."""
        return float(self._rng.random())

    def sigma(self, episode: int) -> float:
        """Noise of an episode; 0 is the first after warm-up."""
        return self.options.sigma * self.options.sigma_decay**episode

    def learn(
        self,
        states: Sequence[np.ndarray],
        actions: Sequence[float],
        reward: float,
        *,
        update: bool,
    ) -> None:
        """Takes in an episode, with one update for each of its steps unless told not to.

        states:  [steps, features]
        actions: [steps], in [0, 1]
        reward:  of the episode, given to every step
        """
        last = len(actions) - 1
        for i, action in enumerate(actions):
            next_state = states[min(i + 1, last)]
            self._replay.add(states[i], [action], [reward], next_state, [float(i < last)])
            if update:
                with self._one_thread():
                    self._update()

    def _one_thread(self) -> AbstractContextManager:
        return self._threads.limit(limits=1, user_api="blas")

    def _update(self) -> None:
        options = self.options
        states, actions, rewards, next_states, goes_on = self._replay.sample(
            options.batch, self._rng
        )
        mean = float(rewards.mean())
        if self._baseline is None:
            self._baseline = mean
        self._baseline += options.baseline_rate * (mean - self._baseline)

        # Critic: towards reward + gamma Q'(s', mu'(s')), mean squared error.
        next_actions = _sigmoid(self._target_actor(next_states))
        next_values = self._target_critic(next_states, next_actions)
        wanted = rewards - self._baseline + options.discount * goes_on * next_values
        tape = self._critic.forward(states, actions)
        gradient = (2 / options.batch) * (tape[-1] - wanted)
        self._critic_adam.step(self._critic.parameter_gradient(tape, gradient))

        # Actor: up the mean of Q(s, mu(s)).
        tape = self._actor.forward(states)
        chosen = _sigmoid(tape[-1])
        descent = np.full_like(chosen, -1 / options.batch)
        by_action = self._critic.input_gradient(self._critic.forward(states, chosen), descent)
        by_output = by_action * chosen * (1 - chosen)
        self._actor_adam.step(self._actor.parameter_gradient(tape, by_output))

        for target, network in (
            (self._target_actor, self._actor),
            (self._target_critic, self._critic),
        ):
            target.parameters += options.target_rate * (network.parameters - target.parameters)


def truncated_normal(mean: float, sigma: float, rng: np.random.Generator) -> float:
    """A draw from the normal distribution around `mean`, which lies in [0, 1], given that it lies
    there too: by the inverse of the distribution function, one random number each."""
    normal = NormalDist(mean, sigma)
    low, high = normal.cdf(0.0), normal.cdf(1.0)
    share = low + (high - low) * rng.random()
    # Where rounding made the share 0 or 1, which have no inverse, the draw is the bound.
    share = min(max(share, np.finfo(float).tiny), 1 - np.finfo(float).epsneg)
    return min(max(normal.inv_cdf(share), 0.0), 1.0)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(0.5 * x)
