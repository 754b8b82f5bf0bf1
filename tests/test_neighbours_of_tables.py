"""
Tables as people have them: flags of a patient in every row, dates of either order, ids that look alike, CSV of spreadsheets.
"""

import datetime
import gzip

import numpy as np
import pandas as pd
import pytest

from sb3_genpolicy import load_dataset
from tests.helpers.data_formats import flat_columns, make_episodes
from tests.test_tables import OPTIONS, assert_same, broken, frame

pytestmark = pytest.mark.filterwarnings("ignore:.* cut off is left out")


def refused(table, pattern, **changes):
    with pytest.raises(ValueError, match=pattern) as caught:
        load_dataset(table, **{**OPTIONS, **changes})
    assert "\n" not in str(caught.value)


def test_a_flag_of_the_patient_in_every_row_is_no_end():
    """Every row would be an episode of its own."""
    table = frame()
    table["died"] = table.groupby("patient")["died"].transform("max")
    refused(
        table, r"column 'died' is 1 in all rows of some episodes, first in row 0 \(patient p0, hour 0\), and 0 in all rows"
    )
    table["died"] = table["died"] & (table["hour"] > 2)
    with pytest.warns(UserWarning, match=r"column 'died' is 1 in 4 rows that follow such a row, first in row 4 "):
        assert load_dataset(table, **OPTIONS).n_episodes == 4 + 4


def test_a_last_row_needs_no_flag():
    table = frame(final=True)
    table["died"] = table["died"].astype(object)
    table.loc[table["fluid"].isna(), "died"] = None
    with pytest.warns(UserWarning, match="the last row of 4 episodes has no action"):
        data = load_dataset(table, **OPTIONS)
    np.testing.assert_array_equal(data.rewards, flat_columns(make_episodes())["rewards"])
    refused(
        broken("died", 6, None), r"column 'died' is empty \(NaN\) in row 6 \(patient p1, hour 1\); it has to be 0 or 1: fill"
    )


ORDERS = {
    "day first": lambda hour: f"{28 + hour}/01/2024" if hour < 4 else f"{hour - 3:02d}/02/2024",
    "times of day": lambda hour: datetime.time(8 + hour, 30),
    "clock": lambda hour: f"{8 + hour}:30",
    "nanoseconds": lambda hour: pd.Timestamp(1_700_000_000_000_000_000 + int(hour)),
    "numbers as text": lambda hour: str(9 * hour),
    "in a zone": lambda hour: pd.Timestamp("2024-03-31 00:30", tz="UTC").tz_convert("Europe/Paris") + pd.Timedelta(hours=hour),
}


@pytest.mark.parametrize("name", ORDERS)
def test_times_that_rows_are_sorted_by(name, recwarn):
    table = frame()
    table["hour"] = [ORDERS[name](hour) for hour in table["hour"]]
    shuffled = table.iloc[::-1].sort_values("patient", kind="stable")
    assert_same(load_dataset(shuffled, **OPTIONS), make_episodes())
    assert not [warning for warning in recwarn if "format" in str(warning.message)]


def test_dates_of_either_order_are_refused_where_it_matters():
    table = frame()
    # 1 to 4 February, then 1 March and on; with the month first January 2nd, February 2nd, ...
    table["hour"] = [f"{hour % 4 + 1:02d}/{2 + hour // 4:02d}/2024" for hour in table["hour"]]
    refused(
        table, r"column 'hour' has dates such as '0\d/0\d/2024' in row \d, whose day and month may be taken for each other"
    )
    table["hour"] = [f"{hour + 1:02d}/01/2024" for hour in frame()["hour"]]
    assert_same(load_dataset(table, **OPTIONS), make_episodes())


def test_ids_that_look_alike_are_said():
    for odd in (" p1", "p1 "):
        with pytest.warns(UserWarning, match=r"column 'patient' has 'p1' and .*, which differ by blanks or type alone"):
            load_dataset(broken("patient", 6, odd), **OPTIONS)
    refused(broken("patient", 6, "  "), r"column 'patient' is empty \(NaN\) in row 6")
    large = frame()
    # As float64 they would be one
    large["patient"] = [2**60 + int(name[1:]) for name in large["patient"]]
    assert_same(load_dataset(large.astype({"patient": "Int64"}), **OPTIONS), make_episodes())


def test_an_index_by_name_is_columns():
    assert_same(load_dataset(frame().set_index(["patient", "hour"]), **OPTIONS), make_episodes())


def test_rows_that_are_there_twice():
    table = pd.concat([frame(), frame().iloc[[6]]], ignore_index=True)
    refused(table, r"patient p1 has hour 1 twice, in rows 6 and 26, which are the same in every column: remove one")


def test_words_among_numbers_are_no_numbers():
    refused(
        broken("pulse", 6, "no"), r"column 'pulse' has 'no' in row 6 \(patient p1, hour 1\), but numbers such as 2.0 in row 2"
    )
    refused(broken("pulse", 6, "1,5"), r"has '1,5' in row 6 .* \(by a decimal comma\? then read it by pandas.read_csv")
    refused(frame().astype({"pulse": complex}), r"column 'pulse' holds complex numbers")


@pytest.mark.parametrize("kind", [int, bool])
def test_whole_numbers_as_actions_need_bounds(kind):
    table = frame().assign(drug=frame()["drug"].gt(0).astype(kind))
    refused(table, r"column 'drug' of actions= has whole numbers or booleans alone: if they are amounts, give their bounds")
    data = load_dataset(table, **{**OPTIONS, "actions": {"fluid": (-1, 1), "drug": (0, 1)}})
    assert data.action_space.low.tolist() == [-1, 0]


@pytest.mark.parametrize("write", [str, lambda row: str(np.array(row)), lambda row: f"[{row[0]}, {row[1]},{row[2]}]"])
def test_lists_that_were_written_as_text(write):
    table = frame()
    rows = table[["pulse", "pressure", "lactate"]].round(3).to_numpy().tolist()
    table["seen"] = [write(row) for row in rows]
    data = load_dataset(table, **{**OPTIONS, "observations": "seen"})
    expected = load_dataset(table.round(3), **OPTIONS)
    np.testing.assert_allclose(data.observations, expected.observations)


def test_lists_of_lists_are_refused():
    table = frame()
    table["seen"] = [[[1.0, 2.0], [3.0]]] * len(table)
    refused(
        table, r"column 'seen' has \[\[1.0, 2.0\], \[3.0\]\] in row 0 .*, which is no list of numbers", observations="seen"
    )
    table["seen"] = [[1.0, 2.0]] * 6 + ["none", [1.0]] + [[1.0, 2.0]] * 18
    refused(table, r"column 'seen' has a list of 1 in row 7 .*, where others have 2 numbers", observations="seen")


def trailing(text):
    head, *rows = text.splitlines()
    return "\n".join([head, *(f"{row}," for row in rows)])


TEXTS = {
    "utf-16": lambda text: text.encode("utf-16"),
    "mark at the start": lambda text: text.encode("utf-8-sig"),
    "blanks": lambda text: text.replace(",", " , ").encode(),
    "comma at the end of rows": lambda text: trailing(text).encode(),
    "names of rows": lambda text: "\n".join(
        f"{number - 1},{line}" if number else line for number, line in enumerate(text.splitlines())
    ).encode(),
    "packed": lambda text: gzip.compress(text.encode()),
}


@pytest.mark.parametrize("name", TEXTS)
def test_csv_of_spreadsheets_and_of_r(name, tmp_path):
    path = tmp_path / ("rows.csv.gz" if name == "packed" else "rows.csv")
    path.write_bytes(TEXTS[name](frame().to_csv(index=False)))
    assert_same(load_dataset(path, **OPTIONS), make_episodes())


def test_csv_that_cannot_be_read_says_why(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(frame().rename(columns={"pulse": "größe"}).to_csv(index=False).encode("latin-1"))
    refused(path, r"is no text of UTF-8 .*: read it by pandas.read_csv\(path, encoding='latin-1'\)")
    path.write_text(frame().to_csv(index=False).replace("pressure", "pulse", 1))
    refused(path, r"has two columns 'pulse': rename one")
    (tmp_path / "rows.txt").write_text("patient,hour\n")
    refused(tmp_path / "rows.txt", r"rows.txt is of no kind known. Tables are known by .csv")


def test_a_folder_of_parquet_files_is_one_table(tmp_path):
    pytest.importorskip("pyarrow")
    table = frame()
    for number, part in enumerate((table.iloc[:9], table.iloc[9:])):
        part.to_parquet(tmp_path / f"part-{number}.parquet", index=False)
    assert_same(load_dataset(tmp_path, **OPTIONS), make_episodes())
