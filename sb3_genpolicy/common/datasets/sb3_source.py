"""
SB3's replay buffers, as objects and as the pickles that SB3 saves.
"""

import io
import pickle
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_genpolicy.common.buffers import OfflineReplayBuffer
from sb3_genpolicy.common.datasets.arrays import ArrayWriter
from sb3_genpolicy.common.datasets.checks import ACTION_TOLERANCE, check_spaces
from sb3_genpolicy.common.datasets.columns import ArrayColumn, MappedColumn, StreamsColumn, read
from sb3_genpolicy.common.datasets.flat import read_flat
from sb3_genpolicy.common.datasets.names import Known, named_columns
from sb3_genpolicy.common.transitions import Transitions
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
    if isinstance(buffer, OfflineReplayBuffer):
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


def unpickle_buffer(file: IO[bytes], label: str, if_trusted: str) -> ReplayBuffer:
    """
    As :func:`load_buffer`, from a file that is open.

    :param file: the file
    :param label: what it is called in messages
    :param if_trusted: what to do with a file that needs more, for whoever trusts it
    :return: the buffer
    :raises ValueError: if the file is damaged, holds something else, or would run something else
    """
    try:
        buffer = _BufferUnpickler(file).load()
    except _Refused as error:
        raise ValueError(
            f"{label} asks for '{error}', which no replay buffer of SB3 needs, and was not read further. If you trust "
            f"it, {if_trusted}."
        ) from error
    except Exception as error:
        raise ValueError(f"{label} is no replay buffer of SB3, or damaged ({error or type(error).__name__}).") from error
    if not isinstance(buffer, ReplayBuffer):
        raise ValueError(f"{label} holds a {type(buffer).__name__}, not a replay buffer of SB3.")
    return buffer


class _Refused(Exception):
    pass


class _BufferUnpickler(pickle.Unpickler):
    """
    Makes the objects that SB3's replay buffers consist of, and no others.
    """

    ALLOWED = frozenset(
        {
            ("stable_baselines3.common.buffers", "ReplayBuffer"),
            ("stable_baselines3.common.buffers", "DictReplayBuffer"),
            ("stable_baselines3.common.buffers", "NStepReplayBuffer"),
            ("stable_baselines3.her.her_replay_buffer", "HerReplayBuffer"),
            ("stable_baselines3.her.goal_selection_strategy", "GoalSelectionStrategy"),
            *((f"gymnasium.spaces.{name}", cls) for name, cls in (
                ("box", "Box"), ("dict", "Dict"), ("discrete", "Discrete"),
                ("multi_discrete", "MultiDiscrete"), ("multi_binary", "MultiBinary"),
            )),
            ("sb3_genpolicy.common.added_rows", "AddedRows"),
            ("sb3_genpolicy.common.buffers", "OfflineReplayBuffer"),
            ("sb3_genpolicy.common.row_store", "RowStore"),
            ("sb3_genpolicy.common.tensor_normalizer", "TensorNormalizer"),
            ("sb3_genpolicy.common.rewards", "AffineReward"),
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch", "device"),
            ("collections", "OrderedDict"),
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            *((f"numpy.{core}.{module}", name) for core in ("core", "_core") for module, name in (
                ("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"),
            )),
            *(("numpy.random._pickle", f"__{name}_ctor") for name in ("generator", "bit_generator")),
            ("numpy.random._pcg64", "PCG64"),
            ("numpy.random.bit_generator", "SeedSequence"),
            ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"),
        }
    )  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            # Torch's own reads a pickle within the pickle as it comes
            return _storage_of
        if (module, name) not in self.ALLOWED:
            raise _Refused(f"{module}.{name}")
        return super().find_class(module, name)


def _storage_of(content: bytes) -> Any:
    return th.load(io.BytesIO(content), weights_only=True)
