"""
Returns of a dataset's steps until their episode ends.
"""

from typing import NamedTuple

import numpy as np

from sb3_genpolicy.common.transitions.transitions import Transitions


class ReturnsToGo(NamedTuple):
    """
    What followed some rows, (n_rows,) each.

    :param rewards: discounted sum of the rewards from the row to its episode's end
    :param last_rows: the last row of the episode, or the first terminal one
    :param discounts: of the value of what the last row led to; 0 where that was terminal
    """

    rewards: np.ndarray
    last_rows: np.ndarray
    discounts: np.ndarray


def returns_to_go(data: Transitions, rewards: np.ndarray, rows: np.ndarray, gamma: float) -> ReturnsToGo:
    """
    :param data: the dataset
    :param rewards: (n_rows of the dataset,), transformed
    :param rows: indices of the rows that are asked for, (n_rows,)
    :param gamma: discount factor
    :return: their returns
    """
    ends = np.flatnonzero(data.ends | (np.asarray(data.terminals) > 0))
    last = ends[np.searchsorted(ends, rows)]
    total, discounts = np.zeros(len(rows)), np.ones(len(rows))
    # All rows go on by a step at a time, those that have arrived drop out
    at, going = rows.copy(), np.arange(len(rows))
    while len(going):
        total[going] += discounts[going] * rewards[at[going]]
        discounts[going] *= gamma
        going = going[at[going] < last[going]]
        at[going] += 1
    return ReturnsToGo(total, last, discounts * (1.0 - np.asarray(data.terminals)[last]))
