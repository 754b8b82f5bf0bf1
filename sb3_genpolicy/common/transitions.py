"""
The one record that every source of data becomes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

Arrays = np.ndarray | dict[str, np.ndarray]

KEYS = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")


@dataclass(frozen=True, eq=False)
class Transitions(Mapping[str, Any]):
    """
    Logged transitions, episode after episode, as float32 arrays (images keep their uint8).
    It reads like a mapping too: ``transitions["rewards"]``, as D4RL's ``env.get_dataset()`` does.

    :param observations: (n_rows, \\*observation_shape), or a dictionary of such arrays
    :param actions: (n_rows, \\*action_shape), in the environment's units
    :param rewards: (n_rows,)
    :param next_observations: what the step led to, before any reset; shaped like ``observations``
    :param terminals: (n_rows,), 1 where the environment ended the episode: nothing is earned afterwards
    :param timeouts: (n_rows,), 1 where the episode was cut off: the value of the next observation still counts.
        An episode ends where either flag is set; the last row always ends one.
    :param observation_space: space of the observations
    :param action_space: space of the actions, bounded
    :param name: the name that the data can be loaded by again, if any
    :param env_id: the id of the environment that it came from, if known
    :param reference_scores: returns that count as normalised scores of 0 and 100, if known
    """

    observations: Arrays
    actions: np.ndarray
    rewards: np.ndarray
    next_observations: Arrays
    terminals: np.ndarray
    timeouts: np.ndarray
    observation_space: spaces.Space
    action_space: spaces.Box
    name: str | None = None
    env_id: str | None = None
    reference_scores: tuple[float, float] | None = None

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
        return len(self.rewards)

    @property
    def episode_starts(self) -> np.ndarray:
        """
        :return: (n_episodes + 1,), the first row of every episode, and the number of rows last
        """
        ends = np.flatnonzero((self.terminals + self.timeouts) > 0) + 1
        return np.concatenate([[0], ends])

    @property
    def n_episodes(self) -> int:
        return len(self.episode_starts) - 1

    def episode_returns(self) -> np.ndarray:
        """
        :return: (n_episodes,), the undiscounted return of every episode
        """
        return np.add.reduceat(self.rewards.astype(np.float64), self.episode_starts[:-1])

    def where(self, row: int) -> str:
        """
        :param row: a row of the record
        :return: the row in words: its number, its episode and its step within, all counted from 0
        """
        episode = int(np.searchsorted(self.episode_starts, row, side="right")) - 1
        return f"row {row} (episode {episode}, step {row - self.episode_starts[episode]})"

    def describe(self) -> str:
        """
        :return: name, size and returns in one line
        """
        returns = self.episode_returns()
        size = f"{self.n_rows} steps, {self.n_episodes} episodes"
        name = f"'{self.name}'" if self.name else "without a name"
        return f"Dataset {name}: {size}, return {returns.mean():.1f} +/- {returns.std():.1f}"


def normalized_score(returns: Any, reference_scores: tuple[float, float]) -> Any:
    """
    D4RL's score of a return: 0 for the lower reference (a random policy), 100 for the upper one (an expert).

    :param returns: one return, or an array of them
    :param reference_scores: the returns that count as 0 and 100
    :return: the score(s). The spread of returns scales likewise, without the shift: ``100 * std / (high - low)``.
    """
    low, high = reference_scores
    return 100.0 * (returns - low) / (high - low)
