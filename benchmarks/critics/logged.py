"""
What a user without a simulator can have: Q beside the returns to go that were logged.
"""

from typing import NamedTuple

import numpy as np

from benchmarks.critics.estimates import Estimate, jackknife


class LoggedCorrelations(NamedTuple):
    """
    :param advantage: of Q - V with return - V. Errors of V are in both, which raises it.
    :param given_value: of Q with the return, once what V explains of either is taken away; free of that
    :param level: of Q with the return
    """

    advantage: Estimate
    given_value: Estimate
    level: Estimate


def logged_correlations(q: np.ndarray, v: np.ndarray, returns: np.ndarray, ends: np.ndarray) -> LoggedCorrelations:
    """
    :param q: (n,)
    :param v: (n,)
    :param returns: to go, (n,)
    :param ends: whether a row is the last of its episode, (n,); standard errors are by leaving out whole episodes
    :return: the correlations over rows
    """
    signals = np.stack([each - each.mean() for each in (q, v, returns)], axis=1).astype(np.float64)
    products = (signals[:, :, None] * signals[:, None]).reshape(len(q), 9)
    starts = np.concatenate([[0], np.flatnonzero(ends)[:-1] + 1])
    columns = np.add.reduceat(np.concatenate([np.ones((len(q), 1)), signals, products], axis=1), starts, axis=0)

    def along(means: np.ndarray, one: list[float], other: list[float]) -> np.ndarray:
        """Covariance of two weighted sums of Q, V and return."""
        first = means[..., 1:4] / means[..., :1]
        second = (means[..., 4:] / means[..., :1]).reshape(*first.shape, 3) - first[..., :, None] * first[..., None, :]
        return np.einsum("i,...ij,j->...", np.array(one), second, np.array(other))

    def correlation_of(one: list[float], other: list[float], means: np.ndarray) -> np.ndarray:
        return along(means, one, other) / np.sqrt(along(means, one, one) * along(means, other, other))

    q_, v_, g_ = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]

    def partial(means: np.ndarray) -> np.ndarray:
        of_q, of_g, between = (correlation_of(*pair, means) for pair in ((q_, v_), (g_, v_), (q_, g_)))
        return (between - of_q * of_g) / np.sqrt((1.0 - of_q**2) * (1.0 - of_g**2))

    return LoggedCorrelations(
        jackknife(columns, lambda means: correlation_of([1.0, -1.0, 0.0], [0.0, -1.0, 1.0], means)),
        jackknife(columns, partial),
        jackknife(columns, lambda means: correlation_of(q_, g_, means)),
    )
