"""
Returns of a dataset's steps until their episode ends.
"""

from typing import NamedTuple

import numpy as np

from sb3_genpolicy.common.transitions.transitions import Transitions


class ReturnsToGo(NamedTuple):
    """
    What follows rows until their episode ends, (n_rows,) each.

    :param rewards: discounted sum of the rewards from the row on, float64
    :param last_rows: the last row of the episode, or the first terminal one
    :param steps_left: number of steps, the row's own included
    :param discounts: of the value of what the last row led to; 0 where that was terminal
    """

    rewards: np.ndarray
    last_rows: np.ndarray
    steps_left: np.ndarray
    discounts: np.ndarray


def returns_to_go(data: Transitions, rewards: np.ndarray, gamma: float) -> ReturnsToGo:
    """
    :param data: the dataset
    :param rewards: (n_rows,), transformed
    :param gamma: discount factor, in [0, 1]
    :return: the returns of all rows
    """
    terminals = np.asarray(data.terminals) > 0
    ends = np.flatnonzero(np.asarray(data.ends) | terminals)
    lengths = np.diff(ends, prepend=-1)
    last_rows = np.repeat(ends, lengths)
    steps_left = last_rows - np.arange(data.n_rows) + 1
    total = rewards.astype(np.float64)
    # Backwards, the rows of all episodes that are equally far from their end at once
    by_length = np.argsort(-lengths, kind="stable")
    longest_first, lengths = ends[by_length], lengths[by_length]
    for steps in range(1, int(lengths[0])):
        n_going = np.searchsorted(-lengths, -steps)
        rows = longest_first[:n_going] - steps
        total[rows] += gamma * total[rows + 1]
    return ReturnsToGo(total, last_rows, steps_left, gamma**steps_left * (1.0 - terminals[last_rows]))


# Steps that a critic looks ahead where every reward tells something
_LEAST_HORIZON = 10.0
# Kurtosis of rewards that are dense: a normal distribution's is 3, those of running robots go up to 9
_DENSE = 10.0


def horizon_of(rewards: np.ndarray) -> float:
    """
    How far critics have to look ahead: ten steps where rewards are dense, and longer as far as what rewards tell is
    concentrated in few steps, by their kurtosis about the median (mean fourth power of deviations, divided by the square of
    the mean second power; 1 / p for rewards of which a small share p differs from all others).

    What lies further ahead is mostly noise to a critic: an action of today decides little of it, and chance much
    (docs/guide/critics.md).

    :param rewards: of all steps, (n_rows,)
    :return: steps; infinite where all rewards are equal
    """
    squares = np.square(rewards - np.median(rewards), dtype=np.float64)
    largest = squares.max()
    if largest == 0.0:
        return float("inf")
    # No overflow, whatever the unit
    squares /= largest
    kurtosis = np.square(squares).mean() / squares.mean() ** 2
    return _LEAST_HORIZON * max(1.0, float(kurtosis) / _DENSE)
