"""
Observations of columns: each is stored once, with what every step led to.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from sb3_genpolicy.common.datasets.arrays import ArrayWriter
from sb3_genpolicy.common.datasets.checks import storage_dtype, stored_shape
from sb3_genpolicy.common.datasets.columns import Column, slices
from sb3_genpolicy.common.datasets.flags import Flags
from sb3_genpolicy.common.datasets.names import Columns
from sb3_genpolicy.common.datasets.row_reader import RowReader
from sb3_genpolicy.common.utils import on_one_line, space_items, tree_items
from sb3_genpolicy.generative.checks import did_you_mean

# Observations nearer than this, relatively, follow each other: written twice, they may differ by rounding
_ROUNDING = 1e-5
# Rows whose numbers are looked at for their unit, about
_LOOKED_AT = 4096


class Observations(NamedTuple):
    """
    What was read of the observations.

    :param states: name -> array, every observation once
    :param next_rows: (n_rows,), which of them a step led to
    :param leaps: (n_rows,), whether a step leads to another observation than the next row's
    """

    states: dict[str, np.ndarray]
    next_rows: np.ndarray
    leaps: np.ndarray


def read_observations(
    columns: Columns, space: spaces.Space, writer: ArrayWriter, rows: RowReader, flags: Flags
) -> Observations:
    """
    :param columns: of a source
    :param space: of the observations
    :param writer: where the arrays go
    :param rows: reads the columns
    :param flags: what is known of every row
    :return: the observations; those that float32 would merge are read again, as float64
    :raises ValueError: if they are misshapen, or hold what no observations may hold
    """
    observations = _tree_of(columns["observations"], space, f"{rows.label}: observations")
    successors = columns.get("next_observations")
    if successors is not None:
        successors = _tree_of(successors, space, f"{rows.label}: next_observations")
    while True:
        read = _read(observations, successors, dict(space_items(space, "observations")), writer, rows, flags)
        finer = rows.ranges.finer(rows.label)
        if finer <= rows.finer:
            return read
        rows.finer = finer


def _read(
    observations: Any, successors: Any, parts: dict[str, spaces.Space], writer: ArrayWriter, rows: RowReader, flags: Flags
) -> Observations:
    next_rows = writer.allocate("next_rows", (rows.n_rows,), np.int64)
    lost = np.flatnonzero(~flags.kept & np.insert(flags.followed[:-1], 0, False))
    states = {}
    for name, column in tree_items(observations, "observations"):
        dtype = np.float64 if name in rows.finer else storage_dtype(parts[name])
        shape = stored_shape(parts[name])
        if successors is None:
            states[name] = writer.allocate(name, (rows.n_rows + len(lost), *shape), dtype)
            _read_with_lost_rows(states[name], column, parts[name], name, rows, lost)
        else:
            states[name] = writer.allocate(name, (rows.n_rows, *shape), dtype, spare_rows=int(flags.ends.sum()))
            rows.read_into(states[name], column, parts[name], name, name)
    if successors is None:
        _follow(flags, lost, next_rows)
        return Observations(states, next_rows, np.zeros(rows.n_rows, dtype=bool))
    leaps = _read_successors(states, successors, parts, writer, rows, next_rows)
    return Observations(states, next_rows, leaps)


def _tree_of(columns: Any, space: spaces.Space, name: str) -> Any:
    if not isinstance(space, spaces.Dict):
        if isinstance(columns, Mapping):
            raise ValueError(
                f"{name} is a dictionary with the keys {', '.join(columns)}, but its space is {on_one_line(space)}."
            )
        return columns
    if not isinstance(columns, Mapping):
        raise ValueError(f"{name} is one array, but the observation space has the keys {', '.join(space.spaces)}.")
    for key in space.spaces:
        if key not in columns:
            raise ValueError(f"{name} has no key '{key}'. {did_you_mean(key, columns)}")
    return {key: columns[key] for key in space.spaces}


def _read_with_lost_rows(
    states: np.ndarray, column: Column, space: spaces.Space, name: str, rows: RowReader, lost: np.ndarray
) -> None:
    """Read the observations of steps, and behind them those that are only the next observation of an episode's last step."""
    row = 0
    for start, piece in rows.pieces(column, space, name, name):
        kept = rows.kept[start : start + len(piece)]
        n_kept = int(kept.sum())
        states[row : row + n_kept] = piece[kept]
        row += n_kept
        first, last = np.searchsorted(lost, [start, start + len(piece)])
        states[rows.n_rows + first : rows.n_rows + last] = piece[lost[first:last] - start]


def _follow(flags: Flags, lost: np.ndarray, next_rows: np.ndarray) -> None:
    """Fill ``next_rows``. A next observation that is not in the file is never used, since its step is terminal."""
    n_rows, row = len(next_rows), 0
    for part in slices(len(flags.kept)):
        step = part.start + np.flatnonzero(flags.kept[part])
        position = np.arange(row, row + len(step))
        is_lost = ~flags.kept[np.minimum(step + 1, len(flags.kept) - 1)]
        follower = np.where(is_lost, n_rows + np.searchsorted(lost, step + 1), position + 1)
        next_rows[row : row + len(step)] = np.where(flags.followed[step], follower, position)
        row += len(step)


def _read_successors(
    states: dict[str, np.ndarray],
    successors: Any,
    parts: dict[str, spaces.Space],
    writer: ArrayWriter,
    rows: RowReader,
    next_rows: np.ndarray,
) -> np.ndarray:
    """
    Read ``next_observations``. One that equals the next row's observation is not stored again; others are appended. Returns
    the breaks: rows whose next observation is not even near the next row's observation, whatever the flags say.
    """
    n_rows = rows.n_rows
    is_next, breaks = np.ones(n_rows, dtype=bool), np.zeros(n_rows, dtype=bool)
    is_next[-1] = False
    # Twice over the file: which successors are new is known only when all keys of a dictionary were compared
    for name, column in tree_items(successors, "observations"):
        label = name.replace("observations", "next_observations", 1)
        for start, piece in rows.pieces(column, parts[name], label, name):
            piece = piece[: n_rows - 1 - start]
            following = states[name][start + 1 : start + 1 + len(piece)]
            axes = tuple(range(1, piece.ndim))
            same = (piece == following).all(axis=axes)
            is_next[start : start + len(piece)] &= same
            differ = np.flatnonzero(~same)
            near = _are_near(piece[differ], following[differ], _width(states[name], rows, name)).all(axis=axes)
            breaks[start + differ[~near]] = True
    new = np.flatnonzero(~is_next)
    for part in slices(n_rows):
        next_rows[part] = np.arange(part.start + 1, min(part.stop, n_rows) + 1)
    next_rows[new] = n_rows + np.arange(len(new))
    for name, column in tree_items(successors, "observations"):
        states[name] = writer.extend(name, len(new))
        label = name.replace("observations", "next_observations", 1)
        for start, piece in rows.pieces(column, parts[name], label, name):
            first, last = np.searchsorted(new, [start, start + len(piece)])
            states[name][n_rows + first : n_rows + last] = piece[new[first:last] - start]
    return breaks


def _width(array: np.ndarray, rows: RowReader, name: str) -> Any:
    """The range of values of each entry; for float32 arrays, over some thousand rows."""
    if name in rows.finer:
        return rows.ranges.width(name).reshape(array.shape[1:])
    if array.dtype == np.uint8:
        return 0.0
    return np.ptp(array[:: max(1, len(array) // _LOOKED_AT)], axis=0)


def _are_near(one: np.ndarray, other: np.ndarray, width: Any) -> np.ndarray:
    # Of float64, which is far from zero, a small share of a number's size may be many steps
    size = 0.0 if one.dtype == np.float64 else np.abs(other)
    return np.abs(one.astype(np.float64) - other) <= _ROUNDING * (width + size)
