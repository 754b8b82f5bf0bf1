"""
Other tools' files in shapes that their own test files lack: more trajectories, a policy's outputs, numpy's flags, two rewards.
"""

import base64
import json

import h5py
import numpy as np
import pytest

from sb3_genpolicy import load_dataset
from tests.helpers.data_formats import make_episodes
from tests.test_lists_and_folders import LOST, assert_all
from tests.test_tables import assert_same

EPISODES = make_episodes()


def write_torchrl(file, episodes, extra=None, digits=1, nested=False):
    """As `H5StorageCheckpointer` 0.14 writes a full storage; numbers have as many digits as the last one needs."""
    with h5py.File(file, "w") as data:
        n_rows = sum(e.steps for e in episodes)
        data["_len"], data["is_full"], data["shift"], data["_storage_shape"] = n_rows, True, 0, np.array([n_rows])
        for number, episode in enumerate(episodes):
            group = data.create_group(f"traj_{number:0{digits}d}")
            group["agents/observation" if nested else "observation"] = episode.observations
            group["action"], group["reward"] = episode.actions, episode.rewards[:, None]
            group["collector/traj_ids"] = np.full(episode.steps + 1, number)
            flags = (("done", episode.is_last), ("terminated", episode.terminals), ("truncated", episode.timeouts))
            for key, flag in flags:
                group[key] = flag[:, None]
            for key, width in (extra or {}).items():
                group[key] = np.ones((episode.steps, *width))
    return file


def test_more_than_ten_trajectories_of_torchrl(tmp_path):
    episodes = make_episodes(tuple(range(2, 14)))
    assert_all(load_dataset(write_torchrl(tmp_path / "many.h5", episodes, digits=2)), episodes)


def test_what_a_policy_of_torchrl_gave_beside_is_no_observation(tmp_path):
    extra = {"sample_log_prob": (), "loc": (2,), "scale": (2,), "advantage": (1,), "index": ()}
    assert_all(load_dataset(write_torchrl(tmp_path / "ppo.h5", EPISODES, extra)))
    with pytest.raises(ValueError, match=r"traj_0 has no 'loc', asked for by observations="):
        load_dataset(tmp_path / "ppo.h5", observations=["loc"])


def test_nested_observations_of_torchrl(tmp_path):
    assert_all(load_dataset(write_torchrl(tmp_path / "nested.h5", EPISODES, nested=True)))


def jsonpickled(flag):
    """As jsonpickle 4 writes a flag of numpy's."""
    kind = {"py/reduce": [{"py/type": "numpy.dtype"}, {"py/tuple": ["b1", False, True]}]}
    content = {"py/b64": base64.b64encode(bytes([flag])).decode()}
    return {"py/reduce": [{"py/function": "numpy._core.multiarray.scalar"}, {"py/tuple": [kind, content]}]}


@pytest.mark.parametrize("written", [jsonpickled, bool])
def test_numpys_flags_in_infos_of_imitation(written, tmp_path):
    pa = pytest.importorskip("pyarrow")
    rows = [
        dict(
            obs=e.observations.tolist(),
            acts=e.actions.tolist(),
            rews=e.rewards.tolist(),
            terminal=True,
            infos=["{}"] * (e.steps - 1) + [json.dumps({"TimeLimit.truncated": written(not e.terminated)})],
        )
        for e in EPISODES
    ]
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(tmp_path / "data-00000-of-00001.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (tmp_path / "dataset_info.json").write_text("{}")
    assert_all(load_dataset(tmp_path))


def write_d3rlpy(file, episodes, n_rewards=1):
    with h5py.File(file, "w") as data:
        data["columns"], data["num_episodes"], data["version"] = "[]", len(episodes), "2.1"
        for number, e in enumerate(episodes):
            data[f"observations_{number}"], data[f"actions_{number}"] = e.observations[:-1], e.actions
            data[f"rewards_{number}"], data[f"terminated_{number}"] = np.stack([e.rewards] * n_rewards, 1), e.terminated
    return file


@LOST
def test_two_rewards_a_step_are_refused(tmp_path):
    assert_same(load_dataset(write_d3rlpy(tmp_path / "one.h5", EPISODES)), EPISODES)
    with pytest.raises(ValueError, match=r"episode 0: rewards has shape \(5, 2\); it needs one number for each step"):
        load_dataset(write_d3rlpy(tmp_path / "two.h5", EPISODES, n_rewards=2))
