"""
Importance sampling: logged rewards, weighted by how much more often the policy would have acted so.

Weights are products over an episode's steps, of exact densities. Beyond few steps, or policies that are near the behaviour,
one episode has all the weight: the effective sample size says so.
"""

from typing import NamedTuple

import numpy as np

from sb3_genpolicy.evaluation.question import Question


class Weighted(NamedTuple):
    """
    :param value: the estimate
    :param error: its standard error
    """

    value: float
    error: float


class Weights(NamedTuple):
    """
    Step by step, (n_episodes, n_steps); behind an episode's end its last weight, and rewards of 0.

    :param ratios: the product of the density ratios up to a step, its own included
    :param discounts: of the steps, 0 behind an episode's end
    """

    ratios: np.ndarray
    discounts: np.ndarray

    @property
    def before(self) -> np.ndarray:
        """The product of the ratios of the steps before, (n_episodes, n_steps)."""
        return np.concatenate([np.ones((len(self.ratios), 1)), self.ratios[:, :-1]], axis=1)

    @property
    def effective_size(self) -> float:
        """Kish's number of episodes that have a say, in the discounted mean over the steps."""
        ratios = self.ratios / np.maximum(self.ratios.max(axis=0), np.finfo(float).tiny)
        of_steps = ratios.sum(axis=0) ** 2 / np.maximum((ratios**2).sum(axis=0), np.finfo(float).tiny)
        of_steps = np.where(self.ratios.max(axis=0) > 0.0, of_steps, 0.0)
        share = self.discounts.max(axis=0)
        return float(of_steps @ share / share.sum())

    def of(self, episodes: np.ndarray) -> "Weights":
        """
        :param episodes: numbers of episodes
        :return: the weights of these alone
        """
        return Weights(self.ratios[episodes], self.discounts[episodes])

    def normalised(self) -> "Weights":
        """The same, each step's divided by their mean."""
        return self._replace(ratios=_normalised(self.ratios))


def step_weights(ask: Question, log_ratios: np.ndarray, gamma: float) -> Weights:
    """
    :param ask: what is asked
    :param log_ratios: logarithm of the policy's density of the logged action, divided by the behaviour's, (n_rows,)
    :param gamma: discount factor, 1 for the total
    :return: weights of every step
    """
    ratios = np.exp(np.cumsum(by_step(ask, np.where(ask.is_counted, log_ratios, 0.0)), axis=1).clip(-700.0, 700.0))
    counts = by_step(ask, ask.is_counted.astype(np.float64))
    return Weights(ratios, counts * gamma ** np.arange(counts.shape[1]))


def by_step(ask: Question, values: np.ndarray) -> np.ndarray:
    """
    :param ask: what is asked
    :param values: (n_rows,)
    :return: (n_episodes, n_steps), 0 behind an episode's end
    """
    padded = np.zeros((len(ask.starts) - 1, int(ask.steps.max()) + 1))
    padded[ask.episodes, ask.steps] = values
    return padded


def per_decision(weights: Weights, rewards: np.ndarray) -> Weighted:
    """
    Per-decision importance sampling (Precup et al., 2000): unbiased.

    :param weights: of the steps
    :param rewards: of the steps, (n_episodes, n_steps)
    :return: the estimate
    """
    return _mean_of((weights.discounts * weights.ratios * rewards).sum(axis=1))


def weighted_per_decision(weights: Weights, rewards: np.ndarray) -> Weighted:
    """
    The same with weights that are divided by their mean in every step: consistent, and of a smaller variance.

    :param weights: of the steps
    :param rewards: of the steps, (n_episodes, n_steps)
    :return: the estimate; its standard error is that of its linear part
    """
    own = weights.normalised()
    discounts = own.discounts.max(axis=0)
    means = (own.ratios * rewards).mean(axis=0)
    value = float(discounts @ means)
    influence = (own.ratios * (rewards - means)) @ discounts
    return Weighted(value, _mean_of(influence).error)


def doubly_robust(
    weights: Weights, rewards: np.ndarray, q: np.ndarray, v: np.ndarray, v_last: np.ndarray, normalise: bool
) -> Weighted:
    """
    The doubly robust estimate (Jiang and Li, 2016): unbiased by the weights where Q is wrong, and of little variance where it
    is right.

    :param weights: of the steps
    :param rewards: of the steps, (n_episodes, n_steps)
    :param q: Q of the logged actions, (n_episodes, n_steps), 0 behind an episode's end
    :param v: V of the states, (n_episodes, n_steps), 0 behind an episode's end
    :param v_last: of what an episode was cut off with, discounted from its last step on, 0 where it ended, (n_episodes,)
    :param normalise: whether weights are divided by their mean (Thomas and Brunskill, 2016)
    :return: the estimate
    """
    ratios, before = weights.ratios, weights.before
    if normalise:
        ratios, before = _normalised(ratios), _normalised(before)
    terms = weights.discounts * (ratios * (rewards - q) + before * v)
    last = (weights.discounts > 0.0).sum(axis=1) - 1
    episodes = np.arange(len(last))
    tails = weights.discounts[episodes, last] * ratios[episodes, last] * v_last
    return _mean_of(terms.sum(axis=1) + tails)


def _normalised(ratios: np.ndarray) -> np.ndarray:
    return ratios / np.maximum(ratios.mean(axis=0), np.finfo(float).tiny)


def _mean_of(of_episodes: np.ndarray) -> Weighted:
    n = len(of_episodes)
    error = float(of_episodes.std(ddof=1) / np.sqrt(n)) if n > 1 else float("inf")
    return Weighted(float(of_episodes.mean()), error)
