"""
Critics beside returns of a few steps and of whole episodes. A fall that an action leads to comes after the former.
"""

import numpy as np

from benchmarks.critics.ablation import CriticsAlone, path_of
from benchmarks.critics.comparison import aggregated_values
from benchmarks.critics.models import RESULTS, measured_returns, plain
from benchmarks.critics.results import keep
from benchmarks.critics.scoring import correlation_within, discounted, rank_correlation

HORIZONS = RESULTS.with_name("critic_horizons.jsonl")
#: The algorithms', and none
DISCOUNTS = (0.99, 1.0)
# What tells a line of the results from others
_KEYS = ("dataset", "variant", "seed", "updates", "steps", "gamma")


def by_horizon(dataset: str, variants: list[str], seeds: list[int], name: str, horizons: list[int]) -> None:
    """
    Print and keep how critics agree with returns that are cut off after different numbers of steps.

    :param dataset: its id
    :param variants: names of kinds of critics that were trained
    :param seeds: of these trainings; those that are there are taken
    :param name: of a measurement of long rollouts
    :param horizons: numbers of steps that are counted
    """
    kept = measured_returns(dataset, name=name)
    rewards, lengths = kept["rewards"], kept["lengths"]
    print(f"{dataset}, {len(rewards)} states: correlations within states, a perfect critic's; rank correlations, the most")
    for variant in variants:
        for seed in (each for each in seeds if path_of(dataset, variant, each).exists()):
            model = CriticsAlone.load(path_of(dataset, variant, seed), device="cpu")
            values = aggregated_values(model, kept)
            row = dict(dataset=dataset, variant=variant, seed=seed, updates=model.num_timesteps, states=len(rewards))
            for steps in horizons:
                for gamma in DISCOUNTS:
                    returns = first_returns(rewards, lengths, steps, gamma)
                    within, rank = correlation_within(values, returns), rank_correlation(values, returns)
                    line = {**row, "steps": steps, "gamma": gamma, "within": plain(within), "rank": plain(rank)}
                    keep(HORIZONS, line, _KEYS)
                    cells = [variant, seed, steps, gamma, within.value, f"{within.ceiling.value:.2f}", rank.value]
                    print("| " + " | ".join(map(str, [*cells, f"{rank.most.value:.2f}"])) + " |", flush=True)


def first_returns(rewards: np.ndarray, lengths: np.ndarray, steps: int, gamma: float) -> np.ndarray:
    """
    :param rewards: of each step, (..., steps)
    :param lengths: steps until the episode terminated, (...)
    :param steps: how many are counted
    :param gamma: discount factor
    :return: discounted returns of the first steps, (...)
    """
    return discounted(rewards[..., :steps], np.minimum(lengths, steps), gamma)
