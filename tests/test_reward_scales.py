"""
Rewards in any unit, whatever wraps the environment: what critics see does not depend on them.
"""

import warnings

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_genpolicy import GMPO, AffineReward, BestEpisodes, ReturnRange, load_dataset
from sb3_genpolicy.common.algorithms.value_watch import _watched_rows
from sb3_genpolicy.common.replay.vec_normalize import discounted_returns_so_far
from tests.helpers.arrays import SMALL
from tests.helpers.tiny_envs import SpacesEnv

STATES, ACTIONS = spaces.Box(-5, 5, (3,)), spaces.Box(-1, 1, (2,))


def episodes(returns_of, n_episodes=40, seed=0, unit=1.0):
    """Episodes of 5 to 19 steps; ``returns_of(rng, length)`` draws their rewards."""
    rng = np.random.default_rng(seed)
    rewards = [returns_of(rng, int(rng.integers(5, 20))) for _ in range(n_episodes)]
    ends = np.concatenate([np.arange(len(part)) == len(part) - 1 for part in rewards])
    n = len(ends)
    return dict(
        observations=rng.normal(size=(n, 3)),
        actions=rng.uniform(-1, 1, (n, 2)),
        rewards=unit * np.concatenate(rewards),
        terminals=ends,
        timeouts=np.zeros(n),
        action_space=ACTIONS,
    )


def progress(rng, length):
    return rng.dirichlet(np.ones(length))


def noisy_progress(rng, length):
    return progress(rng, length) + 1e-3 * rng.normal(size=length) / length


def success(rng, length):
    return (np.arange(length) == length - 1).astype(float)


def rewards_seen(data, **kwargs):
    model = GMPO("FlowPolicy", dataset=data, seed=0, policy_kwargs=SMALL, **kwargs)
    model.read_dataset()
    return model, model.replay_buffer.rewards[:, 0].numpy()


@pytest.mark.parametrize("unit", [1.0, 1e-4, 1e5])
@pytest.mark.parametrize("rewards", [progress, noisy_progress, success])
def test_returns_that_differ_by_rounding_make_no_scale(rewards, unit):
    data = episodes(rewards, unit=unit)
    with pytest.warns(UserWarning, match=r"the returns of all 40 episodes are about the same .* Rewards are scaled by"):
        _, seen = rewards_seen(data)
    # Four standard deviations over an episode's length count as 1000
    length = len(data["rewards"]) / 40
    np.testing.assert_allclose(seen, data["rewards"] * 1000 / (4 * length * data["rewards"].std()), rtol=1e-4)
    assert seen.max() < 1000.0


@pytest.mark.parametrize("unit", [1e-6, 0.1, 3.0, 1e6])
@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_rewards_that_are_all_the_same_stay(unit, noise):
    """Also where they are so but for rounding, one a step or seven."""
    for length in (1, 7):
        data = episodes(lambda rng, _, n=length: unit * (1.0 + noise * rng.normal(size=n)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model, _ = rewards_seen(data)
        assert model.reward_function == AffineReward()


def _equal_ends():
    n = len(episodes(progress)["rewards"])
    return dict(terminals=np.ones(n))


def test_a_real_spread_is_the_scale():
    """As in the paper: returns span 1000, also where all but one of the episodes fail."""
    data = episodes(lambda rng, length: np.zeros(length))
    last = np.flatnonzero(data["terminals"])
    data["rewards"][last[7]] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, seen = rewards_seen(data)
    assert seen.max() == 1000.0 and seen.min() == 0.0
    one_good = episodes(lambda rng, length: rng.uniform(size=length))
    _, seen = rewards_seen(one_good)
    returns = np.add.reduceat(one_good["rewards"], np.r_[0, np.flatnonzero(one_good["terminals"])[:-1] + 1])
    np.testing.assert_allclose(seen, one_good["rewards"] * 1000 / (returns.max() - returns.min()), rtol=1e-5)


def shuffled_pendulum(share=1.0):
    data = load_dataset("pendulum-mixed")
    order = np.random.default_rng(0).permutation(data.n_rows)[: int(share * data.n_rows)]
    keys = ("observations", "actions", "rewards", "next_observations", "terminals")
    return {key: data[key][order] for key in keys} | dict(action_space=data.action_space)


@pytest.mark.filterwarnings("ignore:.*lead to another observation")
def test_shuffled_transitions_are_scaled_as_their_episodes_would_be():
    whole, _ = rewards_seen("pendulum-mixed")
    with pytest.warns(UserWarning, match=r"4\d{4} of 4\d{4} episodes are single steps or cuts that were inferred"):
        shuffled, _ = rewards_seen(shuffled_pendulum())
    assert shuffled.reward_function.scale == pytest.approx(whole.reward_function.scale, rel=0.2)
    # With the time limit's flag on every row there is nothing to be inferred, and no more to be known
    rows = shuffled_pendulum(0.1)
    flagged = dict(rows, timeouts=np.ones(len(rows["rewards"])))
    with pytest.warns(UserWarning, match="single steps"):
        model, _ = rewards_seen(flagged)
    assert model.reward_function.scale == pytest.approx(whole.reward_function.scale, rel=0.2)


@pytest.mark.filterwarnings("ignore:.*lead to another observation")
def test_pieces_of_episodes_are_no_episodes():
    """Five rows each, in any order, without a flag."""
    data = load_dataset("pendulum-mixed")
    pieces = np.random.default_rng(0).permutation(data.n_rows // 5)
    order = (5 * pieces[:, None] + np.arange(5)).reshape(-1)
    keys = ("observations", "actions", "rewards", "next_observations", "terminals")
    with pytest.warns(UserWarning, match=r"9\d{3} of 9\d{3} episodes are single steps or cuts that were inferred"):
        model, _ = rewards_seen({key: data[key][order] for key in keys} | dict(action_space=data.action_space))
    assert model.reward_function.scale == pytest.approx(0.58, rel=0.2)


def test_bandits_have_one_step_and_a_scale():
    data = {**episodes(progress), **_equal_ends()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, _ = rewards_seen(data)
    assert model.reward_function.scale == pytest.approx(1000 / np.ptp(data["rewards"]), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*(lead to another observation|no scale can be taken)")
def test_the_best_of_shuffled_transitions_is_warned_of():
    with pytest.warns(UserWarning, match="BestEpisodes chooses by returns, but"):
        rewards_seen(shuffled_pendulum(0.1), transforms=[BestEpisodes(0.1)])


def test_the_horizon_is_the_discounts_where_it_is_shorter():
    data = load_dataset(episodes(progress))
    length, spread = data.n_rows / data.n_episodes, 4 * data.rewards.std()
    for gamma, horizon in ((0.5, 2.0), (0.99, length), (1.0, length)):
        with pytest.warns(UserWarning, match="about the same"):
            assert ReturnRange().fit(data, gamma).scale == pytest.approx(1000 / (spread * horizon), rel=1e-4)


def survival(rng, length):
    return 1.0 - 1e-4 * rng.uniform(size=9)


def test_rewards_that_hardly_differ_do_not_become_huge():
    data = episodes(survival)
    with pytest.warns(UserWarning, match=r"the rewards are about the same \(0\.9999"):
        _, seen = rewards_seen(data)
    # What can be earned in nine steps is a hundred times the span, no more
    assert seen.max() * 9 == pytest.approx(1e5, rel=1e-3)


def test_one_return_that_is_the_scale_is_named():
    data = episodes(lambda rng, length: rng.normal(size=length))
    data["rewards"][3] = -1e6
    with pytest.warns(UserWarning, match=r"the return of episode 0, -1e\+06, is far from all others \(most lie near"):
        rewards_seen(data)


# VecNormalize


def test_statistics_that_release_0_1_took_are_brought_over(tmp_path):
    data, env = episodes(varied), normalized_env(reward=1.0)
    model = GMPO("FlowPolicy", env, dataset=data, policy_kwargs=SMALL).learn(1)
    right = float(env.ret_rms.var)
    # As it was: of raw rewards, and nothing noted of them
    env.ret_rms.var = right / model.reward_function.scale**2
    env.ret_rms.mean = env.ret_rms.mean / model.reward_function.scale
    model._vec_rewards_are_fitted = False
    with pytest.warns(UserWarning, match="as release 0.1 took them: they are multiplied by its scale"):
        model.learn_online(1)
    # One more row in some hundred
    assert float(env.ret_rms.var) == pytest.approx(right, rel=0.02)


def normalized_env(reward=0.0, **kwargs):
    return VecNormalize(DummyVecEnv([lambda: SpacesEnv(STATES, ACTIONS, reward)]), norm_obs=False, **kwargs)


def varied(rng, length):
    return rng.normal(size=length) - 0.5


@pytest.mark.parametrize("transform", ["locomotion", "none", "antmaze", AffineReward(3.0, 2.0)], ids=str)
def test_vec_normalize_sees_what_critics_see(transform):
    data, env = episodes(varied), normalized_env()
    model = GMPO("FlowPolicy", env, dataset=data, reward_transform=transform, policy_kwargs=SMALL)
    model.read_dataset()
    transformed = model.reward_function(data["rewards"])
    returns = discounted_returns_so_far(load_dataset(data), transformed, 0.99)
    seen = model.replay_buffer.rows(th.arange(len(transformed)), env).rewards[:, 0]
    np.testing.assert_allclose(seen, (transformed / returns.std()).clip(-10, 10), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(env.ret_rms.var, returns.var())


def test_the_unit_of_rewards_does_not_count_with_vec_normalize():
    actions, deviations = [], []
    for unit in (1e-3, 1.0, 1e3):
        data, env = episodes(varied, unit=unit), normalized_env()
        model = GMPO("FlowPolicy", env, dataset=data, seed=0, policy_kwargs=SMALL).learn(20)
        actions.append(model.predict(np.ones((5, 3)), deterministic=True)[0])
        # And online
        env.venv.envs[0].unwrapped.reward = -0.7 * unit
        model.learn_online(12)
        added = model.replay_buffer.added_rows().rewards[:, 0]
        np.testing.assert_allclose(added, model.reward_function(np.full(len(added), -0.7 * unit)), rtol=1e-5)
        deviations.append(np.sqrt(env.ret_rms.var))
    np.testing.assert_allclose(actions[0], actions[1], atol=1e-4)
    np.testing.assert_allclose(actions[2], actions[1], atol=1e-4)
    np.testing.assert_allclose(deviations, deviations[1], rtol=1e-4)


def test_online_the_wrapper_is_stepped_with_what_critics_see_and_left_as_it_was():
    env = normalized_env(reward=2.0)
    below = env.venv
    model = GMPO("FlowPolicy", env, dataset=episodes(varied), reward_transform=AffineReward(10.0, 1.0), policy_kwargs=SMALL)
    model.read_dataset()
    seen_before = env.ret_rms.count
    model.learn_online(6)
    assert env.ret_rms.count == seen_before + 6 and env.venv is below
    assert env.get_original_reward() == pytest.approx(21.0)
    assert (model.replay_buffer.added_rows().rewards == 21.0).all()


def stepped(env):
    env.reset()
    for _ in range(20):
        env.step(np.zeros((1, 2), np.float32))
    return env


def test_statistics_of_other_rewards_are_replaced_or_named(tmp_path):
    data = episodes(varied)
    env = stepped(normalized_env(reward=500.0))
    with pytest.warns(UserWarning, match="VecNormalize's statistics of rewards were gathered by stepping"):
        model = GMPO("FlowPolicy", env, dataset=data, policy_kwargs=SMALL).learn(1)
    fitted = float(env.ret_rms.var)
    assert fitted < 500.0**2
    frozen = stepped(normalized_env(reward=500.0))
    frozen.training, kept = False, float(frozen.ret_rms.var)
    with pytest.warns(UserWarning, match="VecNormalize does not train, and keeps statistics of rewards"):
        GMPO("FlowPolicy", frozen, dataset=data, policy_kwargs=SMALL).read_dataset()
    assert float(frozen.ret_rms.var) == kept
    # A model that goes on keeps the statistics that it was trained with
    model.save(tmp_path / "model")
    env.save(str(tmp_path / "statistics.pkl"))
    again = VecNormalize.load(str(tmp_path / "statistics.pkl"), normalized_env().venv)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = GMPO.load(tmp_path / "model", env=again)
        loaded.learn(1, dataset=data, reset_num_timesteps=False)
    assert float(again.ret_rms.var) == fitted


# Values


def cut_to_nowhere(scale):
    """Episodes of two rows that are cut off, each leading to an observation far from all that rows start from."""
    rng, n = np.random.default_rng(0), 400
    observations = rng.normal(size=(n, 3))
    following = observations[np.arange(n) ^ 1].copy()
    following[1::2] = 8.0
    return dict(
        observations=observations,
        next_observations=following,
        actions=rng.uniform(-1, 1, (n, 2)),
        rewards=np.full(n, scale),
        terminals=np.zeros(n),
        timeouts=np.arange(n) % 2,
        action_space=ACTIONS,
    )


def far_values(model, value):
    value_net = model.value_net
    with th.no_grad():
        value_net.value_net[-1].bias.fill_((value - value_net.shift) / value_net.scale)


@pytest.mark.parametrize("value", [812.0, -50.0])
def test_values_that_nobody_can_earn_are_named_once(value):
    model = GMPO("FlowPolicy", dataset=cut_to_nowhere(0.1), reward_transform="none", policy_kwargs=SMALL, verbose=0)
    model.learn(1)
    far_values(model, value)
    with pytest.warns(
        UserWarning, match=r"is -?\d+(\.\d+)? somewhere, where rewards and discount allow 0 to 10\. Critics"
    ) as said:
        model.learn(4, log_interval=1, reset_num_timesteps=False)
    assert sum("rewards and discount allow" in str(warning.message) for warning in said) == 1


def test_where_no_row_starts_from_is_looked_at():
    rows = cut_to_nowhere(0.1)
    long = {
        key: np.tile(value, (20, 1)) if value.ndim > 1 else np.tile(value, 20)
        for key, value in rows.items()
        if key != "action_space"
    }
    long["timeouts"] = np.arange(8000) == 7998
    model = GMPO("FlowPolicy", dataset=dict(long, next_observations=np.roll(long["observations"], -1, axis=0)))
    model.read_dataset()
    watched = _watched_rows(model.replay_buffer.store)
    # All that lead to an observation of nobody's, beside every thirty-second
    assert 7999 in watched.tolist() and len(watched) < 300


def test_values_that_can_be_earned_are_not():
    model = GMPO("FlowPolicy", dataset=cut_to_nowhere(0.1), reward_transform="none", policy_kwargs=SMALL)
    model.learn(1)
    far_values(model, 9.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(4, log_interval=1, reset_num_timesteps=False)
