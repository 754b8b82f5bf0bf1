"""
Columns with a row for each step become a record.
"""

import warnings

import numpy as np
from gymnasium import spaces

from sb3_genpolicy.common.datasets.arrays import ArrayWriter, MemoryWriter
from sb3_genpolicy.common.datasets.checks import NUMBER, check_action_bounds, check_numeric, check_spaces
from sb3_genpolicy.common.datasets.columns import slices
from sb3_genpolicy.common.datasets.flags import read_flags
from sb3_genpolicy.common.datasets.interleaved import as_streams
from sb3_genpolicy.common.datasets.names import (
    Columns,
    Known,
    infer_action_space,
    infer_observation_space,
    missing_key,
    slip_of,
    warn_of_unused,
)
from sb3_genpolicy.common.datasets.observations import Observations, read_observations
from sb3_genpolicy.common.datasets.resets import without_resets
from sb3_genpolicy.common.datasets.row_reader import RowReader
from sb3_genpolicy.common.datasets.time_steps import as_trajectories
from sb3_genpolicy.common.transitions.transitions import Transitions, where
from sb3_genpolicy.common.utils import tree_items, tree_of


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
    columns = as_streams(as_trajectories(columns, label), label, isinstance(writer, MemoryWriter))
    if not any(key in columns for key in ("terminals", "dones", "masks")):
        raise ValueError(
            f"{label} has no key 'terminals', the flags of steps after which nothing is earned; it has "
            f"{', '.join(columns.given)}.{slip_of(columns, 'terminals', 'dones', 'masks')}"
        )
    observation_space = known.observation_space or infer_observation_space(columns["observations"])
    action_space = known.action_space or infer_action_space(columns["actions"], label, not known.action_transforms)
    check_spaces(observation_space, action_space, label)
    assert isinstance(action_space, spaces.Box)
    flags = read_flags(columns, label)
    starts = flags.episode_starts
    rows = RowReader(flags.kept, columns.place or (lambda row: _where(row, starts, columns.part_ends)), label)
    if rows.n_rows == 0:
        raise ValueError(f"{label} has no steps: each of its rows is the last of an episode, and leads nowhere.")

    n_rows = rows.n_rows
    actions = writer.allocate("actions", (n_rows, *action_space.shape), np.float32)
    rows.read_into(actions, columns["actions"], action_space, "actions", "actions")
    rows.ranges.refuse_merged("actions", label)
    for part in slices(n_rows):
        actions[part] = known.transformed(actions[part], action_space)
    check_action_bounds(actions, action_space, f"{label}: actions", rows.where)
    rewards = writer.allocate("rewards", (n_rows,), np.float32)
    rows.read_into(rewards[:, None], columns["rewards"], NUMBER, "rewards")

    observed = read_observations(columns, observation_space, writer, rows, flags)
    terminals, timeouts = (writer.allocate(key, (n_rows,), np.float32) for key in ("terminals", "timeouts"))
    ends = writer.allocate("ends", (n_rows,), bool)
    ends[:] = flags.ends[flags.kept] | observed.leaps
    terminals[:] = flags.terminals[flags.kept]
    cut = observed.leaps & ~flags.ends[flags.kept] & ~flags.terminals[flags.kept]
    timeouts[:] = flags.timeouts[flags.kept] | cut
    data = Transitions(
        states=tree_of(observation_space, observed.states.values()),
        next_rows=observed.next_rows,
        actions=actions,
        rewards=rewards,
        terminals=terminals,
        timeouts=timeouts,
        observation_space=observation_space,
        action_space=action_space,
        name=name,
        env_id=known.env_id,
        reference_scores=known.reference_scores,
        ends=ends,
        inferred_cuts=int(cut.sum()),
    )
    warn_of_unused(columns, label)
    _warn_of_breaks(cut, rows)
    mended = without_resets(data, label, rows.where, writer)
    if mended is data and _terminals_are_ends(columns):
        _warn_of_terminals_inside(flags.terminals & flags.ends & ~flags.timeouts, observed, rows)
    return mended


def _where(row: int, starts: np.ndarray, part_ends: np.ndarray) -> str:
    if not len(part_ends):
        return where(row, starts)
    number = int(np.searchsorted(part_ends, row))
    return f"row {row - (part_ends[number - 1] + 1 if number else 0)} of number {number} of the list"


def _terminals_are_ends(columns: Columns) -> bool:
    return "next_observations" in columns and ("masks" not in columns or not columns.keys() & {"terminals", "dones"})


def _check_columns(columns: Columns, label: str) -> None:
    for key in ("observations", "actions", "rewards"):
        if key not in columns:
            hint = ""
            if key == "rewards" and "terminals" in columns and "timeouts" not in columns:
                hint = (
                    " Files of OGBench have none before a task is chosen: pass `relabel=` to `load_dataset`, a function of "
                    "the file's arrays that adds 'rewards' and 'masks'."
                )
            raise ValueError(missing_key(columns, label, key) + hint)
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


def _warn_of_terminals_inside(terminals: np.ndarray, observed: Observations, rows: RowReader) -> None:
    """Where a recording goes on after a terminal step, the flag may be of something else (D4RL's AntMaze has such)."""
    row = np.flatnonzero(terminals[:-1])
    row = row[observed.next_rows[row] == row + 1]
    moved = np.zeros(len(row), dtype=bool)
    for array in observed.states.values():
        moved |= (array[row] != array[row + 1]).any(axis=tuple(range(1, array.ndim)))
    if moved.any():
        first = rows.where(int(row[moved][0]))
        warnings.warn(
            f"{rows.label}: {moved.sum()} steps are flagged as terminal inside an episode, first {first}: "
            "the next row starts from what they led to. Nothing is counted as earned after them.",
            stacklevel=2,
        )


def _warn_of_breaks(cut: np.ndarray, rows: RowReader) -> None:
    if cut.any():
        warnings.warn(
            f"{rows.label}: {cut.sum()} steps lead to another observation than the next row's though no flag ends an episode "
            f"there, first at {rows.where(int(np.argmax(cut)))}; they are taken for cuts.",
            stacklevel=2,
        )
