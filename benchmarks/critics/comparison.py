"""
Two kinds of critics on the same states and returns; and how much of an advantage returns as noisy as these can tell at all.
"""

from typing import Any, NamedTuple

import numpy as np

from benchmarks.critics.ablation import DISCOUNTS, CriticsAlone, path_of
from benchmarks.critics.estimates import Estimate, jackknife
from benchmarks.critics.measure import RETURNS
from benchmarks.critics.models import RESULTS, measured_returns, members_of, plain
from benchmarks.critics.results import keep
from benchmarks.critics.scoring import correlation_within, discounted, gain_of_favourite, rank_correlation, rank_correlations
from sb3_genpolicy import load_dataset

DIFFERENCES = RESULTS.with_name("critic_differences.jsonl")
# What tells a line of the results from others
_KEYS = ("dataset", "name", "variants", "gamma", "seeds", "steps")


class Difference(NamedTuple):
    """
    Rank correlations within states, means over states and seeds, with standard errors over states.

    :param one: of the first kind
    :param other: of the second kind
    :param difference: the first minus the second, state by state
    :param share: the first, of what a perfect critic gets at most
    :param other_share: the second
    """

    one: Estimate
    other: Estimate
    difference: Estimate
    share: Estimate
    other_share: Estimate


def compare(dataset: str, one: str, other: str, seeds: list[int], name: str = RETURNS) -> None:
    """
    Print and keep how two kinds of critics differ after their last checkpoint, by their slow averages' own aggregation.

    :param dataset: its id
    :param one: name of a kind of critics that were trained
    :param other: name of another
    :param seeds: of the trainings; those that are there for both are taken
    :param name: of the measurement
    """
    kept = measured_returns(dataset, name=name)
    there = [seed for seed in seeds if path_of(dataset, one, seed).exists() and path_of(dataset, other, seed).exists()]
    models = {kind: [CriticsAlone.load(path_of(dataset, kind, seed), device="cpu") for seed in there] for kind in (one, other)}
    steps = sorted({model.num_timesteps for each in models.values() for model in each})
    if len(steps) != 1:
        raise ValueError(f"The critics of {dataset} were trained for unequal numbers of steps: {steps}. Go on with `ablate`.")
    for gamma in DISCOUNTS:
        returns = discounted(kept["rewards"], kept["lengths"], gamma)
        ranks = {
            kind: np.mean([rank_correlations(aggregated_values(model, kept), returns.mean(axis=-1)) for model in each], axis=0)
            for kind, each in models.items()
        }
        found = _difference(ranks[one], ranks[other], rank_ceiling(returns))
        row = dict(dataset=dataset, name=name, variants=[one, other], gamma=gamma, seeds=there, steps=steps[0], **plain(found))
        keep(DIFFERENCES, row, _KEYS)
        print(f"{dataset}, {gamma:g}, seeds {there}, {steps[0]:,} updates: {one} {found.one}, {other} {found.other},", end=" ")
        print(f"difference {found.difference}, shares {found.share} and {found.other_share}", flush=True)


def _difference(one: np.ndarray, other: np.ndarray, ceiling: float) -> Difference:
    columns = np.stack([one, other], axis=1)
    return Difference(
        jackknife(columns, lambda means: means[..., 0]),
        jackknife(columns, lambda means: means[..., 1]),
        jackknife(columns, lambda means: means[..., 0] - means[..., 1]),
        jackknife(columns, lambda means: means[..., 0] / ceiling),
        jackknife(columns, lambda means: means[..., 1] / ceiling),
    )


def aggregated_values(model: Any, kept: dict[str, np.ndarray]) -> np.ndarray:
    """
    :param model: whose critics
    :param kept: what was measured, by name
    :return: Q of the slow networks, as the critic's own aggregation gives it, (states, actions)
    """
    members = members_of(model, "critic_target", kept["observations"], kept["actions"])
    return members.min(axis=0) if model.critic_options.aggregation == "minimum" else members.mean(axis=0)


def rank_ceiling(returns: np.ndarray) -> float:
    """
    :param returns: (states, actions, rollouts)
    :return: the rank correlation that a perfect critic gets at most
    """
    return rank_correlation(returns.mean(axis=-1), returns).most.value


def signal(dataset: str, horizon: int | None = None) -> None:
    """
    Print how far actions of a state differ in truth, beside the noise of one logged return, and the number of rows: with N
    rows, whose advantages have a share r of their returns' deviation, N r² numbers of an advantage function can be learnt as
    well as one number from one draw whose noise is as large as it.

    :param dataset: its id
    :param horizon: count only so many steps of a rollout
    """
    kept = measured_returns(dataset)
    data = load_dataset(dataset)
    rows, actions = data.n_rows, kept["actions"]
    noise_of_actions = np.sqrt(actions.var(axis=1, ddof=1).mean(axis=0))
    spread_of_actions = np.asarray(data.actions).reshape(rows, -1).std(axis=0)
    print(f"{dataset}: actions deviate within a state by {noise_of_actions.round(3)}, overall by {spread_of_actions.round(3)}")
    for gamma in DISCOUNTS:
        returns = discounted(kept["rewards"][..., :horizon], kept["lengths"], gamma)
        spread = gain_of_favourite(returns.mean(axis=-1), returns).deviation
        noise = np.sqrt(returns.var(axis=-1, ddof=1).mean())
        share = spread.value / np.hypot(spread.value, noise)
        ceiling = correlation_within(returns.mean(axis=-1), returns).ceiling
        print(
            f"| {dataset} | {gamma:g} | {spread.value:.3g} ± {spread.error:.2g} | {noise:.3g} | {share:.3f} | {rows:,} | "
            f"{rows * share**2:,.0f} | {ceiling} |",
            flush=True,
        )
