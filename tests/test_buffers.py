"""
The offline replay buffer: rows, samples and statistics as SB3's own buffers give them.
"""

import pickle

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy import load_dataset
from sb3_genpolicy.common.datasets.envs import SpacesVecEnv
from sb3_genpolicy.common.replay import added_rows
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.transitions.rewards import AffineReward
from tests.helpers.arrays import make_arrays

SPACE = spaces.Box(-np.inf, np.inf, (3,), np.float32)


def offline_buffer(arrays, **kwargs):
    buffer = OfflineReplayBuffer(kwargs.pop("buffer_size", 1000), SPACE, arrays["action_space"], device="cpu", **kwargs)
    buffer.fill(load_dataset(arrays), AffineReward())
    buffer.seed_rows(0)
    return buffer


def add_rows(buffer, arrays):
    """What SB3's online loop does with a row: scaled actions, time limits in the infos."""
    low, high = arrays["action_space"].low, arrays["action_space"].high
    for row in range(len(arrays["rewards"])):
        done = arrays["terminals"][row] or arrays["timeouts"][row]
        buffer.add(
            arrays["observations"][row][None],
            arrays["next_observations"][row][None],
            (2 * (arrays["actions"][row] - low) / (high - low) - 1)[None],
            arrays["rewards"][row : row + 1],
            np.array([done]),
            [{"TimeLimit.truncated": bool(arrays["timeouts"][row])}],
        )
    return buffer


def test_filled_rows_equal_those_of_an_sb3_buffer():
    arrays = make_arrays(low=-2.0, high=6.0)
    n_rows = len(arrays["rewards"])
    reference = add_rows(ReplayBuffer(n_rows, SPACE, arrays["action_space"], device="cpu"), arrays)
    ours, theirs = offline_buffer(arrays)._get_samples(np.arange(n_rows)), reference._get_samples(np.arange(n_rows))
    for name, mine, his in zip(ours._fields, ours, theirs, strict=False):
        if isinstance(his, th.Tensor):
            np.testing.assert_allclose(mine, his, rtol=1e-5, atol=1e-6, err_msg=name)
            assert mine.shape == his.shape and mine.dtype == th.float32, name
    # done is terminated: time limits bootstrap
    np.testing.assert_array_equal(ours.dones[:, 0], arrays["terminals"])


def test_rows_added_one_by_one_equal_rows_filled_at_once(arrays):
    filled = offline_buffer(arrays)
    added = add_rows(OfflineReplayBuffer(1000, SPACE, arrays["action_space"], device="cpu"), arrays)
    assert added.size() == filled.size() == added.n_added == 26 and filled.n_added == 0
    for mine, his in zip(added._get_samples(range(26)), filled._get_samples(range(26)), strict=False):
        if isinstance(his, th.Tensor):
            np.testing.assert_allclose(mine, his, atol=1e-6)


def test_rows_added_to_a_dataset_come_after_it_and_get_its_reward_transform(arrays):
    buffer = OfflineReplayBuffer(1000, SPACE, arrays["action_space"], device="cpu")
    buffer.fill(load_dataset(arrays), AffineReward(scale=10.0))
    add_rows(buffer, arrays)
    assert buffer.size() == 52
    np.testing.assert_allclose(buffer.rewards[:52, 0], 10 * np.tile(arrays["rewards"], 2), rtol=1e-5)
    np.testing.assert_allclose(buffer.observations[:52], np.tile(arrays["observations"], (2, 1)))


def test_room_is_made_for_more_rows_without_losing_any(arrays, monkeypatch):
    monkeypatch.setattr(added_rows, "_FIRST_ROOM", 4)
    buffer = add_rows(OfflineReplayBuffer(1000, SPACE, arrays["action_space"], device="cpu"), arrays)
    np.testing.assert_array_equal(buffer.observations[:26], arrays["observations"])
    np.testing.assert_array_equal(buffer.next_observations[:26], arrays["next_observations"])
    np.testing.assert_array_equal(buffer.dones[:26, 0], arrays["terminals"])


@pytest.mark.parametrize("filled", [False, True])
def test_oldest_added_rows_give_way_at_the_largest_size(arrays, filled):
    buffer = OfflineReplayBuffer(30, SPACE, arrays["action_space"], device="cpu")
    if filled:
        buffer.fill(load_dataset(arrays), AffineReward())
    n_dataset = buffer.n_from_dataset
    add_rows(add_rows(buffer, arrays), arrays)
    assert buffer.n_added == buffer.buffer_size == 30 and buffer.size() == n_dataset + 30
    newest = np.tile(arrays["observations"][:, 0], 2)[-30:]
    np.testing.assert_array_equal(np.sort(buffer.observations[n_dataset:, 0]), np.sort(newest))
    np.testing.assert_array_equal(buffer.observations[:n_dataset], arrays["observations"][:n_dataset])


@pytest.mark.parametrize(
    ("share", "n_new", "from_dataset"),
    [(0.25, 60, 16), (0.5, 60, 32), (1.0, 60, 64), (0.0, 60, 0), (None, 26, 32), (None, 78, 16),
     # Fewer new rows than their share: one of each, on average
     (0.5, 10, 54), (0.0, 10, 0), (0.5, 0, 64)],
)  # fmt: skip
def test_the_dataset_has_its_share_of_every_batch(arrays, share, n_new, from_dataset):
    buffer = offline_buffer(arrays)
    buffer.offline_share = share
    new = {key: np.resize(arrays[key], (n_new, *arrays[key].shape[1:])) for key in arrays if key != "action_space"}
    add_rows(buffer, {**new, "action_space": arrays["action_space"], "rewards": np.full(n_new, 50.0, np.float32)})
    rows, batch = buffer.draw(64)
    assert len(rows) == len(batch.rewards) == 64
    assert (batch.rewards != 50.0).sum() == (rows < 26).sum() == from_dataset
    for drawn, looked_up in zip(batch, buffer.rows(rows), strict=True):
        assert drawn is looked_up or th.equal(drawn, looked_up)


def test_rows_are_looked_up_in_the_order_of_their_indices(arrays):
    buffer = add_rows(offline_buffer(arrays), {**arrays, "observations": arrays["observations"] + 7.0})
    rows = th.tensor([51, 0, 26, 25])
    expected = np.concatenate([arrays["observations"], arrays["observations"] + 7.0])[rows]
    np.testing.assert_allclose(buffer.rows(rows).observations, expected)


def test_new_rows_beside_n_step_returns_bootstrap_after_one_step(arrays):
    buffer = OfflineReplayBuffer(1000, SPACE, arrays["action_space"], device="cpu")
    buffer.fill(load_dataset(arrays), AffineReward(), n_steps=3, gamma=0.9)
    add_rows(buffer, arrays)
    rows, batch = buffer.draw(200)
    np.testing.assert_allclose(batch.discounts[rows >= 26], 0.9, rtol=1e-6)
    # The first row of an episode of five steps, whose return is of three
    assert buffer.rows(th.tensor([0, 26])).discounts[:, 0].tolist() == pytest.approx([0.729, 0.9])


def test_rows_that_are_held_out_stay_so_when_others_are_added(arrays):
    buffer = OfflineReplayBuffer(1000, SPACE, arrays["action_space"], device="cpu")
    buffer.fill(load_dataset(arrays), AffineReward(), rows=np.arange(5, 26))
    add_rows(buffer, arrays)
    buffer.offline_share = None
    rows = buffer.draw(1000)[0]
    assert rows.min() == 5 and len(rows.unique()) == 21 + 26


def test_rows_of_parallel_environments(arrays):
    buffer = OfflineReplayBuffer(100, SPACE, arrays["action_space"], device="cpu", n_envs=2)
    infos = [{"TimeLimit.truncated": True}, {}]
    buffer.add(np.eye(3)[:2], np.ones((2, 3)), np.zeros((2, 2)), np.array([1.0, 2.0]), np.array([True, True]), infos)
    np.testing.assert_array_equal(buffer.rewards[:2, 0], [1.0, 2.0])
    np.testing.assert_array_equal(buffer.dones[:2, 0], [0.0, 1.0])
    np.testing.assert_array_equal(buffer.observations[:2], np.eye(3)[:2])


def test_sampling_is_uniform_and_repeatable(arrays):
    draws = offline_buffer(arrays).sample(26_000)
    assert th.equal(draws.rewards, offline_buffer(arrays).sample(26_000).rewards)
    counts = np.unique(draws.rewards, return_counts=True)[1]
    # 26 rows drawn 1000 times each: chi-squared with 25 degrees of freedom stays below its 0.999 quantile
    assert len(counts) == 26 and ((counts - 1000) ** 2 / 1000).sum() < 52.6


def test_the_callers_arrays_stay_the_callers(arrays):
    data = load_dataset(arrays)
    buffer = OfflineReplayBuffer(100, SPACE, arrays["action_space"], device="cpu")
    before = data.observations.copy()
    buffer.fill(data, AffineReward())
    add_rows(buffer, {**arrays, "observations": arrays["observations"] + 7.0})
    np.testing.assert_array_equal(buffer.observations[26:], arrays["observations"] + 7.0)
    np.testing.assert_array_equal(data.observations, before)


def test_vec_normalize_statistics_apply_as_in_sb3(arrays):
    """VecNormalize's own arithmetic on the same rows."""
    env = VecNormalize(SpacesVecEnv(SPACE, arrays["action_space"]), clip_obs=2.0)
    env.obs_rms.mean, env.obs_rms.var = np.array([100.0, 0.5, -0.5]), np.array([1e4, 2.0, 3.0])
    env.ret_rms.var = 4.0
    buffer, rows = offline_buffer(arrays), np.arange(26)
    samples = buffer._get_samples(rows, env=env)
    np.testing.assert_allclose(samples.observations, env.normalize_obs(arrays["observations"]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(samples.rewards[:, 0], env.normalize_reward(arrays["rewards"]), rtol=1e-5)
    # Statistics that move on are followed
    env.obs_rms.mean, env.obs_rms.count = env.obs_rms.mean + 1.0, env.obs_rms.count + 1
    samples = buffer._get_samples(rows, env=env)
    np.testing.assert_allclose(samples.observations, env.normalize_obs(arrays["observations"]), rtol=1e-4, atol=1e-5)


def test_a_reward_function_that_loses_rows_is_refused(arrays):
    buffer = OfflineReplayBuffer(100, SPACE, arrays["action_space"], device="cpu")
    with pytest.raises(ValueError, match="one finite number"):
        buffer.fill(load_dataset(arrays), lambda rewards: rewards[1:])
    with pytest.raises(ValueError, match="NaN or infinite"):
        buffer.fill(load_dataset(arrays), lambda rewards: rewards / 0)


def test_a_buffer_from_a_pickle_is_filled_again(arrays):
    data = load_dataset(arrays)
    buffer = OfflineReplayBuffer(10, data.observation_space, data.action_space, "cpu")
    buffer.fill(data, AffineReward())
    again = pickle.loads(pickle.dumps(buffer))
    again.fill(data, AffineReward())
    np.testing.assert_array_equal(again.actions, buffer.actions)
