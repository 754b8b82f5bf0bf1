"""
Rows that are time steps: what dm_env and Dreamer write holds the action that led *to* a row's observation, what RLDS and
RL Unplugged write the action that was taken there. Both have one row more than steps in every episode.
"""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sb3_genpolicy.common.datasets.columns import ArrayColumn, Column, read
from sb3_genpolicy.common.datasets.names import Columns

_FLAGS = ("terminals", "timeouts", "dones")
# Marks of time steps alone
_TELLING = {"is_first", "is_last", "step_type", "physics"}
# What `step_type` is in the first row of an episode
_FIRST = 0


class ShiftedColumn:
    """
    A column without its first row, whose last row stands there twice.

    :param column: the column
    """

    def __init__(self, column: Column):
        self.column = column
        self.shape, self.dtype = column.shape, column.dtype

    def chunks(self) -> Iterator[np.ndarray]:
        skipped = 1
        last = None
        for chunk in self.column.chunks():
            if len(chunk) > skipped:
                yield chunk[skipped:]
            skipped = max(0, skipped - len(chunk))
            last = chunk[-1:] if len(chunk) else last
        if last is not None:
            yield last


class _Rows(NamedTuple):
    """
    :param first: (n_rows,), whether a row is the first of its episode
    :param last: (n_rows,), whether it is the last
    :param still: (n_rows,), whether all numbers of its action are zero
    """

    first: np.ndarray
    last: np.ndarray
    still: np.ndarray


def as_trajectories(columns: Columns, label: str) -> Columns:
    """
    :param columns: of a source, of one length
    :param label: what the source is called, for messages
    :return: time steps as OGBench would write them: each row with the action taken there, and a last row that is no step;
        other sources as they are
    :raises ValueError: if they are time steps and nothing tells of which kind
    """
    if not _may_be_time_steps(columns):
        return columns
    lengths = {name: column.shape[0] for name, column in columns.marks.items() if column.shape}
    if set(lengths.values()) - {columns["actions"].shape[0]}:
        raise ValueError(f"{label} has arrays of different lengths: {lengths}. Every array needs one row for each step.")
    rows = _rows_of(columns, label)
    n_first, n_last = int((rows.first & rows.still).sum()), int((rows.last & rows.still).sum())
    n_episodes = int(rows.first.sum())
    is_dm_env = bool(columns.marks.keys() & {"step_type", "physics"}) or not columns.marks.keys() & {"is_first", "is_last"}
    # RL Unplugged writes dm_env's `step_type` beside actions that were taken in their row
    may_be_rlds = "physics" not in columns.marks and bool(columns.marks.keys() & {"step_type", "is_first", "is_last"})
    if n_first == n_episodes and (is_dm_env or n_last < n_episodes):
        return _shifted(columns, rows, label)
    if n_last == n_episodes and n_first < n_episodes and may_be_rlds:
        return _of_rlds(columns, rows, label)
    plural = any(columns.sources[key] == key for key in ("observations", "actions", "rewards"))
    if (plural and columns.keys() & {"timeouts", "dones"}) or not columns.marks.keys() & _TELLING:
        # D4RL's names and flags, with time steps' marks beside, or nothing but a discount and a first action that is zero
        return columns
    raise _undecided(columns, label)


def _undecided(columns: Columns, label: str) -> ValueError:
    marks = ", ".join(repr(name) for name in columns.marks)
    return ValueError(
        f"{label} has time steps ({marks}), but neither their first nor their last actions are all zero, or both are, so that "
        "nobody can say whether a row's action led to its observation (dm_env, Dreamer) or was taken there (RLDS): give "
        "'next_observations', and 'terminals' and 'timeouts' for every step, in a file without these columns."
    )


def _may_be_time_steps(columns: Columns) -> bool:
    if columns.keys() & {"next_observations", "valids"} or not {"observations", "actions", "rewards"} <= columns.keys():
        return False
    marks = columns.marks
    if marks.keys() & {"is_first", "is_last", "step_type"}:
        return True
    return "discount" in marks and ("physics" in marks or _starts_still(columns["actions"]))


def _starts_still(actions: Column) -> bool:
    return not next(iter(actions.chunks()))[:1].any()


def _rows_of(columns: Columns, label: str) -> _Rows:
    marks, n_rows = columns.marks, columns["actions"].shape[0]
    still = _is_zero(columns["actions"])
    flagged = np.zeros(n_rows, dtype=bool)
    for key in _FLAGS:
        if key in columns and columns.sources[key] != "is_terminal":
            flagged |= ~_is_zero(columns[key])
    if "is_first" in marks:
        first = ~_is_zero(marks["is_first"])
    elif "step_type" in marks:
        first = read(marks["step_type"]).reshape(n_rows) == _FIRST
    elif "is_last" in marks or flagged.any():
        last = ~_is_zero(marks["is_last"]) if "is_last" in marks else flagged
        first = np.insert(last[:-1], 0, True)
    else:
        # The reset's own row has no action and no reward
        first = still & _is_zero(columns["rewards"])
        if (first[1:] & first[:-1]).any() or not first[0]:
            raise ValueError(
                f"{label} has time steps, of which several that follow each other have neither an action nor a reward, or the "
                "first has one, so that nobody can say where episodes start: add 'is_first', 1 in the first row of every "
                "episode."
            )
    first[columns.part_ends + 1] = first[0] = True
    return _Rows(first, np.append(first[1:], True), still)


def _is_zero(column: Column) -> np.ndarray:
    pieces = [~chunk.reshape(len(chunk), -1).any(axis=1) for chunk in column.chunks() if len(chunk)]
    return np.concatenate(pieces)


def _shifted(columns: Columns, rows: _Rows, label: str) -> Columns:
    warnings.warn(
        f"{label}: a row's action led to its own observation, as dm_env writes time steps: actions, rewards and discounts "
        f"were moved to the row before, and the {int(rows.first.sum())} first rows of episodes are no steps of their own.",
        stacklevel=2,
    )
    goes_on = np.ones(len(rows.first), dtype=bool)
    if "masks" in columns:
        goes_on &= ~_is_zero(columns["masks"])
    if "is_terminal" in columns.marks:
        goes_on &= _is_zero(columns.marks["is_terminal"])
    elif "masks" not in columns and "terminals" in columns:
        goes_on &= _is_zero(columns["terminals"])
    return _trajectories(
        columns, rows, ShiftedColumn(columns["actions"]), ShiftedColumn(columns["rewards"]), np.append(goes_on[1:], True)
    )


def _of_rlds(columns: Columns, rows: _Rows, label: str) -> Columns:
    warnings.warn(
        f"{label}: rows are taken for RLDS's steps: a row's action was taken there, and the last row of each of the "
        f"{int(rows.first.sum())} episodes only holds what the one before led to.",
        stacklevel=2,
    )
    goes_on = np.ones(len(rows.first), dtype=bool)
    if "masks" in columns:
        goes_on &= ~_is_zero(columns["masks"])
    if "is_terminal" in columns.marks:
        goes_on &= np.append(_is_zero(columns.marks["is_terminal"])[1:], True)
    return _trajectories(columns, rows, columns["actions"], columns["rewards"], goes_on)


def _trajectories(columns: Columns, rows: _Rows, actions: Column, rewards: Column, goes_on: np.ndarray) -> Columns:
    result = Columns(columns.given)
    result.unused, result.sources, result.part_ends = columns.unused, columns.sources, columns.part_ends
    result.unused = [name for name in columns.unused if name not in columns.marks]
    result.update(
        observations=columns["observations"],
        actions=actions,
        rewards=rewards,
        masks=ArrayColumn(goes_on),
        valids=ArrayColumn(~rows.last),
    )
    return result
