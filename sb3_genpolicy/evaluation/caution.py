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
from sb3_genpolicy.evaluation.question import DISCOUNTED, TOTAL, Question

# Of the values of the logged states, the quantile that counts as the worst: the least one is an error of the networks
_WORST = 0.05


class Caution(NamedTuple):
    """
    :param beyond: share of the value that is earned after the first action where hardly any were logged, in [0, 1]
    :param worst: what would be earned in its place, in the environment's units
    """

    beyond: float
    worst: float

    def shortfall(self, value: float) -> float:
        """
        :param value: of the policy
        :return: what it loses if all that is beyond the data is as bad as the worst that was logged, >= 0
        """
        return self.beyond * max(0.0, value - self.worst)


def caution(ask: Question, fitted: FittedQ, leaving: float, kind: int) -> Caution:
    """
    :param ask: what is asked
    :param fitted: what was learnt
    :param leaving: the probability that the policy leaves the data in a step
    :param kind: discounted or total
    :return: the share of its value that is beyond them, and the worst that was logged
    """
    gamma, n_rows = ask.gamma, ask.data.n_rows
    worst = float(np.quantile(fitted.v[DISCOUNTED][:, :n_rows].mean(axis=0), _WORST))
    if ask.terminals.any():
        # Nothing is earned after the end
        worst = min(worst, 0.0)
    if kind == DISCOUNTED:
        return Caution(gamma * leaving / (1.0 - gamma * (1.0 - leaving)), worst)
    assert kind == TOTAL
    steps = float(ask.is_counted.sum() / ask.data.n_episodes)
    within = (1.0 - (1.0 - leaving) ** steps) / (steps * leaving) if leaving > 0.0 else 1.0
    return Caution(1.0 - within, worst * (1.0 - gamma) * steps)
