"""
Sources of data: every one gives the same transitions, never one across an episode's end, and faults are named.
"""

from dataclasses import replace

import gymnasium as gym
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from sb3_genpolicy import load_dataset, make_offline_env
from sb3_genpolicy.common.datasets import EMBEDDED, dataset_spaces, local_datasets_for
from sb3_genpolicy.common.replay.vec_normalize import discounted_returns_so_far
from sb3_genpolicy.common.transitions.rewards import AffineReward, fit_reward_transform
from sb3_genpolicy.common.transitions.transitions import KEYS, normalized_score
from tests.helpers.arrays import make_arrays
from tests.helpers.closed_forms import assert_rows_are_pendulums
from tests.helpers.recorded_arrays import OBSERVATIONS, episodes_of, pendulum_arrays, write_minari


def assert_same_rows(data, arrays, decimal=6):
    for key in KEYS:
        np.testing.assert_array_almost_equal(data[key], arrays[key], decimal, err_msg=key)
        assert data[key].dtype == np.float32, key


def test_mapping_keeps_every_row(arrays):
    data = load_dataset(arrays)
    assert_same_rows(data, arrays)
    assert data.n_rows == 5 + 6 + 7 + 8 and data.n_episodes == 4
    assert data.observation_space.shape == (3,) and data.action_space == arrays["action_space"]


def test_minari_gives_the_rows_that_were_recorded(arrays, minari_root):
    write_minari("test/unequal-v0", arrays)
    data = load_dataset("test/unequal-v0")
    assert_same_rows(data, arrays)
    # Observation 0 counts steps: no transition leaps, also not from one episode into the next
    np.testing.assert_allclose(data.next_observations[:, 0] - data.observations[:, 0], 1.0)
    assert data.name == "test/unequal-v0" and data.observation_space == OBSERVATIONS
    assert dataset_spaces("test/unequal-v0") == (OBSERVATIONS, arrays["action_space"])


def test_minari_object_and_its_filtered_episodes(arrays, minari_root):
    dataset = write_minari("test/unequal-v0", arrays)
    assert_same_rows(load_dataset(dataset), arrays)
    long_ones = dataset.filter_episodes(lambda episode: len(episode) >= 7)
    start = episodes_of(arrays)[2][0]
    np.testing.assert_array_equal(load_dataset(long_ones).rewards, arrays["rewards"][start:])
    # Loaded by its name, the data would be others
    assert load_dataset(dataset).name == "test/unequal-v0" and load_dataset(long_ones).name is None


def test_minari_episode_without_a_flag_at_its_end_was_cut_off(arrays, minari_root):
    write_minari("test/unflagged-v0", arrays, flag_ends=False)
    data = load_dataset("test/unflagged-v0")
    assert_same_rows(data, arrays)


def test_minari_reference_scores_make_d4rl_scores(minari_root):
    arrays = pendulum_arrays()
    write_minari("test/scored-v0", arrays, env="Pendulum-v1", ref_min_score=-10.0, ref_max_score=30.0)
    data = load_dataset("test/scored-v0")
    dataset = minari.load_dataset("test/scored-v0")
    returns = data.episode_returns()
    expected = 100 * minari.get_normalized_score(dataset, returns)
    np.testing.assert_allclose(normalized_score(returns, data.reference_scores), expected, rtol=1e-6)
    np.testing.assert_allclose(returns, [arrays["rewards"][a:b].sum() for a, b in episodes_of(arrays)], rtol=1e-5)


def test_minari_dict_observations(minari_root):
    space = spaces.Dict({"position": spaces.Box(-1, 1, (2,), np.float32), "image": spaces.Box(0, 255, (4, 4, 3), np.uint8)})
    rng = np.random.default_rng(0)
    position = rng.uniform(-1, 1, (6, 2)).astype(np.float32)
    image = rng.integers(0, 255, (6, 4, 4, 3), dtype=np.uint8)
    episode = EpisodeBuffer(
        observations={"position": position, "image": image},
        actions=rng.uniform(-1, 1, (5, 1)).astype(np.float32),
        rewards=np.ones(5),
        terminations=np.arange(5) == 4,
        truncations=np.zeros(5, bool),
    )
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    minari.create_dataset_from_buffers(
        "test/dict-v0", [episode], observation_space=space, action_space=action_space, jpeg_encoding=False
    )
    data = load_dataset("test/dict-v0")
    np.testing.assert_array_equal(data.observations["position"], position[:-1])
    np.testing.assert_array_equal(data.next_observations["image"], image[1:])
    assert data.observations["image"].dtype == np.uint8


def fill_sb3_buffer(arrays, buffer):
    low, high = buffer.action_space.low, buffer.action_space.high
    for row in range(len(arrays["rewards"])):
        action = 2 * (arrays["actions"][row] - low) / (high - low) - 1
        done = arrays["terminals"][row] or arrays["timeouts"][row]
        infos = [{"TimeLimit.truncated": bool(arrays["timeouts"][row])}]
        observation, following = arrays["observations"][row][None], arrays["next_observations"][row][None]
        if isinstance(buffer, DictReplayBuffer):
            observation, following = {"state": observation}, {"state": following}
        buffer.add(observation, following, action[None], arrays["rewards"][row : row + 1], np.array([done]), infos)
    return buffer


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (-2.0, 6.0)])
def test_sb3_buffer_gives_its_rows_back_in_the_units_of_the_environment(bounds):
    arrays = make_arrays(low=bounds[0], high=bounds[1])
    buffer = fill_sb3_buffer(arrays, ReplayBuffer(100, OBSERVATIONS, arrays["action_space"], device="cpu"))
    assert_same_rows(load_dataset(buffer), arrays, decimal=5)


def test_sb3_dict_buffer(arrays):
    space = spaces.Dict({"state": OBSERVATIONS})
    data = load_dataset(fill_sb3_buffer(arrays, DictReplayBuffer(100, space, arrays["action_space"], device="cpu")))
    np.testing.assert_array_almost_equal(data.next_observations["state"], arrays["next_observations"])
    np.testing.assert_array_equal(data.terminals, arrays["terminals"])


def test_sb3_buffer_that_has_wrapped_around_starts_with_its_oldest_row(arrays):
    buffer = fill_sb3_buffer(arrays, ReplayBuffer(20, OBSERVATIONS, arrays["action_space"], device="cpu"))
    data = load_dataset(buffer)
    np.testing.assert_array_equal(data.rewards, arrays["rewards"][-20:])
    assert data.n_episodes == 3


def test_sb3_buffer_that_saves_memory(arrays):
    """It holds no next observations of its own; the row after the newest is no row."""
    buffer = ReplayBuffer(
        20, OBSERVATIONS, arrays["action_space"], "cpu", optimize_memory_usage=True, handle_timeout_termination=False
    )
    start, end = episodes_of(arrays)[3]
    one_episode = {key: value if key == "action_space" else value[start:end] for key, value in arrays.items()}
    data = load_dataset(fill_sb3_buffer(one_episode, buffer))
    np.testing.assert_array_almost_equal(data.next_observations, one_episode["next_observations"])
    full = load_dataset(fill_sb3_buffer(arrays, buffer))
    np.testing.assert_array_equal(full.rewards, arrays["rewards"][-19:])
    np.testing.assert_array_almost_equal(full.next_observations[-1], arrays["next_observations"][-1])


def test_sb3_buffer_of_two_environments_keeps_their_rows_apart():
    buffer = ReplayBuffer(10, OBSERVATIONS, spaces.Box(-1, 1, (1,)), device="cpu", n_envs=2)
    for step in range(4):
        state = np.array([[step, 0, 0], [100 + step, 0, 0]], dtype=float)
        buffer.add(state, state + np.array([1, 0, 0]), np.zeros((2, 1)), np.array([0.0, 1.0]), np.zeros(2), [{}, {}])
    data = load_dataset(buffer)
    np.testing.assert_array_equal(data.observations[:, 0], [0, 1, 2, 3, 100, 101, 102, 103])
    np.testing.assert_array_equal(data.episode_returns(), [0.0, 4.0])
    np.testing.assert_array_equal(data.timeouts, [0, 0, 0, 1, 0, 0, 0, 1])


def test_embedded_dataset_is_pendulum():
    """Physics by another route: the environment itself, set to a row's state, gives the row's reward and next observation."""
    data = load_dataset("pendulum-mixed")
    assert data.n_rows == 48_000 and data.n_episodes == 240 and data.reference_scores == (-1230.0, -150.0)
    assert_rows_are_pendulums(data, [*range(0, 48_000, 997), *(np.flatnonzero(data.timeouts)[:5])])
    assert data.terminals.sum() == 0 and data.timeouts.sum() == 240


def test_offline_env_carries_its_dataset(minari_root):
    env = make_offline_env("pendulum-mixed")
    assert env.spec.id == "Pendulum-v1"
    carried = env.get_dataset()
    # Reads like D4RL's dictionary
    assert set(carried) == set(KEYS) and carried["rewards"].shape == (48_000,)

    arrays = pendulum_arrays()
    write_minari("test/pendulum-v0", arrays, env="Pendulum-v1")
    env = make_offline_env("test/pendulum-v0")
    assert env.observation_space == gym.make("Pendulum-v1").observation_space
    np.testing.assert_array_equal(env.get_dataset().rewards, arrays["rewards"])
    assert local_datasets_for("Pendulum-v1") == [*EMBEDDED, "test/pendulum-v0"]
    assert local_datasets_for("Hopper-v5") == []


def test_reward_transforms(arrays):
    data = load_dataset(arrays)
    returns = data.episode_returns()
    scaled = replace(data, rewards=fit_reward_transform("locomotion", data)(data.rewards))
    assert np.ptp(scaled.episode_returns()) == pytest.approx(1000.0, rel=1e-5)
    np.testing.assert_allclose(scaled.episode_returns() / returns, 1000.0 / np.ptp(returns), rtol=1e-4)
    np.testing.assert_allclose(fit_reward_transform("antmaze", data)(np.array([0.0, 1.0])), [-1.0, 0.0])
    np.testing.assert_array_equal(fit_reward_transform(None, data)(data.rewards), arrays["rewards"])
    np.testing.assert_array_equal(fit_reward_transform(np.sign, data)(data.rewards), np.sign(arrays["rewards"]))
    constant = replace(data, rewards=np.zeros(data.n_rows, np.float32))
    assert fit_reward_transform("locomotion", constant) == AffineReward()


def test_discounted_returns_start_anew_with_every_episode(arrays):
    data = load_dataset(arrays)
    by_loop = []
    for start, end in episodes_of(arrays):
        for t in range(start, end):
            by_loop.append(sum(0.9 ** (t - k) * arrays["rewards"][k] for k in range(start, t + 1)))
    np.testing.assert_allclose(discounted_returns_so_far(data, data.rewards, 0.9), by_loop, rtol=1e-4, atol=1e-5)


# Bad input: one sentence each, that says what and where


def broken(change):
    arrays = make_arrays()
    change(arrays)
    return arrays


def set_value(key, row, value):
    def change(arrays):
        arrays[key][row] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_value("observations", 12, np.nan), r"observations has a NaN or infinite value .* row 12 \(episode 2, step 1\)"),
        (set_value("rewards", 3, np.inf), r"rewards has a NaN .* row 3 \(episode 0, step 3\)"),
        (set_value("actions", 5, 1.5), r"actions has values outside the bounds .* row 5 \(episode 1, step 0\)"),
        (
            lambda arrays: [arrays.pop(key) for key in ("next_observations", "timeouts")],
            "neither 'next_observations' nor 'timeouts'",
        ),
        (
            lambda arrays: [arrays.update(timouts=arrays.pop("timeouts")), arrays.pop("next_observations")],
            "neither 'next_observations' nor 'timeouts'.*Did you mean 'timeouts' by 'timouts'",
        ),
        (lambda arrays: arrays.update(rewards=arrays["rewards"][:-1]), "different lengths"),
        (lambda arrays: arrays.update({k: v[:0] for k, v in arrays.items() if k != "action_space"}), "is empty"),
        (lambda arrays: arrays.update(actions=arrays["actions"][:, :1]), r"rows of shape \(1,\).*shape \(2,\)"),
        (lambda arrays: arrays.update(action_space=spaces.Discrete(3), actions=np.zeros(26, int)), "only continuous actions"),
        (lambda arrays: arrays.update(observations=np.array([[1.0], [2.0, 3.0]], dtype=object)), "ragged"),
    ],
)
def test_faulty_arrays_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(broken(change))


def test_bounds_of_actions_are_asked_for_where_they_cannot_be_seen():
    arrays = make_arrays(low=-3.0, high=3.0)
    del arrays["action_space"]
    with pytest.raises(ValueError, match="add 'action_space'"):
        load_dataset(arrays)
    arrays["actions"] = (arrays["actions"] > 0).astype(int)
    with pytest.raises(ValueError, match="only continuous"):
        load_dataset(arrays)


def test_unknown_id_names_what_is_installed_and_how_to_get_it(arrays, minari_root):
    write_minari("test/unequal-v0", arrays)
    with pytest.raises(
        ValueError,
        match=r"no dataset 'test/unequl-v0' on this machine, which has pendulum-mixed, test/unequal-v0.*minari download test",
    ):
        load_dataset("test/unequl-v0")
    with pytest.raises(ValueError, match="minari download D4RL/door/human`, .* ids end in a version"):
        load_dataset("D4RL/door/human")


def test_sources_of_no_kind_known_are_refused():
    with pytest.raises(TypeError, match="cannot be a int"):
        load_dataset(3)


def test_unscaled_actions_in_a_buffer_are_refused():
    arrays = make_arrays(low=-3.0, high=3.0)
    buffer = ReplayBuffer(10, OBSERVATIONS, arrays["action_space"], device="cpu")
    buffer.add(np.zeros((1, 3)), np.zeros((1, 3)), np.full((1, 2), 2.5), np.zeros(1), np.zeros(1), [{}])
    with pytest.raises(ValueError, match="up to 2.5 in size"):
        load_dataset(buffer)


def test_a_minari_file_whose_steps_do_not_add_up_is_refused(arrays, minari_root, monkeypatch):
    dataset = write_minari("test/unequal-v0", arrays)
    monkeypatch.setattr(type(dataset), "total_steps", 30)
    with pytest.raises(ValueError, match="says that it has 30 steps, but its episodes have 26"):
        load_dataset(dataset)
