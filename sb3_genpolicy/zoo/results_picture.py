"""
Pictures of results: learning curves, and aggregates with their intervals.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sb3_genpolicy.common.transitions.transitions import normalized_score
from sb3_genpolicy.zoo.runs import Run
from sb3_genpolicy.zoo.scores import Aggregate, Scores

_COLUMNS = 3


def draw_curves(scores: Scores, path: Path) -> Path | None:
    """
    Mean over seeds of the evaluations during training, the band from the worst to the best seed.

    :param scores: scores
    :param path: file that is drawn into
    :return: the file, None where no run was evaluated during training
    """
    curves = {key: curve for key, runs in scores.runs.items() if (curve := mean_curve(runs)) is not None}
    tasks = [task for task in scores.tasks if any(key[0] == task for key in curves)]
    if not tasks:
        return None
    n_columns = min(_COLUMNS, len(tasks))
    n_rows = math.ceil(len(tasks) / n_columns)
    figure = Figure(figsize=(4.2 * n_columns, 3.3 * n_rows), layout="constrained")
    axes = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for axis, task in zip(axes, tasks, strict=False):
        for number, method in enumerate(scores.methods):
            if (task, method) in curves:
                draw_curve(axis, curves[task, method], method, f"C{number}")
        offline = any(run.dataset is not None for key, runs in scores.runs.items() if key[0] == task for run in runs)
        axis.set_title(task, fontsize=10)
        axis.set_xlabel("gradient steps" if offline else "steps")
        axis.set_ylabel("normalised score" if task in scores.normalized else "return")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=7)
    for axis in axes[len(tasks) :]:
        axis.remove()
    figure.savefig(path, dpi=110)
    return path


def mean_curve(runs: list[Run]) -> tuple[np.ndarray, np.ndarray] | None:
    """
    :param runs: of one method on one task
    :return: (n_steps,) and scores (n_runs, n_steps) at the steps that all of them were evaluated at; None if there are none
    """
    evaluated = [run for run in runs if run.evaluations is not None]
    if not evaluated:
        return None
    by_step = []
    for run in evaluated:
        assert run.evaluations is not None
        means = run.evaluations.returns.mean(axis=1)
        if run.reference_scores is not None:
            means = np.asarray(normalized_score(means, run.reference_scores))
        by_step.append(dict(zip(run.evaluations.timesteps.tolist(), means.tolist(), strict=True)))
    steps = sorted(set.intersection(*(set(one) for one in by_step)))
    return (np.array(steps), np.array([[one[step] for step in steps] for one in by_step])) if steps else None


def draw_curve(axis: Any, curve: tuple[np.ndarray, np.ndarray], label: str, color: str) -> None:
    """
    :param axis: what is drawn on
    :param curve: steps (n_steps,) and scores (n_runs, n_steps)
    :param label: of its line, beside the number of runs
    :param color: of line and band
    """
    steps, values = curve
    axis.plot(steps, values.mean(axis=0), color=color, marker="o", markersize=3, label=f"{label} ({len(values)})")
    axis.fill_between(steps, values.min(axis=0), values.max(axis=0), color=color, alpha=0.2, linewidth=0)


def draw_intervals(statistics: dict[str, dict[str, Aggregate]], path: Path) -> Path:
    """
    :param statistics: statistic -> method -> aggregate
    :param path: file that is drawn into
    :return: the file
    """
    intervals_figure(statistics).savefig(path, dpi=110)
    return path


def intervals_figure(statistics: dict[str, dict[str, Aggregate]]) -> Figure:
    """
    :param statistics: statistic -> method -> aggregate
    :return: a bar for each interval, with its point
    """
    methods = list(next(iter(statistics.values())))
    figure = Figure(figsize=(4.0 * len(statistics), 0.8 + 0.45 * len(methods)), layout="constrained")
    axes = figure.subplots(1, len(statistics), squeeze=False, sharey=True)[0]
    for axis, (name, by_method) in zip(axes, statistics.items(), strict=True):
        for row, method in enumerate(methods):
            aggregate = by_method[method]
            low, high = aggregate.interval or (aggregate.point, aggregate.point)
            axis.barh(row, high - low, left=low, height=0.5, color=f"C{row}", alpha=0.5)
            axis.plot([aggregate.point] * 2, [row - 0.25, row + 0.25], color="black", linewidth=1.5)
        axis.set_yticks(range(len(methods)), methods)
        axis.set_title(f"{name}, normalised score", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", alpha=0.4)
        # Bars would stick to the frame otherwise
        axis.use_sticky_edges = False
        axis.margins(x=0.1)
        axis.autoscale_view()
    axes[0].invert_yaxis()
    return figure
