"""
Estimates with standard errors, from means over states or episodes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """
    :param value: the estimate
    :param error: its standard error
    """

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.error:.3f}"


def jackknife(columns: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """
    A function of means over states, and its standard error by leaving out one state after the other.

    :param columns: what is averaged, of each state, (states, n)
    :param function: of means, from (..., n) to (...)
    :return: the estimate
    """
    columns = np.asarray(columns, dtype=np.float64)
    n = len(columns)
    without = function((columns.sum(axis=0) - columns) / (n - 1))
    error = np.sqrt((n - 1) / n * np.square(without - without.mean()).sum())
    return Estimate(float(function(columns.mean(axis=0))), float(error))


def quotient(products: np.ndarray) -> np.ndarray:
    """
    :param products: means of x y, x² and y² of deviations, (..., 3)
    :return: correlations, (...); NaN where something is always the same
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return products[..., 0] / np.sqrt(products[..., 1] * products[..., 2])


def correlation(one: np.ndarray, other: np.ndarray) -> Estimate:
    """
    :param one: (n,)
    :param other: (n,)
    :return: Pearson's correlation
    """
    one, other = one - one.mean(), other - other.mean()
    columns = np.stack([one, other, one * other, one**2, other**2], axis=1)
    return jackknife(columns, lambda means: quotient(means[..., 2:] - means[..., [0, 0, 1]] * means[..., [1, 0, 1]]))
