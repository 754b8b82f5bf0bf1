"""
What was measured so far, as tables and as a picture.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.critics.ablation import ABLATION, DISCOUNTS, SHOWN
from benchmarks.critics.acting import ACTING

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_COLOURS = {"iql": "tab:grey", "advantage auto lambda": "tab:blue"}


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _short(dataset: str) -> str:
    return dataset.removeprefix("rlzoo/").removesuffix("-v0")


def _estimate(estimate: dict[str, float], digits: int = 2) -> str:
    return f"{estimate['value']:.{digits}f} ± {estimate['error']:.{digits}f}"


def table(steps: int) -> None:
    """
    Print a table of all datasets and kinds of critics, and one of the policies that they were given to.

    :param steps: after how many updates
    """
    for gamma in DISCOUNTS:
        print(f"\nReturns of discount {gamma:g}, after {steps:,} updates\n")
        print("| dataset | critic | correlation | of its ceiling | ranks | of their ceiling, at least | gain |")
        print("|" + 7 * "---|")
        for row in _rows(ABLATION):
            if row["steps"] == steps:
                scores = row["scores"][f"{SHOWN}, {gamma:g}"]
                within, rank = scores["within"], scores["rank"]
                share = f"{rank['value']['value'] / rank['most']['value']:.2f}"
                cells = [_short(row["dataset"]), row["variant"], _estimate(within["value"]), _estimate(within["share"])]
                print("| " + " | ".join([*cells, _estimate(rank["value"]), share, _estimate(scores["gain"]["value"])]) + " |")
    print("\n| dataset | critic | policy | sampled | fixed noise |\n|---|---|---|---|---|")
    for row in _rows(ACTING):
        cells = [_short(row["dataset"]), row["variant"], row["algorithm"]]
        scores = [f"{row[kind]['mean']:.0f} ± {row[kind]['error']:.0f}" for kind in ("sampled", "fixed")]
        print("| " + " | ".join([*cells, *scores]) + " |")


def plot(path: Path) -> None:
    """
    Draw rank correlations against updates, a panel for each dataset, and against them what the best of 8 actions gains.

    :param path: the picture
    """
    rows = _rows(ABLATION)
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    figure, axes = plt.subplots(1, len(datasets) + 1, figsize=(2.3 * (len(datasets) + 1), 2.6), layout="constrained")
    for axis, dataset in zip(axes, datasets, strict=False):
        curves = defaultdict(list)
        for row in rows:
            if row["dataset"] == dataset and row["variant"] in _COLOURS:
                curves[row["variant"]].append((row["steps"], row["scores"][f"{SHOWN}, {DISCOUNTS[1]:g}"]["rank"]))
        for variant, points in curves.items():
            steps, ranks = zip(*sorted(points, key=lambda point: point[0]), strict=True)
            values, errors = ([rank["value"][name] for rank in ranks] for name in ("value", "error"))
            axis.errorbar(steps, values, errors, color=_COLOURS[variant], marker="o", label=variant)
        axis.axhline(0.0, color="black", linewidth=0.5)
        axis.set(title=_short(dataset), xscale="log", xlabel="updates")
    axes[0].set_ylabel("rank correlation within states")
    axes[0].legend(fontsize=7)
    _plot_gains(axes[-1], rows)
    figure.savefig(path, dpi=130)


def _plot_gains(axis: Any, rows: list[dict[str, Any]]) -> None:
    last = {(row["dataset"], row["variant"], row["seed"]): row for row in rows}
    scores = {(row["dataset"], row["variant"], row["seed"], row["algorithm"]): row["sampled"] for row in _rows(ACTING)}
    for key, row in last.items():
        one, eight = scores.get((*key, "best of 1")), scores.get((*key, "best of 8"))
        if one and eight and row["variant"] in _COLOURS:
            rank = row["scores"][f"{SHOWN}, {DISCOUNTS[1]:g}"]["rank"]["value"]
            error = np.hypot(one["error"], eight["error"])
            gain = eight["mean"] - one["mean"]
            axis.errorbar(rank["value"], gain, error, rank["error"], color=_COLOURS[row["variant"]], marker="o")
    axis.axhline(0.0, color="black", linewidth=0.5)
    axis.set(title="score, best of 8 minus one", xlabel="rank correlation")
