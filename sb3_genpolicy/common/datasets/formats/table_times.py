"""
Dates and times of day that rows of a table are sorted by.
"""

import datetime
import re
import warnings

import numpy as np

# Dates that begin with a day or a month
_DAY_OR_MONTH = re.compile(r"\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}")


def with_holes(times: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """
    :param times: (n_rows,), whole numbers
    :param empty: (n_rows,), where there is none
    :return: the same, NaN where they are empty. Whole numbers stay such where none is: float64 cannot tell nanoseconds apart
    """
    return np.where(empty, np.nan, times.astype(np.float64)) if empty.any() else times


def dates(cells: np.ndarray, ids: np.ndarray, order: str, label: str) -> np.ndarray:
    """
    Dates and times of day as text, or as objects. Where a day and a month may be taken for each other, both ways are tried.

    :param cells: of a column
    :param ids: (n_rows,), of episodes
    :param order: name of the column
    :param label: what the table is called
    :return: (n_rows,), numbers to sort by; NaN where a cell is no time
    :raises ValueError: if dates may be read in two ways that sort the rows of an episode differently
    """
    if all(isinstance(cell, datetime.time) for cell in cells):
        return np.array([((cell.hour * 60 + cell.minute) * 60 + cell.second) * 10**6 + cell.microsecond for cell in cells])
    times = _parsed(cells, False)
    if not any(isinstance(cell, str) and _DAY_OR_MONTH.match(cell.strip()) for cell in cells):
        return times
    others = _parsed(cells, True)
    if times.dtype.kind == "f" or others.dtype.kind == "f":
        return others if times.dtype.kind == "f" else times
    rows = np.lexsort((times, ids))
    differ = rows != np.lexsort((others, ids))
    if differ.any():
        row = int(rows[np.argmax(differ)])
        raise ValueError(
            f"{label}: column '{order}' has dates such as {cells[row]!r} in row {row}, whose day and month may be taken for "
            "each other, which would bring rows into another order: make dates of them first, by pandas.to_datetime(..., "
            "dayfirst=True) or False."
        )
    return times


def _parsed(cells: np.ndarray, dayfirst: bool) -> np.ndarray:
    import pandas as pd

    with warnings.catch_warnings():
        # Of formats that pandas has to guess
        warnings.simplefilter("ignore")
        parsed = pd.to_datetime(pd.Series(cells), errors="coerce", utc=True, dayfirst=dayfirst).dt.as_unit("ns")
    return with_holes(parsed.astype("int64").to_numpy(), parsed.isna().to_numpy())
