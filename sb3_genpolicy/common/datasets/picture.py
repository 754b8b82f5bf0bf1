"""
The picture of a dataset.
"""

import tempfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter, StrMethodFormatter

_ENDED, _CUT, _PLAIN = "#c44e52", "#4c72b0", "#55708d"
# Bins of a histogram: fewer of few values
_BINS, _FEWEST_BINS = 50, 10
# Numbers that are written below an axis, at most: of anything; of dimensions of two digits, and of more
_LABELS, _SHORT_LABELS, _LONG_LABELS = 6, 16, 8
# Counts are drawn by their logarithm where the largest is so many times the smallest
_WIDE = 20.0
_LONGEST_NAME = 90
_WHOLE = StrMethodFormatter("{x:.0f}")


class Drawn(Protocol):
    """What is drawn of a dataset, see :class:`~sb3_genpolicy.common.datasets.info.DatasetInfo`."""

    @property
    def name(self) -> str | None: ...
    @property
    def n_steps(self) -> int: ...
    @property
    def n_episodes(self) -> int: ...
    @property
    def returns(self) -> np.ndarray: ...
    @property
    def lengths(self) -> np.ndarray: ...
    @property
    def terminated(self) -> np.ndarray: ...
    @property
    def reference_scores(self) -> tuple[float, float] | None: ...
    @property
    def bounded(self) -> np.ndarray: ...
    @property
    def saturation(self) -> np.ndarray: ...
    @property
    def drawn_actions(self) -> np.ndarray: ...
    @property
    def drawn_rewards(self) -> np.ndarray: ...
    @property
    def drawn_range(self) -> np.ndarray: ...


def check_picture_path(path: str | Path) -> Path:
    """
    Make sure that a picture can be written, and make its folder.

    :param path: file to write a picture to
    :return: the same, without a ``~``
    :raises ValueError: if its ending is of no format, or nothing can be written there
    """
    path = Path(path).expanduser()
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in known:
        raise ValueError(
            f"A picture cannot be written to {path}, whose ending names no format: take .png, .pdf or .svg "
            f"(there are {', '.join(known)})."
        )
    if path.is_dir():
        raise ValueError(f"A picture cannot be written to {path}, which is a folder: add a name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ValueError(
            f"A picture cannot be written to {path} ({error.strerror or error}): choose another place."
        ) from error
    return path


def draw(info: Drawn) -> Figure:
    """
    :param info: what a dataset holds
    :return: returns over the episodes and their histogram, lengths, rewards, and where actions lie between their bounds
    """
    figure = Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplots(2, 3)
    name = info.name or "dataset"
    name = name if len(name) <= _LONGEST_NAME else f"...{name[-_LONGEST_NAME:]}"
    steps, episodes = (
        f"{n:,} {unit}{'' if n == 1 else 's'}" for n, unit in ((info.n_steps, "step"), (info.n_episodes, "episode"))
    )
    # What is between dollars would be taken for a formula
    figure.suptitle(f"{name}: {steps}, {episodes}".replace("$", r"\$"), fontsize=13)
    for draw_panel, axis in zip(PANELS, axes.flat, strict=True):
        draw_panel(axis, info)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def draw_apart(info: Drawn) -> list[Figure]:
    """
    :param info: what a dataset holds
    :return: what :func:`draw` draws side by side, a figure for each panel
    """
    figures = []
    for draw_panel in PANELS:
        figure, axis = panel()
        draw_panel(axis, info)
        figures.append(figure)
    return figures


def panel(height: float = 3.4) -> tuple[Figure, Any]:
    """
    :param height: in inches
    :return: a figure for a page, and its axes. Its margins are fixed, since finding them costs as much as drawing.
    """
    figure = Figure(figsize=(4.6, height))
    axis = figure.add_axes((0.17, 0.56 / height, 0.8, 1.0 - 0.86 / height))
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _kinds(info: Drawn) -> tuple[list[tuple[np.ndarray, str, str]], str]:
    """Episodes that ended and that were cut off, as far as there are any: which, color and name; and what a title adds."""
    kinds = [(info.terminated, _ENDED, "ended"), (~info.terminated, _CUT, "cut off")]
    kinds = [kind for kind in kinds if kind[0].any()]
    return kinds, "" if len(kinds) == 2 else f" (all {kinds[0][2]})"


def _draw_returns_in_order(axis: Any, info: Drawn) -> None:
    kinds, added = _kinds(info)
    episodes, few = np.arange(info.n_episodes), info.n_episodes <= 100
    for chosen, color, label in kinds:
        axis.plot(episodes[chosen], info.returns[chosen], ".", color=color, markersize=8 if few else 3, label=label)
    margin = max(0.5, 0.02 * info.n_episodes)
    axis.set(title=f"return of each episode{added}", xlabel="episode", ylabel="return")
    axis.set_xlim(-margin, info.n_episodes - 1 + margin)
    _draw_references(axis.axhline, info)
    _label(axis.xaxis, whole=True)
    _label(axis.yaxis)
    _add_legend(axis, kinds)


def _add_legend(axis: Any, kinds: list[Any]) -> None:
    if len(kinds) > 1:
        # Above what is drawn
        low, high = axis.get_ylim()
        axis.set_ylim(low, high + 0.12 * (high - low))
        axis.legend(loc="upper right", ncols=2, frameon=False, borderaxespad=0.0, markerscale=2)


def _draw_references(line: Any, info: Drawn) -> None:
    if info.reference_scores is not None:
        for value, style in zip(info.reference_scores, (":", "--"), strict=True):
            line(value, color="black", linestyle=style, linewidth=1)


def _draw_returns(axis: Any, info: Drawn) -> None:
    _draw_histogram(axis, info.returns)
    references = "" if info.reference_scores is None else " (dotted: score 0, dashed: 100)"
    axis.set(title=f"returns{references}", xlabel="return", ylabel="episodes")
    if info.reference_scores is not None:
        # The lines are to be seen, also where all returns are the same
        axis.autoscale(axis="x")
    _draw_references(axis.axvline, info)
    _label(axis.xaxis)
    _label(axis.yaxis, whole=True)


def _draw_lengths(axis: Any, info: Drawn) -> None:
    kinds, added = _kinds(info)
    shortest, longest = int(info.lengths.min()), int(info.lengths.max())
    # Whole numbers of steps in every bin, so that none has more of them than another
    width = -(-(longest - shortest + 1) // _n_bins(info.n_episodes))
    edges = np.arange(shortest, longest + width + 1, width) - 0.5
    axis.hist([info.lengths[chosen] for chosen, _, _ in kinds], bins=edges, stacked=True, **_styles(kinds))
    axis.set(title=f"lengths{added}", xlabel="steps", ylabel="episodes")
    if longest == shortest:
        axis.set_xlim(max(shortest - 2.5, -0.5), shortest + 2.5)
    _label(axis.xaxis, whole=True)
    _label(axis.yaxis, whole=True)
    _add_legend(axis, kinds)


def _styles(kinds: list[tuple[np.ndarray, str, str]]) -> dict[str, list[str]]:
    return dict(color=[color for _, color, _ in kinds], label=[label for _, _, label in kinds])


def _draw_rewards(axis: Any, info: Drawn) -> None:
    counts = _draw_histogram(axis, info.drawn_rewards)
    axis.set(title="rewards", xlabel="reward", ylabel="steps")
    _label(axis.xaxis)
    if counts.max() >= _WIDE * counts[counts > 0].min():
        # From below 1, so that a single step shows
        axis.set_yscale("log")
        axis.set_ylim(bottom=0.7)
        axis.yaxis.set_major_formatter(_WHOLE)
    else:
        _label(axis.yaxis, whole=True)


def _draw_histogram(axis: Any, values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    spread = max(abs(low), abs(high), 1e-3)
    if high - low > 1e-6 * spread:
        return axis.hist(values, bins=np.linspace(low, high, _n_bins(len(values)) + 1), color=_PLAIN)[0]
    # All the same: one bar, as narrow as others would be
    counts = axis.hist(values, bins=[low - 0.01 * spread, high + 0.01 * spread], color=_PLAIN)[0]
    axis.set_xlim(low - 0.25 * spread, high + 0.25 * spread)
    return counts


def _n_bins(n_values: int) -> int:
    return int(np.clip(2.0 * np.sqrt(n_values), _FEWEST_BINS, _BINS))


def _draw_actions(axis: Any, info: Drawn) -> None:
    """A column of shades for each dimension, from the lower to the upper bound."""
    low, high = info.drawn_range
    scaled = 2.0 * (info.drawn_actions - low) / (high - low) - 1.0
    counts = np.stack([np.histogram(column, bins=_BINS, range=(-1.0, 1.0))[0] for column in scaled.T], axis=1)
    # Square roots: where many lie at a bound, the others still show
    shades = np.sqrt(counts / np.maximum(counts.max(axis=0), 1))
    n_dims = shades.shape[1]
    extent = (-0.5, n_dims - 0.5, -1.0, 1.0)
    # White is none at all, also where all counts are the same
    axis.imshow(
        shades, vmin=0.0, vmax=1.0, origin="lower", aspect="auto", cmap="Blues", interpolation="nearest", extent=extent
    )
    if info.bounded.all():
        title = "actions between their bounds"
    else:
        title = "actions between their " + ("bounds, or " if info.bounded.any() else "") + "least and largest"
    axis.set(title=title, xlabel="dimension", ylabel="action, scaled to [-1, 1]")
    _label_dimensions(axis, n_dims)


def _draw_saturation(axis: Any, info: Drawn) -> None:
    axis.set(title="actions within 1 % of a bound", xlabel="dimension", ylabel="% of steps")
    n_dims, dimensions = len(info.bounded), np.flatnonzero(info.bounded)
    shares = 100.0 * info.saturation[dimensions]
    if not len(dimensions):
        axis.text(0.5, 0.5, "the actions have no bounds", ha="center", va="center", transform=axis.transAxes)
    axis.bar(dimensions, shares, color=_PLAIN)
    axis.set_xlim(-0.6, n_dims - 0.4)
    # Less than a hundredth of the steps is not to look like many
    axis.set_ylim(0.0, min(max(1.05 * shares.max(initial=0.0), 1.0), 100.0))
    _label(axis.yaxis)
    _label_dimensions(axis, n_dims)


def _label_dimensions(axis: Any, n_dims: int) -> None:
    steps = (digit * 10**power for power in range(10) for digit in (1, 2, 5))
    most = _SHORT_LABELS if n_dims <= 100 else _LONG_LABELS
    axis.set_xticks(range(0, n_dims, next(step for step in steps if n_dims <= most * step)))


def _label(axis: Any, whole: bool = False) -> None:
    """So few numbers that they do not run together, and shorter ones where they are large."""
    axis.set_major_locator(MaxNLocator(_LABELS, integer=whole, min_n_ticks=1 if whole else 2, steps=[1, 2, 2.5, 5, 10]))
    if whole:
        axis.set_major_formatter(_WHOLE)
    else:
        formatter = ScalarFormatter()
        formatter.set_powerlimits((-4, 6))
        axis.set_major_formatter(formatter)


#: What is drawn, in this order
PANELS = (_draw_returns_in_order, _draw_returns, _draw_lengths, _draw_rewards, _draw_actions, _draw_saturation)
