"""
Where episodes end, what ended them, and which rows are steps, by the flags of each convention.
"""

import warnings
from typing import NamedTuple

import numpy as np

from sb3_genpolicy.common.datasets.columns import Column
from sb3_genpolicy.common.datasets.names import Columns, slip_of


class Flags(NamedTuple):
    """
    What is known of every row of a source, (n_file_rows,) each.

    :param terminals: whether the step is terminal: what follows has the value 0
    :param timeouts: whether the episode was cut off after this step
    :param ends: whether an episode ends with this step
    :param kept: whether the row is a step; others only hold the observation that the step before led to
    :param followed: whether the next row holds the observation that this step led to, where successors are not given apart
    """

    terminals: np.ndarray
    timeouts: np.ndarray
    ends: np.ndarray
    kept: np.ndarray
    followed: np.ndarray

    @property
    def episode_starts(self) -> np.ndarray:
        """
        :return: the first row of every episode, rows that are no steps counted in
        """
        next_is_step = np.append(self.kept[1:], True)
        ends = ~self.kept | (self.ends & next_is_step)
        return np.concatenate([[0], np.flatnonzero(ends) + 1])


def read_flags(columns: Columns, label: str) -> Flags:
    """
    :param columns: of a source
    :param label: what the source is called, for messages
    :return: its flags. ``masks`` are 0 at terminal steps; all other flags say where episodes end, and without them ``masks``
        do that too. Without ``next_observations``, the last row of an episode may be no step, but only the last observation:
        in OGBench's layout (``valids``, or ``masks`` and no ``timeouts``) always, elsewhere if the episode was truncated.
    :raises ValueError: if flags are no flags, or do not say where episodes were cut off
    """
    keys: tuple[str, ...] = ("terminals", "timeouts", "dones", "masks")
    given = {key: _read_flag(columns[key], key, label) for key in keys if key in columns}
    nothing = np.zeros(columns["actions"].shape[0], dtype=bool)
    idle = "masks" in given and given["masks"].all() and _says_nothing(columns, given)
    compact = "next_observations" not in columns and "timeouts" not in given and "masks" in given and not idle
    if "valids" in columns or compact:
        return _flags_of_trajectories(columns, given, label)
    cut = given.get("timeouts", nothing)
    if idle:
        warnings.warn(
            f"{label}: '{columns.sources['masks']}' is nowhere 0 though steps are flagged as terminal: it is taken for a "
            "discount factor or for padding, and nothing is counted as earned after terminal steps.",
            stacklevel=2,
        )
        del given["masks"]
    if "masks" in given:
        terminals = ~given["masks"]
    elif "terminals" in given:
        terminals = given["terminals"]
        if terminals[cut].all():
            warn_of_both(int(cut.sum()), label)
    else:
        terminals = given["dones"] & ~cut
    ended = given.get("terminals", nothing) | given.get("dones", nothing)
    if not ended.any():
        # Without other flags, episodes that were not truncated end at terminal steps
        ended = terminals
    ends = ended | cut
    ends[columns.part_ends] = ends[columns.stream_ends] = ends[-1] = True
    if "next_observations" in columns:
        return Flags(terminals, cut | (ends & ~terminals), ends, ~nothing, nothing)
    if not given.keys() & {"timeouts", "dones", "masks"}:
        raise ValueError(
            f"{label} has neither 'next_observations' nor 'timeouts', so that nobody can say where episodes were cut off: add "
            f"'timeouts' (zeros if every episode ended by itself).{slip_of(columns, 'timeouts', 'next_observations')}"
        )
    # The next observation of a truncated episode's last row is not in the file: that row only holds the last observation
    kept = ~(ends & ~terminals)
    followed = kept & ~ends
    before_last = followed & np.append(~kept[1:], False)
    return Flags(terminals, (cut & terminals) | (before_last & ~terminals), (ends & kept) | before_last, kept, followed)


def warn_of_both(n_rows: int, label: str) -> None:
    """
    :param n_rows: number of rows that are flagged as cut off, each of which is flagged as terminal too
    :param label: what the source is called, for messages
    """
    if n_rows:
        warnings.warn(
            f"{label}: all {n_rows} steps that are flagged in 'timeouts' are flagged in 'terminals' too: they are taken for "
            "ends after which nothing is earned; where the time was up, unflag them in 'terminals', or call these 'dones'.",
            stacklevel=2,
        )


def _says_nothing(columns: Columns, given: dict[str, np.ndarray]) -> bool:
    """
    Whether masks that are nowhere 0 are to be ignored. In OGBench they are right: no trajectory succeeded, and ``terminals``
    mark where trajectories end. But if the source flags time limits too, or the masks are a discount, its terminals are real.
    """
    ended = given.get("terminals", given.get("dones"))
    if ended is None or not ("timeouts" in given or columns.sources["masks"].startswith("discount")):
        return False
    return bool((ended & ~given.get("timeouts", np.zeros_like(ended))).any())


def _flags_of_trajectories(columns: Columns, given: dict[str, np.ndarray], label: str) -> Flags:
    """OGBench's layout: every trajectory ends with a row that is no step, marked by ``terminals`` or by ``valids`` 0."""
    given_ends = given.get("terminals", given.get("dones"))
    final = ~_read_flag(columns["valids"], "valids", label) if "valids" in columns else given_ends
    if final is None:
        raise ValueError(f"{label} has neither 'next_observations' nor 'terminals' that say where its trajectories end.")
    final = final.copy()
    told = final.any()
    final[columns.part_ends] = final[-1] = True
    empty = np.flatnonzero(final & np.insert(final[:-1], 0, True))
    if len(empty):
        episode = int(final[: empty[0]].sum())
        raise ValueError(f"{label}: episode {episode} has no steps, only the observation of row {empty[0]}: remove it.")
    kept = ~final
    terminals = kept & ~given["masks"] if "masks" in given else np.zeros_like(kept)
    last = kept & np.append(final[1:], False)
    # Where nothing else says where episodes end, `masks` do
    ends = last if told else last | terminals
    return Flags(terminals, last & ~terminals, ends, kept, kept)


def _read_flag(column: Column, key: str, label: str) -> np.ndarray:
    if int(np.prod(column.shape, dtype=np.int64)) != column.shape[0]:
        raise ValueError(f"{label}: '{key}' has shape {column.shape}; it needs one number for each step.")
    flags = np.zeros(column.shape[0], dtype=bool)
    start = 0
    for chunk in column.chunks():
        values = chunk.reshape(-1)
        # A discount between 0 and 1 does not end the episode
        wrong = ~((values >= 0) & (values <= 1)) if key == "masks" else (values != 0) & (values != 1)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(f"{label}: '{key}' is {values[row]} at row {start + row}; it has to be 0 or 1.")
        flags[start : start + len(values)] = values > 0
        start += len(values)
    return flags
