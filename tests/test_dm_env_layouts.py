"""
Time steps: rows whose action led to their own observation (dm_env, Dreamer), and rows whose last is a dummy (RLDS).
"""

import numpy as np
import pytest

from sb3_genpolicy import load_dataset
from tests.helpers.data_formats import flat_columns, make_episodes, without, write_hdf5, write_npz

LENGTHS = (50, 7, 12)


def episode(length, seed=0, discount=1.0, n_actions=2):
    """A point that moves by its action: s' = s + a, and is paid -|s'|. Row 0 is the reset's, with no action and no reward."""
    rng = np.random.default_rng(seed)
    action = np.concatenate([np.zeros((1, n_actions)), rng.uniform(-0.9, 0.9, (length, n_actions))]).astype(np.float32)
    observation = (10.0 * seed + np.cumsum(action, axis=0)).astype(np.float32)
    reward = -np.abs(observation).sum(axis=1)
    reward[0] = 0.0
    discounts = np.ones(length + 1)
    discounts[-1] = discount
    return dict(observation=observation, action=action, reward=reward.astype(np.float32)[:, None], discount=discounts[:, None])


def joined(episodes):
    return {key: np.concatenate([each[key] for each in episodes]) for key in episodes[0]}


def time_steps(last_discount=0.0):
    """Three episodes, the second of which was terminated."""
    parts = [episode(length, seed, last_discount if seed == 1 else 1.0) for seed, length in enumerate(LENGTHS)]
    columns = joined(parts)
    first = np.isin(np.arange(len(columns["reward"])), np.cumsum((0, *(n + 1 for n in LENGTHS[:-1]))))
    return columns, first, np.append(first[1:], True)


def assert_is_the_point(data, lengths=LENGTHS, terminated=(1,)):
    np.testing.assert_array_equal(np.diff(data.episode_starts), lengths)
    np.testing.assert_allclose(data.observations + data.actions, data.next_observations, atol=1e-4)
    np.testing.assert_allclose(data.rewards, -np.abs(data.next_observations).sum(axis=1), rtol=1e-5)
    ends = np.cumsum(lengths) - 1
    np.testing.assert_array_equal(np.flatnonzero(data.terminals), ends[list(terminated)])
    np.testing.assert_array_equal(np.flatnonzero(data.timeouts), np.delete(ends, list(terminated)))


def layouts():
    columns, first, last = time_steps()
    step_type = np.where(first, 0, np.where(last, 2, 1))
    return {
        "physics": dict(columns, physics=np.zeros((72, 5))),
        "nothing beside": columns,
        "step_type": dict(columns, step_type=step_type[:, None]),
        "is_first": dict(columns, is_first=first),
        "is_last": dict(columns, is_last=last),
        "Dreamer": dict(columns, is_first=first, is_last=last, is_terminal=last & (columns["discount"][:, 0] == 0)),
        "terminals alone beside": dict(columns, is_terminal=last & (columns["discount"][:, 0] == 0)),
        "Dreamer without discounts": dict(
            without(columns, "discount"), is_first=first, is_last=last, is_terminal=last & (columns["discount"][:, 0] == 0)
        ),
        "terminals that the user added": dict(columns, terminals=last),
        "terminals of another row's episode": dict(columns, timeouts=last, physics=np.zeros(72)),
        "plural names": dict(
            {f"{key}s": columns[key] for key in ("observation", "action", "reward", "discount")}, is_first=first
        ),
        "dones for discounts": dict(without(columns, "discount"), is_first=first, terminals=columns["discount"] == 0),
    }


@pytest.mark.parametrize("layout", layouts())
@pytest.mark.parametrize("kind", ["mapping", "npz", "hdf5"])
def test_actions_are_moved_to_where_they_were_taken(layout, kind, tmp_path):
    source = layouts()[layout]
    if kind != "mapping":
        source = (write_npz if kind == "npz" else write_hdf5)(tmp_path / f"steps.{kind}", source)
    with pytest.warns(UserWarning, match="a row's action led to its own observation, .*the 3 first rows") as caught:
        data = load_dataset(source)
    assert len(caught) == 1
    assert_is_the_point(data)


def test_one_episode_a_file_as_exorl_writes_them(tmp_path):
    """Hundreds of files give one warning."""
    paths = []
    for seed, length in enumerate((20, 30, 20, 25)):
        path = tmp_path / f"episode_{seed}_{length}.npz"
        paths.append(write_npz(path, dict(episode(length, seed), physics=np.zeros((length + 1, 3)))))
    with pytest.warns(UserWarning, match="own observation.* The same holds for 3 more of the list") as caught:
        data = load_dataset(paths)
    assert len(caught) == 1
    assert_is_the_point(data, (20, 30, 20, 25), ())
    with pytest.warns(UserWarning, match="own observation") as caught:
        data = load_dataset([episode(length, seed) for seed, length in enumerate((20, 30, 20, 25))])
    assert len(caught) == 1
    assert_is_the_point(data, (20, 30, 20, 25), ())
    # Broken off, so that no last step is flagged
    parts = [dict(episode(length, seed), is_last=np.zeros(length + 1)) for seed, length in enumerate((20, 30, 20, 25))]
    with pytest.warns(UserWarning, match="own observation"):
        assert_is_the_point(load_dataset(parts), (20, 30, 20, 25), ())
    with pytest.warns(UserWarning, match="own observation"):
        assert_is_the_point(load_dataset(paths[0], memory_map=True), (20,), ())


def test_images_and_dictionaries_stay_where_they_are(tmp_path):
    columns = episode(20)
    frames = np.arange(21, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 36, 36, 3), np.uint8)
    with pytest.warns(UserWarning, match="own observation"):
        data = load_dataset(dict(columns, observation={"frame": frames, "state": columns["observation"]}))
    np.testing.assert_array_equal(data.next_observations["frame"][:, 0, 0, 0], np.arange(1, 21))
    np.testing.assert_allclose(data.observations["state"] + data.actions, data.next_observations["state"], atol=1e-4)


def rlds():
    """The same point: a row's action is taken there; the last row of an episode has none."""
    columns, first, last = time_steps()
    moved = {key: np.append(columns[key][1:], columns[key][:1], axis=0) for key in ("action", "reward", "discount")}
    for column in moved.values():
        column[last] = 0.0
    terminal = last & (columns["discount"][:, 0] == 0)
    return dict(moved, observation=columns["observation"], is_first=first, is_last=last, is_terminal=terminal)


@pytest.mark.parametrize("left_out", [(), ("discount",), ("is_terminal",), ("is_first",), ("is_first", "discount")])
def test_steps_of_rlds_are_not_moved(left_out):
    with pytest.warns(UserWarning, match="taken for RLDS's steps.*3 episodes") as caught:
        data = load_dataset(without(rlds(), *left_out))
    assert len(caught) == 1
    assert_is_the_point(data)


def filled(columns, key, rows, value):
    column = np.array(columns[key])
    column[rows] = value
    return {**columns, key: column}


def undecided():
    columns, first, last = time_steps()
    zero = np.zeros_like(columns["action"])
    return {
        "no still rows": (
            filled(filled(columns, "action", first, 0.1), "action", last, 0.1) | {"is_first": first},
            "is_first",
        ),
        "all still": (dict(columns, action=zero, is_first=first, is_last=last), "is_last"),
        "physics, first action": (
            dict(filled(columns, "action", first, 0.1), physics=np.zeros(72), is_first=first),
            "physics",
        ),
        "a pause": (
            dict(filled(filled(columns, "action", [3, 4], 0.0), "reward", [3, 4], 0.0), physics=np.zeros(72)),
            "is_first",
        ),
    }


@pytest.mark.parametrize("case", undecided())
def test_what_cannot_be_decided_is_refused(case):
    source, named = undecided()[case]
    with pytest.raises(ValueError, match=r"has time steps.*nobody can say.*(give|add) ") as caught:
        load_dataset(source)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_others_with_such_names_stay_as_they_are(tmp_path):
    episodes = make_episodes()
    columns = flat_columns(episodes)
    discount = 1.0 - columns["terminals"]
    ends = columns["terminals"] + columns["timeouts"]
    short = dict(
        observation=columns["observations"],
        action=columns["actions"],
        reward=columns["rewards"],
        next_observation=columns["next_observations"],
        discount=discount,
        done=ends,
    )
    short["action"][0] = 0.0
    for source in (short, dict(short, physics=np.zeros(26)), write_npz(tmp_path / "short.npz", short)):
        data = load_dataset(source)
        np.testing.assert_array_equal(data.actions, columns["actions"])
        np.testing.assert_array_equal(np.diff(data.episode_starts), [5, 6, 7, 8])
    # D4RL's names and flags beside marks of time steps
    marked = dict(without(columns, "next_observations"), is_last=ends)
    marked["actions"] = columns["actions"] + np.float32(0.001)
    with pytest.warns(UserWarning, match="the column is_last is not used"):
        data = load_dataset(marked, action_transforms=())
    np.testing.assert_array_equal(np.diff(data.episode_starts), [5, 5, 7, 7])


def test_columns_of_another_length_are_named():
    columns, first, _ = time_steps()
    with pytest.raises(ValueError, match="different lengths: .*'is_first': 71"):
        load_dataset(dict(columns, is_first=first[:-1]))
