"""
The scores of the benchmark of critics, against simulated returns of which the truth is known; and the simulator that they come
from, against an environment that is stepped alone.
"""

import gymnasium as gym
import numpy as np
import pytest

from benchmarks.critics import estimates, horizons, logged, scoring

N_STATES, N_ACTIONS, N_ROLLOUTS = 1000, 6, 6


def simulated(noise: float, critic_error: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """
    :param noise: standard deviation of one rollout's noise, where that of true advantages is 1
    :param critic_error: that of errors of a critic's advantages
    :param seed: of all draws
    :return: Q, (states, actions), and returns, (states, actions, rollouts)
    """
    generator = np.random.default_rng(seed)
    levels = 10.0 * generator.normal(size=(N_STATES, 1))
    true = generator.normal(size=(N_STATES, N_ACTIONS))
    # Common to all actions of a rollout, as common random numbers are
    shared = 5.0 * generator.normal(size=(N_STATES, 1, N_ROLLOUTS))
    returns = (levels + true)[..., None] + shared + noise * generator.normal(size=(N_STATES, N_ACTIONS, N_ROLLOUTS))
    q = 3.0 + levels + true + critic_error * generator.normal(size=(N_STATES, N_ACTIONS))
    return q, returns


def is_near(estimate: estimates.Estimate, truth: float) -> bool:
    return abs(estimate.value - truth) < 4.0 * estimate.error


@pytest.mark.parametrize("noise", [0.5, 2.0, 6.0])
def test_a_perfect_critic_reaches_the_ceiling_and_another_its_share(noise):
    # Of a mean over six rollouts
    ceiling = 1.0 / np.sqrt(1.0 + noise**2 / N_ROLLOUTS)
    perfect, returns = simulated(noise)
    scores = scoring.correlation_within(perfect, returns)
    assert is_near(scores.ceiling, ceiling) and is_near(scores.value, ceiling) and is_near(scores.share, 1.0)
    scores = scoring.correlation_within(simulated(noise, critic_error=1.0)[0], returns)
    assert is_near(scores.value, ceiling / np.sqrt(2.0)) and is_near(scores.share, 1.0 / np.sqrt(2.0))
    assert scores.share.error < 0.1


def test_values_that_know_the_state_alone_rank_nothing():
    q, returns = simulated(noise=1.0)
    q = q.mean(axis=-1, keepdims=True) + np.random.default_rng(1).normal(size=q.shape)
    scores = scoring.score(q[None], returns)
    assert all(is_near(each, 0.0) for each in (scores.within.value, scores.rank.value, scores.gain.value))
    assert scores.across.value > 0.95


def test_a_fall_after_the_steps_that_are_counted_turns_ranks_round():
    # Ten actions: the k-th earns k at once and falls after 9 - k further steps of 10 each
    k = np.arange(10)
    lengths = np.broadcast_to(10 - k, (50, 10)).copy()
    rewards = np.where(np.arange(12) < lengths[..., None], 10.0, 0.0)
    rewards[..., 0] = k
    q = np.broadcast_to(k.astype(float), (50, 10))
    of_one, of_all = (horizons.first_returns(rewards, lengths, steps, 1.0) for steps in (1, 12))
    np.testing.assert_array_equal(of_one[0], k)
    np.testing.assert_array_equal(of_all[0], [k + 10 * (9 - k) for k in range(10)])
    ranks = [scoring.rank_correlations(q, returns) for returns in (of_one, of_all)]
    np.testing.assert_allclose(ranks[0], 1.0)
    np.testing.assert_allclose(ranks[1], -1.0)


def test_the_ceiling_of_ranks_lies_between_its_bounds():
    perfect, returns = simulated(noise=2.0)
    scores = scoring.rank_correlation(perfect, returns)
    assert scores.least.value < scores.value.value < scores.most.value + 3.0 * scores.most.error
    assert scores.most.value - scores.value.value < 0.05
    # Half of the states hold nothing but noise
    perfect[::2] = np.random.default_rng(1).normal(size=perfect[::2].shape)
    returns[::2] = np.random.default_rng(2).normal(size=returns[::2].shape)
    scores = scoring.rank_correlation(perfect, returns)
    assert scores.least.value < scores.value.value < scores.most.value


def test_the_gain_of_a_favourite_is_in_deviations_of_true_returns():
    perfect, returns = simulated(noise=2.0)
    gain = scoring.gain_of_favourite(7.0 * perfect, 3.0 * returns)
    # The mean of the largest of six standard normal draws
    assert is_near(gain.value, 1.2672) and is_near(gain.deviation, 3.0)
    assert is_near(gain.by_returns, 1.2672 / np.sqrt(1.0 + 2.0**2 / 3)) and gain.by_returns.error < 0.05


def test_the_jackknife_says_how_far_estimates_spread():
    drawn = [scoring.correlation_within(*simulated(2.0, 1.0, seed)) for seed in range(20)]
    for name in ("value", "ceiling", "share"):
        values = [getattr(each, name).value for each in drawn]
        errors = [getattr(each, name).error for each in drawn]
        assert np.std(values) == pytest.approx(np.mean(errors), rel=0.5), name


def test_members_that_disagree():
    generator = np.random.default_rng(0)
    actions = generator.normal(size=(N_STATES, N_ACTIONS))
    members = actions + 0.5 * generator.normal(size=(2, N_STATES, N_ACTIONS)) + 9.0 * generator.normal(size=(2, N_STATES, 1))
    apart = scoring.disagreement(members)
    assert is_near(apart.members, 0.5) and is_near(apart.actions, np.sqrt(1.0 + 0.5**2 / 2))
    assert scoring.disagreement(members[:1]).members == (0.0, 0.0)


def test_nothing_is_earned_after_an_episode_terminated():
    rewards, lengths = np.array([[1.0, 2.0, 0.0], [1.0, 2.0, 4.0]]), np.array([2, 3])
    assert np.allclose(scoring.discounted(rewards, lengths, 0.5), [2.0, 3.0])
    assert np.allclose(scoring.discounted(rewards, lengths, 0.5, lambda each: 2.0 * each - 1.0), [2.5, 4.25])


def test_a_value_that_is_too_large():
    q, returns = simulated(noise=1.0)
    returns -= returns.mean() - q.mean() + 2.0
    assert is_near(scoring.overestimation(q[:, 0], returns[:, 0]), 2.0)


def test_one_rollout_has_no_halves():
    q, returns = simulated(noise=1.0)
    with pytest.raises(ValueError, match="two rollouts"):
        scoring.correlation_within(q, returns[..., :1])


@pytest.mark.parametrize("n_rollouts", [2, 3, 4, 5, 8])
def test_halves_have_no_rollout_in_common(n_rollouts):
    rollouts = np.broadcast_to(2.0 ** np.arange(n_rollouts), (3, 2, n_rollouts))
    size = n_rollouts // 2
    for one, other in scoring.halves(rollouts):
        sets = [int(each[0, 0] * size) for each in (one, other)]
        assert sets[0] & sets[1] == 0 and all(bin(each).count("1") == size for each in sets)


def test_what_a_value_explains_is_taken_away():
    generator = np.random.default_rng(0)
    v, signal, ends = generator.normal(size=20_000), generator.normal(size=20_000), np.arange(20_000) % 50 == 49
    returns = v + signal + generator.normal(size=20_000)
    knows, ignores = v + signal, v + generator.normal(size=20_000)
    assert is_near(logged.logged_correlations(knows, v, returns, ends).given_value, np.sqrt(0.5))
    correlations = logged.logged_correlations(ignores, v, returns, ends)
    assert is_near(correlations.given_value, 0.0) and is_near(correlations.advantage, 0.0)
    assert is_near(correlations.level, 1.0 / np.sqrt(2.0 * 3.0))
    # Errors of V are in both differences
    poor = v + generator.normal(size=20_000)
    correlations = logged.logged_correlations(ignores, poor, returns, ends)
    assert correlations.advantage.value > 0.2


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Hopper-v5", "HalfCheetah-v5"])
def test_states_that_are_stepped_in_turn_go_where_one_alone_goes(env_id):
    pytest.importorskip("mujoco")
    from benchmarks.critics.simulator import make_simulator

    env = gym.make(env_id)
    env.action_space.seed(0)
    starts = [env.reset(seed=seed)[0] for seed in range(2)]
    actions = [env.action_space.sample() for _ in range(20)]
    simulator = make_simulator(env_id, 2)
    for index, start in enumerate(starts):
        simulator.restore(index, start)
    in_turn = [[simulator.step(index, action) for index in range(2)] for action in actions]
    for index in range(2):
        env.reset(seed=index)
        for action, reached in zip(actions, in_turn, strict=True):
            observation, reward, terminated, _, _ = env.step(action)
            assert np.allclose(reached[index][0], observation, atol=1e-4)
            assert reached[index][1] == pytest.approx(reward, abs=1e-4) and reached[index][2] == terminated


def test_a_simulator_that_cannot_be_set_is_refused():
    pytest.importorskip("mujoco")
    from benchmarks.critics.simulator import make_simulator

    with pytest.raises(ValueError, match="Ant-v5 cannot be set"):
        make_simulator("Ant-v5", 1)
