"""
Columns with a row for each step become a record.
"""

import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from tqdm import tqdm

from sb3_genpolicy.common.datasets.arrays import ArrayWriter
from sb3_genpolicy.common.datasets.checks import (
    NUMBER,
    check_action_bounds,
    check_finite,
    check_members,
    check_numeric,
    check_row_shape,
    check_spaces,
    shaped,
    storage_dtype,
    stored_shape,
)
from sb3_genpolicy.common.datasets.columns import PATIENCE, Column, rows_per_chunk, slices
from sb3_genpolicy.common.datasets.flags import Flags, read_flags
from sb3_genpolicy.common.datasets.names import Columns, Known, infer_action_space, infer_observation_space
from sb3_genpolicy.common.transitions import Transitions, where
from sb3_genpolicy.common.utils import on_one_line, space_items, tree_items, tree_of
from sb3_genpolicy.generative.checks import did_you_mean

# Observations nearer than this, relatively, follow each other: written twice, they may differ by rounding
_ROUNDING = 1e-5
#: What reading a damaged file raises
READ_ERRORS = (OSError, EOFError, zipfile.BadZipFile, zlib.error)


def read_flat(columns: Columns, writer: ArrayWriter, known: Known, label: str, name: str | None) -> Transitions:
    """
    :param columns: as :func:`named_columns` gives them
    :param writer: where the arrays go
    :param known: what the source does not say of itself
    :param label: what the source is called, for messages
    :param name: the name that it can be loaded by again
    :return: the record, checked
    :raises ValueError: if a column is missing, misshapen, of another length, or holds what no column may hold
    """
    _check_columns(columns, label)
    observation_space = known.observation_space or infer_observation_space(columns["observations"])
    action_space = known.action_space or infer_action_space(columns["actions"], label, not known.action_transforms)
    check_spaces(observation_space, action_space, label)
    assert isinstance(action_space, spaces.Box)
    flags = read_flags(columns, label)
    starts = flags.episode_starts
    rows = _RowReader(flags.kept, lambda row: where(row, starts), label)
    if rows.n_rows == 0:
        raise ValueError(f"{label} has no steps: each of its rows is the last of an episode, and leads nowhere.")

    n_rows = rows.n_rows
    actions = writer.allocate("actions", (n_rows, *action_space.shape), np.float32)
    rows.read_into(actions, columns["actions"], action_space, "actions")
    for part in slices(n_rows):
        actions[part] = known.transformed(actions[part], action_space)
    check_action_bounds(actions, action_space, f"{label}: actions", rows.where)
    rewards = writer.allocate("rewards", (n_rows,), np.float32)
    rows.read_into(rewards[:, None], columns["rewards"], NUMBER, "rewards")

    states, next_rows, cut = _read_observations(columns, observation_space, writer, rows, flags)
    terminals = writer.allocate("terminals", (n_rows,), np.float32)
    timeouts = writer.allocate("timeouts", (n_rows,), np.float32)
    terminals[:] = flags.terminals[flags.kept]
    timeouts[:] = flags.timeouts[flags.kept] | (cut & ~flags.terminals[flags.kept])
    return Transitions(
        states=states,
        next_rows=next_rows,
        actions=actions,
        rewards=rewards,
        terminals=terminals,
        timeouts=timeouts,
        observation_space=observation_space,
        action_space=action_space,
        name=name,
        env_id=known.env_id,
        reference_scores=known.reference_scores,
    )


def _check_columns(columns: Columns, label: str) -> None:
    for key in ("observations", "actions", "rewards"):
        if key not in columns:
            hint = ""
            if key == "rewards" and "terminals" in columns and "timeouts" not in columns:
                hint = (
                    " Files of OGBench have none before a task is chosen: pass `relabel=` to `load_dataset`, a function of "
                    "the file's arrays that adds 'rewards' and 'masks'."
                )
            raise ValueError(f"{label} has no key '{key}'; it has {', '.join(columns)}.{hint}")
    if not any(key in columns for key in ("terminals", "dones", "masks")):
        raise ValueError(
            f"{label} has no key 'terminals', the flags of steps after which nothing is earned; it has {', '.join(columns)}."
        )
    named = [pair for key, column in columns.items() for pair in tree_items(column, key)]
    for name, column in named:
        check_numeric(column.dtype, f"{label}: {name}")
        if not column.shape:
            raise ValueError(f"{label}: {name} is a single number; it needs one row for each step.")
    lengths = {name: column.shape[0] for name, column in named}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{label} has arrays of different lengths: {lengths}. Every array needs one row for each step.")
    if not any(lengths.values()):
        raise ValueError(f"{label} is empty: it has no rows to learn from.")


class _RowReader:
    """
    Reads columns into arrays, checks them, and says where in the file a row is.
    """

    def __init__(self, kept: np.ndarray, where_in_file: Callable[[int], str], label: str):
        self.kept, self.where_in_file, self.label = kept, where_in_file, label
        self.all_kept = bool(kept.all())
        self.n_rows = len(kept) if self.all_kept else int(kept.sum())

    def where(self, row: int) -> str:
        return self.where_in_file(row if self.all_kept else int(np.flatnonzero(self.kept)[row]))

    def pieces(self, column: Column, space: spaces.Space, name: str) -> Iterable[tuple[int, np.ndarray]]:
        """First row of every piece, in the file, and the piece as it is stored."""
        check_row_shape(column.shape, space, f"{self.label}: {name}")
        start = 0
        try:
            for chunk in self._with_progress(column, name):
                piece, where_in_piece = shaped(chunk, space, f"{self.label}: {name}"), self._shifted(start)
                check_finite(piece, f"{self.label}: {name}", where_in_piece)
                check_members(piece, space, f"{self.label}: {name}", where_in_piece)
                yield start, piece
                start += len(chunk)
        except READ_ERRORS as error:
            raise ValueError(
                f"{self.label}: {name} cannot be read from row {start} on ({error}): the file is damaged."
            ) from error

    def _with_progress(self, column: Column, name: str) -> Iterable[np.ndarray]:
        total = -(-column.shape[0] // rows_per_chunk(column.shape, column.dtype))
        return tqdm(column.chunks(), f"{self.label}: {name}", total, delay=PATIENCE, leave=False)

    def _shifted(self, start: int) -> Callable[[int], str]:
        return lambda row: self.where_in_file(start + row)

    def read_into(self, array: np.ndarray, column: Column, space: spaces.Space, name: str) -> None:
        row = 0
        for start, piece in self.pieces(column, space, name):
            piece = piece if self.all_kept else piece[self.kept[start : start + len(piece)]]
            array[row : row + len(piece)] = piece
            row += len(piece)


def _read_observations(
    columns: Columns, space: spaces.Space, writer: ArrayWriter, rows: _RowReader, flags: Flags
) -> tuple[Any, np.ndarray, np.ndarray]:
    parts = dict(space_items(space, "observations"))
    observations = _tree_of(columns["observations"], space, f"{rows.label}: observations")
    successors = columns.get("next_observations")
    next_rows = writer.allocate("next_rows", (rows.n_rows,), np.int64)
    if successors is None:
        lost = np.flatnonzero(~flags.kept & np.insert(flags.followed[:-1], 0, False))
        states = {}
        for name, column in tree_items(observations, "observations"):
            shape = stored_shape(parts[name])
            states[name] = writer.allocate(name, (rows.n_rows + len(lost), *shape), storage_dtype(parts[name]))
            _read_with_lost_rows(states[name], column, parts[name], name, rows, lost)
        _follow(flags, lost, next_rows)
        cut = np.zeros(rows.n_rows, dtype=bool)
    else:
        successors = _tree_of(successors, space, f"{rows.label}: next_observations")
        n_ends = int((flags.terminals | flags.timeouts).sum())
        states = {}
        for name, column in tree_items(observations, "observations"):
            shape = (rows.n_rows, *stored_shape(parts[name]))
            states[name] = writer.allocate(name, shape, storage_dtype(parts[name]), spare_rows=n_ends)
            rows.read_into(states[name], column, parts[name], name)
        cut = _read_successors(states, successors, parts, writer, rows, next_rows)
        cut &= ~(flags.terminals | flags.timeouts)
        _warn_of_breaks(cut, rows)
        if "masks" not in columns:
            _warn_of_terminals_inside(flags.terminals & ~flags.timeouts, states, next_rows, rows)
    return tree_of(space, (states[name] for name in parts)), next_rows, cut


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
    states: np.ndarray, column: Column, space: spaces.Space, name: str, rows: _RowReader, lost: np.ndarray
) -> None:
    """The observations of steps first, those that only the last step of an episode led to behind them."""
    row = 0
    for start, piece in rows.pieces(column, space, name):
        kept = rows.kept[start : start + len(piece)]
        n_kept = int(kept.sum())
        states[row : row + n_kept] = piece[kept]
        row += n_kept
        first, last = np.searchsorted(lost, [start, start + len(piece)])
        states[rows.n_rows + first : rows.n_rows + last] = piece[lost[first:last] - start]


def _follow(flags: Flags, lost: np.ndarray, next_rows: np.ndarray) -> None:
    """What a step led to, if it is not in the file, is asked for by nobody: the step was terminal, and stays where it is."""
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
    rows: _RowReader,
    next_rows: np.ndarray,
) -> np.ndarray:
    """
    Successors that are the next row's observation are that row; others are appended. Rows whose successor is not near the
    next row's observation are returned as breaks, whatever the flags say.
    """
    n_rows = rows.n_rows
    is_next, breaks = np.ones(n_rows, dtype=bool), np.zeros(n_rows, dtype=bool)
    is_next[-1] = False
    # Twice over the file: which successors are new is known only when all keys of a dictionary were compared
    for name, column in tree_items(successors, "observations"):
        label = name.replace("observations", "next_observations", 1)
        for start, piece in rows.pieces(column, parts[name], label):
            piece = piece[: n_rows - 1 - start]
            following = states[name][start + 1 : start + 1 + len(piece)]
            axes = tuple(range(1, piece.ndim))
            same = (piece == following).all(axis=axes)
            is_next[start : start + len(piece)] &= same
            differ = np.flatnonzero(~same)
            near = np.isclose(piece[differ], following[differ], rtol=_ROUNDING, atol=_ROUNDING).all(axis=axes)
            breaks[start + differ[~near]] = True
    new = np.flatnonzero(~is_next)
    for part in slices(n_rows):
        next_rows[part] = np.arange(part.start + 1, min(part.stop, n_rows) + 1)
    next_rows[new] = n_rows + np.arange(len(new))
    for name, column in tree_items(successors, "observations"):
        states[name] = writer.extend(name, len(new))
        label = name.replace("observations", "next_observations", 1)
        for start, piece in rows.pieces(column, parts[name], label):
            first, last = np.searchsorted(new, [start, start + len(piece)])
            states[name][n_rows + first : n_rows + last] = piece[new[first:last] - start]
    return breaks


def _warn_of_terminals_inside(
    terminals: np.ndarray, states: dict[str, np.ndarray], next_rows: np.ndarray, rows: _RowReader
) -> None:
    """Where a recording goes on after a terminal step, the flag may be of something else (D4RL's AntMaze has such)."""
    row = np.flatnonzero(terminals[:-1])
    row = row[next_rows[row] == row + 1]
    moved = np.zeros(len(row), dtype=bool)
    for array in states.values():
        moved |= (array[row] != array[next_rows[row]]).any(axis=tuple(range(1, array.ndim)))
    if moved.any():
        first = rows.where(int(row[moved][0]))
        warnings.warn(
            f"{rows.label}: {moved.sum()} steps are flagged as terminal inside an episode, first {first}: "
            "the next row starts from what they led to. Nothing is counted as earned after them.",
            stacklevel=2,
        )


def _warn_of_breaks(cut: np.ndarray, rows: _RowReader) -> None:
    if cut.any():
        warnings.warn(
            f"{rows.label}: {cut.sum()} steps lead to another observation than the next row's though no flag ends an episode "
            f"there, first at {rows.where(int(np.argmax(cut)))}; they are taken for cuts.",
            stacklevel=2,
        )
