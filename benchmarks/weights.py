"""
How half a nat of weights is spread over the rows of a dataset, by the largest weight there may be.

    python -m benchmarks.weights rlzoo/hopper/mixed-v0 rlzoo/halfcheetah/mixed-v0

The advantages are those of the critics that `python -m benchmarks.critics ablate --variants default` trained, at 8,000 rows.
"""

import sys

import numpy as np
import torch as th
from scipy.optimize import brentq
from scipy.stats import kurtosis

from benchmarks.critics.ablation import CriticsAlone, path_of
from sb3_genpolicy import load_dataset
from sb3_genpolicy.common.algorithms.support import values_of
from sb3_genpolicy.common.updates.weights import effective_sample_size, exponential_weights, kl_from_uniform

CLAMPS = (100.0, 10.0, 5.0)
_ROWS, _NATS = 8000, 0.5


@th.no_grad()
def advantages(dataset: str) -> th.Tensor:
    """
    :param dataset: its id
    :return: Q - V at some of its rows
    """
    data = load_dataset(dataset)
    model = CriticsAlone.load(path_of(dataset, "default", 0), device="cpu")
    rows = np.random.default_rng(0).choice(len(data.actions), _ROWS, replace=False)
    observations, _ = model.policy.obs_to_tensor(np.asarray(data.observations[rows]))
    actions = th.as_tensor(model.policy.scale_action(np.asarray(data.actions[rows]))).float()
    q_values = values_of(model.critics.critic_target, observations, actions[:, None])[:, 0]
    return q_values - model.critics.value_net(observations)[:, 0]


def describe(dataset: str) -> None:
    """
    Print lines of a table.

    :param dataset: its id
    """
    advantage = advantages(dataset)
    typical = advantage.abs().median()
    tails = kurtosis(advantage, fisher=False)
    for clamp in CLAMPS:

        def missing(log_beta: float, clamp: float = clamp) -> float:
            return float(kl_from_uniform(exponential_weights(advantage / typical, np.exp(log_beta), clamp))) - _NATS

        if missing(-10.0) * missing(6.0) > 0.0:
            print(f"| {dataset} | {tails:.0f} | {clamp:g} | no beta gives so much | | |")
            continue
        beta = float(np.exp(brentq(missing, -10.0, 6.0)))
        weights = exponential_weights(advantage / typical, beta, clamp)
        share = float(weights.sort(descending=True).values[: _ROWS // 100].sum() / weights.sum())
        size = float(effective_sample_size(weights))
        print(f"| {dataset} | {tails:.0f} | {clamp:g} | {beta:.2f} | {size:.2f} | {share:.0%} |", flush=True)


if __name__ == "__main__":
    columns = (
        "dataset",
        "kurtosis",
        "largest weight",
        "beta, median abs(A) = 1",
        "effective sample size",
        "heaviest hundredth",
    )
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for each in sys.argv[1:]:
        describe(each)
