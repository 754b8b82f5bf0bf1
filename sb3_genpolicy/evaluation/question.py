"""
What is asked: the value of a policy in which episodes, at which discount, up to which time limit.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from sb3_genpolicy.common.transitions.transitions import Transitions, count_fragments, label_of

#: What is asked for: values with a discount, where time limits bootstrap; and without, up to the time limit
DISCOUNTED, TOTAL = 0, 1
# So many episodes that were cut off after the same step, the last one that there is, tell of a time limit
_FEWEST_AT_LIMIT = 3


class Horizon(NamedTuple):
    """
    :param steps: after which every episode ends; None where that is not known
    :param why: what is known of it, or why nothing is, in words
    """

    steps: int | None
    why: str


@dataclass(frozen=True, eq=False)
class Question:
    """
    :param data: the episodes by which a policy is judged, in memory
    :param gamma: discount factor, in [0, 1)
    :param horizon: time limit of the episodes, of which the undiscounted value depends
    """

    data: Transitions
    gamma: float
    horizon: Horizon

    @cached_property
    def starts(self) -> np.ndarray:
        """(n_episodes + 1,), the first row of every episode, and the number of rows last."""
        return self.data.episode_starts

    @cached_property
    def episodes(self) -> np.ndarray:
        """(n_rows,), number of a row's episode."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    @cached_property
    def steps(self) -> np.ndarray:
        """(n_rows,), how many steps of its episode were before a row."""
        return np.arange(self.data.n_rows) - self.starts[:-1][self.episodes]

    @cached_property
    def steps_of_states(self) -> np.ndarray:
        """(n_states,), the same of every observation, those that episodes ended with among them."""
        n_rows = self.data.n_rows
        n_states = len(next(iter(self.data.states.values())) if isinstance(self.data.states, dict) else self.data.states)
        steps = np.zeros(n_states, dtype=np.int64)
        steps[self.data.next_rows] = self.steps + 1
        steps[:n_rows] = self.steps
        return steps

    @cached_property
    def terminals(self) -> np.ndarray:
        """(n_rows,), whether nothing is earned after a row."""
        return np.asarray(self.data.terminals) > 0

    @cached_property
    def is_counted(self) -> np.ndarray:
        """(n_rows,), whether a row comes before its episode's first terminal one, or is that."""
        before = np.cumsum(self.terminals) - self.terminals
        return before == before[self.starts[:-1]][self.episodes]

    @cached_property
    def last_rows(self) -> np.ndarray:
        """(n_episodes,), the last row of every episode that counts."""
        return self.starts[:-1] + np.add.reduceat(self.is_counted.astype(np.int64), self.starts[:-1]) - 1

    @cached_property
    def is_cut(self) -> np.ndarray:
        """(n_episodes,), whether an episode was cut off, so that more would have been earned."""
        return ~self.terminals[self.last_rows]

    @cached_property
    def is_interrupted(self) -> np.ndarray:
        """(n_episodes,), whether it was cut off before the time limit, as by the end of a recording."""
        return self.is_cut & (self.steps[self.last_rows] + 1 < (self.horizon.steps or 0))

    @property
    def n_kinds(self) -> int:
        """1 for discounted values alone, 2 where a time limit is known."""
        return 1 if self.horizon.steps is None else 2

    def is_open(self, kind: int) -> np.ndarray:
        """
        :param kind: discounted or total
        :return: (n_episodes,), whether more would have been earned after the last row that counts
        """
        return self.is_cut if kind == DISCOUNTED else self.is_interrupted

    def gamma_of(self, kind: int) -> float:
        """
        :param kind: discounted or total
        :return: the discount factor
        """
        return self.gamma if kind == DISCOUNTED else 1.0

    def returns_to_go(self, kind: int) -> np.ndarray:
        """
        :param kind: discounted or total
        :return: (n_rows,), rewards from a row on: to the end, or to the last row but one of an episode that is open
        """
        gamma = self.gamma_of(kind)
        total = np.where(self.is_counted, self.rewards, 0.0)
        total[self.last_rows[self.is_open(kind)]] = 0.0
        # Backwards, all episodes at once, by how far rows are from their end
        to_go = self.starts[1:][self.episodes] - 1 - np.arange(len(total))
        order = np.argsort(to_go, kind="stable")
        bounds = np.searchsorted(to_go[order], np.arange(1, int(to_go.max()) + 2))
        for start, end in pairwise(bounds):
            rows = order[start:end]
            total[rows] += gamma * total[rows + 1]
        return total

    @cached_property
    def rewards(self) -> np.ndarray:
        """(n_rows,), as they were logged, float64."""
        return np.asarray(self.data.rewards, dtype=np.float64)

    def discounts(self, kind: int) -> np.ndarray:
        """
        :param kind: discounted or total
        :return: (n_rows,), gamma to the power of the steps before; 0 of rows that do not count
        """
        return np.where(self.is_counted, self.gamma_of(kind) ** self.steps, 0.0)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """
        :param values: (..., n_rows)
        :return: their sum over each episode, (..., n_episodes)
        """
        return np.add.reduceat(values, self.starts[:-1], axis=-1)


def some_of(data: Transitions, episodes: np.ndarray, max_rows: int, seed: int) -> np.ndarray:
    """
    :param data: a dataset
    :param episodes: numbers of episodes that may judge
    :param max_rows: of more rows, so many are taken, in whole episodes that are drawn at random; at least one is
    :param seed: of that draw
    :return: numbers of the episodes that do, ascending
    """
    lengths = np.diff(data.episode_starts)[episodes]
    if lengths.sum() <= max_rows:
        return episodes
    order = np.random.default_rng(seed).permutation(len(episodes))
    n_taken = max(1, int(np.searchsorted(np.cumsum(lengths[order]), max_rows, side="right")))
    return np.sort(episodes[order[:n_taken]])


def find_horizon(data: Transitions) -> Horizon:
    """
    :param data: a dataset
    :return: the time limit that its episodes tell of
    """
    if count_fragments(data):
        return Horizon(None, f"the episodes of {label_of(data)} are torn apart, so that nobody knows how long they were")
    starts = data.episode_starts
    lengths, terminals = np.diff(starts), np.asarray(data.terminals) > 0
    if (terminals & ~np.asarray(data.ends)).any():
        return Horizon(None, "episodes go on behind their goal, and where they would have ended is not known")
    cut = lengths[~terminals[starts[1:] - 1]]
    longest = int(lengths.max())
    if len(cut) == 0:
        return Horizon(longest, f"every episode ended by itself, the longest after {longest} steps")
    n_at_limit = int((cut == longest).sum())
    earlier = cut[cut < longest]
    if len(earlier) == 0 and n_at_limit > 0:
        return Horizon(longest, f"episodes are cut off after {longest} steps")
    if n_at_limit >= _FEWEST_AT_LIMIT and n_at_limit > np.bincount(earlier).max():
        return Horizon(longest, f"episodes are cut off after {longest} steps, {len(earlier)} of them by something else before")
    return Horizon(
        None, f"episodes were cut off after {int(cut.min())} to {longest} steps, so that there is no one time limit"
    )
