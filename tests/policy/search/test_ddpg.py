"""The agent: gradients, optimizer, memory, noise, and whether it learns."""

import os
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from tfmix.policy.search.ddpg import DDPG, Adam, DDPGOptions, Perceptron, Replay, truncated_normal


def rng(seed=0):
    return np.random.default_rng(seed)


# -- networks -----------------------------------------------------------------------------------


def test_the_first_layer_is_the_sum_of_a_projection_of_each_input():
    network = Perceptron([3, 1], 5, rng(), np.float64)
    (w_s, b_s), (w_a, b_a), (w2, b2), (w3, b3) = network._layers(network.parameters)
    state, action = rng(1).normal(size=(7, 3)), rng(2).normal(size=(7, 1))
    hidden = np.maximum(state @ w_s + b_s + action @ w_a + b_a, 0)
    hidden = np.maximum(hidden @ w2 + b2, 0)
    np.testing.assert_allclose(network(state, action), hidden @ w3 + b3, rtol=1e-12)


def test_parameters_begin_within_the_bounds_of_their_fan_in():
    network = Perceptron([10, 1], 300, rng())
    assert network.parameters.dtype == np.float32
    assert len(network.parameters) == 11 * 300 + 2 * 300 + 301 * 300 + 301
    for (weights, bias), fan_in in zip(
        network._layers(network.parameters), (10, 1, 300, 300), strict=True
    ):
        for values in (weights, bias):
            bound = 1 / np.sqrt(fan_in)
            assert np.abs(values).max() <= bound
            if values.size >= 300:
                assert np.abs(values).max() > 0.95 * bound and abs(values.mean()) < 0.1 * bound


def test_a_copy_stands_alone():
    network = Perceptron([2], 4, rng())
    twin = network.copy()
    twin.parameters += 1
    x = np.ones((1, 2), np.float32)
    assert network(x) != twin(x)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=2), st.integers(1, 8), st.integers(0, 99))
def test_gradients_are_those_of_finite_differences(sizes, hidden, seed):
    """In float64; a step over a ReLU's corner would show as a large difference: 1e-6 is too small
    a step to meet one."""
    network = Perceptron(sizes, hidden, rng(seed), np.float64)
    inputs = [rng(seed + i).normal(size=(3, size)) for i, size in enumerate(sizes, start=1)]
    weight = rng(seed + 9).normal(size=(3, 1))

    def value():
        return float((network(*inputs) * weight).sum())

    def differences(array):
        found = np.empty(array.size)
        for i in range(array.size):
            before = array.flat[i]
            array.flat[i] = before + 1e-6
            above = value()
            array.flat[i] = before - 1e-6
            found[i] = (above - value()) / 2e-6
            array.flat[i] = before
        return found.reshape(array.shape)

    tape = network.forward(*inputs)
    np.testing.assert_allclose(
        network.parameter_gradient(tape, weight), differences(network.parameters), atol=1e-7
    )
    np.testing.assert_allclose(
        network.input_gradient(tape, weight), differences(inputs[-1]), atol=1e-7
    )


def test_adam_as_published():
    parameters = np.array([1.0, -2.0])
    adam = Adam(parameters, 0.1)
    wanted, mean, square = parameters.copy(), 0, 0
    for step in range(1, 20):
        gradient = np.array([np.sin(step), step**2.0])
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        corrected = np.sqrt(square / (1 - 0.999**step))
        wanted -= 0.1 * (mean / (1 - 0.9**step)) / (corrected + 1e-8)
        adam.step(gradient)
        np.testing.assert_allclose(parameters, wanted, rtol=1e-10)


# -- memory and noise ---------------------------------------------------------------------------


def fill(replay, count):
    for i in range(count):
        replay.add([i, i], [i + 0.25], [-i], [i + 1, i + 1], [i % 2])


def test_replay_holds_the_latest_transitions_and_draws_none_twice():
    replay = Replay(8, 2)
    fill(replay, 13)
    assert len(replay) == 8
    states, actions, rewards, next_states, goes_on = replay.sample(8, rng())
    assert sorted(states[:, 0]) == list(range(5, 13))
    np.testing.assert_array_equal(actions[:, 0], states[:, 0] + 0.25)
    np.testing.assert_array_equal(rewards[:, 0], -states[:, 0])
    np.testing.assert_array_equal(next_states, states + 1)
    np.testing.assert_array_equal(goes_on[:, 0], states[:, 0] % 2)


def test_replay_with_too_few_draws_some_twice():
    replay = Replay(100, 2)
    fill(replay, 3)
    states = replay.sample(64, rng())[0]
    assert len(states) == 64 and set(states[:, 0]) <= {0, 1, 2}


@pytest.mark.parametrize("mean", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("sigma", [0.005, 0.1, 0.5, 20.0])
def test_truncated_normal_is_what_is_left_of_a_normal_one(mean, sigma):
    """Against the normal distribution with all outside [0, 1] thrown away: the Kolmogorov-Smirnov
    distance of 4,000 draws each, of which 0.1 % of equal distributions are over 0.0436."""
    source = rng()
    draws = np.sort([truncated_normal(mean, sigma, source) for _ in range(4000)])
    assert draws[0] >= 0 and draws[-1] <= 1
    kept = rng(1).normal(mean, sigma, 400_000)
    kept = np.sort(kept[(kept >= 0) & (kept <= 1)][:4000])
    both = np.concatenate([draws, kept])
    distance = np.abs(
        np.searchsorted(draws, both, "right") - np.searchsorted(kept, both, "right")
    ).max()
    assert len(kept) == 4000 and distance / 4000 < 0.0436


class _Extreme:
    """A random generator whose next number is as small, or as large, as it gets."""

    def __init__(self, number):
        self.number = number

    def random(self):
        return self.number


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("mean", [0.0, 1.0])
@pytest.mark.parametrize("sigma", [1e-4, 0.5])
def test_truncated_normal_at_the_ends(number, mean, sigma):
    assert 0 <= truncated_normal(mean, sigma, _Extreme(number)) <= 1


def test_noise_fades():
    agent = DDPG(2, 1, rng())
    assert agent.sigma(0) == 0.5 and agent.sigma(100) == pytest.approx(0.5 * 0.99**100)
    state = np.zeros(2, np.float32)
    spread = [np.std([agent.act(state, sigma) for _ in range(200)]) for sigma in (0.3, 0.03)]
    assert spread[0] > 5 * spread[1] > 0
    assert agent.act(state) == agent.act(state)


# -- learning -----------------------------------------------------------------------------------


def steps(count, size=10):
    """States that tell the steps apart."""
    states = np.zeros((count, size), np.float32)
    states[:, 0] = np.linspace(0, 1, count)
    states[:, 1] = np.arange(count) % 2
    return states


def test_nothing_changes_without_an_update():
    agent = DDPG(10, 4, rng())
    before = agent.act(steps(4)[2])
    agent.learn(steps(4), [0.1, 0.2, 0.3, 0.4], -1.0, update=False)
    assert agent.act(steps(4)[2]) == before and len(agent._replay) == 4
    agent.learn(steps(4), [0.1, 0.2, 0.3, 0.4], -1.0, update=True)
    assert agent.act(steps(4)[2]) != before


def test_the_targets_follow_slowly():
    agent = DDPG(10, 4, rng(), DDPGOptions(hidden=20))
    before = agent._target_critic.parameters.copy()
    agent.learn(steps(1), [0.1], -1.0, update=True)
    moved = agent._target_critic.parameters - before
    np.testing.assert_allclose(
        moved, 0.01 * (agent._critic.parameters - before), rtol=1e-3, atol=1e-7
    )
    assert np.abs(moved).max() > 0


def test_the_reward_is_of_every_step_and_its_mean_is_taken_off():
    """One update on equal rewards: the moving average is the reward, so the critic learns values of
    zero from the last step."""
    agent = DDPG(10, 4, rng(), DDPGOptions(critic_rate=1e-2, target_rate=1.0))
    for _ in range(30):
        agent.learn(steps(1), [0.5], 7.0, update=True)
    assert agent._baseline == pytest.approx(7.0)
    value = agent._critic(steps(1), np.full((1, 1), 0.5, np.float32))
    assert abs(float(value[0, 0])) < 0.05


@pytest.mark.parametrize("seed", range(3))
def test_learns_which_action_each_step_wants(seed):
    """A sequence of eight steps that want 0.1 and 0.9 in turns. Random actions are 0.42 off; after
    20 random and 150 more episodes the agent is less than half as far."""
    states = steps(8)
    wanted = 0.1 + 0.8 * (np.arange(8) % 2)
    agent = DDPG(10, 8, rng(seed))
    distances = []
    for episode in range(170):
        late = episode - 20
        actions = [
            agent.random_action() if late < 0 else agent.act(s, agent.sigma(late)) for s in states
        ]
        distances.append(np.abs(actions - wanted).mean())
        agent.learn(states, actions, -10 * distances[-1], update=late >= 0)
    before, after = np.array(distances[:20]), np.array(distances[-20:])
    assert after.mean() < before.mean() - 3 * before.std() / np.sqrt(20)
    assert after.mean() < 0.5 * before.mean()


def test_an_episode_costs_far_less_than_one_of_training():
    """40 steps: 0.07 s. Of processor time, since tests share their machine; the limit leaves room
    for a slow one."""
    agent = DDPG(10, 20, rng())
    seconds = []
    for episode in range(4):
        start = time.process_time()
        agent.learn(steps(40), rng().random(40), -1.0, update=episode > 0)
        seconds.append(time.process_time() - start)
    assert min(seconds[1:]) < 0.3


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core has one thread")
def test_threads_change_nothing():
    """A search that is resumed with other threads must find itself where it was."""

    def trained(threads):
        agent, source = DDPG(10, 8, rng()), rng(1)
        with threadpool_limits(threads, "blas"):
            for _ in range(12):
                states = source.random((8, 10), np.float32)
                agent.learn(states, source.random(8), source.random(), update=True)
            return agent._actor.parameters

    np.testing.assert_array_equal(trained(1), trained(2))
