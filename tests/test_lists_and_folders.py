"""
Trajectories in lists and pickles, Stable-Baselines2's npz, folders of time steps: what is in them by hand, and what is read.
"""

import pickle

import h5py
import numpy as np
import pytest

from sb3_genpolicy import load_dataset
from sb3_genpolicy.common.datasets.formats.signatures import describe
from tests.helpers.data_formats import flat_columns, make_episodes, write_npz
from tests.test_tables import assert_same

LOST = pytest.mark.filterwarnings("ignore:.* cut off is left out")
EPISODES = make_episodes()


def decision_transformer(episode):
    """Gym datasets of its authors: D4RL's columns by trajectory."""
    return dict(
        observations=episode.observations[:-1],
        next_observations=episode.observations[1:],
        actions=episode.actions,
        rewards=episode.rewards,
        terminals=episode.terminals,
    )


def mjrl(episode):
    return dict(
        observations=episode.observations[:-1],
        actions=episode.actions,
        rewards=episode.rewards,
        terminated=bool(episode.terminated),
        agent_infos=dict(mean=episode.actions),
        env_infos={},
    )


def serl(episodes):
    """One dictionary a step; a time limit is a `done` whose mask is 1."""
    return [
        dict(
            observations=dict(state=e.observations[step]),
            next_observations=dict(state=e.observations[step + 1]),
            actions=e.actions[step],
            rewards=float(e.rewards[step]),
            masks=1.0 - e.terminals[step],
            dones=bool(e.is_last[step]),
        )
        for e in episodes
        for step in range(e.steps)
    ]


def pickled(value, folder):
    path = folder / "data.pkl"
    path.write_bytes(pickle.dumps(value))
    return path


def given(value, folder):
    return value


def assert_all(data, episodes=EPISODES):
    """Every step of every episode."""
    for key, column in flat_columns(episodes).items():
        rows = data[key]["state"] if isinstance(data[key], dict) else data[key]
        np.testing.assert_array_equal(rows, column.astype(np.float32), err_msg=key)


@pytest.mark.parametrize("write", [given, pickled])
def test_lists_of_trajectories(write, tmp_path):
    assert_all(load_dataset(write([decision_transformer(e) for e in EPISODES], tmp_path)))


@LOST
@pytest.mark.parametrize("write", [given, pickled])
def test_paths_of_mjrl_are_terminal_where_they_say_so(write, tmp_path):
    assert_same(load_dataset(write([mjrl(e) for e in EPISODES], tmp_path)), EPISODES)


@LOST
def test_demonstrations_without_any_flag_are_cuts(tmp_path):
    """DAPG's: nothing says what ended them."""
    paths = [{key: value for key, value in mjrl(e).items() if key != "terminated"} for e in EPISODES]
    with pytest.warns(UserWarning, match="nothing says what ended 4 of 4 trajectories: they count as cut off"):
        data = load_dataset(pickled(paths, tmp_path))
    assert_same(data, [e._replace(terminated=False) for e in EPISODES])
    assert_same(load_dataset(paths, terminals=True), [e._replace(terminated=True) for e in EPISODES])


@pytest.mark.parametrize("write", [given, pickled])
def test_transitions_one_by_one(write, tmp_path):
    assert_all(load_dataset(write(serl(EPISODES), tmp_path)))


def test_trajectories_with_their_last_observation(tmp_path):
    held = [dict(obs=e.observations, acts=e.actions, rews=e.rewards, terminal=e.terminated) for e in EPISODES]
    assert_all(load_dataset(pickled(held, tmp_path)))
    assert_all(load_dataset(held))


def test_arrays_by_name_in_a_pickle_are_one_dataset(tmp_path):
    assert_all(load_dataset(pickled(flat_columns(EPISODES), tmp_path)))


def test_pickles_that_would_run_something_run_nothing(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (tmp_path.__class__.touch, (tmp_path / "ran",))

    path = pickled([decision_transformer(EPISODES[0]), Malicious()], tmp_path)
    with pytest.raises(ValueError, match="which no list of arrays needs, and was not read further"):
        load_dataset(path)
    assert not (tmp_path / "ran").exists()


def test_a_misshapen_trajectory_is_named():
    paths = [decision_transformer(e) for e in EPISODES]
    paths[2]["rewards"] = paths[2]["rewards"][:-1]
    held = [{key: value for key, value in path.items() if key != "next_observations"} for path in paths]
    with pytest.raises(ValueError, match=r"trajectory 2: rewards has 6 rows, but there are 7 actions"):
        load_dataset(held)


# Stable-Baselines2


def write_sb2(path, episodes):
    starts = np.concatenate([np.arange(e.steps) == 0 for e in episodes])
    columns = flat_columns(episodes)
    return write_npz(
        path,
        dict(
            obs=columns["observations"],
            actions=columns["actions"],
            rewards=columns["rewards"],
            episode_returns=np.array([e.rewards.sum() for e in episodes]),
            episode_starts=starts,
        ),
    )


@LOST
def test_stable_baselines2_says_nothing_of_time_limits(tmp_path):
    episodes = make_episodes((5, 8, 6, 8))
    path = write_sb2(tmp_path / "expert.npz", episodes)
    with pytest.warns(UserWarning, match="the 2 longest, of 8 steps each, are taken for cut off by a time limit"):
        data = load_dataset(path)
    # Of even number: ended by themselves, 5 and 6 steps long
    assert_same(data, episodes)
    assert_same(load_dataset(path, terminals=False), [e._replace(terminated=False) for e in episodes])
    assert_same(load_dataset(path, terminals=True), [e._replace(terminated=True) for e in episodes])


# Time steps


def time_steps(episode, **more):
    """dm_env's: a row's action led to the row's observation."""
    return dict(
        observation=episode.observations,
        action=np.concatenate([np.zeros((1, 2), np.float32), episode.actions]),
        reward=np.append(np.float32(0), episode.rewards)[:, None],
        discount=np.append(1.0, 1.0 - episode.terminals).astype(np.float32)[:, None],
        **more,
    )


def test_folders_of_drq_and_exorl_are_moved_by_a_row(tmp_path):
    for number, episode in enumerate(EPISODES):
        # episode_10 after episode_9
        write_npz(
            tmp_path / f"episode_{number + 8}_{episode.steps}.npz",
            time_steps(episode, physics=np.ones((episode.steps + 1, 4))),
        )
    assert_all(load_dataset(tmp_path))


def test_folders_of_dreamer(tmp_path):
    for number, episode in enumerate(EPISODES):
        steps = time_steps(episode)
        steps["vector"] = steps.pop("observation")
        steps["image"] = np.zeros((episode.steps + 1, 8, 8, 3), np.uint8)
        write_npz(tmp_path / f"20240101T00000{number}-abc{number}-{episode.steps}.npz", steps)
    with pytest.warns(UserWarning, match=r"the observations image \(images\) are left out"):
        assert_all(load_dataset(tmp_path))
    both = load_dataset(tmp_path, observations=["image", "vector"])
    assert both.states["image"].dtype == np.uint8


def test_an_action_in_the_first_row_is_refused(tmp_path):
    steps = time_steps(EPISODES[0])
    steps["action"][0] = 0.5
    write_npz(tmp_path / "episode_0_5.npz", steps)
    with pytest.raises(ValueError, match=r"episode_0_5.npz has an action in its first row that is not zero"):
        load_dataset(tmp_path)


def test_chunks_of_dreamerv3_have_the_action_that_was_taken_there(tmp_path):
    """One stream of four episodes, cut into two chunks in the middle of an episode."""
    rows = {
        "vector": np.concatenate([e.observations for e in EPISODES]),
        "action": np.concatenate([np.concatenate([e.actions, np.zeros((1, 2), np.float32)]) for e in EPISODES]),
        "reward": np.concatenate([np.append(np.float32(0), e.rewards) for e in EPISODES]),
        "is_first": np.concatenate([np.arange(e.steps + 1) == 0 for e in EPISODES]),
        "is_last": np.concatenate([np.arange(e.steps + 1) == e.steps for e in EPISODES]),
        "is_terminal": np.concatenate([np.append(False, e.terminals) for e in EPISODES]),
    }
    for name, part in (("1F0-first-second-9", slice(0, 9)), ("2F0-second-none-21", slice(9, None))):
        write_npz(tmp_path / f"2024010{name}.npz", {key: column[part] for key, column in rows.items()})
    assert_all(load_dataset(tmp_path))


# What a file is, before it is read


def test_what_a_source_is_is_said_by_what_is_in_it(tmp_path):
    with h5py.File(tmp_path / "own", "w") as file:
        file["observations"] = np.zeros(3)
    (tmp_path / "zarr").mkdir()
    (tmp_path / "zarr" / ".zgroup").write_text("{}")
    (tmp_path / "table.hdf5").write_bytes(b"PAR1 and no more")
    (tmp_path / "what").write_text("?")
    write_sb2(tmp_path / "expert.npz", EPISODES)
    said = {path.name: describe(path) for path in tmp_path.iterdir()}
    assert "is HDF5 of arrays, D4RL's layout." in said["own"]
    assert "is Stable-Baselines2's expert trajectories." in said["expert.npz"]
    assert "is a zarr store, as of Diffusion Policy, which is not read here: open it with zarr" in said["zarr"]
    assert "is a Parquet table." in said["table.hdf5"]
    assert "is of no kind known." in said["what"]
    with pytest.raises(ValueError, match=r"zarr store, as of Diffusion Policy\) is not read here: open it with zarr and pass"):
        load_dataset(tmp_path / "zarr")
