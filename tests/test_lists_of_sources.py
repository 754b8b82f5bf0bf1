"""
Lists: many mappings are read as one, what holds of several is said once, and a fault is named in its part.
"""

import warnings

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecTransposeImage

from sb3_genpolicy import load_dataset
from sb3_genpolicy.common.datasets import mappings
from sb3_genpolicy.common.datasets.fitting import fit_to_spaces, is_transposed
from sb3_genpolicy.common.transitions.transitions import KEYS
from tests.helpers.arrays import make_arrays
from tests.helpers.data_formats import flat_columns, make_episodes, trajectory_columns, without, write_npz

EPISODES = make_episodes((5, 6, 7, 8))


def parts_of(columns_of=flat_columns, **more):
    return [{**columns_of([episode]), **more} for episode in EPISODES]


def quietly(source):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_dataset(source)
    return data, [str(warning.message) for warning in caught]


def in_a_dict(columns):
    columns = dict(columns)
    for key in ("observations", "next_observations"):
        columns[key] = {"a": columns[key][:, :1], "b": columns[key][:, 1:]}
    return columns


LISTS = {
    "columns": parts_of(),
    "spaces": parts_of(action_space=spaces.Box(-1, 1, (2,), np.float32), env_id="Some-v0", reference_scores=(0.0, 1.0)),
    "lists for arrays": [{key: column.tolist() for key, column in part.items()} for part in parts_of()],
    "dictionaries": [in_a_dict(part) for part in parts_of()],
    "trajectories": parts_of(trajectory_columns),
    "trajectories without flags": [
        dict(part, terminals=np.zeros(len(part["rewards"]))) for part in parts_of(trajectory_columns)
    ],
    "no successors": [without(part, "next_observations") for part in parts_of()],
    "unflagged ends": [dict(without(part, "timeouts"), terminals=np.zeros(len(part["rewards"]))) for part in parts_of()],
    "unflagged, no successors": [
        dict(without(part, "next_observations"), terminals=np.zeros(len(part["rewards"]))) for part in parts_of()
    ],
    "with others": [*parts_of(), flat_columns(EPISODES)],
}


@pytest.mark.parametrize("case", LISTS)
def test_many_mappings_are_read_as_one(case, monkeypatch):
    """The same as one by one, which a record among them brings about."""
    sources = LISTS[case]
    expected = load_dataset([load_dataset(source) for source in sources])
    reads = []
    read_flat = mappings.read_flat
    monkeypatch.setattr(mappings, "read_flat", lambda *args: reads.append(1) or read_flat(*args))
    data, messages = quietly(sources)
    assert len(reads) == 1 and not messages
    for key in KEYS:
        ours, theirs = data[key], expected[key]
        for name in ours if isinstance(ours, dict) else [None]:
            np.testing.assert_array_equal(*(x if name is None else x[name] for x in (ours, theirs)), err_msg=key)
    np.testing.assert_array_equal(data.ends, expected.ends)
    assert (data.inferred_cuts, data.env_id, data.reference_scores) == (0, expected.env_id, expected.reference_scores)


def test_parts_of_several_kinds_are_read_one_by_one():
    first, *rest = parts_of()
    rest[1] = {**without(rest[1], "terminals"), "done": rest[1]["terminals"]}
    rest[2] = {**rest[2], "zeta": np.zeros(3)}
    data, messages = quietly([first, *rest])
    np.testing.assert_array_equal(data.rewards, flat_columns(EPISODES)["rewards"])
    assert messages == ["The dataset (number 3 of the list): the column zeta is not used."]
    # Of other spaces, also by what they say themselves
    with pytest.raises(ValueError, match=r"number 1 of the list\) has the action space Box\(-2"):
        load_dataset([first, {**rest[0], "action_space": spaces.Box(-2, 2, (2,), np.float32)}])
    with pytest.raises(ValueError, match=r"\(number 1 of the list\) has the observation space"):
        load_dataset([first, make_arrays(1, obs_dim=4)])


def test_warnings_are_said_once(tmp_path):
    shuffled = []
    for part in parts_of(zeta=np.zeros(3)):
        order = np.random.default_rng(0).permutation(len(part["rewards"]))
        shuffled.append({key: column[order] if key != "zeta" else column for key, column in part.items()})
    data, messages = quietly(shuffled)
    assert len(messages) == 2 and data.n_rows == 26
    paths = [write_npz(tmp_path / f"{'abcd'[k]}.npz", part) for k, part in enumerate(shuffled)]
    data, of_files = quietly(paths)
    assert len(of_files) == 2 and all(message.endswith("The same holds for 3 more of the list.") for message in of_files)
    assert of_files[0].startswith(f"File {paths[0]}: the column zeta is not used.")


@pytest.mark.parametrize(
    ("key", "change", "pattern"),
    [
        ("rewards", lambda rows: np.where(np.arange(len(rows)) == 2, np.nan, rows), "rewards has a NaN .* row 2 "),
        ("terminals", lambda rows: np.where(np.arange(len(rows)) == 1, 3.0, rows), "'terminals' is 3.0 at row 1"),
        ("actions", lambda rows: 5 * rows, "the actions reach"),
        ("actions", lambda rows: rows[:-1], "different lengths"),
        ("rewards", lambda rows: rows[:0], "different lengths"),
        ("observations", lambda rows: rows[:, :2], r"next_observations has rows of shape \(3,\)"),
        ("observations", lambda rows: [[1.0], [2.0, 3.0]], "observations is no array"),
    ],
)
def test_a_fault_is_named_in_its_part(key, change, pattern):
    parts = parts_of()
    parts[2] = {**parts[2], key: change(parts[2][key])}
    with pytest.raises(ValueError, match=rf"The dataset \(number 2 of the list\).*{pattern}"):
        load_dataset(parts)


def test_rows_are_not_lent_to_the_next_part():
    first, second, *_ = parts_of()
    columns = [dict(first, rewards=first["rewards"][:-1]), dict(second, rewards=np.append(second["rewards"], 0.0))]
    with pytest.raises(ValueError, match=r"The dataset \(number 0 of the list\) has arrays of different lengths"):
        load_dataset(columns)


def test_rows_of_warnings_are_the_parts_own():
    parts = [flat_columns(EPISODES), flat_columns(EPISODES)]
    for part in parts:
        part["terminals"] = np.where(np.arange(26) == 12, 1.0, part["terminals"])
    with pytest.warns(UserWarning, match="2 steps are flagged .* first row 12 of number 0 of the list"):
        load_dataset(parts)


def test_relabelling_sees_each_part():
    seen = []

    def relabel(arrays):
        seen.append(len(arrays["rewards"]))
        return {**arrays, "rewards": np.zeros(len(arrays["rewards"]))}

    data = load_dataset(parts_of(), relabel=relabel)
    assert seen == [5, 6, 7, 8] and not data.rewards.any()


# Dictionaries are paired by their keys


def image_spaces():
    image, state = spaces.Box(0, 255, (40, 36, 3), np.uint8), spaces.Box(-1, 1, (2,), np.float32)
    sorted_keys = spaces.Dict({"image": image, "state": state})
    unsorted_keys = spaces.Dict()
    unsorted_keys.spaces = {"state": state, "image": image}
    return sorted_keys, unsorted_keys


def image_record(space):
    rng = np.random.default_rng(0)
    columns = flat_columns(EPISODES)
    for key in ("observations", "next_observations"):
        values = {"state": rng.uniform(-1, 1, (26, 2)), "image": rng.integers(0, 255, (26, 40, 36, 3), dtype=np.uint8)}
        columns[key] = {name: values[name] for name in space.spaces}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_dataset({**columns, "observation_space": space}), columns


@pytest.mark.parametrize("ours", [0, 1])
@pytest.mark.parametrize("theirs", [0, 1])
def test_images_are_turned_whatever_the_order_of_keys(ours, theirs):
    data, columns = image_record(image_spaces()[ours])
    model_space = spaces.Dict()
    model_space.spaces = {
        key: VecTransposeImage.transpose_space(space) if key == "image" else space
        for key, space in image_spaces()[theirs].spaces.items()
    }
    assert is_transposed(data.observation_space, model_space)
    fitted = fit_to_spaces(data, model_space, data.action_space)
    np.testing.assert_array_equal(fitted.observations["image"], columns["observations"]["image"].transpose(0, 3, 1, 2))
    np.testing.assert_allclose(fitted.observations["state"], columns["observations"]["state"], atol=1e-6)


def test_joined_records_pair_their_keys():
    (first, columns), (second, others) = (image_record(space) for space in image_spaces())
    joined = load_dataset([first, second])
    for key in ("image", "state"):
        expected = np.concatenate([columns["observations"][key], others["observations"][key]])
        np.testing.assert_allclose(joined.observations[key], expected, atol=1e-6)
