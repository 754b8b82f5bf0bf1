"""
Tables: one row for each step, a column for each number, and columns that say which episode a row is of and when it was.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_genpolicy.common.datasets.checks import ACTION_TOLERANCE
from sb3_genpolicy.common.datasets.formats.episode_rows import EpisodeRows
from sb3_genpolicy.common.datasets.formats.options import ColumnOptions, check_names, names_of
from sb3_genpolicy.common.datasets.formats.table_cells import numbers, refuse_empty
from sb3_genpolicy.common.datasets.formats.table_times import dates, with_holes
from sb3_genpolicy.common.datasets.names import Known

#: Options that tables have
USED = ("episode", "order", "observations", "actions", "rewards", "terminals", "timeouts", "success_at_end")


def read_table(columns: Mapping[str, np.ndarray], options: ColumnOptions, known: Known, label: str) -> EpisodeRows:
    """
    :param columns: name -> its cells, (n_rows,) each
    :param options: which of them are what
    :param known: the action space that was asked for, and what is done to actions
    :param label: what the table is called
    :return: its rows, sorted by episode (in the order in which they first appear) and time
    :raises ValueError: if a column is missing, a cell is empty or no number, an episode's id comes back or a time is twice
    """
    options.check_used(label, USED)
    _check_columns(columns, options, label)
    n_rows = len(next(iter(columns.values())))
    if n_rows == 0:
        raise ValueError(f"{label} is empty: it has no rows to learn from.")
    ids = _episode_ids(columns, options, n_rows, label)
    rows = _sorted(columns, options, ids, label)
    table = _Table(columns, options, rows, label)
    observed = table.numbers("observations", names_of(options.observations) or [])
    acted = table.numbers("actions", names_of(options.actions) or [])
    still = _without_action(acted, n_rows)
    flags = {key: table.flags(key, still) for key in ("terminals", "timeouts")}
    for key, flagged in flags.items():
        table.check_flags(key, flagged & ~still, ids[rows])
    starts = _starts(ids[rows], flags["terminals"] | flags["timeouts"], still)
    last = np.append(starts[1:], n_rows) - 1
    is_step = _steps(still, starts, last, table)
    if options.terminals is True:
        flags["terminals"][last - ~is_step[last]] = True
    rewards = {} if options.rewards is None else table.numbers("rewards", [options.rewards])
    refuse_empty(observed, np.ones(n_rows, dtype=bool), table.where, label)
    refuse_empty({**acted, **rewards}, is_step, table.where, label)
    space = _action_space(acted, options, known, is_step, table)
    return EpisodeRows(
        observations=_stacked(observed),
        actions=np.where(is_step[:, None], _stacked(acted), 0),
        rewards=np.where(is_step, rewards[options.rewards], 0) if options.rewards is not None else None,
        terminals=flags["terminals"],
        starts=starts,
        is_step=is_step,
        beside={name: cells[rows] for name, cells in columns.items()},
        place=table.where,
        action_space=space,
    )


def _check_columns(columns: Mapping[str, Any], options: ColumnOptions, label: str) -> None:
    needed = ["observations", "actions"]
    lacking = [name for name in needed if getattr(options, name) is None]
    if options.terminals is None and not options.success_at_end:
        lacking.append("terminals")
    if lacking:
        raise ValueError(
            f"{label} has the columns {', '.join(columns)}, and nothing says which are what: name those of "
            f"{' and '.join(f'{name}=' for name in lacking)}"
            + (" (True if every episode ended by itself, False if none did)." if "terminals" in lacking else ".")
        )
    if options.episode is None and not isinstance(options.terminals, str) and options.timeouts is None:
        raise ValueError(f"{label}: nothing says where episodes end: name the column of their ids, episode=, or of flags.")
    for name in ("observations", "actions"):
        check_names(name, names_of(getattr(options, name)) or [], columns, label)
    for name in ("episode", "order", "rewards", "terminals", "timeouts"):
        value = getattr(options, name)
        if isinstance(value, str):
            check_names(name, [value], columns, label)


def _episode_ids(columns: Mapping[str, np.ndarray], options: ColumnOptions, n_rows: int, label: str) -> np.ndarray:
    """Episodes numbered in the order in which they first appear."""
    import pandas as pd

    if options.episode is None:
        return np.zeros(n_rows, dtype=np.int64)
    codes, ids = pd.factorize(columns[options.episode])
    empty = codes < 0
    for number, name in enumerate(ids):
        if isinstance(name, str) and not name.strip():
            empty |= codes == number
    if empty.any():
        raise ValueError(f"{label}: column '{options.episode}' is empty (NaN) in row {int(np.argmax(empty))}.")
    _warn_of_like_ids(ids, options.episode, label)
    return codes


def _warn_of_like_ids(ids: Any, episode: str, label: str) -> None:
    seen: dict[str, Any] = {}
    for name in ids if getattr(ids, "dtype", np.dtype(object)).kind == "O" else ():
        other = seen.setdefault(str(name).strip(), name)
        if other is not name:
            warnings.warn(
                f"{label}: column '{episode}' has {other!r} and {name!r}, which differ by blanks or type alone: they are "
                "taken for two episodes.",
                stacklevel=2,
            )
            return


def _sorted(columns: Mapping[str, np.ndarray], options: ColumnOptions, ids: np.ndarray, label: str) -> np.ndarray:
    """Rows of the table in the order of episodes and times."""
    episode, order = options.episode, options.order
    if order is None:
        changes = np.flatnonzero(ids[1:] != ids[:-1]) + 1
        back = changes[ids[changes] < np.maximum.accumulate(ids)[changes - 1]]
        if len(back):
            row = int(back[0])
            raise ValueError(
                f"{label}: {episode} {columns[str(episode)][row]!s} comes back in row {row} after rows of others: name the "
                "column that says when a row was, order=, by which they are sorted, or give each episode an id of its own."
            )
        return np.arange(len(ids))
    times = _times(columns[order], ids, order, label)
    rows = np.lexsort((times, ids))
    twice = (ids[rows][1:] == ids[rows][:-1]) & (times[rows][1:] == times[rows][:-1])
    if twice.any():
        one, other = sorted(map(int, rows[int(np.argmax(twice)) :][:2]))
        of = "" if episode is None else f"{episode} {columns[episode][one]!s} has "
        same = all(str(cells[one]) == str(cells[other]) for cells in columns.values())
        raise ValueError(
            f"{label}: {of}{order} {columns[order][one]!s} twice, in rows {one} and {other}"
            + (
                ", which are the same in every column: remove one of them."
                if same
                else ": an id that is used again needs another name, as episodes would be mixed."
            )
        )
    _warn_of_gaps(ids[rows], times[rows], rows, order, label)
    return rows


def _times(cells: np.ndarray, ids: np.ndarray, order: str, label: str) -> np.ndarray:
    if cells.dtype.kind in "mM":
        times = with_holes(cells.astype(f"{cells.dtype.kind}8[ns]").astype(np.int64), np.isnat(cells))
    else:
        try:
            times = numbers(cells, order, lambda row: f"row {row}", label)
        except ValueError:
            times = dates(cells, ids, order, label)
    if times.ndim != 1 or (times.dtype.kind == "f" and np.isnan(times).any()):
        row = int(np.argmax(np.isnan(times))) if times.ndim == 1 else 0
        raise ValueError(f"{label}: column '{order}' has {cells[row]!r} in row {row}, which is no time or number to sort by.")
    return times


def _warn_of_gaps(ids: np.ndarray, times: np.ndarray, rows: np.ndarray, order: str, label: str) -> None:
    """Of whole numbers that mostly count by one, those that leave some out."""
    inside = ids[1:] == ids[:-1]
    steps = np.diff(times)
    if not inside.any() or (times != np.round(times)).any() or (steps[inside] == 1).mean() < 0.5:
        return
    gaps = inside & (steps > 1)
    if gaps.any():
        first = int(np.argmax(gaps))
        warnings.warn(
            f"{label}: column '{order}' leaves numbers out at {gaps.sum()} places, first between rows {rows[first]} and "
            f"{rows[first + 1]} ({times[first]:g}, {times[first + 1]:g}): the rows are taken to follow each other.",
            stacklevel=2,
        )


@dataclass(frozen=True)
class _Table:
    """
    :param columns: name -> its cells
    :param options: which of them are what
    :param rows: their order
    :param label: what the table is called
    """

    columns: Mapping[str, np.ndarray]
    options: ColumnOptions
    rows: np.ndarray
    label: str

    def where(self, row: int) -> str:
        """
        :param row: after sorting
        :return: the row of the table, and whose it is
        """
        source = int(self.rows[row])
        named = [name for name in (self.options.episode, self.options.order) if name is not None]
        told = ", ".join(f"{name} {self.columns[name][source]!s}" for name in named)
        return f"row {source} ({told})" if told else f"row {source}"

    def numbers(self, option: str, names: list[str]) -> dict[str, np.ndarray]:
        """
        :param option: that named them
        :param names: of columns
        :return: name -> numbers, sorted
        """
        found = {name: numbers(self.columns[name][self.rows], name, self.where, self.label) for name in names}
        if option == "rewards" and any(column.ndim > 1 for column in found.values()):
            raise ValueError(f"{self.label}: column '{names[0]}' of rewards= has lists in it; it needs one number a row.")
        return found

    def flags(self, option: str, still: np.ndarray) -> np.ndarray:
        """
        :param option: that names a column of flags, or says that there is none
        :param still: (n_rows,), rows without an action, which may have no flag either
        :return: (n_rows,), sorted
        """
        name = getattr(self.options, option)
        if not isinstance(name, str):
            return np.zeros(len(self.rows), dtype=bool)
        column = numbers(self.columns[name][self.rows], name, self.where, self.label)
        if column.ndim == 1:
            column = np.where(still & np.isnan(column), 0, column)
            if np.isnan(column).any():
                where = self.where(int(np.argmax(np.isnan(column))))
                raise ValueError(f"{self.label}: column '{name}' is empty (NaN) in {where}; it has to be 0 or 1: fill it.")
        wrong = (column != 0) & (column != 1)
        if wrong.ndim > 1 or wrong.any():
            row = int(np.argmax(wrong)) if wrong.ndim == 1 else 0
            raise ValueError(f"{self.label}: column '{name}' is {column[row]} in {self.where(row)}; it has to be 0 or 1.")
        return column == 1

    def check_flags(self, option: str, flagged: np.ndarray, ids: np.ndarray) -> None:
        """
        :param option: that named the column
        :param flagged: (n_rows,), sorted
        :param ids: (n_rows,), of episodes, sorted
        :raises ValueError: if it is the same in all rows of every episode, and not in all episodes: how an episode ended, not
            where
        """
        again = flagged[1:] & flagged[:-1] & (ids[1:] == ids[:-1])
        if not again.any():
            return
        name, row = getattr(self.options, option), int(np.argmax(again))
        share = np.bincount(ids, flagged) / np.bincount(ids)
        if self.options.episode is not None and np.isin(share, (0, 1)).all() and not flagged.all():
            raise ValueError(
                f"{self.label}: column '{name}' is 1 in all rows of some episodes, first in {self.where(row)}, and 0 in all "
                "rows of the others: it says how an episode ended, not where. Set it in the last row of an episode alone."
            )
        warnings.warn(
            f"{self.label}: column '{name}' is 1 in {again.sum()} rows that follow such a row, first in {self.where(row + 1)}"
            ": each is taken for an episode of one step.",
            stacklevel=2,
        )


def _without_action(acted: dict[str, np.ndarray], n_rows: int) -> np.ndarray:
    still = np.ones(n_rows, dtype=bool)
    for column in acted.values():
        still &= np.isnan(column.reshape(n_rows, -1)).all(axis=1) if column.dtype.kind == "f" else False
    return still


def _starts(ids: np.ndarray, flagged: np.ndarray, still: np.ndarray) -> np.ndarray:
    """First rows of episodes: at another id, and after a flag, or after the row without an action that follows a flag."""
    new_id = np.append(True, ids[1:] != ids[:-1])
    after_flag = np.append(False, flagged[:-1])
    final = after_flag & still & ~new_id
    return np.flatnonzero(new_id | (after_flag & ~final) | np.append(False, final[:-1]))


def _steps(still: np.ndarray, starts: np.ndarray, last: np.ndarray, table: _Table) -> np.ndarray:
    """Last rows of episodes without any action hold the observation that the step before led to."""
    final = np.zeros_like(still)
    final[last] = still[last]
    alone = np.flatnonzero(final[starts])
    if len(alone):
        raise ValueError(
            f"{table.label}: the episode of {table.where(int(starts[alone[0]]))} has no steps, only an observation: remove it."
        )
    if final.any():
        warnings.warn(
            f"{table.label}: the last row of {final.sum()} episodes has no action, and only holds the observation that the "
            "step before led to.",
            stacklevel=2,
        )
    return ~final


def _action_space(
    acted: dict[str, np.ndarray], options: ColumnOptions, known: Known, is_step: np.ndarray, table: _Table
) -> spaces.Box | None:
    """Of the bounds by column; without bounds, actions beyond -1 and 1 are named by column."""
    given = options.actions if isinstance(options.actions, Mapping) else {}
    if given and known.action_space is not None:
        raise ValueError(f"{table.label}: bounds are given twice, by action_space= and by column in actions=.")
    if not given and (known.action_space is not None or known.action_transforms):
        return None
    whole = [name for name in acted if given.get(name) is None and _are_whole(table.columns[name])]
    if whole:
        raise ValueError(
            f"{table.label}: column '{whole[0]}' of actions= has whole numbers or booleans alone: if they are amounts, give "
            f"their bounds, as actions={{{whole[0]!r}: (low, high)}}; choices among kinds cannot be learnt."
        )
    lows, highs = [], []
    for name, column in acted.items():
        low, high = _bounds(given.get(name), name)
        width = int(np.prod(column.shape[1:]))
        lows += [low] * width
        highs += [high] * width
        margin = ACTION_TOLERANCE * (high - low) if np.isfinite(high - low) else 0.0
        values = column.reshape(len(column), -1)
        outside = ((values < low - margin) | (values > high + margin)).any(axis=1) & is_step
        if outside.any() and not known.action_transforms:
            row = int(np.argmax(outside))
            least, most = values[is_step].min(), values[is_step].max()
            raise ValueError(
                f"{table.label}: column '{name}' of actions= goes from {least:.6g} to {most:.6g}, outside its bounds {low:g} "
                f"to {high:g}, first in {table.where(row)}: give the bounds by column, as actions={{{name!r}: (low, high)}}."
            )
    return spaces.Box(np.array(lows, np.float32), np.array(highs, np.float32), dtype=np.float32)


def _are_whole(cells: np.ndarray) -> bool:
    return cells.dtype.kind in "iub" or (
        cells.dtype.kind == "O" and all(isinstance(cell, (bool, np.bool_)) for cell in cells if cell is not None)
    )


def _bounds(pair: Any, name: str) -> tuple[float, float]:
    if pair is None:
        return -1.0, 1.0
    try:
        low, high = map(float, pair)
    except (TypeError, ValueError):
        low, high = np.nan, np.nan
    if not low < high:
        raise ValueError(f"actions=: the bounds of '{name}' must be two numbers, the lowest and the highest, not {pair!r}.")
    return low, high


def _stacked(columns: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([column.reshape(len(column), -1) for column in columns.values()], axis=1)
