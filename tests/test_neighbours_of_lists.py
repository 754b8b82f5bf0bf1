"""
Lists of trajectories as other people's scripts leave them: flags, shapes and containers that differ from the usual ones.
"""

import dataclasses
import gzip
import pickle
import warnings

import h5py
import numpy as np
import pytest

from sb3_genpolicy import load_dataset
from sb3_genpolicy.common.datasets.formats.signatures import describe
from tests.helpers.data_formats import flat_columns, make_episodes
from tests.test_lists_and_folders import LOST, assert_all, time_steps
from tests.test_tables import assert_same

EPISODES = make_episodes()
ENDED = [e._replace(terminated=True) for e in EPISODES]
CUT = [e._replace(terminated=False) for e in EPISODES]


def path(episode, **more):
    """Every observation, the last one too."""
    return dict(observations=episode.observations, actions=episode.actions, rewards=episode.rewards, **more)


def test_all_observations_beside_next_observations():
    held = [path(e, next_observations=e.observations[1:], terminated=e.terminated) for e in EPISODES]
    assert_all(load_dataset(held))


def test_one_trajectory_is_a_list_of_one_or_stands_alone():
    for held in ([path(EPISODES[0], terminated=True)], path(EPISODES[0], terminals=EPISODES[0].terminals)):
        assert_all(load_dataset(held), EPISODES[:1])


def test_trajectories_with_successors_and_no_flags():
    held = [path(e, next_observations=e.observations[1:]) for e in EPISODES]
    for each in held:
        each["observations"] = each["observations"][:-1]
    with pytest.warns(UserWarning, match="nothing says what ended 4 of 4 trajectories"):
        assert_all(load_dataset(held), CUT)
    assert_all(load_dataset(held, terminals=True), ENDED)


def test_who_asks_decides_what_done_means():
    held = [path(e, done=e.is_last) for e in EPISODES]
    assert_all(load_dataset(held), ENDED)
    assert_all(load_dataset(held, terminals=False), CUT)


def test_infos_of_dictionaries_say_that_the_time_was_up():
    infos = [[{}] * (e.steps - 1) + [{"TimeLimit.truncated": not e.terminated}] for e in EPISODES]
    held = [
        dict(obs=e.observations, acts=e.actions, rews=e.rewards, terminal=True, infos=info)
        for e, info in zip(EPISODES, infos, strict=True)
    ]
    assert_all(load_dataset(held))


def test_a_discount_factor_beside_flags_is_no_mask(tmp_path):
    """Of trajectories and of steps; of one mapping it hid the last step of every episode."""
    held = [path(e, discount=np.full(e.steps, 0.99), terminals=e.terminals) for e in EPISODES]
    assert_all(load_dataset(held))
    steps = [
        dict(
            observations=e.observations[step],
            next_observations=e.observations[step + 1],
            actions=e.actions[step],
            rewards=e.rewards[step : step + 1],
            discount=0.99,
            terminals=bool(e.terminals[step]),
            truncated=bool(e.timeouts[step]),
        )
        for e in EPISODES
        for step in range(e.steps)
    ]
    assert_all(load_dataset(steps))
    columns = {key: value for key, value in flat_columns(ENDED).items() if key not in ("next_observations", "timeouts")}
    columns["discount"] = np.full(26, 0.99)
    with pytest.warns(UserWarning, match="'discount' is nowhere 0"), pytest.raises(ValueError, match="add 'timeouts'"):
        load_dataset(columns)


def test_rewards_of_several_numbers_are_refused():
    held = [path(e, terminated=True) for e in EPISODES]
    for each in held:
        each["rewards"] = np.stack([each["rewards"]] * 2, axis=1)
    with pytest.raises(ValueError, match=r"rewards has shape \(5, 2\); it needs one number for each step"):
        load_dataset(held)
    with pytest.raises(ValueError, match=r"trajectory 4 has no steps: remove it"):
        load_dataset([path(e, terminated=True) for e in EPISODES] + [dict(observations=[[0.0] * 3], actions=[], rewards=[])])


@dataclasses.dataclass
class Trajectory:
    obs: np.ndarray
    acts: np.ndarray
    infos: np.ndarray | None
    terminal: bool
    rews: np.ndarray


CONTAINERS = {
    "by name": lambda paths: {f"traj_{number}": each for number, each in enumerate(paths)},
    "under a key": lambda paths: {"data": paths, "seed": 3},
    "bytes": lambda paths: [{key.encode(): value for key, value in each.items()} for each in paths],
    "objects": lambda paths: [{**each, "observations": each["observations"].astype(object)} for each in paths],
    "dictionaries": lambda paths: [
        {**each, "observations": [dict(state=row) for row in each["observations"]]} for each in paths
    ],
    "big-endian": lambda paths: [{**each, "observations": each["observations"].astype(">f8")} for each in paths],
}


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("protocol", [None, 0, 2, 5])
def test_containers(name, protocol, tmp_path):
    held = CONTAINERS[name]([path(e, terminated=e.terminated) for e in EPISODES])
    if protocol is None:
        if name != "under a key":
            assert_all(load_dataset(held))
        return
    file = tmp_path / "paths.pickle"
    file.write_bytes(pickle.dumps(held, protocol=protocol))
    assert_all(load_dataset(file))


def test_trajectories_of_imitation_in_memory():
    held = [Trajectory(e.observations, e.actions, None, e.terminated, e.rewards) for e in EPISODES]
    assert_all(load_dataset(held))


def test_what_is_packed_is_named(tmp_path):
    (tmp_path / "paths.pkl").write_bytes(gzip.compress(b"anything"))
    np.save(tmp_path / "paths.npy", np.zeros(3))
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    for name, way_on in (("paths.pkl", "by gunzip"), ("paths.npy", "numpy.load"), ("rows.jsonl", "pandas.read_json")):
        assert way_on in describe(tmp_path / name)
        with pytest.raises(ValueError, match=way_on):
            load_dataset(tmp_path / name)


def write_robomimic(file, episodes, with_rewards=True):
    """All arrays in columns of one, as some converters write them."""
    with h5py.File(file, "w") as data:
        for number, episode in enumerate(episodes):
            group = data.create_group(f"data/demo_{number}")
            group["actions"], group["obs/state"], group["dones"] = (
                episode.actions,
                episode.observations[:-1],
                episode.is_last[:, None].astype(np.int64),
            )
            group["next_obs/state"] = episode.observations[1:]
            if with_rewards:
                group["rewards"] = episode.terminals[:, None].astype(np.float64)
    return file


@LOST
def test_columns_of_one_in_robomimics_files(tmp_path):
    file = write_robomimic(tmp_path / "demos.hdf5", EPISODES)
    expected = [e._replace(rewards=e.terminals.astype(np.float32)) for e in EPISODES]
    with pytest.warns(UserWarning, match="2 `dones` earn nothing"):
        assert_all(load_dataset(file), expected)
    bare = write_robomimic(tmp_path / "bare.hdf5", EPISODES, with_rewards=False)

    def relabel(arrays):
        arrays["rewards"] = np.concatenate([e.rewards for e in EPISODES])

    assert_all(load_dataset(bare, relabel=relabel, terminals=False), CUT)
    assert_same(load_dataset(bare, relabel=relabel, terminals=True), ENDED)


def test_timeouts_that_are_all_terminal_are_said():
    """As of `done` under the name of `terminals`."""
    columns = flat_columns(EPISODES)
    columns["terminals"] = columns["terminals"] | columns["timeouts"]
    with pytest.warns(UserWarning, match="all 2 steps that are flagged in 'timeouts' are flagged in 'terminals' too"):
        assert load_dataset(columns).terminals.sum() == 4
    held = [path(e, terminals=e.is_last, timeouts=e.timeouts) for e in EPISODES]
    with pytest.warns(UserWarning, match="The list: all 2 steps that are flagged in 'timeouts'"):
        load_dataset(held)
    one = dict(columns, terminals=flat_columns(EPISODES)["terminals"] | (np.arange(26) == 10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(one)


def test_columns_of_mappings():
    columns = flat_columns(EPISODES)
    for key in ("observations", "next_observations"):
        columns[key] = columns[key].astype(object)
    assert_all(load_dataset(columns))
    with pytest.raises(ValueError, match="has no key 'terminals'"):
        load_dataset(dict(columns, terminals=None))
    masked = np.ma.masked_array(flat_columns(EPISODES)["rewards"], mask=np.arange(26) == 3)
    with pytest.raises(ValueError, match="rewards has 1 masked entries: fill them"):
        load_dataset(dict(columns, rewards=masked))


def test_where_arrays_are_is_said(tmp_path):
    columns = flat_columns(EPISODES)
    np.savez(tmp_path / "whole.npz", data=np.array(columns, dtype=object))
    with pytest.raises(ValueError, match=r"but single things \(data\), as of numpy.savez\(path, data=...\)"):
        load_dataset(tmp_path / "whole.npz")
    for names, pattern in ((["data"], "'data' has one in it: pass a mapping"), (["ep_0", "ep_1"], "2 groups, first 'ep_0'")):
        with h5py.File(tmp_path / "groups.h5", "w") as file:
            for name in names:
                for key, column in columns.items():
                    file[f"{name}/{key}"] = column
        with pytest.raises(ValueError, match=pattern):
            load_dataset(tmp_path / "groups.h5")


def test_time_steps_without_flags_and_beside_objects(tmp_path):
    steps = time_steps(EPISODES[0], is_first=np.arange(6) == 0, notes=np.array([{}] * 6, dtype=object))
    np.savez(tmp_path / "episode_0_5.npz", **steps)
    assert_all(load_dataset(tmp_path), EPISODES[:1])
    del steps["discount"]
    np.savez(tmp_path / "episode_0_5.npz", **steps)
    with pytest.warns(UserWarning, match="has neither 'is_terminal' nor 'discount': nothing says what ended episodes"):
        assert_all(load_dataset(tmp_path), CUT[:1])
    chunk = {key: steps[key] for key in ("observation", "action", "reward", "notes")} | {"is_terminal": np.arange(6) == 5}
    (tmp_path / "chunks").mkdir()
    np.savez(tmp_path / "chunks" / "20240101T000000F000000-a-b-6.npz", **chunk)
    with pytest.raises(ValueError, match="has no 'is_first'; it has"):
        load_dataset(tmp_path / "chunks")
