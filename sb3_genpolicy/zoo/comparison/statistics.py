"""
What rliable (https://arxiv.org/abs/2108.13264) says of a comparison's runs: intervals, performance profiles, and how likely
one method is better than another. All intervals are of 95 %, by its stratified bootstrap over seeds.
"""

from itertools import permutations
from typing import NamedTuple

import numpy as np
import pandas as pd
from rliable import library as rly
from rliable import metrics

from sb3_genpolicy.zoo.scores import Aggregate, Scores, aggregates, rliable_seed

# Thresholds of a profile
_THRESHOLDS = 81


class Profiles(NamedTuple):
    """
    :param thresholds: (n_thresholds,), scores
    :param shares: method -> (n_thresholds,), share of its runs with a larger score
    :param intervals: method -> (2, n_thresholds), None for a single seed
    """

    thresholds: np.ndarray
    shares: dict[str, np.ndarray]
    intervals: dict[str, np.ndarray] | None


class Statistics(NamedTuple):
    """
    :param scores: the runs' mean scores, by dataset and method
    :param cells: dataset and method -> mean over seeds
    :param aggregates: ``mean`` and ``IQM`` over datasets -> method; empty without a dataset that has normalised scores
    :param profiles: None without such a dataset
    :param improvement: two methods -> probability that a run of the first is better than one of the second
    :param n_seeds: of each method on each dataset
    """

    scores: Scores
    cells: dict[tuple[str, str], Aggregate]
    aggregates: dict[str, dict[str, Aggregate]]
    profiles: Profiles | None
    improvement: dict[tuple[str, str], Aggregate]
    n_seeds: int


def statistics_of(rows: pd.DataFrame, way: str, reps: int, seed: int = 0) -> Statistics:
    """
    :param rows: of the runs, each method with the same seeds on each dataset
    :param way: ``deterministic`` or ``sampled``
    :param reps: resamples of the bootstrap
    :param seed: of the resampling
    :return: all that is reported of them
    """
    scores = _scores(rows, way)
    n_seeds = min(len(values) for values in scores.values.values())
    cells = {key: _mean(values, reps, seed) for key, values in scores.values.items()}
    over_datasets, _ = aggregates(scores, reps, seed)
    matrices = (
        {m: np.stack([scores.values[t, m] for t in scores.common_tasks], axis=1) for m in scores.methods}
        if (scores.common_tasks)
        else {}
    )
    profiles = _profiles(matrices, n_seeds, reps, seed) if matrices else None
    improvement = _improvement(matrices, n_seeds, reps, seed)
    return Statistics(scores, cells, over_datasets, profiles, improvement, n_seeds)


def _scores(rows: pd.DataFrame, way: str) -> Scores:
    values = {
        (dataset, method): group.sort_values("seed")[way].to_numpy()
        for (dataset, method), group in rows.groupby(["dataset", "algorithm"], sort=False)
    }
    tasks, methods = list(dict.fromkeys(rows.dataset)), list(dict.fromkeys(rows.algorithm))
    return Scores(tasks, methods, {}, values, set(rows.dataset[rows.normalized]))


def _mean(values: np.ndarray, reps: int, seed: int) -> Aggregate:
    if len(values) == 1:
        return Aggregate(float(values[0]), None)
    with rliable_seed(seed):
        points, intervals = rly.get_interval_estimates(
            {"": values[:, None]}, lambda matrix: np.array([metrics.aggregate_mean(matrix)]), reps=reps
        )
    low, high = intervals[""][:, 0]
    return Aggregate(float(points[""][0]), (float(low), float(high)))


def _profiles(matrices: dict[str, np.ndarray], n_seeds: int, reps: int, seed: int) -> Profiles:
    everything = np.concatenate([matrix.ravel() for matrix in matrices.values()])
    thresholds = np.linspace(min(everything.min(), 0.0), max(everything.max(), 100.0), _THRESHOLDS)
    with rliable_seed(seed):
        shares, intervals = rly.create_performance_profile(matrices, thresholds, custom_profile_func=_shares_above, reps=reps)
    return Profiles(thresholds, shares, intervals if n_seeds > 1 else None)


def _shares_above(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    # As rliable's own, which walks over thresholds in Python
    return np.mean(scores[..., None] > thresholds, axis=(0, 1))


def _improvement(matrices: dict[str, np.ndarray], n_seeds: int, reps: int, seed: int) -> dict[tuple[str, str], Aggregate]:
    found: dict[tuple[str, str], Aggregate] = {}
    for one, other in permutations(matrices, 2):
        pair = {"": (matrices[one], matrices[other])}
        if (other, one) in found:
            point, interval = found[other, one]
            turned = None if interval is None else (1.0 - interval[1], 1.0 - interval[0])
            found[one, other] = Aggregate(1.0 - point, turned)
            continue
        with rliable_seed(seed):
            points, intervals = rly.get_interval_estimates(
                pair, lambda x, y: np.array([probability_of_improvement(x, y)]), reps=reps
            )
        low, high = intervals[""][:, 0]
        found[one, other] = Aggregate(float(points[""][0]), (float(low), float(high)) if n_seeds > 1 else None)
    return found


def probability_of_improvement(scores_x: np.ndarray, scores_y: np.ndarray) -> float:
    """
    rliable's metric of this name, without the rank test that it takes the number from, which is a hundred times slower.

    :param scores_x: (n_seeds, n_tasks)
    :param scores_y: (n_seeds, n_tasks)
    :return: probability that a run of the first is better than one of the second, ties counted half, a mean over tasks
    """
    difference = scores_x[:, None] - scores_y[None]
    return float(np.mean((difference > 0.0) + 0.5 * (difference == 0.0)))
