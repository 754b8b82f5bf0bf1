"""
A broken source gets one sentence that names file, key, episode and row, and is left as it was.
"""

import hashlib
import io
import json
import pickle
import shutil
import time
import zipfile
from pathlib import Path

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import save_to_pkl

from sb3_genpolicy import GMPO, load_dataset
from sb3_genpolicy.common.datasets import download
from sb3_genpolicy.common.datasets.envs import SpacesVecEnv
from tests.helpers.arrays import SMALL
from tests.helpers.data_formats import (
    episode_buffer,
    fill_sb3_buffer,
    flat_columns,
    make_episodes,
    sb3_buffer,
    spaces_of,
    trajectory_columns,
    without,
    write_hdf5,
    write_minari,
    write_npz,
    write_pickle,
)

# Lengths 5, 6, 7, 8: row 12 is step 1 of episode 2
EPISODES = make_episodes()
ROW, PLACE = 12, r"row 12 \(episode 2, step 1\)"


def state_of(path):
    """Names and contents of all files below a path."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


def assert_refused(source, pattern, *, path=None):
    """One sentence, and nothing written beside or into the source."""
    before = state_of(path) if path is not None else None
    with pytest.raises(ValueError, match=pattern) as caught:
        load_dataset(source)
    assert "\n" not in str(caught.value)
    assert path is None or state_of(path) == before


def changed(key, row, value):
    def change(columns):
        columns[key] = np.array(columns[key])
        columns[key][row] = value

    return change


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


# Damaged files


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.98])
@pytest.mark.parametrize("kind", ["npz", "compressed npz", "hdf5", "pkl"])
def test_files_that_were_cut_off(kind, share, tmp_path):
    if kind == "hdf5":
        path = write_hdf5(tmp_path / "cut.hdf5", flat_columns(EPISODES))
    elif kind == "pkl":
        path = write_pickle(tmp_path / "cut.pkl", EPISODES)
    else:
        path = write_npz(tmp_path / "cut.npz", flat_columns(EPISODES), compressed=kind.startswith("compressed"))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert_refused(path, rf"File {path} (is damaged or cut off|is no replay buffer of SB3, or damaged)", path=path)


@pytest.mark.parametrize("compressed", [True, False])
def test_flipped_bytes_inside_an_npz(compressed, tmp_path):
    """The archive opens; a member's checksum, or its compression, does not hold."""
    path = write_npz(tmp_path / "flipped.npz", flat_columns(make_episodes((50, 60))), compressed)
    data = bytearray(path.read_bytes())
    data[600:640] = bytes(40)
    path.write_bytes(data)
    assert_refused(path, rf"File {path}.*(damaged|cut off)", path=path)


@pytest.mark.parametrize("compressed", [True, False])
def test_an_npz_whose_checksum_does_not_hold(compressed, tmp_path):
    """Every byte can be read and decompressed; only the archive's own sum of `rewards` says that they are others."""
    path = write_npz(tmp_path / "sum.npz", flat_columns(make_episodes((50, 60))), compressed)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        crc = archive.getinfo("rewards.npy").CRC.to_bytes(4, "little")
    for place in (data.find(crc), data.rfind(crc)):
        data[place : place + 4] = bytes(4)
    path.write_bytes(data)
    assert_refused(path, rf"File {path}.*\(Bad CRC-32 for file 'rewards.npy'\)", path=path)


def test_a_member_of_an_npz_that_is_shorter_than_it_says(tmp_path):
    path = write_npz(tmp_path / "short.npz", without(flat_columns(EPISODES), "rewards"))
    buffer = io.BytesIO()
    np.save(buffer, flat_columns(EPISODES)["rewards"])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("rewards.npy", buffer.getvalue()[:-40])
    assert_refused(path, r"rewards cannot be read from row 0 on \(its data stop at row 16 of 26\)", path=path)


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


def test_a_compressed_chunk_of_an_hdf5_file_is_damaged(tmp_path):
    path = write_hdf5(tmp_path / "flipped.hdf5", flat_columns(make_episodes((500, 600))))
    with h5py.File(path) as file:
        chunk = file["observations"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + 100] = bytes(100)
    path.write_bytes(data)
    assert_refused(path, rf"File {path}: observations cannot be read from row 0 on", path=path)


def test_what_is_no_file_of_its_kind(tmp_path):
    for name in ("text.npz", "text.hdf5", "text.pkl"):
        path = tmp_path / name
        path.write_text("not what its name says")
        assert_refused(path, rf"File {path}", path=path)
    assert_refused(tmp_path / "absent.npz", rf"There is no file {tmp_path}/absent.npz \(looked for in ")
    assert_refused([tmp_path / "absent.npz"], rf"There is no file {tmp_path}/absent.npz")
    (tmp_path / "table.csv").write_text("1,2")
    assert_refused(tmp_path / "table.csv", r"table.csv is of no kind known by its ending; there are .hdf5")
    path = tmp_path / "other.pkl"
    path.write_bytes(pickle.dumps({"a": 1}))
    assert_refused(path, r"other.pkl holds a dict, not a replay buffer", path=path)


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


# Minari


def break_hdf5(name, change, minari_root):
    """Change a Minari file behind Minari's back."""
    folder = minari_root / name / "data"
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        change(file)
    return folder


def replaced(key, function):
    def change(file):
        array = file[key][()]
        del file[key]
        file[key] = function(array)

    return change


def set_row(row, value):
    def function(array):
        array[row] = value
        return array

    return function


MINARI_FAULTS = {
    "no key": (lambda file: file.__delitem__("episode_2/rewards"), "episode 2 has no key 'rewards'"),
    "no episode": (lambda file: file.__delitem__("episode_2"), "episode 2 has no key 'episode_2'"),
    "NaN in observations": (
        replaced("episode_2/observations", set_row(1, np.nan)),
        ": observations has a NaN .* at episode 2, row 1 of 8:",
    ),
    "NaN in last observation": (
        replaced("episode_2/observations", set_row(7, np.nan)),
        ": observations .* at episode 2, row 7 of 8:",
    ),
    "NaN in rewards": (replaced("episode_2/rewards", set_row(3, np.nan)), ": rewards has a NaN .* at episode 2, row 3 of 7:"),
    "action outside": (
        replaced("episode_2/actions", set_row(4, 1.5)),
        ": actions has values outside .* at episode 2, row 4 of 7:",
    ),
    "terminal inside": (
        replaced("episode_2/terminations", set_row(3, True)),
        ": terminations is set at episode 2, row 3 of 7, inside the episode",
    ),
    "cut inside": (
        replaced("episode_1/truncations", set_row(0, True)),
        ": truncations is set at episode 1, row 0 of 6, inside the episode",
    ),
    "one observation short": (
        replaced("episode_2/observations", lambda array: array[:-1]),
        "episode 2 has 7 steps but 7 observations; there should be one more than steps",
    ),
    "one action short": (replaced("episode_2/actions", lambda array: array[:-1]), "episode 2 has 7 rewards but 6 actions"),
    "one flag more": (
        replaced("episode_2/truncations", lambda array: np.append(array, False)),
        "episode 2 has 7 rewards but 8 truncations",
    ),
    "no steps": (replaced("episode_2/rewards", lambda array: array[:0]), "episode 2 has no steps: remove it"),
    "text": (
        replaced("episode_2/rewards", lambda array: np.array([b"much"] * len(array))),
        r"episode 2: rewards holds entries of type \|S4",
    ),
    "wrong shape": (
        replaced("episode_2/observations", lambda array: array[:, :2]),
        r"episode 2: observations has rows of shape \(2,\), but its space .* has shape \(3,\)",
    ),
    "a group for an array": (
        lambda file: [file.__delitem__("episode_2/rewards"), file.create_group("episode_2/rewards")],
        "episode 2 cannot be read",
    ),
}


@pytest.mark.parametrize("fault", MINARI_FAULTS)
def test_faults_of_minari_files(fault, minari_root):
    change, pattern = MINARI_FAULTS[fault]
    name = write_minari(EPISODES)
    folder = break_hdf5(name, change, minari_root)
    assert_refused(name, rf"Dataset '{name}' \({folder}\)(, )?{pattern}", path=folder)


def test_minari_files_that_lost_steps_say_where(minari_root):
    name = write_minari(EPISODES)

    def shorten(file):
        for key in ("actions", "rewards", "terminations", "truncations", "observations"):
            replaced(f"episode_2/{key}", lambda array: array[:-1])(file)

    folder = break_hdf5(name, shorten, minari_root)
    assert_refused(name, "episode 2 has 6 steps where 7 were recorded: the file is damaged", path=folder)


def test_minari_files_cut_off_or_with_damaged_metadata(minari_root):
    name = write_minari(EPISODES)
    folder = minari_root / name / "data"
    main, metadata = folder / "main_data.hdf5", folder / "metadata.json"
    main.write_bytes(main.read_bytes()[: main.stat().st_size // 2])
    assert_refused(name, rf"{folder}\), episode 0 cannot be read \(.*truncated", path=folder)
    metadata.write_text(metadata.read_text()[:-20])
    assert_refused(name, rf"Dataset '{name}' cannot be opened \(.*\): its metadata are damaged", path=folder)


def test_a_space_that_is_not_the_files(minari_root):
    name = write_minari(EPISODES)
    metadata = minari_root / name / "data" / "metadata.json"
    for key, shape, pattern in (
        ("observation_space", [4], r"observations has rows of shape \(3,\), but its space .* has shape \(4,\)"),
        ("action_space", [3], r"actions has rows of shape \(2,\), but its space .* has shape \(3,\)"),
    ):
        original = metadata.read_text()
        changed_metadata = json.loads(original)
        space = json.loads(changed_metadata[key])
        space.update(shape=shape, low=[-1.0] * shape[0], high=[1.0] * shape[0])
        metadata.write_text(json.dumps({**changed_metadata, key: json.dumps(space)}))
        assert_refused(name, rf"episode 0: {pattern}")
        metadata.write_text(original)


def test_arrow_episodes_that_minari_cuts(minari_root):
    """Minari's Arrow storage reads 32,768 rows of a longer episode, and shifts the episodes after it."""
    pytest.importorskip("pyarrow")
    long = make_episodes((40_000, 5))
    name = write_minari(long, "arrow")
    read = [len(episode["rewards"]) for episode in minari.load_dataset(name).storage.get_episodes([0, 1])]
    assert read != [40_000, 5]  # if this fails, Minari has mended it
    pattern = "Arrow storage cuts episodes of more than 32,767 steps when it reads them: store them as HDF5"
    assert_refused(name, rf"episode 0 has \d+ steps where 40000 were recorded.*{pattern}")
    whole = load_dataset(write_minari(long, "hdf5"))
    assert whole.n_rows == 40_005


def test_arrow_files_that_were_cut_off(minari_root):
    pytest.importorskip("pyarrow")
    name = write_minari(EPISODES, "arrow")
    file = next((minari_root / name / "data" / "2").glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:100])
    assert_refused(name, rf"Dataset '{name}'.*episode 0 cannot be read", path=minari_root / name)


ARROW_FAULTS = {
    "NaN in observations": (
        lambda e: dict(observations=set_row(1, np.nan)(e.observations.copy())),
        "observations .* episode 1, row 1 of 7:",
    ),
    "NaN in rewards": (lambda e: dict(rewards=set_row(3, np.nan)(e.rewards.copy())), "rewards .* episode 1, row 3 of 6:"),
    "action outside": (
        lambda e: dict(actions=set_row(4, 1.5)(e.actions.copy())),
        "actions has values outside .* episode 1, row 4 of 6:",
    ),
    "terminal inside": (
        lambda e: dict(terminations=np.arange(6) == 2),
        "terminations is set at episode 1, row 2 of 6, inside",
    ),
    "cut inside": (lambda e: dict(truncations=np.arange(6) == 0), "truncations is set at episode 1, row 0 of 6, inside"),
    "one observation short": (lambda e: dict(observations=e.observations[:-1]), "episode 1 (has|cannot be read)"),
}


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
@pytest.mark.parametrize("fault", ARROW_FAULTS)
def test_faults_of_arrow_storage(fault, data_format, minari_root):
    """Written by Minari itself, which checks nothing."""
    pytest.importorskip("pyarrow")
    change, pattern = ARROW_FAULTS[fault]
    observation_space, action_space = spaces_of(EPISODES)
    buffers = [episode_buffer(e, **(change(e) if number == 1 else {})) for number, e in enumerate(EPISODES)]
    minari.create_dataset_from_buffers(
        "test/faulty-v0", buffers, observation_space=observation_space, action_space=action_space, data_format=data_format
    )
    folder = minari_root / "test/faulty-v0"
    assert_refused("test/faulty-v0", rf"Dataset 'test/faulty-v0' \({folder}/data\).*{pattern}", path=folder)


def test_an_arrow_file_without_a_column(minari_root):
    feather = pytest.importorskip("pyarrow.feather")
    name = write_minari(EPISODES, "arrow")
    for file in (minari_root / name / "data" / "2").glob("*.arrow"):
        feather.write_feather(feather.read_table(file).drop_columns(["rewards"]), file, compression="uncompressed")
    # Arrow fills it up with nothing
    pattern = r"rewards has a NaN .* at episode 2, row 0 of 7"
    assert_refused(name, rf"Dataset '{name}'.*{pattern}", path=minari_root / name)


def test_a_package_that_is_missing_is_not_taken_for_damage(minari_root, monkeypatch):
    name = write_minari(EPISODES)

    def fail(dataset_id):
        raise ImportError('pyarrow is not installed. Please install it using `pip install "minari[arrow]"`')

    monkeypatch.setattr(minari, "load_dataset", fail)
    assert_refused(name, "cannot be read without another package: pyarrow is not installed")


def test_spaces_that_no_policy_here_learns_from(minari_root):
    episode = EPISODES[0]
    cases = {
        "nested": (
            spaces.Dict({"a": spaces.Dict({"b": spaces_of(EPISODES)[0]})}),
            {"a": {"b": episode.observations}},
            "nested or tuple",
        ),
        "tuple": (spaces.Tuple([spaces_of(EPISODES)[0]]), (episode.observations,), "nested or tuple|has actions in|tuple"),
    }
    for name, (space, observations, pattern) in cases.items():
        minari.create_dataset_from_buffers(
            f"test/{name}-v0",
            [episode_buffer(episode, observations=observations)],
            observation_space=space,
            action_space=spaces_of(EPISODES)[1],
        )
        if name == "nested":
            assert_refused(f"test/{name}-v0", pattern)
        else:
            with pytest.raises(ValueError):
                load_dataset(f"test/{name}-v0")
    minari.create_dataset_from_buffers(
        "test/discrete-v0",
        [episode_buffer(episode, actions=np.zeros(episode.steps, int))],
        observation_space=spaces_of(EPISODES)[0],
        action_space=spaces.Discrete(3),
    )
    assert_refused("test/discrete-v0", r"has actions in Discrete\(3\); only continuous")


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


def test_a_pickle_that_runs_a_command_runs_nothing(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "malicious.pkl"
    path.write_bytes(pickle.dumps(Malicious()))
    assert_refused(path, r"malicious.pkl asks for 'pathlib.*which no replay buffer of SB3 needs, and was not read further")
    assert not (tmp_path / "ran").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "ran").exists()  # it would have


# Downloads


def test_without_a_network_the_message_comes_at_once_and_says_where_to_put_the_files(minari_root, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(minari, "download_dataset", lambda name: pytest.fail("Minari was asked, and would retry"))
    folder = minari_root / "D4RL/door/human-v2"
    expected = rf"127.0.0.1 does not answer .*`minari download D4RL/door/human-v2`, and put what it fetches at {folder}"
    start = time.monotonic()
    with pytest.raises(ValueError, match=expected):
        load_dataset("D4RL/door/human-v2", download=True)
    with pytest.raises(ValueError, match=expected):
        load_dataset("hf://farama-minari/D4RL/door/human-v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        load_dataset("D4RL/door/human-v2", download=True)
    # Minari's own retries take 23 s each
    assert time.monotonic() - start < 20.0
    with pytest.raises(ValueError, match="'D4RL/door/human' is no complete Minari id: ids end in a version"):
        load_dataset("D4RL/door/human", download=True)


def test_a_download_goes_through_minari_and_happens_once(minari_root, monkeypatch):
    asked = []

    def fetch(name):
        asked.append(name)
        written = write_minari(EPISODES)
        (minari_root / "remote").mkdir(parents=True)
        (minari_root / written).rename(minari_root / "remote" / "set-v0")

    monkeypatch.setattr(download, "_no_way_to", lambda remote: None)
    monkeypatch.setattr(minari, "download_dataset", fetch)
    for _ in range(2):
        assert load_dataset("hf://somebody/remote/set-v0").n_rows == 26
    assert load_dataset("remote/set-v0", download=True).n_rows == 26
    shutil.rmtree(minari_root / "remote")
    assert load_dataset(["remote/set-v0"], download=True).n_rows == 26
    assert asked == ["hf://somebody/remote/set-v0", "remote/set-v0"]

    def fail(name):
        raise ConnectionError("reset")

    monkeypatch.setattr(minari, "download_dataset", fail)
    with pytest.raises(
        ValueError, match=r"could not be fetched from gcp://bucket.*\(reset\). On a machine with a network run"
    ):
        load_dataset("gcp://bucket/remote/other-v0")
