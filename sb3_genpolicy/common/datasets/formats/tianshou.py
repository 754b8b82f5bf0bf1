"""
Tianshou's replay buffers (``save_hdf5``): a ring of rows, or several, one for each environment.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_genpolicy.common.datasets.formats.episode_rows import EpisodeRows, one_a_row
from sb3_genpolicy.common.datasets.formats.options import ColumnOptions
from sb3_genpolicy.common.utils import tree_map

if TYPE_CHECKING:
    import h5py


def read_tianshou(path: Path, options: ColumnOptions, label: str) -> EpisodeRows:
    """
    ``terminated`` is terminal, ``truncated`` and the newest row of a ring are cuts. Observations are the last of a stack
    where the buffer stacks them when it draws.

    :param path: the file
    :param options: none counts
    :param label: what it is called
    :return: its rows, oldest first, one environment after the other
    :raises ValueError: if it lacks what transitions consist of
    """
    import h5py

    options.check_used(label, ())
    with h5py.File(path, "r") as file:
        rows, ring_ends = _rings(file)
        meta = file["_meta"]
        for key in ("obs", "act", "rew"):
            if key not in meta:
                raise ValueError(f"{label} has no '{key}'; it has {', '.join(meta)}.")
        if not len(rows):
            raise ValueError(f"{label} is empty: it has no rows to learn from.")
        flags = {key: meta[key][()] > 0 for key in ("terminated", "truncated", "done") if key in meta}
        observations, following = _tree(meta["obs"], label), None
        if "obs_next" in meta:
            following = tree_map(lambda array: array[rows], _tree(meta["obs_next"], label))
        actions, rewards = meta["act"][()], meta["rew"][()]
    # Before version 0.5 there was `done` alone
    terminated = flags.get("terminated", flags.get("done"))
    if terminated is None:
        raise ValueError(f"{label} has neither 'terminated' nor 'done'.")
    ends = (terminated | flags.get("truncated", False) | flags.get("done", False))[rows]
    ends[ring_ends] = True
    return EpisodeRows(
        observations=tree_map(lambda array: array[rows], observations),
        actions=actions[rows],
        rewards=one_a_row(rewards[rows], f"{label}: rew"),
        terminals=terminated[rows],
        starts=np.append(0, np.flatnonzero(ends[:-1]) + 1),
        next_observations=following,
        place=lambda row: f"row {rows[row]} of the buffer",
    )


def _tree(item: Any, label: str) -> Any:
    import h5py

    if isinstance(item, h5py.Dataset):
        return item[()]
    if any(isinstance(part, h5py.Group) for part in item.values()):
        raise ValueError(f"{label} has nested observations: flatten them first.")
    return {key: part[()] for key, part in item.items()}


def _rings(file: "h5py.File") -> tuple[np.ndarray, np.ndarray]:
    """The rows that were written, oldest first, ring after ring, and the number of the last of each among them."""
    if "_offset" in file and "_lengths" in file:
        # `last_index` is the newest row of each environment
        offsets, sizes = file["_offset"][()], file["_lengths"][()]
        newest = file["last_index"][()] - offsets
        capacities = np.diff(np.append(offsets, int(file.attrs["maxsize"])))
    else:
        offsets, sizes = np.zeros(1, dtype=np.int64), np.array([_number(file, "_size")])
        newest, capacities = np.array([_number(file, "_insertion_idx", "_index") - 1]), np.array([int(file.attrs["maxsize"])])
    pieces = [
        offset + (last + 1 - size + np.arange(size)) % capacity
        for offset, size, last, capacity in zip(offsets, sizes, newest, capacities, strict=True)
        if size > 0
    ]
    ends = np.cumsum([len(piece) for piece in pieces]) - 1
    return (np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)), np.asarray(ends, dtype=np.int64)


def _number(file: "h5py.File", *names: str) -> int:
    for name in names:
        if name in file.attrs:
            return int(file.attrs[name])
    raise ValueError(f"File {file.filename} has none of {', '.join(names)}: it was written by another version of Tianshou.")
