"""
A broken source gets one sentence that names file, key, episode and row, and is left as it was.
"""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import save_to_pkl

from sb3_genpolicy import GMPO, load_dataset
from sb3_genpolicy.common.datasets.envs import SpacesVecEnv
from tests.helpers.arrays import SMALL
from tests.helpers.data_formats import (
    fill_sb3_buffer,
    flat_columns,
    make_episodes,
    sb3_buffer,
    spaces_of,
    trajectory_columns,
    without,
    write_hdf5,
    write_npz,
    write_pickle,
)
from tests.helpers.dataset_faults import EPISODES, PLACE, ROW, assert_refused, changed

# Columns with a row for each step: mappings, npz, D4RL's HDF5

FLAT_FAULTS = {
    "NaN in observations": (changed("observations", ROW, np.nan), f"observations has a NaN or infinite value .*{PLACE}"),
    "NaN in next observations": (changed("next_observations", ROW, np.nan), f"next_observations has a NaN .*{PLACE}"),
    "infinite reward": (changed("rewards", ROW, np.inf), f"rewards has a NaN or infinite value .*{PLACE}"),
    "NaN in actions": (changed("actions", ROW, np.nan), f"actions has a NaN .*{PLACE}"),
    "beyond float32": (
        lambda columns: columns.update(rewards=np.where(np.arange(26) == ROW, 1e300, 0.0)),
        f"rewards has .*beyond float32.*{PLACE}",
    ),
    "action outside": (changed("actions", ROW, 1.5), r"actions reach 1.5 in size and nothing says what their bounds are"),
    "flag that is none": (
        lambda columns: columns.update(timeouts=np.where(np.arange(26) == ROW, 3.0, columns["timeouts"])),
        r"'timeouts' is 3.0 at row 12; it has to be 0 or 1",
    ),
    "rewards as text": (
        lambda columns: columns.update(rewards=columns["rewards"].astype("S8")),
        r"rewards holds entries of type \|S8; it needs numbers",
    ),
    "complex actions": (
        lambda columns: columns.update(actions=columns["actions"].astype(complex)),
        "actions holds entries of type complex128",
    ),
    "discrete actions": (
        lambda columns: columns.update(actions=np.zeros((26, 2), int)),
        "actions are of type int64; only continuous",
    ),
    "one reward short": (
        lambda columns: columns.update(rewards=columns["rewards"][:-1]),
        "arrays of different lengths.*'rewards': 25",
    ),
    "one observation more": (
        lambda columns: columns.update(observations=np.concatenate([columns["observations"], np.zeros((1, 3))])),
        "different lengths.*'observations': 27",
    ),
    "other successors": (
        lambda columns: columns.update(next_observations=columns["next_observations"][:, :2]),
        r"next_observations has rows of shape \(2,\), but its space .* has shape \(3,\)",
    ),
    "rewards in two columns": (
        lambda columns: columns.update(rewards=np.zeros((26, 2))),
        r"rewards has rows of shape \(2,\)",
    ),
    "no rows": (lambda columns: columns.update({key: column[:0] for key, column in columns.items()}), "is empty"),
    "nowhere to go": (
        lambda columns: [columns.pop("next_observations"), columns.update(timeouts=np.ones(26), terminals=np.zeros(26))],
        "has no steps: each of its rows is the last of an episode",
    ),
    "a slip": (
        lambda columns: columns.update(rewrds=columns.pop("rewards")),
        "has no key 'rewards'; it has .*rewrds.* Did you mean 'rewards' by 'rewrds'",
    ),
    **{
        f"no {key}": (lambda columns, key=key: columns.pop(key), f"has no key '{key}'")
        for key in ("observations", "actions", "rewards", "terminals")
    },
}
FLAT_WRITERS = {
    "mapping": lambda columns, folder: columns,
    "npz": lambda columns, folder: write_npz(folder / "broken.npz", columns),
    "hdf5": lambda columns, folder: write_hdf5(folder / "broken.hdf5", columns),
}


@pytest.mark.parametrize("fault", FLAT_FAULTS)
@pytest.mark.parametrize("kind", FLAT_WRITERS)
def test_faults_of_columns(kind, fault, tmp_path):
    change, pattern = FLAT_FAULTS[fault]
    columns = flat_columns(EPISODES)
    change(columns)
    source = FLAT_WRITERS[kind](columns, tmp_path)
    where = "The dataset" if kind == "mapping" else rf"File {tmp_path}/broken.{kind}"
    assert_refused(source, f"{where}.*{pattern}", path=None if kind == "mapping" else source)


def test_actions_outside_known_bounds_are_named_in_file_rows(tmp_path):
    """Rows of a file count also where some of them are no steps."""
    columns = without(flat_columns(EPISODES), "next_observations")
    changed("actions", ROW, 1.5)(columns)
    path = write_hdf5(tmp_path / "d4rl.hdf5", columns)
    box = spaces.Box(-1, 1, (2,), np.float32)
    with pytest.raises(
        ValueError, match=rf"actions has values outside the bounds .* first at {PLACE}: \[1.5, 1.5\]. Clip them"
    ):
        load_dataset(path, action_space=box)


@pytest.mark.parametrize("kind", FLAT_WRITERS)
def test_a_terminal_inside_an_episode_is_told(kind, tmp_path):
    """D4RL's AntMaze flags the goal, and goes on: no error, but nobody should be surprised."""
    columns = flat_columns(EPISODES)
    changed("terminals", ROW, 1)(columns)
    with pytest.warns(UserWarning, match=rf"1 steps are flagged as terminal inside an episode, first {PLACE}"):
        data = load_dataset(FLAT_WRITERS[kind](columns, tmp_path))
    assert data.n_episodes == 5 and data.terminals[ROW] == 1


def test_a_ragged_array_and_objects_in_an_npz_are_refused(tmp_path):
    columns = flat_columns(EPISODES)
    assert_refused({**columns, "observations": [[1.0], [2.0, 3.0]]}, "observations is no array")
    ragged = np.array([[1.0]] * 26 + [[2.0, 3.0]], dtype=object)
    path = write_npz(tmp_path / "objects.npz", {**columns, "rewards": ragged})
    assert_refused(path, r"objects.npz: rewards is a ragged array of objects", path=path)


def test_images_of_another_order_are_not_reshaped(tmp_path):
    images = np.zeros((26, 36, 40, 3), np.uint8)
    columns = {**flat_columns(EPISODES), "observations": images, "next_observations": images}
    path = write_npz(tmp_path / "images.npz", columns)
    with pytest.raises(
        ValueError, match=r"observations has rows of shape \(36, 40, 3\), but its space .* has shape \(3, 36, 40\)"
    ):
        load_dataset(path, observation_space=spaces.Box(0, 255, (3, 36, 40), np.uint8))


def test_images_that_are_no_bytes(tmp_path):
    images = np.zeros((26, 36, 40, 3), np.float32)
    path = write_npz(tmp_path / "images.npz", {**flat_columns(EPISODES), "observations": images, "next_observations": images})
    with pytest.raises(ValueError, match="observations is of type float32, but its space holds images, which are uint8"):
        load_dataset(path, observation_space=spaces.Box(0, 255, (36, 40, 3), np.uint8))


# OGBench


def test_trajectories_without_steps(tmp_path):
    columns = trajectory_columns(EPISODES)
    columns["terminals"][4] = 1.0  # the row before the last one of episode 0
    path = write_npz(tmp_path / "ogbench.npz", columns)
    assert_refused(path, r"ogbench.npz: episode 1 has no steps, only the observation of row 5", path=path)


@pytest.mark.parametrize("key", ["observations", "actions", "rewards"])
def test_nan_in_a_trajectory_is_named_in_file_rows(key, tmp_path):
    columns = trajectory_columns(EPISODES)
    columns[key][14] = np.nan  # 6 + 7 rows of episodes 0 and 1 before it
    path = write_npz(tmp_path / "ogbench.npz", columns)
    assert_refused(path, rf"ogbench.npz: {key} has a NaN .* row 14 \(episode 2, step 1\)", path=path)


def test_a_dataset_of_another_environment_is_refused_before_training(tmp_path):
    path = write_npz(tmp_path / "other.npz", flat_columns(EPISODES))
    env = gym.make("Pendulum-v1")
    with pytest.raises(ValueError, match=r"actions of shape|actions has rows of shape \(2,\), but its space .*\(1,\)"):
        GMPO("FlowPolicy", env, dataset=path, policy_kwargs=SMALL).learn(1)
    columns = flat_columns(make_episodes(obs_dim=5, action_dim=1))
    with pytest.raises(ValueError, match=r"observations of the dataset has shape \(5,\), but the environment's has \(3,\)"):
        GMPO("FlowPolicy", env, dataset=columns, policy_kwargs=SMALL).learn(1)


def test_bounds_come_from_the_environment_where_a_file_does_not_say(tmp_path):
    columns = flat_columns(make_episodes(action_dim=1))
    columns["actions"] *= 2.0
    path = write_npz(tmp_path / "pendulum.npz", columns)
    assert_refused(path, "nothing says what their bounds are")
    model = GMPO("FlowPolicy", "Pendulum-v1", dataset=path, policy_kwargs=SMALL, batch_size=4).learn(1)
    np.testing.assert_allclose(model.replay_buffer.actions, columns["actions"] / 2.0, atol=1e-6)
    assert model.dataset_name == str(path)


def test_discrete_observations_outside_their_space(tmp_path):
    columns = flat_columns(make_episodes(obs_dim=1))
    for key in ("observations", "next_observations"):
        columns[key] = np.zeros(26, int)
    columns["observations"][ROW] = 3
    with pytest.raises(ValueError, match=rf"observations has \[3.\] at {PLACE}, which is not in its space Discrete\(3\)"):
        load_dataset(write_npz(tmp_path / "discrete.npz", columns), observation_space=spaces.Discrete(3))
    columns["observations"] = np.where(np.arange(26) == ROW, 0.5, 0.0)
    with pytest.raises(ValueError, match=rf"observations has \[0.5\] at {PLACE}, which is not in its space"):
        load_dataset(write_npz(tmp_path / "halves.npz", columns), observation_space=spaces.Discrete(3))


def test_discrete_observations_of_a_file_are_the_environments(tmp_path):
    columns = {**flat_columns(EPISODES), "observations": np.arange(26) % 4, "next_observations": np.arange(1, 27) % 4}
    path = write_npz(tmp_path / "discrete.npz", columns)
    env = SpacesVecEnv(spaces.Discrete(4), spaces.Box(-1, 1, (2,), np.float32))
    model = GMPO("FlowPolicy", env, dataset=path, policy_kwargs=SMALL, batch_size=4).learn(2)
    np.testing.assert_array_equal(model.replay_buffer.observations[:, 0], columns["observations"])
    with pytest.raises(ValueError, match=r"observations has \[3.\] at row 3, which is not in its space Discrete\(3\)"):
        small = SpacesVecEnv(spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32))
        GMPO("FlowPolicy", small, dataset=path, policy_kwargs=SMALL).learn(1)


# SB3's buffers


def test_faults_of_buffers(tmp_path):
    observation_space, action_space = spaces_of(EPISODES)
    buffer = ReplayBuffer(30, observation_space, action_space, device="cpu")
    assert_refused(buffer, "The replay buffer is empty")
    fill_sb3_buffer(EPISODES, buffer)
    buffer.rewards[ROW] = np.nan
    assert_refused(buffer, f"The replay buffer: rewards has a NaN .*{PLACE}")
    discrete = ReplayBuffer(3, observation_space, spaces.Discrete(2), device="cpu")
    assert_refused(discrete, r"has actions in Discrete\(2\)")
    path = write_pickle(tmp_path / "nan.pkl", [EPISODES[0]._replace(rewards=np.full(5, np.nan, np.float32))])
    assert_refused(path, rf"File {path}: rewards has a NaN .* row 0", path=path)


def test_buffers_whose_arrays_are_not_sb3s(tmp_path):
    def saved(change):
        buffer = sb3_buffer(EPISODES)
        change(buffer)
        save_to_pkl(tmp_path / "buffer.pkl", buffer)
        return tmp_path / "buffer.pkl"

    path = saved(lambda buffer: delattr(buffer, "timeouts"))
    assert_refused(path, rf"File {path} has no 'timeouts': it was saved by another version of SB3", path=path)
    path = saved(lambda buffer: setattr(buffer, "rewards", buffer.rewards[:-1]))
    assert_refused(path, rf"File {path}: rewards has shape \(28, 1\); it needs 29 rows for each of 1", path=path)
    path = saved(lambda buffer: setattr(buffer, "actions", buffer.actions[:, :, :1]))
    assert_refused(path, rf"File {path}: actions has rows of shape \(1,\)", path=path)
    path = saved(lambda buffer: buffer.actions.__setitem__((3, 0), 2.0))
    assert_refused(path, rf"File {path} holds actions up to 2 in size", path=path)


def test_a_misspelt_option_is_named():
    with pytest.raises(TypeError, match="load_dataset has no option 'memory_mapped'. Did you mean 'memory_map'"):
        load_dataset(flat_columns(EPISODES), memory_mapped=True)
