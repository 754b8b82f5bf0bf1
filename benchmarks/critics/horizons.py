"""
Critics beside returns of a few steps and of whole episodes. A fall that an action leads to comes after the former.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.critics.ablation import CriticsAlone, path_of
from benchmarks.critics.comparison import aggregated_values
from benchmarks.critics.models import RESULTS, measured_returns, plain
from benchmarks.critics.scoring import correlation_within, discounted, rank_correlation

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HORIZONS = RESULTS.with_name("critic_horizons.jsonl")
# The algorithms', and none
_DISCOUNTS = (0.99, 1.0)
# What tells a line of the results from others
_KEYS = ("dataset", "variant", "seed", "updates", "steps", "gamma")
#: Kinds that are drawn: how they are called there, and their colours
_SHOWN_KINDS = {
    "default": ("default", "tab:blue"),
    "default quantiles": ("default, quantiles", "tab:cyan"),
    "iql": ("iql (0.1)", "tab:grey"),
    "ten steps": ("ten steps", "tab:orange"),
    "policy": ("policy", "tab:red"),
}


def by_horizon(dataset: str, variants: list[str], seeds: list[int], name: str, horizons: list[int]) -> None:
    """
    Print and keep how critics agree with returns that are cut off after different numbers of steps.

    :param dataset: its id
    :param variants: names of kinds of critics that were trained
    :param seeds: of these trainings; those that are there are taken
    :param name: of a measurement of long rollouts
    :param horizons: numbers of steps that are counted
    """
    kept = measured_returns(dataset, finished=False, name=name)
    done = int(kept["done"])
    rewards, lengths = kept["rewards"][:done], kept["lengths"][:done]
    print(f"{dataset}, {done} states: correlations within states, and a perfect critic's; rank correlations, and the most")
    for variant in variants:
        for seed in (each for each in seeds if path_of(dataset, variant, each).exists()):
            model = CriticsAlone.load(path_of(dataset, variant, seed), device="cpu")
            values = aggregated_values(model, kept)[:done]
            row = dict(dataset=dataset, variant=variant, seed=seed, updates=model.num_timesteps, states=done)
            for steps in horizons:
                for gamma in _DISCOUNTS:
                    returns = first_returns(rewards, lengths, steps, gamma)
                    within, rank = correlation_within(values, returns), rank_correlation(values, returns)
                    _keep({**row, "steps": steps, "gamma": gamma, "within": plain(within), "rank": plain(rank)})
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


def _rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in HORIZONS.read_text().splitlines()] if HORIZONS.exists() else []


def _keep(row: dict[str, Any]) -> None:
    """In place of an older line of the same critics and returns."""
    others = [each for each in _rows() if any(each[name] != row[name] for name in _KEYS)]
    HORIZONS.write_text("".join(json.dumps(each) + "\n" for each in [*others, row]))


def plot(path: Path) -> None:
    """
    Draw rank correlations against the number of steps that returns are of, a panel for each dataset.

    :param path: the picture
    """
    rows = [row for row in _rows() if row["gamma"] == _DISCOUNTS[0]]
    datasets = sorted({row["dataset"] for row in rows})
    columns = min(3, len(datasets))
    shape = (-(-len(datasets) // columns), columns)
    figure, axes = plt.subplots(*shape, figsize=(3.7 * shape[1], 3.0 * shape[0]), layout="constrained", squeeze=False)
    for axis, dataset in zip(axes.flat, datasets, strict=False):
        for offset, (variant, (label, colour)) in enumerate(_SHOWN_KINDS.items()):
            lines = [row for row in rows if (row["dataset"], row["variant"]) == (dataset, variant)]
            steps = np.array(sorted({row["steps"] for row in lines}))
            if len(steps):
                # Seeds share their states: errors over states do not get smaller by a mean over them
                ranks = [[row["rank"]["value"] for row in lines if row["steps"] == step] for step in steps]
                values, errors = ([np.mean([rank[name] for rank in each]) for each in ranks] for name in ("value", "error"))
                # Beside each other, so that errors are seen
                beside = steps * 1.03 ** (offset - 2)
                axis.errorbar(beside, values, errors, color=colour, marker="o", markersize=3, label=label)
        axis.axhline(0.0, color="black", linewidth=0.5)
        axis.set_xscale("log")
        axis.set(title=dataset.removeprefix("rlzoo/").removesuffix("-v0"), xlabel="steps that returns are of")
        ticks = sorted({row["steps"] for row in rows if row["dataset"] == dataset})
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("rank correlation within states")
    axes[0, -1].legend(fontsize=7)
    figure.savefig(path, dpi=130)
