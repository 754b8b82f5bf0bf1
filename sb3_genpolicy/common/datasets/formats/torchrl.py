"""
TorchRL's storages in HDF5 (``H5StorageCheckpointer``): a group for each trajectory, observations with one row more.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_genpolicy.common.datasets.formats.episode_rows import EpisodeRows, join_episodes
from sb3_genpolicy.common.datasets.formats.options import ColumnOptions, check_names, names_of

if TYPE_CHECKING:
    import h5py

# Keys of the TED layout that are no observations
_OTHERS = ("action", "reward", "done", "terminated", "truncated", "collector", "is_init", "step_count", "episode_reward")


def read_torchrl(path: Path, options: ColumnOptions, label: str) -> EpisodeRows:
    """
    ``terminated`` is terminal, ``truncated`` alone a cut. A storage that was not full has trajectories of empty rows at its
    end, which are passed over.

    :param path: the file
    :param options: ``observations`` counts
    :param label: what it is called
    :return: its trajectories
    :raises ValueError: if it lacks what transitions consist of
    """
    import h5py

    options.check_used(label, ("observations",))
    with h5py.File(path, "r") as file:
        names = sorted((name for name in file if name.startswith("traj_")), key=lambda name: int(name[5:]))
        written = _written(file, [len(file[name]["action"]) for name in names])
        episodes = [
            _episode(file[name], n_steps, options, f"{label}, {name}")
            for name, n_steps in zip(names, written, strict=True)
            if n_steps
        ]
    kept = [name for name, n_steps in zip(names, written, strict=True) if n_steps]
    return join_episodes(episodes, label, kept)


def _written(file: "h5py.File", lengths: list[int]) -> list[int]:
    """Steps of each trajectory that were written: a storage that is not full goes on with empty rows."""
    if "is_full" not in file or bool(file["is_full"][()]):
        return lengths
    shape = file["_storage_shape"][()] if "_storage_shape" in file else np.array([sum(lengths)])
    capacity, used = int(shape[0]), int(file["_len"][()])
    starts = np.cumsum(lengths) - lengths
    return [max(0, min(length, used - int(start) % capacity)) for start, length in zip(starts, lengths, strict=True)]


def _episode(group: "h5py.Group", n_steps: int, options: ColumnOptions, label: str) -> dict[str, Any]:
    import h5py

    there = list[str]()

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape and name.partition("/")[0] not in _OTHERS:
            # What a policy gave beside its action has no row for the last observation
            there.extend([name] if "action" not in group or len(item) == len(group["action"]) + 1 else [])

    group.visititems(visit)
    asked = names_of(options.observations)
    if asked is not None:
        check_names("observations", asked, there, label)
    elif not there:
        raise ValueError(f"{label} has no observations; it has {', '.join(group)}.")
    for key in ("action", "reward", "terminated"):
        if key not in group:
            raise ValueError(f"{label} has no '{key}'; it has {', '.join(group)}.")
    keys = asked or there
    arrays = {key: group[key][: n_steps + 1] for key in keys}
    return dict(
        observations=arrays if len(keys) > 1 else arrays[keys[0]],
        actions=group["action"][:n_steps],
        rewards=group["reward"][:n_steps],
        terminals=group["terminated"][:n_steps] > 0,
    )
