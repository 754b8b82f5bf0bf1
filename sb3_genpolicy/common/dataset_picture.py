"""
The picture of a dataset.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from sb3_genpolicy.common.dataset_info import DatasetInfo

_ENDED, _CUT, _PLAIN = "#c44e52", "#4c72b0", "#55708d"
_BINS = 50
# Dimensions whose numbers are written below the picture
_LABELLED = 16


def draw(info: "DatasetInfo") -> Figure:
    """
    :param info: what a dataset holds
    :return: returns over the episodes and their histogram, lengths, rewards, and where actions lie between their bounds
    """
    figure = Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplots(2, 3)
    name = info.name or "dataset"
    figure.suptitle(f"{name}: {info.n_steps:,} steps, {info.n_episodes:,} episodes", fontsize=13)
    _draw_returns_in_order(axes[0, 0], info)
    _draw_returns(axes[0, 1], info)
    _draw_lengths(axes[0, 2], info)
    _draw_rewards(axes[1, 0], info)
    _draw_actions(axes[1, 1], info)
    _draw_saturation(axes[1, 2], info)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_returns_in_order(axis: Any, info: "DatasetInfo") -> None:
    episodes = np.arange(info.n_episodes)
    for ended, color, label in ((True, _ENDED, "ended"), (False, _CUT, "cut off")):
        chosen = info.terminated == ended
        if chosen.any():
            axis.plot(episodes[chosen], info.returns[chosen], ".", color=color, markersize=3, label=label)
    axis.set(title="return of each episode", xlabel="episode", ylabel="return")
    axis.legend(framealpha=0.9, edgecolor="none", markerscale=3)
    _draw_references(axis.axhline, info)


def _draw_references(line: Any, info: "DatasetInfo") -> None:
    if info.reference_scores is not None:
        for value, style in zip(info.reference_scores, (":", "--"), strict=True):
            line(value, color="black", linestyle=style, linewidth=1)


def _draw_returns(axis: Any, info: "DatasetInfo") -> None:
    axis.hist(info.returns, bins=_BINS, color=_PLAIN)
    references = "" if info.reference_scores is None else " (dotted: score 0, dashed: 100)"
    axis.set(title=f"returns{references}", xlabel="return", ylabel="episodes")
    _draw_references(axis.axvline, info)


def _draw_lengths(axis: Any, info: "DatasetInfo") -> None:
    parts = [info.lengths[info.terminated], info.lengths[~info.terminated]]
    axis.hist(parts, bins=_BINS, stacked=True, color=[_ENDED, _CUT], label=["ended", "cut off"])
    axis.set(title="lengths", xlabel="steps", ylabel="episodes")
    axis.legend(frameon=False)


def _draw_rewards(axis: Any, info: "DatasetInfo") -> None:
    axis.hist(info.drawn_rewards, bins=_BINS, color=_PLAIN, log=True)
    axis.set(title="rewards", xlabel="reward", ylabel="steps")


def _draw_actions(axis: Any, info: "DatasetInfo") -> None:
    """A column of shades for each dimension, from the lower to the upper bound."""
    low, high = info.action_space.low.reshape(-1), info.action_space.high.reshape(-1)
    scaled = 2.0 * (info.drawn_actions - low) / (high - low) - 1.0
    counts = np.stack([np.histogram(column, bins=_BINS, range=(-1.0, 1.0))[0] for column in scaled.T], axis=1)
    # Square roots: where many lie at a bound, the others still show
    shades = np.sqrt(counts / np.maximum(counts.max(axis=0), 1))
    n_dims = shades.shape[1]
    axis.imshow(
        shades, origin="lower", aspect="auto", cmap="Blues", interpolation="nearest", extent=(-0.5, n_dims - 0.5, -1.0, 1.0)
    )
    axis.set(title="actions between their bounds", xlabel="dimension", ylabel="action, scaled to [-1, 1]")
    _label_dimensions(axis, n_dims)


def _draw_saturation(axis: Any, info: "DatasetInfo") -> None:
    axis.bar(np.arange(len(info.saturation)), 100 * info.saturation, color=_PLAIN)
    axis.set(title="actions within 1 % of a bound", xlabel="dimension", ylabel="% of steps", ylim=(0, None))
    _label_dimensions(axis, len(info.saturation))


def _label_dimensions(axis: Any, n_dims: int) -> None:
    if n_dims <= _LABELLED:
        axis.set_xticks(range(n_dims))
