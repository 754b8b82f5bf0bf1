"""
Columns that nobody needs are named once and do no harm; one that is needed and missing gets a hint.
"""

import warnings

import numpy as np
import pytest

from sb3_genpolicy import load_dataset
from tests.helpers.data_formats import flat_columns, make_episodes, trajectory_columns, without, write_hdf5, write_npz

WRITERS = {
    "mapping": lambda columns, folder: columns,
    "npz": lambda columns, folder: write_npz(folder / "beside.npz", columns),
    "hdf5": lambda columns, folder: write_hdf5(folder / "beside.hdf5", columns),
}
COLUMNS = flat_columns(make_episodes())


def messages_of(source):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_dataset(source)
    np.testing.assert_array_equal(data.observations, COLUMNS["observations"])
    return [str(warning.message) for warning in caught]


BESIDE = {
    "one": ({"zeta": np.zeros(26)}, "the column zeta is not used."),
    "several": (
        {name: np.zeros(26) for name in ("timesteps", "values", "task", "rewards_to_go", "next_actions")},
        "the columns timesteps, values, task, rewards_to_go, next_actions are not used.",
    ),
    "of other lengths": ({"returns": np.zeros(4), "extra": np.zeros((3, 2))}, "the columns returns, extra are not used."),
    "same meaning": (
        {"states": np.ones((26, 9)), "is_terminal": np.ones(26), "reward": np.ones(26)},
        "the columns states, is_terminal, reward are not used.",
    ),
    "steps' marks": ({"is_first": np.zeros(26), "step_type": np.ones(26)}, "the columns is_first, step_type are not used."),
    "many": ({f"x{k}": np.zeros(26) for k in range(12)}, "and 4 more are not used."),
    "simulator's": ({"infos/qpos": np.zeros(26), "qvel": np.zeros(3), "metadata": np.zeros(3), "physics": np.zeros(4)}, None),
}


@pytest.mark.parametrize("case", BESIDE)
@pytest.mark.parametrize("kind", WRITERS)
def test_they_are_named_once_and_kept_out_of_the_way(kind, case, tmp_path):
    beside, sentence = BESIDE[case]
    messages = messages_of(WRITERS[kind]({**COLUMNS, **beside}, tmp_path))
    if sentence is None:
        assert not messages
        return
    (message,) = messages
    # Files list their columns in another order
    assert sorted(message.replace(",", "").split()[-len(sentence.split()) :]) == sorted(sentence.replace(",", "").split())


def test_what_no_column_can_hold_does_no_harm(tmp_path):
    beside = dict(notes=["a", "b"], ragged=[[1.0], [2.0, 3.0]], nested={"a": 1}, nothing=None)
    (message,) = messages_of({**COLUMNS, **beside})
    assert message == "The dataset: the columns notes, ragged, nested, nothing are not used."
    objects = np.array([{"a": 1}] * 26, dtype=object)
    (message,) = messages_of(write_npz(tmp_path / "objects.npz", {**COLUMNS, "infos": objects, "notes": objects}))
    assert message.endswith("the column notes is not used.")


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("key", "slip", "known"), [("timeouts", "truncateds", "truncated"), ("next_observations", "next_observatons", None)]
)
def test_an_optional_column_that_is_misspelt_is_asked_for(kind, key, slip, known, tmp_path):
    episodes = [episode._replace(terminated=True) for episode in make_episodes()]
    columns = flat_columns(episodes)
    columns = {**without(columns, key), slip: columns[key]}
    (message,) = messages_of(WRITERS[kind](columns, tmp_path))
    assert message.endswith(f"the column {slip} is not used. Did you mean '{known or key}' by '{slip}'?")


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("key", "slip"),
    [("rewards", "rewrds"), ("actions", "acttions"), ("observations", "obervations"), ("terminals", "termnals")],
)
def test_a_needed_column_that_is_misspelt_is_asked_for(kind, key, slip, tmp_path):
    source = WRITERS[kind]({**without(COLUMNS, key), slip: COLUMNS[key]}, tmp_path)
    with pytest.raises(ValueError, match=rf"has no key '{key}'.*{slip}.* Did you mean '{key}' by '{slip}'\?"):
        load_dataset(source)


def test_a_needed_column_that_is_missing_lists_all_names():
    with pytest.raises(ValueError, match="has no key 'rewards'; it has observations, .*, zeta.$"):
        load_dataset({**without(COLUMNS, "rewards"), "zeta": np.zeros(26)})


def test_is_terminal_is_taken_where_there_is_nothing_better():
    messages = messages_of({**without(COLUMNS, "terminals"), "is_terminal": COLUMNS["terminals"]})
    assert not messages
    data = load_dataset({**without(COLUMNS, "terminals"), "is_terminal": COLUMNS["terminals"]})
    np.testing.assert_array_equal(data.terminals, COLUMNS["terminals"])


def test_the_first_of_several_names_is_used():
    """In the order of their list, not of the source."""
    given = {"state": np.zeros((26, 2)), "obs": np.ones((26, 4)), **COLUMNS}
    (message,) = messages_of(given)
    assert message == "The dataset: the columns state, obs are not used."
    nested = {"state/a": np.zeros(26), **COLUMNS, "truncations": np.zeros(26)}
    (message,) = messages_of(nested)
    assert message == "The dataset: the columns state, truncations are not used."


def test_files_of_ogbench_and_d4rl_are_read_in_silence(tmp_path):
    raw = {**trajectory_columns(make_episodes()), "qpos": np.zeros(30), "button_states": np.zeros(30)}
    d4rl = {**COLUMNS, "infos/action_log_probs": np.zeros(26), "metadata/policy/fc0/weight": np.zeros((3, 4))}
    for source in (write_npz(tmp_path / "ogbench.npz", raw), write_hdf5(tmp_path / "d4rl.hdf5", d4rl)):
        assert not messages_of(source)
