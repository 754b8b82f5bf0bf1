"""
d3rlpy's datasets: version 2's episodes by number (``ReplayBuffer.dump``), and version 1's ``MDPDataset``.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_genpolicy.common.datasets.formats.episode_rows import EpisodeRows, join_episodes, one_a_row
from sb3_genpolicy.common.datasets.formats.options import ColumnOptions

if TYPE_CHECKING:
    import h5py


def read_d3rlpy(path: Path, options: ColumnOptions, label: str) -> EpisodeRows:
    """
    An episode is terminal where ``terminated`` says so. Its last observation is not in the file: as in d3rlpy, the last step
    of a cut episode is no transition.

    :param path: the file
    :param options: none counts
    :param label: what it is called
    :return: its episodes
    """
    import h5py

    options.check_used(label, ())
    with h5py.File(path, "r") as file:
        episodes = [_episode(file, number, label) for number in range(int(file["num_episodes"][()]))]
    return join_episodes(episodes, label)


def _episode(file: "h5py.File", number: int, label: str) -> dict[str, Any]:
    for key in ("actions", "rewards", "terminated"):
        if f"{key}_{number}" not in file:
            raise ValueError(f"{label} has no {key} of episode {number}, though it says that it has the episode.")
    parts: list[np.ndarray] = []
    while f"observations_{number}_{len(parts)}" in file:
        parts.append(file[f"observations_{number}_{len(parts)}"][()])
    actions = file[f"actions_{number}"][()]
    terminals = np.zeros(len(actions), dtype=bool)
    terminals[-1:] = bool(file[f"terminated_{number}"][()])
    return dict(
        observations={str(key): part for key, part in enumerate(parts)} if parts else file[f"observations_{number}"][()],
        actions=actions,
        rewards=file[f"rewards_{number}"][()],
        terminals=terminals,
    )


def read_d3rlpy_v1(path: Path, options: ColumnOptions, label: str) -> EpisodeRows:
    """
    :param path: the file
    :param options: none counts
    :param label: what it is called
    :return: its episodes: ``episode_terminals`` end them, ``terminals`` are ends of the environment's
    """
    import h5py

    options.check_used(label, ())
    with h5py.File(path, "r") as file:
        arrays = {key: file[key][()] for key in ("observations", "actions", "rewards", "terminals")}
        ends = file["episode_terminals"][()] if "episode_terminals" in file else arrays["terminals"]
    n_rows = len(arrays["actions"])
    for key, array in {**arrays, "episode_terminals": ends}.items():
        if len(array) != n_rows:
            raise ValueError(f"{label}: {key} has {len(array)} rows, but there are {n_rows} actions.")
    ended = (one_a_row(ends, f"{label}: episode_terminals") > 0) | (one_a_row(arrays["terminals"], f"{label}: terminals") > 0)
    last = np.flatnonzero(ended[:-1])
    return EpisodeRows(
        observations=arrays["observations"],
        actions=arrays["actions"],
        rewards=one_a_row(arrays["rewards"], f"{label}: rewards"),
        terminals=one_a_row(arrays["terminals"], f"{label}: terminals") > 0,
        starts=np.append(0, last + 1),
    )
