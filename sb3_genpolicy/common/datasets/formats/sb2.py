"""
Stable-Baselines2's expert trajectories (``generate_expert_traj``): rows, and where episodes start.
"""

import warnings
from pathlib import Path

import numpy as np

from sb3_genpolicy.common.datasets.formats.episode_rows import EpisodeRows, one_a_row
from sb3_genpolicy.common.datasets.formats.options import ColumnOptions

# Longest episodes of one length that are taken for a time limit
_SEVERAL = 2


def read_sb2(path: Path, options: ColumnOptions, label: str) -> EpisodeRows:
    """
    The file does not say what ended an episode: ``done`` of its day was 1 at a time limit too.

    :param path: the file
    :param options: ``terminals``: True if no episode ended by a time limit, False if all did. Default: the longest ones, if
        several have one length, ended by the clock, with a warning
    :param label: what it is called
    :return: its episodes
    """
    options.check_used(label, ("terminals",))
    with np.load(path, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in ("obs", "actions", "rewards", "episode_starts")}
    n_rows = len(arrays["actions"])
    for key, array in arrays.items():
        if len(array) != n_rows:
            raise ValueError(f"{label}: {key} has {len(array)} rows, but there are {n_rows} actions.")
    if n_rows == 0:
        raise ValueError(f"{label} is empty: it has no rows to learn from.")
    if isinstance(options.terminals, str):
        raise ValueError(f"{label}: terminals= is True or False here: there is no column of them.")
    first = one_a_row(arrays["episode_starts"], f"{label}: episode_starts") > 0
    first[0] = True
    starts = np.flatnonzero(first)
    terminals = np.zeros(n_rows, dtype=bool)
    terminals[np.append(starts[1:], n_rows) - 1] = _ended_by_itself(np.diff(np.append(starts, n_rows)), options, label)
    return EpisodeRows(
        observations=arrays["obs"],
        actions=arrays["actions"],
        rewards=one_a_row(arrays["rewards"], f"{label}: rewards"),
        terminals=terminals,
        starts=starts,
    )


def _ended_by_itself(lengths: np.ndarray, options: ColumnOptions, label: str) -> np.ndarray:
    if options.terminals is not None:
        return np.full(len(lengths), options.terminals)
    longest = lengths == lengths.max()
    by_clock = longest if longest.sum() >= _SEVERAL else np.zeros(len(lengths), dtype=bool)
    told = (
        f"the {longest.sum()} longest, of {lengths.max()} steps each, are taken for cut off by a time limit, all others"
        if by_clock.any()
        else "all of them are taken"
    )
    warnings.warn(
        f"{label}: nothing says what ended its {len(lengths)} episodes: {told} for ended by the environment; "
        "terminals=True or False says otherwise.",
        stacklevel=2,
    )
    return ~by_clock
