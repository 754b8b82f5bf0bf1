"""
Episodes of higher return count for more, so that what is learnt is nearer to the best of those who acted.
"""

import numpy as np

from sb3_genpolicy.common.transitions.initial_values import initial_values
from sb3_genpolicy.common.transitions.transitions import Transitions, count_fragments

# Fewer episodes than that are not worth choosing from: what they have to say of states counts for more
_LEAST_EPISODES = 20.0
# Steps of bisection, far beyond the precision of a float
_BISECTIONS = 80
# Where most rows are of such episodes, critics tell of actions all that there is to be told
_A_STEP_OR_TWO = 2
# Number of dimensions of rows of images
_IMAGES = 4
# Below this share of the returns, differences are rounding
_ROUNDING = 1e-9
# In standard deviations of the returns; beyond it the best episode is drawn alone
_LARGEST_TEMPERATURE = 1e3


def episode_weights(data: Transitions, learnt: np.ndarray, kl: float) -> np.ndarray | None:
    """
    :param data: a dataset
    :param learnt: (n_episodes,), whether an episode is learnt from
    :param kl: divergence of the weighted rows from the rows as they are, in nats
    :return: (n_episodes,), weight of each, 1 in the mean over the rows that are learnt from, 0 for others; None where all are
        to count alike
    """
    episodes = np.flatnonzero(learnt)
    lengths = np.diff(data.episode_starts)[episodes]
    are_steps = 2 * lengths[lengths <= _A_STEP_OR_TWO].sum() > lengths.sum()
    if len(episodes) <= _LEAST_EPISODES or are_steps or count_fragments(data):
        return None
    returns = data.episode_returns()[episodes]
    advantages = returns - initial_values(_first_observations(data, episodes), returns)
    spread = float(advantages.std())
    if not spread > _ROUNDING * max(1.0, float(np.abs(returns).max())):
        return None
    weights = np.zeros(data.n_episodes)
    weights[episodes] = tilted(advantages / spread, lengths, kl)
    return weights


def tilted(returns: np.ndarray, lengths: np.ndarray, kl: float) -> np.ndarray:
    """
    :param returns: of episodes, in units of their standard deviation, (n_episodes,)
    :param lengths: their rows, (n_episodes,)
    :param kl: divergence of the weighted rows from the rows as they are, in nats
    :return: weight of the rows of each, 1 in the mean over all rows, (n_episodes,)
    """
    share = lengths / lengths.sum()

    def at(temperature: float) -> np.ndarray:
        weights: np.ndarray = np.exp(temperature * (returns - returns.max()))
        weights = weights / (share @ weights)
        return weights

    def is_too_far(weights: np.ndarray) -> bool:
        drawn = share * weights
        divergence = drawn @ np.log(np.maximum(weights, np.finfo(float).tiny))
        return bool(divergence > kl or 1.0 / (drawn @ drawn) < _least_effective(share))

    low, high = 0.0, _LARGEST_TEMPERATURE
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if is_too_far(at(middle)) else (middle, high)
    return at(low)


def _least_effective(share: np.ndarray) -> float:
    """Of few long episodes and many short ones there is not much more in force to begin with."""
    return min(_LEAST_EPISODES, 0.999 / float(share @ share))


def _first_observations(data: Transitions, episodes: np.ndarray) -> np.ndarray | None:
    """(n_episodes, n), the numbers of their first observations, of all keys but images; None if there are only images."""
    states = data.states if isinstance(data.states, dict) else {"": data.states}
    first = data.episode_starts[:-1][episodes]
    numbers = [
        np.asarray(array[first], dtype=np.float64).reshape(len(first), -1) for array in states.values() if array.ndim < _IMAGES
    ]
    return np.concatenate(numbers, axis=1) if numbers else None


def describe_episode_weights(data: Transitions, weights: np.ndarray) -> str:
    """
    :param data: a dataset
    :param weights: of its episodes
    :return: what they do, in a sentence
    """
    lengths = np.diff(data.episode_starts)
    best = np.argsort(-data.episode_returns(), kind="stable")[: max(1, data.n_episodes // 10)]
    now, before = (share[best].sum() / share.sum() for share in (weights * lengths, (weights > 0) * lengths))
    return f"Episodes of higher return count for more: the best tenth has {now:.0%} of all weight, in place of {before:.0%}."
