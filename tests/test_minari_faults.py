"""
Broken Minari datasets, in HDF5, Arrow and Parquet, are refused by episode and row, and left as they are.
"""

import json

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces

from sb3_genpolicy import load_dataset
from tests.helpers.data_formats import episode_buffer, make_episodes, spaces_of, write_minari
from tests.helpers.dataset_faults import EPISODES, assert_refused


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
