"""
What was measured so far, as tables and as a picture.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.critics.ablation import ABLATION, DISCOUNTS, SHOWN
from benchmarks.critics.acting import ACTING
from benchmarks.critics.horizons import DISCOUNTS as HORIZON_DISCOUNTS
from benchmarks.critics.horizons import HORIZONS
from benchmarks.critics.results import rows_of

matplotlib.use("Agg")
from matplotlib import pyplot as plt

#: Kinds that are drawn: how they are called there, and their colours
_SHOWN_KINDS = {
    "iql": ("iql (0.1)", "tab:grey"),
    "advantage auto lambda": ("the same, actions as they are", "tab:cyan"),
    "ten steps": ("onestep, ten steps ahead", "tab:blue"),
    "onestep": ("onestep", "tab:orange"),
}

# The same, by returns of few steps and of many: how they are called there, and their colours
_SHOWN_BY_HORIZON = {
    "default": ("default", "tab:blue"),
    "default quantiles": ("default, quantiles", "tab:cyan"),
    "iql": ("iql (0.1)", "tab:grey"),
    "ten steps": ("ten steps", "tab:orange"),
    "policy": ("policy", "tab:red"),
}

# How a policy acts, see `benchmarks.critics.acting`
_ACTED = ("sampled", "fixed", "auto")


def _short(dataset: str) -> str:
    return dataset.removeprefix("rlzoo/").removesuffix("-v0")


def _estimate(estimate: dict[str, float], digits: int = 2) -> str:
    return f"{estimate['value']:.{digits}f} ± {estimate['error']:.{digits}f}"


def table(steps: int) -> None:
    """
    Print a table of all datasets and kinds of critics, means over seeds, and one of the policies that they were given to.

    :param steps: after how many updates
    """
    for gamma in DISCOUNTS:
        print(f"\nReturns of discount {gamma:g}, after {steps:,} updates\n")
        print("| dataset | critic | seeds | correlation | of its ceiling | ranks | of their ceiling, at least | gain |")
        print("|" + 8 * "---|")
        for (dataset, variant), rows in _by_critic(steps).items():
            scores = [row["scores"][f"{SHOWN}, {gamma:g}"] for row in rows]
            ranks = _mean([each["rank"]["value"] for each in scores])
            share = f"{ranks['value'] / scores[0]['rank']['most']['value']:.2f}"
            within, gain = ([each[name] for each in scores] for name in ("within", "gain"))
            cells = [_short(dataset), variant, str(len(rows)), _estimate(_mean([each["value"] for each in within]))]
            cells += [_estimate(_mean([each["share"] for each in within])), _estimate(ranks), share]
            print("| " + " | ".join([*cells, _estimate(_mean([each["value"] for each in gain]))]) + " |")
    print("\n| dataset | critic | updates | policy | sampled | fixed noise | auto |\n|---|---|---|---|---|---|---|")
    for row in sorted(rows_of(ACTING), key=lambda row: [row[name] for name in ("dataset", "variant", "updates", "algorithm")]):
        cells = [_short(row["dataset"]), row["variant"], f"{row['updates']:,}", row["algorithm"]]
        acted = [f"{row[kind]['mean']:.0f} ± {row[kind]['error']:.0f}" if kind in row else "" for kind in _ACTED]
        print("| " + " | ".join([*cells, *acted]) + " |")


def _by_critic(steps: int) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Lines of the ablation after so many updates, by dataset and kind."""
    found = defaultdict(list)
    for row in sorted(rows_of(ABLATION), key=lambda row: row["dataset"]):
        if row["steps"] == steps:
            found[row["dataset"], row["variant"]].append(row)
    return found


def _mean(estimates: list[dict[str, float]]) -> dict[str, float]:
    """Over seeds, which share their states: errors over states do not get smaller by it."""
    return {name: float(np.mean([each[name] for each in estimates])) for name in ("value", "error")}


def plot(path: Path) -> None:
    """
    Draw rank correlations against updates, a panel for each dataset, and against them what the best of 8 actions gains.

    :param path: the picture
    """
    rows = rows_of(ABLATION)
    datasets = sorted({row["dataset"] for row in rows})
    figure, axes = plt.subplots(2, 4, figsize=(11, 5), layout="constrained")
    panels = axes.flatten()
    for axis, dataset in zip(panels, datasets, strict=False):
        _plot_ranks(axis, dataset, rows)
    for axis in axes[:, 0]:
        axis.set_ylabel("rank correlation within states,\nshare of its ceiling")
    panels[0].legend(fontsize=7)
    _plot_gains(panels[len(datasets)], rows)
    for axis in panels[len(datasets) + 1 :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=130)


def _plot_ranks(axis: Any, dataset: str, rows: list[dict[str, Any]]) -> None:
    for variant, (label, colour) in _SHOWN_KINDS.items():
        points = defaultdict(list)
        for row in rows:
            if row["dataset"] == dataset and row["variant"] == variant:
                points[row["steps"]].append(row["scores"][f"{SHOWN}, {DISCOUNTS[1]:g}"]["rank"])
        if points:
            steps = sorted(points)
            means = [_mean([rank["value"] for rank in points[step]]) for step in steps]
            ceiling = points[steps[0]][0]["most"]["value"]
            values, errors = ([mean[name] / ceiling for mean in means] for name in ("value", "error"))
            thousands = [step / 1000 for step in steps]
            axis.errorbar(thousands, values, errors, color=colour, marker="o", markersize=3, label=label)
    axis.axhline(0.0, color="black", linewidth=0.5)
    axis.set(title=_short(dataset), xlabel="thousand updates", ylim=(-0.15, 1.0))
    axis.set_xlim(left=0.0)


def _plot_gains(axis: Any, rows: list[dict[str, Any]]) -> None:
    last = {(row["dataset"], row["variant"], row["seed"]): row for row in rows}
    scores = {(row["dataset"], row["variant"], row["seed"], row["algorithm"]): row["sampled"] for row in rows_of(ACTING)}
    for key, row in last.items():
        one, eight = scores.get((*key, "best of 1")), scores.get((*key, "best of 8"))
        if one and eight and row["variant"] in _SHOWN_KINDS:
            rank = row["scores"][f"{SHOWN}, {DISCOUNTS[1]:g}"]["rank"]["value"]
            error = np.hypot(one["error"], eight["error"])
            gain, colour = eight["mean"] - one["mean"], _SHOWN_KINDS[row["variant"]][1]
            axis.errorbar(rank["value"], gain, error, rank["error"], color=colour, marker="o", markersize=3)
            label = axis.annotate(
                _short(row["dataset"]), (rank["value"], gain), fontsize=6, xytext=(3, 3), textcoords="offset points"
            )
            # Its panel stays as wide as the others
            label.set_in_layout(False)
    axis.axhline(0.0, color="black", linewidth=0.5)
    axis.set(title="score, best of 8 minus one", xlabel="rank correlation")


def plot_horizons(path: Path) -> None:
    """
    Draw rank correlations against the number of steps that returns are of, a panel for each dataset.

    :param path: the picture
    """
    rows = [row for row in rows_of(HORIZONS) if row["gamma"] == HORIZON_DISCOUNTS[0]]
    datasets = sorted({row["dataset"] for row in rows})
    columns = min(3, len(datasets))
    shape = (-(-len(datasets) // columns), columns)
    figure, axes = plt.subplots(*shape, figsize=(3.7 * shape[1], 3.0 * shape[0]), layout="constrained", squeeze=False)
    for axis, dataset in zip(axes.flat, datasets, strict=False):
        for offset, (variant, (label, colour)) in enumerate(_SHOWN_BY_HORIZON.items()):
            lines = [row for row in rows if (row["dataset"], row["variant"]) == (dataset, variant)]
            steps = np.array(sorted({row["steps"] for row in lines}))
            if len(steps):
                means = [_mean([row["rank"]["value"] for row in lines if row["steps"] == step]) for step in steps]
                values, errors = ([mean[name] for mean in means] for name in ("value", "error"))
                # Beside each other, so that errors are seen
                beside = steps * 1.03 ** (offset - 2)
                axis.errorbar(beside, values, errors, color=colour, marker="o", markersize=3, label=label)
        axis.axhline(0.0, color="black", linewidth=0.5)
        axis.set_xscale("log")
        axis.set(title=_short(dataset), xlabel="steps that returns are of")
        ticks = sorted({row["steps"] for row in rows if row["dataset"] == dataset})
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("rank correlation within states")
    axes[0, -1].legend(fontsize=7)
    figure.savefig(path, dpi=130)
