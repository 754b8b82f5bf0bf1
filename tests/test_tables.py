"""
Tables of patients, machines and the like: any order of rows, text in cells, holes, and what they say when something is wrong.
"""

import numpy as np
import pandas as pd
import pytest
from gymnasium import spaces

from sb3_genpolicy import load_dataset
from sb3_genpolicy.common.datasets.info import dataset_info
from sb3_genpolicy.data.__main__ import main
from tests.helpers.data_formats import flat_columns, make_episodes

pytestmark = pytest.mark.filterwarnings("ignore:.* cut off is left out")
OPTIONS = dict(
    episode="patient",
    order="hour",
    observations=["pulse", "pressure", "lactate"],
    actions=["fluid", "drug"],
    rewards="reward",
    terminals="died",
)


def frame(episodes=None, final=False):
    """A row a step; with `final`, one more for the last observation, without an action."""
    rows = []
    for number, episode in enumerate(make_episodes() if episodes is None else episodes):
        for step in range(episode.steps + final):
            is_step = step < episode.steps
            action = episode.actions[step] if is_step else [np.nan, np.nan]
            rows.append(
                [f"p{number}", step, *episode.observations[step], *action, episode.rewards[step] if is_step else np.nan]
            )
    names = ["patient", "hour", "pulse", "pressure", "lactate", "fluid", "drug", "reward", "died"]
    table = pd.DataFrame(rows, columns=names[:-1])
    made = make_episodes() if episodes is None else episodes
    died = [bool(step < e.steps and e.terminals[step]) for e in made for step in range(e.steps + final)]
    return table.assign(died=died)


def assert_same(data, episodes):
    """All rows of episodes that ended by themselves, all but the last of those that were cut."""
    told = [e if e.terminated else e._replace(**{k: getattr(e, k)[:-1] for k in ("observations", "actions", "rewards")})
            for e in episodes]  # fmt: skip
    expected = flat_columns(told)
    for key in ("observations", "actions", "rewards", "terminals", "timeouts"):
        np.testing.assert_array_equal(data[key], expected[key].astype(np.float32), err_msg=key)
    counts = data.terminals == 0
    np.testing.assert_array_equal(data.next_observations[counts], expected["next_observations"][counts])


def as_polars(table, folder):
    return pytest.importorskip("polars").from_pandas(table)


def as_csv(table, folder):
    table.to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


def as_semicolons(table, folder):
    table.to_csv(folder / "rows.csv", index=False, sep=";")
    return folder / "rows.csv"


def as_parquet(table, folder):
    pytest.importorskip("pyarrow")
    table.to_parquet(folder / "rows.parquet")
    # A file is what is in it, whatever it is called
    return (folder / "rows.parquet").rename(folder / "rows")


def as_feather(table, folder):
    pytest.importorskip("pyarrow")
    table.to_feather(folder / "rows.feather")
    return folder / "rows.feather"


WAYS = [lambda table, folder: table, as_polars, as_csv, as_semicolons, as_parquet, as_feather]


@pytest.mark.parametrize("write", WAYS)
def test_rows_in_any_order_come_back_by_episode_and_time(write, tmp_path):
    table = frame()
    # The first row stays: episodes are in the order in which they first appear
    order = np.append(0, 1 + np.random.default_rng(0).permutation(len(table) - 1))
    table = table.iloc[order].reset_index(drop=True)
    named = list(dict.fromkeys(table["patient"]))
    episodes = make_episodes()
    data = load_dataset(write(table, tmp_path), **OPTIONS)
    assert_same(data, [episodes[int(name[1:])] for name in named])
    assert data.name is None


def test_a_last_row_without_an_action_is_what_the_step_before_led_to():
    episodes = make_episodes()
    with pytest.warns(UserWarning, match="the last row of 4 episodes has no action"):
        data = load_dataset(frame(final=True), **OPTIONS)
    for key, column in flat_columns(episodes).items():
        np.testing.assert_array_equal(data[key], column.astype(np.float32), err_msg=key)


@pytest.mark.parametrize("words", [("yes", "no"), ("True", "FALSE"), ("1", "0"), ("t", "f"), (1.0, 0.0)])
def test_booleans_may_be_text(words):
    table = frame()
    table["died"] = pd.Series(np.where(table["died"], *words), dtype=object)
    assert_same(load_dataset(table, **OPTIONS), make_episodes())


def test_dates_as_text_sort_rows():
    table = frame()
    start = pd.Timestamp("2024-12-30")
    table["hour"] = [str((start + pd.Timedelta(days=int(hour))).date()) for hour in table["hour"]]
    shuffled = table.iloc[::-1].sort_values("patient", kind="stable")
    assert_same(load_dataset(shuffled, **OPTIONS), make_episodes())


def test_lists_in_cells_are_columns():
    table = frame()
    table["seen"] = list(table[["pulse", "pressure", "lactate"]].to_numpy(np.float32))
    assert_same(load_dataset(table, **{**OPTIONS, "observations": "seen"}), make_episodes())


def test_bounds_by_column():
    table = frame()
    table["fluid"] = 500 + 500 * table["fluid"]
    data = load_dataset(table, **{**OPTIONS, "actions": {"fluid": (0, 1000), "drug": None}})
    assert data.action_space == spaces.Box(np.float32([0, -1]), np.float32([1000, 1]), dtype=np.float32)
    with pytest.raises(
        ValueError, match=r"column 'fluid' of actions= goes from .* outside its bounds -1 to 1, first in row 0 "
    ):
        load_dataset(table, **OPTIONS)
    with pytest.raises(ValueError, match=r"column 'fluid' .* outside its bounds 0 to 600"):
        load_dataset(table, **{**OPTIONS, "actions": {"fluid": (0, 600), "drug": (-1, 1)}})
    with pytest.raises(ValueError, match=r"the bounds of 'fluid' must be two numbers"):
        load_dataset(table, **{**OPTIONS, "actions": {"fluid": (1, 0), "drug": (-1, 1)}})


def test_episodes_without_an_order_stand_as_they_do_and_an_id_that_comes_back_is_refused():
    table = frame()
    options = {**OPTIONS, "order": None}
    assert_same(load_dataset(table, **options), make_episodes())
    back = pd.concat([table, table[table["patient"] == "p1"]], ignore_index=True)
    with pytest.raises(ValueError, match=r"patient p1 comes back in row 26 after rows of others: name .*order="):
        load_dataset(back, **options)
    with pytest.raises(ValueError, match=r"patient p1 has hour 0 twice, in rows 5 and 26"):
        load_dataset(back, **OPTIONS)


def test_flags_alone_may_say_where_episodes_end():
    table = frame().drop(columns=["patient", "hour"])
    table["stopped"] = np.concatenate([episode.is_last for episode in make_episodes()])
    table["stopped"] &= ~table["died"]
    options = {**OPTIONS, "episode": None, "order": None, "timeouts": "stopped"}
    assert_same(load_dataset(table, **options), make_episodes())


def broken(column, row, value):
    table = frame()
    table[column] = table[column].astype(object)
    table.loc[row, column] = value
    return table


FAULTS = {
    "hole": (broken("pressure", 12, np.nan), {}, r"column 'pressure' is empty \(NaN\) in row 12 \(patient p2, hour 1\): fill"),
    "text": (broken("pulse", 6, "high"), {}, r"column 'pulse' has 'high' in row 6 \(patient p1, hour 1\), which is no number"),
    "flag": (broken("died", 6, 2), {}, r"column 'died' is 2.0 in row 6 \(patient p1, hour 1\); it has to be 0 or 1"),
    "id": (broken("patient", 6, None), {}, r"column 'patient' is empty \(NaN\) in row 6"),
    "time": (broken("hour", 6, "soon"), {}, r"column 'hour' has 'soon' in row 6, which is no time"),
    "action": (broken("drug", 6, np.nan), {}, r"column 'drug' is empty \(NaN\) in row 6"),
    "name": (frame(), dict(rewards="rewad"), r"has no 'rewad', asked for by rewards=. Did you mean 'reward'"),
    "unnamed": (frame(), dict(terminals=None), r"nothing says which are what: name those of terminals= \(True if every"),
    "twice": (frame(), dict(observations=["pulse", "pulse"]), r"observations= names 'pulse' twice"),
    "subset": (frame(), dict(subset="train"), r"The table has no use for subset=. There are: actions=, "),
    "ends": (frame(), dict(episode=None, terminals=False), r"nothing says where episodes end"),
    "option": (frame(), dict(rewards=3), r"rewards= must be the name of one column, not 3"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_is_named_by_row_and_column(name):
    table, changes, pattern = FAULTS[name]
    with pytest.raises(ValueError, match=pattern) as caught:
        load_dataset(table, **{**OPTIONS, **changes})
    assert "\n" not in str(caught.value)


def test_a_misspelt_option_names_the_right_one():
    with pytest.raises(TypeError, match=r"Did you mean 'episode'"):
        load_dataset(frame(), **{**OPTIONS, "epsode": "patient"})


def test_numbers_that_are_left_out_are_said():
    table = frame().drop(index=2)
    with pytest.warns(UserWarning, match=r"column 'hour' leaves numbers out at 1 places, first between rows 1 and 2 \(1, 3\)"):
        load_dataset(table, **OPTIONS)


def test_rewards_may_come_by_relabel_and_see_every_column():
    def relabel(arrays):
        assert len(arrays["hour"]) == 26
        arrays["rewards"] = -np.abs(arrays["pulse"])

    data = load_dataset(frame(), relabel=relabel, **{**OPTIONS, "rewards": None})
    np.testing.assert_allclose(data.rewards, -np.abs(data.observations[:, 0]))
    with pytest.raises(ValueError, match=r"has no rewards: pass `relabel=`.*success_at_end=True"):
        load_dataset(frame(), **{**OPTIONS, "rewards": None})
    data = load_dataset(frame(), success_at_end=True, **{**OPTIONS, "rewards": None, "terminals": None})
    assert data.n_rows == 26 and data.n_episodes == 4
    np.testing.assert_array_equal(data.rewards, data.ends)
    np.testing.assert_array_equal(data.terminals, data.ends)


def test_other_sources_have_no_use_for_columns():
    with pytest.raises(ValueError, match=r"The source has no use for rewards="):
        load_dataset(flat_columns(make_episodes()), rewards="r")
    with pytest.raises(ValueError, match=r"Dataset 'pendulum-mixed' has no use for order="):
        load_dataset("pendulum-mixed", order="time")


def test_the_command_line_names_columns_too(tmp_path, capsys):
    path = as_csv(frame(), tmp_path)
    words = [str(path), "--episode", "patient", "--order", "hour", "--rewards", "reward", "--terminals", "died"]
    words += ["--observations", "pulse", "pressure", "lactate", "--actions", "fluid", "drug"]
    assert main(["info", *words]) == 0
    assert capsys.readouterr().out.strip() == str(dataset_info(load_dataset(path, **OPTIONS))).strip()
    assert main(["info", *words, "--action-bounds", "-9,-8", "9,8"]) == 0
    assert "Box([-9. -8.], [9. 8.]" in capsys.readouterr().out
    assert main(["info", *words[:-1], "drag"]) == 1
    assert "Did you mean 'drug'" in capsys.readouterr().err
    everything_ends = [{"died": "true"}.get(word, word) for word in words]
    assert main(["info", *everything_ends]) == 0
    expected = dataset_info(load_dataset(path, **{**OPTIONS, "terminals": True}))
    assert capsys.readouterr().out.strip() == str(expected).strip()
