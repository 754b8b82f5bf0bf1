"""
How well values rank actions within a state, beside what a perfect critic would get from returns as noisy as the measured ones.

A perfect critic knows the mean return of every action. What it is scored against is a mean over a few rollouts, so that it
cannot reach a correlation of 1 either. Its ceiling comes from halves of the rollouts: where the returns of one half say little
about those of the other, there is little to be known.
"""

from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from benchmarks.critics.estimates import Estimate, correlation, jackknife, quotient

# At most so many ways of halving the rollouts are averaged over
_HALVINGS = 10

AGGREGATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "minimum": lambda members: members.min(axis=0),
    "mean": lambda members: members.mean(axis=0),
}


def discounted(rewards: np.ndarray, lengths: np.ndarray, gamma: float, transform: Callable | None = None) -> np.ndarray:
    """
    :param rewards: of each step, (..., steps)
    :param lengths: steps until the episode terminated, (...)
    :param gamma: discount factor
    :param transform: function of an array of rewards, as a model applies it before it learns from them
    :return: discounted returns, (...)
    """
    steps = np.arange(rewards.shape[-1])
    if transform is not None:
        # Nothing is earned after an episode terminated, even where rewards are shifted
        rewards = np.where(steps < lengths[..., None], np.asarray(transform(rewards.reshape(-1))).reshape(rewards.shape), 0.0)
    return np.asarray(rewards, dtype=np.float64) @ gamma**steps


def within(values: np.ndarray) -> np.ndarray:
    """
    :param values: (..., actions)
    :return: deviations from the mean over actions
    """
    return values - values.mean(axis=-1, keepdims=True)


def halves(returns: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """
    :param returns: (states, actions, rollouts)
    :return: for several halvings of the rollouts the mean returns of both halves, (states, actions) each
    """
    n_rollouts = returns.shape[-1]
    if n_rollouts < 2:
        raise ValueError(f"A ceiling needs two rollouts or more of each action, and there is {n_rollouts}.")
    size = n_rollouts // 2
    every = [
        (one, other)
        for one in combinations(range(n_rollouts), size)
        for other in combinations(sorted(set(range(n_rollouts)) - set(one)), size)
        if one[0] < other[0]
    ]
    chosen = every[:: -(-len(every) // _HALVINGS)]
    return [(returns[..., list(one)].mean(axis=-1), returns[..., list(other)].mean(axis=-1)) for one, other in chosen]


def lengthened(correlation: np.ndarray, factor: float) -> np.ndarray:
    """
    Spearman-Brown: the reliability of a mean over more rollouts.

    :param correlation: between means over disjoint rollouts
    :param factor: how many times as many rollouts there are
    :return: the correlation between two means over so many; nothing below 0
    """
    correlation = np.clip(correlation, 0.0, None)
    return factor * correlation / (1.0 + (factor - 1.0) * correlation)


def _products(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each state the products of deviations that a correlation within states is made of, (states, 3)."""
    one, other = within(one), within(other)
    return np.stack([(one * other).mean(axis=-1), np.square(one).mean(axis=-1), np.square(other).mean(axis=-1)], axis=-1)


def rank_correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """
    :param one: (states, actions)
    :param other: (states, actions)
    :return: Spearman's correlation in each state, 0 where all values are the same, (states,)
    """
    return np.nan_to_num(quotient(_products(rankdata(one, axis=-1), rankdata(other, axis=-1))))


class Correlation(NamedTuple):
    """
    :param value: the critic's correlation
    :param ceiling: a perfect critic's
    :param share: one divided by the other: the correlation with returns without noise
    """

    value: Estimate
    ceiling: Estimate
    share: Estimate


def correlation_within(q: np.ndarray, returns: np.ndarray) -> Correlation:
    """
    Correlation of deviations from each state's mean, over all states together: states in which actions differ more count more.

    :param q: (states, actions)
    :param returns: (states, actions, rollouts)
    :return: the correlation
    """
    halved = np.mean([_products(*both) for both in halves(returns)], axis=0)
    columns = np.concatenate([_products(q, returns.mean(axis=-1)), halved], axis=1)
    factor = returns.shape[-1] / (returns.shape[-1] // 2)

    def ceiling(means: np.ndarray) -> np.ndarray:
        return np.sqrt(lengthened(quotient(means[..., 3:]), factor))

    def share(means: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return quotient(means[..., :3]) / ceiling(means)

    value = jackknife(columns, lambda means: quotient(means[..., :3]))
    return Correlation(value, jackknife(columns, ceiling), jackknife(columns, share))


class RankCorrelation(NamedTuple):
    """
    :param value: the critic's, Spearman's, mean over states
    :param least: that of one half of the rollouts with the other: a perfect critic gets more
    :param most: a perfect critic gets at most that, and so much only if all states are equally noisy
    """

    value: Estimate
    least: Estimate
    most: Estimate


def rank_correlation(q: np.ndarray, returns: np.ndarray) -> RankCorrelation:
    """
    :param q: (states, actions)
    :param returns: (states, actions, rollouts)
    :return: Spearman's correlation, of each state by itself, and the bounds of its ceiling
    """
    halved = np.mean([rank_correlations(*both) for both in halves(returns)], axis=0)
    columns = np.stack([rank_correlations(q, returns.mean(axis=-1)), halved], axis=1)
    factor = returns.shape[-1] / (returns.shape[-1] // 2)
    return RankCorrelation(
        jackknife(columns, lambda means: means[..., 0]),
        jackknife(columns, lambda means: means[..., 1]),
        jackknife(columns, lambda means: np.sqrt(lengthened(means[..., 1], factor))),
    )


class Gain(NamedTuple):
    """
    :param value: mean return of the critic's favourite minus that of all actions of the state, in standard deviations of the
        true returns within a state
    :param by_returns: the same for the action that was best in one half of the rollouts, by the other half
    :param deviation: that standard deviation, in units of the returns
    """

    value: Estimate
    by_returns: Estimate
    deviation: Estimate


def gain_of_favourite(q: np.ndarray, returns: np.ndarray) -> Gain:
    """
    :param q: (states, actions)
    :param returns: (states, actions, rollouts)
    :return: what choosing the action of largest Q gains
    """
    n_actions = q.shape[-1]
    both = halves(returns)
    # Noise of one half is independent of the other's, so that their products have the variance of true returns for mean
    variances = np.mean([_products(*pair)[:, 0] for pair in both], axis=0) * n_actions / (n_actions - 1)
    pairs = [*both, *(pair[::-1] for pair in both)]
    by_returns = np.mean([_deviation_of_best(one, other) for one, other in pairs], axis=0)
    columns = np.stack([_deviation_of_best(q, returns.mean(axis=-1)), by_returns, variances], axis=1)

    def deviation(means: np.ndarray) -> np.ndarray:
        return np.sqrt(np.where(means[..., 2] > 0, means[..., 2], np.nan))

    return Gain(
        jackknife(columns, lambda means: means[..., 0] / deviation(means)),
        jackknife(columns, lambda means: means[..., 1] / deviation(means)),
        jackknife(columns, deviation),
    )


def _deviation_of_best(by: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.take_along_axis(within(values), by.argmax(axis=-1)[:, None], axis=-1)[:, 0]


def correlation_across(q: np.ndarray, returns: np.ndarray) -> Estimate:
    """
    :param q: (states, actions)
    :param returns: (states, actions, rollouts)
    :return: correlation of the means of states
    """
    return correlation(q.mean(axis=-1), returns.mean(axis=(-1, -2)))


def overestimation(q: np.ndarray, long_returns: np.ndarray) -> Estimate:
    """
    :param q: (states,)
    :param long_returns: of so many steps that hardly anything is discounted away, (states, rollouts)
    :return: mean of Q minus return
    """
    return jackknife((q - long_returns.mean(axis=-1))[:, None], lambda means: means[..., 0])


class Disagreement(NamedTuple):
    """
    :param members: standard deviation between members, of an action's advantage over its state's mean
    :param actions: standard deviation over the actions of a state, of the members' mean
    """

    members: Estimate
    actions: Estimate


def disagreement(members: np.ndarray) -> Disagreement:
    """
    :param members: Q of each member, (members, states, actions)
    :return: how far members are apart, beside how far actions are apart
    """
    n_actions = members.shape[-1]
    advantages = within(members)
    # One member agrees with itself
    apart = advantages.var(axis=0, ddof=min(1, len(members) - 1)).mean(axis=-1)
    columns = np.stack([apart, np.square(advantages.mean(axis=0)).mean(axis=-1)], axis=1) * n_actions / (n_actions - 1)
    return Disagreement(
        jackknife(columns, lambda means: np.sqrt(means[..., 0])), jackknife(columns, lambda means: np.sqrt(means[..., 1]))
    )


class Scores(NamedTuple):
    """
    :param within: correlation within states
    :param rank: rank correlation within states
    :param gain: what choosing the action of largest Q gains
    :param across: correlation across states
    :param disagreement: of the members
    """

    within: Correlation
    rank: RankCorrelation
    gain: Gain
    across: Estimate
    disagreement: Disagreement


def score(members: np.ndarray, returns: np.ndarray, aggregation: str = "minimum") -> Scores:
    """
    :param members: Q of each member, (members, states, actions)
    :param returns: measured, (states, actions, rollouts)
    :param aggregation: ``minimum`` or ``mean`` over members
    :return: all scores of the values of the members together
    """
    q = AGGREGATIONS[aggregation](members)
    return Scores(
        correlation_within(q, returns),
        rank_correlation(q, returns),
        gain_of_favourite(q, returns),
        correlation_across(q, returns),
        disagreement(members),
    )
