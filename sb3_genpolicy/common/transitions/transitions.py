"""
The one record that every source of data becomes.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_genpolicy.common.utils import tree_items, tree_map
from sb3_genpolicy.generative.checks import shown

Arrays = np.ndarray | dict[str, np.ndarray]

KEYS = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")


@dataclass(frozen=True, eq=False)
class Transitions(Mapping[str, Any]):
    """
    Logged transitions, episode after episode, as float32 arrays (images keep their uint8, and observations that float32 would
    merge are float64). Where a step leads to the observation of the row after it, that observation is stored once.

    It reads like a mapping too: ``transitions["rewards"]``, as D4RL's ``env.get_dataset()`` does.

    :param states: (n_rows + n_extra, \\*observation_shape), or a dictionary of such arrays: the observation of every row, then
        those that steps led to and that are no row's own, as the last observation of every episode
    :param next_rows: (n_rows,), which of ``states`` the step led to
    :param actions: (n_rows, \\*action_shape), in the environment's units
    :param rewards: (n_rows,)
    :param terminals: (n_rows,), 1 where nothing is earned afterwards: the environment ended the episode, or a goal was reached
        and the trajectory goes on
    :param timeouts: (n_rows,), 1 where the episode was cut off: the value of the next observation still counts
    :param observation_space: space of the observations
    :param action_space: space of the actions, bounded
    :param name: the name that the data can be loaded by again, if any
    :param env_id: the id of the environment that it came from, if known
    :param reference_scores: returns that count as normalised scores of 0 and 100, if known
    :param memory_mapped: whether the arrays are files that are read as they are looked at
    :param ends: (n_rows,), True in the last row of every episode. Default: where either flag is set, and in the last row
    :param inferred_cuts: number of ends that no flag of the source names, where a step leads to another observation than the
        next row's
    """

    states: Arrays
    next_rows: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray
    timeouts: np.ndarray
    observation_space: spaces.Space[Any]
    action_space: spaces.Box
    name: str | None = None
    env_id: str | None = None
    reference_scores: tuple[float, float] | None = None
    memory_mapped: bool = False
    ends: np.ndarray = None  # type: ignore[assignment]
    inferred_cuts: int = 0

    def __post_init__(self) -> None:
        if self.ends is None:
            ends = (np.asarray(self.terminals) > 0) | (np.asarray(self.timeouts) > 0)
            ends[-1:] = True
            # The dataclass is frozen
            object.__setattr__(self, "ends", ends)

    def __getitem__(self, key: str) -> Any:
        if key not in KEYS:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(KEYS)

    def __len__(self) -> int:
        """Number of keys, as of any mapping; the number of rows is ``n_rows``."""
        return len(KEYS)

    @property
    def n_rows(self) -> int:
        """Number of rows, which are transitions."""
        return len(self.rewards)

    @property
    def observations(self) -> Any:
        """
        :return: (n_rows, \\*observation_shape) or a dictionary of such arrays: what was seen before the step; no copy
        """
        return tree_map(lambda array: array[: self.n_rows], self.states)

    @property
    def next_observations(self) -> Any:
        """
        :return: (n_rows, \\*observation_shape) or a dictionary of such arrays: what the step led to, before any reset; a copy
        """
        return tree_map(lambda array: array[self.next_rows], self.states)

    @property
    def nbytes(self) -> int:
        """
        :return: bytes of all arrays
        """
        named = [*tree_items(self.states, ""), *((key, getattr(self, key)) for key in ("next_rows", *_FLAT_KEYS))]
        return sum(array.nbytes for _, array in named)

    @property
    def episode_starts(self) -> np.ndarray:
        """
        :return: (n_episodes + 1,), the first row of every episode, and the number of rows last
        """
        return np.concatenate([[0], np.flatnonzero(self.ends) + 1])

    @property
    def n_episodes(self) -> int:
        """Number of episodes, those that were cut off included."""
        return len(self.episode_starts) - 1

    def episode_returns(self) -> np.ndarray:
        """
        :return: (n_episodes,), the undiscounted return of every episode
        """
        return np.add.reduceat(self.rewards, self.episode_starts[:-1], dtype=np.float64)

    def action_extent(self) -> tuple[np.ndarray, np.ndarray]:
        """
        :return: the least and the largest action in each dimension, (action_dim,) each
        """
        least, largest = (np.full(int(np.prod(self.action_space.shape)), sign * np.inf) for sign in (1.0, -1.0))
        for start in range(0, self.n_rows, _CHUNK):
            actions = self.actions[start : start + _CHUNK].reshape(-1, len(least))
            least, largest = np.minimum(least, actions.min(axis=0)), np.maximum(largest, actions.max(axis=0))
        return least, largest

    def rows_of(self, episodes: np.ndarray) -> np.ndarray:
        """
        :param episodes: numbers of episodes, (n_chosen,), or a mask over them, (n_episodes,)
        :return: numbers of all rows of these episodes, (n_found,), in the record's order
        """
        kept = np.zeros(self.n_episodes, dtype=bool)
        kept[episodes] = True
        return np.flatnonzero(np.repeat(kept, np.diff(self.episode_starts)))

    def select_episodes(self, episodes: np.ndarray) -> "Transitions":
        """
        :param episodes: numbers of episodes, (n_chosen,), or a mask over them, (n_episodes,)
        :return: a record of these episodes alone, in memory and without a name
        """
        return self.select_rows(self.rows_of(episodes))

    def select_rows(self, rows: np.ndarray) -> "Transitions":
        """
        Where rows of an episode are left out, those before them are cut off there.

        :param rows: numbers of rows, ascending, (n_chosen,)
        :return: a record of these rows alone, in memory and without a name
        """
        position = np.full(self.n_rows, -1, dtype=np.int64)
        position[rows] = np.arange(len(rows))
        led_to = np.asarray(self.next_rows[rows])
        is_row = led_to < self.n_rows
        next_rows = np.where(is_row, position[np.where(is_row, led_to, 0)], -1)
        # Next observations that are not the observation of any selected row
        extra = next_rows < 0
        next_rows[extra] = len(rows) + np.arange(extra.sum())
        taken = np.concatenate([rows, led_to[extra]])
        flat: dict[str, Any] = {key: np.asarray(getattr(self, key)[rows]) for key in _FLAT_KEYS}
        cut = ~flat["ends"] & (np.append(rows[1:], -1) != rows + 1)
        flat["ends"] = flat["ends"] | cut
        flat["timeouts"] = np.where(cut & (flat["terminals"] == 0), np.float32(1.0), flat["timeouts"])
        return replace(
            self,
            states=tree_map(lambda array: array[taken], self.states),
            next_rows=next_rows,
            **flat,
            inferred_cuts=min(self.inferred_cuts, int(flat["ends"].sum())),
            name=None,
            memory_mapped=False,
        )

    def where(self, row: int) -> str:
        """
        :param row: number of a row of the record, from 0
        :return: the row in words: its number, its episode and its step within, all counted from 0
        """
        return where(row, self.episode_starts)

    def describe(self) -> str:
        """
        :return: name, size and returns in one line
        """
        returns = self.episode_returns()
        size = f"{self.n_rows} steps, {self.n_episodes} episodes"
        name = f"'{self.name}'" if self.name else "without a name"
        return f"Dataset {name}: {size}, return {returns.mean():.1f} +/- {returns.std():.1f}"


_FLAT_KEYS = ("actions", "rewards", "terminals", "timeouts", "ends")
# A truncated episode of no more steps than that is taken for a fragment: rows torn from their episode
_FRAGMENT = 2
# Rows at a time when something is computed over all of them
_CHUNK = 2**16


def where(row: int, episode_starts: np.ndarray) -> str:
    """
    :param row: a row
    :param episode_starts: the first row of every episode, ascending
    :return: the row in words: its number, its episode and its step within, all counted from 0
    """
    episode = int(np.searchsorted(episode_starts, row, side="right")) - 1
    return f"row {row} (episode {episode}, step {row - episode_starts[episode]})"


def count_fragments(data: Transitions) -> int:
    """
    :param data: a record
    :return: the number of fragments, as left by shuffled transitions: very short truncated episodes if they hold most of the
        rows, else inferred cuts if most ends of episodes were inferred; else 0
    """
    starts = data.episode_starts
    lengths = np.diff(starts)
    short = (lengths <= _FRAGMENT) & (np.asarray(data.terminals[starts[1:] - 1]) == 0)
    if 2 * int(lengths[short].sum()) > data.n_rows:
        return int(short.sum())
    return data.inferred_cuts if 2 * data.inferred_cuts > data.n_episodes else 0


def label_of(data: Transitions) -> str:
    """
    :param data: a record
    :return: what it is called in messages
    """
    return f"Dataset '{data.name}'" if data.name else "The dataset"


def normalized_score(returns: Any, reference_scores: tuple[float, float]) -> Any:
    """
    D4RL's score of a return: 0 for the lower reference (a random policy), 100 for the upper one (an expert).

    :param returns: one return, or an array of them
    :param reference_scores: the returns that count as 0 and 100
    :return: the score(s). The spread of returns scales likewise, without the shift: ``100 * std / (high - low)``.
    :raises ValueError: if the references are not two finite numbers, the second above the first
    """
    low, high = check_reference_scores(reference_scores)
    return 100.0 * (returns - low) / (high - low)


def check_reference_scores(reference_scores: Any, label: str = "reference_scores") -> tuple[float, float]:
    """
    :param reference_scores: the returns that count as 0 and 100: a tuple, or a list or array, as files have them
    :param label: what they are called in the message
    :return: the same as a tuple of floats
    :raises ValueError: if they are not two finite numbers, the second above the first: scores would be infinite, or NaN
    """
    values = list(reference_scores) if isinstance(reference_scores, (Sequence, np.ndarray)) else []
    if len(values) != 2 or not all(isinstance(value, Real) and math.isfinite(value) for value in values):
        raise ValueError(
            f"{label} must be two finite numbers, the returns that count as scores of 0 and 100, "
            f"not {shown(reference_scores)}."
        )
    low, high = map(float, values)
    if not low < high:
        raise ValueError(
            f"{label}: the return that counts as a score of 100 must lie above that of 0, and {high:.6g} does not lie above "
            f"{low:.6g}."
        )
    return low, high
