"""
What a value may lose where the policy does what hardly anybody did.

Networks know nothing of such actions and give them values like those of their neighbours: a policy that falls at once is then
worth what the behaviour is. Logged data cannot tell whether leaving them is harmless. So the least that a value may be is
given beside it: as if the policy, from the first such action on, earned in every step what the worst of the logged steps did
(pessimism as in MOReL, Kidambi et al., arXiv 2005.05951).
"""

from typing import NamedTuple

import numpy as np

from sb3_genpolicy.evaluation.question import DISCOUNTED, Question

# Of the logged rewards, the quantile that counts as the worst: the least one may be a single accident
_WORST = 0.05


class Caution(NamedTuple):
    """
    :param beyond: share of the value that is earned after the first action where hardly any were logged, in [0, 1]
    :param shortfall: what the value loses if the worst that was logged is earned in its place, >= 0
    """

    beyond: float
    shortfall: float


def caution(ask: Question, leaving: float, kind: int, value: float) -> Caution:
    """
    :param ask: what is asked
    :param leaving: the probability that the policy leaves the data in a step
    :param kind: discounted or total
    :param value: of the policy
    :return: the share of its value that is beyond them, and what that may cost
    """
    gamma = ask.gamma
    worst = float(np.quantile(ask.rewards, _WORST))
    if ask.terminals.any():
        # Nothing is earned after the end
        worst = min(worst, 0.0)
    if kind == DISCOUNTED:
        beyond = gamma * leaving / (1.0 - gamma * (1.0 - leaving))
        steps = 1.0 / (1.0 - gamma)
    else:
        steps = float(ask.is_counted.sum() / ask.data.n_episodes)
        beyond = 1.0 - (1.0 - (1.0 - leaving) ** steps) / (steps * leaving) if leaving > 0.0 else 0.0
    return Caution(beyond, beyond * max(0.0, value - worst * steps))
