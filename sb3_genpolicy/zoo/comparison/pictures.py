"""
Pictures of a comparison.
"""

import math
from collections.abc import Iterable

import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from sb3_genpolicy.zoo.comparison.statistics import Profiles
from sb3_genpolicy.zoo.results_picture import draw_curve
from sb3_genpolicy.zoo.scores import Scores

_COLUMNS = 3
# That matplotlib names C0, C1, ...
_COLORS = 10


def curves_figure(curves: pd.DataFrame, scores: Scores) -> Figure | None:
    """
    :param curves: dataset, algorithm, seed, step and score
    :param scores: datasets and methods, in the order of the tables
    :return: mean over seeds, the band from the worst to the best; clones of the pretraining in grey. None without any points.
    """
    datasets = [dataset for dataset in scores.tasks if dataset in set(curves.dataset)]
    if not datasets:
        return None
    n_columns = min(_COLUMNS, len(datasets))
    n_rows = math.ceil(len(datasets) / n_columns)
    figure = Figure(figsize=(max(4.6 * n_columns, 7.0), 3.6 * n_rows), layout="constrained")
    axes = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    colors = colors_of(scores.methods)
    for axis, dataset in zip(axes, datasets, strict=False):
        here = curves[curves.dataset == dataset]
        clones = [label for label in dict.fromkeys(here.algorithm) if label not in colors]
        for label in [*clones, *colors]:
            by_step = here[here.algorithm == label].pivot(index="seed", columns="step", values="score").dropna(axis=1)
            if by_step.size:
                curve = by_step.columns.to_numpy(), by_step.to_numpy()
                draw_curve(axis, curve, label, colors.get(label, "0.6"))
        axis.set_title(dataset, fontsize=10)
        axis.set_xlabel("gradient steps")
        axis.set_ylabel("normalised score" if dataset in scores.normalized else "return")
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(datasets) :]:
        axis.remove()
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=8, frameon=False)
    return figure


def profiles_figure(profiles: Profiles) -> Figure:
    """
    :param profiles: performance profiles
    :return: a line for each method, with the band of its interval
    """
    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    axis = figure.subplots()
    colors = colors_of(profiles.shares)
    for method, shares in profiles.shares.items():
        axis.step(profiles.thresholds, shares, where="post", color=colors[method], label=method)
        if profiles.intervals is not None:
            low, high = profiles.intervals[method]
            axis.fill_between(profiles.thresholds, low, high, step="post", color=colors[method], alpha=0.15, linewidth=0)
    axis.set_xlabel("normalised score")
    axis.set_ylabel("share of runs above it")
    axis.set_ylim(-0.02, 1.02)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def colors_of(methods: Iterable[str]) -> dict[str, str]:
    """
    :param methods: the methods
    :return: a colour for each, the same in all pictures
    """
    listed = list(methods)
    if len(listed) <= _COLORS:
        return {method: f"C{number}" for number, method in enumerate(listed)}
    return {method: to_hex(colormaps["tab20"](number % 20)) for number, method in enumerate(listed)}
