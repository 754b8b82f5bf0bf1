"""
What an episode is expected to return, by how it begins.
"""

import numpy as np

# A regression of more episodes than that costs seconds, and says no more
_LOOKED_AT = 1000
# Episodes at a time when what is expected of all of them is computed
_CHUNK = 4096
# Ridges that are tried, in units of the kernel's largest value; the largest one gives the mean
_RIDGES = np.logspace(-3, 4, 29)


def initial_values(first_observations: np.ndarray | None, returns: np.ndarray) -> np.ndarray:
    """
    Kernel ridge regression of returns on first observations, as wide as these are apart; the ridge is the one that predicts
    left-out episodes best. Where beginnings tell nothing, that is the mean return.

    :param first_observations: (n_episodes, n); None where there are no numbers to compare
    :param returns: (n_episodes,)
    :return: what each of the episodes is expected to return, by the others, (n_episodes,)
    """
    mean = np.full(len(returns), returns.mean())
    if first_observations is None or len(returns) < 3:
        return mean
    spread = first_observations.std(axis=0)
    varies = spread > 1e-6 * np.maximum(1.0, np.abs(first_observations).max(axis=0))
    if not varies.any() or returns.std() == 0.0:
        return mean
    points = ((first_observations - first_observations.mean(axis=0)) / np.where(varies, spread, 1.0))[:, varies]
    chosen = np.linspace(0, len(points) - 1, min(len(points), _LOOKED_AT)).round().astype(int)
    kernel = _kernel(points[chosen], points[chosen])
    values, vectors = np.linalg.eigh(kernel)
    values = np.maximum(values, 0.0)
    targets = returns[chosen] - returns[chosen].mean()
    rotated = vectors.T @ targets
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for ridge in _RIDGES:
        shrunk = values / (values + ridge)
        # Of a left-out episode: what is left over, divided by what its own return did not explain
        left_over = (targets - vectors @ (shrunk * rotated)) / np.maximum(1.0 - (vectors**2) @ shrunk, 1e-6)
        error = float(left_over @ left_over)
        if best is None or error < best[0]:
            best = error, left_over, vectors @ (rotated / (values + ridge))
    assert best is not None
    _, left_over, coefficients = best
    starts = range(0, len(points), _CHUNK)
    expected: np.ndarray = np.concatenate([_kernel(points[i : i + _CHUNK], points[chosen]) @ coefficients for i in starts])
    expected[chosen] = targets - left_over
    expected = expected + returns[chosen].mean()
    return expected


def _kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Gaussian, whose width is the square root of the number of dimensions: standardised points are about so far apart."""
    squares: np.ndarray = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2.0 * one @ other.T
    kernel: np.ndarray = np.exp(-np.maximum(squares, 0.0) / (2.0 * one.shape[1]))
    return kernel
