"""
From Q to the value of a policy, the behaviour's, and the difference of the two, episode by episode.
"""

from typing import NamedTuple

import numpy as np

from sb3_genpolicy.evaluation.fitted_q import FittedQ
from sb3_genpolicy.evaluation.question import Question


class EpisodeValues(NamedTuple):
    """
    By each network, of each episode, (n_members, n_episodes).

    :param behaviour: what was earned, and what would have been where an episode was cut off
    :param difference: what the policy earns beyond that, as the sum of ``V(s) - Q(s, a)`` over the episode's steps
        (Kakade and Langford, 2002), V and Q of the policy. Of a policy that acts as the behaviour does it is 0 in the mean,
        whatever Q is, and of any other it is that from the initial states without the chance that is in returns.
    :param initial: V of the initial state, the usual estimate of fitted Q evaluation
    """

    behaviour: np.ndarray
    difference: np.ndarray
    initial: np.ndarray

    @property
    def policy(self) -> np.ndarray:
        return self.behaviour + self.difference

    @property
    def gap(self) -> float:
        """How far the usual estimate is from :attr:`policy`, in the mean: what Bellman errors along episodes sum up to."""
        return float(abs(self.initial.mean() - self.policy.mean()))


def episode_values(ask: Question, fitted: FittedQ, kind: int) -> EpisodeValues:
    """
    :param ask: what is asked
    :param fitted: what was learnt
    :param kind: discounted or total
    :return: the values
    """
    q, v = (array[kind].astype(np.float64) for array in (fitted.q, fitted.v))
    advantages = v[:, : ask.data.n_rows] - q
    tails = fitted.behaviour_tails[kind]
    last, discounts, is_open = ask.last_rows, ask.discounts(kind), ask.is_open(kind)
    # From the last row of an episode that is open the two go apart: there the behaviour's own value takes over
    advantages[:, last[is_open]] = v[:, last[is_open]] - tails[:, is_open]
    rewards = ask.rewards.copy()
    rewards[last[is_open]] = 0.0
    behaviour = ask.sums(discounts * rewards) + discounts[last] * tails
    return EpisodeValues(behaviour, ask.sums(discounts * advantages), v[:, ask.starts[:-1]])
