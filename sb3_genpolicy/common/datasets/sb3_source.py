"""
SB3's replay buffers, as objects and as the pickles that SB3 saves.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_genpolicy.common.datasets.arrays import ArrayWriter
from sb3_genpolicy.common.datasets.checks import ACTION_TOLERANCE, check_spaces
from sb3_genpolicy.common.datasets.columns import ArrayColumn, MappedColumn, StreamsColumn, read
from sb3_genpolicy.common.datasets.flat import read_flat
from sb3_genpolicy.common.datasets.names import Known, named_columns
from sb3_genpolicy.common.files.buffer_pickles import unpickle_buffer
from sb3_genpolicy.common.transitions.transitions import Transitions
from sb3_genpolicy.common.utils import tree_items, tree_map


def read_buffer(buffer: ReplayBuffer, writer: ArrayWriter, known: Known, label: str = "The replay buffer") -> Transitions:
    """
    Rows of each parallel environment follow each other, oldest first; scaled actions go back to the environment's units.
    A ``HerReplayBuffer`` gives the transitions that happened, with the goals that were meant.

    :param buffer: the buffer
    :param writer: where the arrays go
    :param known: what is done to its actions, and its reference scores; all else the buffer says itself
    :param label: what it is called in messages
    :return: the record, checked
    :raises ValueError: if it is empty, or its actions are not what SB3 stores
    """
    check_spaces(buffer.observation_space, buffer.action_space, label)
    action_space = buffer.action_space
    assert isinstance(action_space, spaces.Box)
    if getattr(buffer, "was_filled_from_dataset", False):
        raise ValueError("This replay buffer was itself filled from a dataset: pass that dataset instead.")
    _check_arrays(buffer, label)
    first, n_steps = _rows(buffer)
    if n_steps == 0:
        raise ValueError(f"{label} is empty: it has no rows to learn from.")

    def column(array: np.ndarray, shift: int = 0) -> StreamsColumn:
        return StreamsColumn(array, first + shift, n_steps)

    low, high = action_space.low.reshape(-1), action_space.high.reshape(-1)

    def unscaled(actions: np.ndarray) -> np.ndarray:
        largest = np.abs(actions).max(initial=0.0)
        if largest > 1.0 + ACTION_TOLERANCE:
            raise ValueError(
                f"{label} holds actions up to {largest:.3g} in size, but SB3 stores them scaled to [-1, 1]. Scale them with "
                "`policy.scale_action`, or pass a mapping of arrays instead."
            )
        if (low == -1.0).all() and (high == 1.0).all():
            return actions
        flat = actions.reshape(len(actions), -1).astype(np.float64)
        return (low + 0.5 * (flat + 1.0) * (high - low)).astype(np.float32).reshape(actions.shape)

    timeouts, dones = read(column(buffer.timeouts)) > 0, read(column(buffer.dones)) > 0
    terminals = dones & ~timeouts
    # Where the rows of one environment stop without an end of the episode, the recording was cut off
    last = np.arange(1, buffer.n_envs + 1) * n_steps - 1
    timeouts[last] |= ~terminals[last]
    if buffer.optimize_memory_usage:
        next_observations = tree_map(lambda array: column(array, shift=1), buffer.observations)
    else:
        next_observations = tree_map(column, buffer.next_observations)
    columns = named_columns(
        dict(
            observations=tree_map(column, buffer.observations),
            next_observations=next_observations,
            actions=MappedColumn(column(buffer.actions), unscaled),
            rewards=column(buffer.rewards),
            masks=ArrayColumn(~terminals),
            dones=ArrayColumn(dones),
            timeouts=ArrayColumn(timeouts),
        )
    )
    known = replace(known, observation_space=buffer.observation_space, action_space=known.space_for(action_space))
    return read_flat(columns, writer, known, label, None)


def _check_arrays(buffer: ReplayBuffer, label: str) -> None:
    keys = ["observations", "actions", "rewards", "dones", "timeouts"]
    if not buffer.optimize_memory_usage:
        keys.append("next_observations")
    for key in keys:
        if not hasattr(buffer, key):
            raise ValueError(f"{label} has no '{key}': it was saved by another version of SB3, or is damaged.")
        for name, array in tree_items(getattr(buffer, key), key):
            if array.shape[:2] != (buffer.buffer_size, buffer.n_envs):
                raise ValueError(
                    f"{label}: {name} has shape {array.shape}; it needs {buffer.buffer_size} rows for each of "
                    f"{buffer.n_envs} environments."
                )


def _rows(buffer: ReplayBuffer) -> tuple[int, int]:
    """The slot of the oldest row, and the number of rows of each environment."""
    if not buffer.full:
        return 0, buffer.pos
    # Where memory is saved, the slot at `pos` holds the last next observation, not a row of its own
    unused = 1 if buffer.optimize_memory_usage else 0
    return buffer.pos + unused, buffer.buffer_size - unused


def load_buffer(path: Path) -> ReplayBuffer:
    """
    Read a replay buffer that SB3 saved (``model.save_replay_buffer``). A pickle may run whatever its author liked; here it
    may make nothing but what such a buffer consists of.

    :param path: the file
    :return: the buffer
    :raises ValueError: if the file is damaged, holds something else, or would run something else
    """
    with path.open("rb") as file:
        return unpickle_buffer(file, f"File {path}", "read it with SB3 (`load_from_pkl`) and pass the buffer")
