"""
What a value may lose where the policy does what hardly anybody did.

Networks know nothing of such actions and give them values like those of their neighbours: a policy that falls at once is then
worth what the behaviour is. Logged data cannot tell whether leaving them is harmless. So the least that a value may be is
given beside it: as if the policy, from the first such action on, earned no more than in the worst of the logged states
(pessimism as in MOReL, Kidambi et al., arXiv 2005.05951).
"""

from typing import NamedTuple

import numpy as np

from sb3_genpolicy.evaluation.fitted_q import FittedQ
from sb3_genpolicy.evaluation.question import DISCOUNTED, Question

# Of the values of the logged states, the quantile that counts as the worst: the least one is an error of the networks
_WORST = 0.05


class Caution(NamedTuple):
    """
    :param beyond: share of the value that is earned after the first action where hardly any were logged, in [0, 1]
    :param shortfall: what the value loses if the worst that was logged is earned in its place, >= 0
    """

    beyond: float
    shortfall: float


def caution(ask: Question, fitted: FittedQ, leaving: float, kind: int, value: float) -> Caution:
    """
    :param ask: what is asked
    :param fitted: what was learnt
    :param leaving: the probability that the policy leaves the data in a step
    :param kind: discounted or total
    :param value: of the policy
    :return: the share of its value that is beyond them, and what that may cost
    """
    gamma, n_rows = ask.gamma, ask.data.n_rows
    worst = float(np.quantile(fitted.v[DISCOUNTED][:, :n_rows].mean(axis=0), _WORST))
    if ask.terminals.any():
        # Nothing is earned after the end
        worst = min(worst, 0.0)
    if kind == DISCOUNTED:
        beyond = gamma * leaving / (1.0 - gamma * (1.0 - leaving))
    else:
        steps = float(ask.is_counted.sum() / ask.data.n_episodes)
        beyond = 1.0 - (1.0 - (1.0 - leaving) ** steps) / (steps * leaving) if leaving > 0.0 else 0.0
        worst *= (1.0 - gamma) * steps
    return Caution(beyond, beyond * max(0.0, value - worst))
