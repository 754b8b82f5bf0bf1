"""
Outliers: a few rows that lie far from all others, such as glitches of a sensor. They must not determine a scale.
"""

import numpy as np

# A value so many interquartile ranges from the median is an outlier
_FAR = 50.0
# A larger share of the rows is no glitch, but a part of the data
_FEW = 2e-3


def typical_bounds(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    :param rows: (n_rows, \\*shape), of a dataset or a sample of it
    :return: for each entry, bounds beyond which a value is an outlier. Infinite where the quartiles coincide, or where more
        than 1 in 500 rows would be outliers; a single row always may be.
    """
    rows = rows.astype(np.float64)
    lower, median, upper = np.quantile(rows, (0.25, 0.5, 0.75), axis=0)
    reach = _FAR * (upper - lower)
    n_beyond = (np.abs(rows - median) > reach).sum(axis=0)
    no_glitch = (reach <= 0.0) | (n_beyond > max(1.0, _FEW * len(rows)))
    reach = np.where(no_glitch, np.inf, reach)
    return median - reach, median + reach


def evenly(n_rows: int, n_wanted: int) -> np.ndarray:
    """
    :param n_rows: number of rows
    :param n_wanted: how many are wanted at most
    :return: indices of as many, evenly spaced
    """
    return np.unique(np.linspace(0, n_rows - 1, min(n_rows, n_wanted)).astype(np.int64))
