"""
The picture of an evaluation: values with their intervals, and how they were learnt.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_genpolicy.common.datasets.picture import check_picture_path

_COLOURS = {"policy": "#4c72b0", "behaviour": "#55708d", "difference": "#c44e52"}


def draw_evaluation(found: Any, path: str | Path) -> Path:
    """
    :param found: an evaluation, see :class:`~sb3_genpolicy.evaluation.result.OfflineEvaluation`
    :param path: the file, whose ending says the format
    :return: the same
    :raises ValueError: if nothing can be written there
    """
    path = check_picture_path(path)
    panels = _panels(found)
    figure = Figure(figsize=(5.5 * len(panels), 3.6), layout="constrained")
    for draw_panel, ax in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        draw_panel(ax)
    figure.suptitle(f"{found.policy} on {found.dataset}: {found.verdict.word}")
    figure.savefig(path, dpi=150)
    return path


def draw_evaluation_apart(found: Any) -> list[Figure]:
    """
    :param found: an evaluation, see :class:`~sb3_genpolicy.evaluation.result.OfflineEvaluation`
    :return: what :func:`draw_evaluation` draws side by side, a figure for each panel
    """
    figures = []
    for draw_panel in _panels(found):
        figure = Figure(figsize=(4.6, 3.4), layout="constrained")
        draw_panel(figure.subplots())
        figures.append(figure)
    return figures


def _panels(found: Any) -> list[Callable[[Axes], None]]:
    kinds = list(dict.fromkeys(line.kind for line in found.estimates if line.value is not None))
    return [*(partial(_draw_kind, found=found, kind=kind) for kind in kinds), partial(_draw_curve, found=found, kinds=kinds)]


def _draw_kind(ax: Axes, found: Any, kind: str) -> None:
    _draw_estimates(ax, [line for line in found.estimates if line.kind == kind and line.value is not None])
    ax.set_title(f"{kind} ({found.gamma:g})" if kind == "discounted" else kind)


def _draw_estimates(ax: Axes, lines: list[Any]) -> None:
    for place, line in enumerate(reversed(lines)):
        off = [[line.value - line.low], [line.high - line.value]]
        ax.errorbar([line.value], [place], xerr=off, fmt="o", capsize=3, color=_COLOURS[line.of])
    ax.axvline(0.0, color="0.8", linewidth=0.8, zorder=0)
    ax.set_yticks(range(len(lines)), [f"{line.of}\n{line.method}" for line in reversed(lines)])
    ax.set_ylim(-0.5, len(lines) - 0.5)
    ax.set_xlabel("in the environment's units")


def _draw_curve(ax: Axes, found: Any, kinds: list[str]) -> None:
    steps = [look.step for look in found.curve]
    for number, style in zip(range(len(found.curve[0].values)), ("-", "--"), strict=False):
        ax.plot(steps, [look.values[number] for look in found.curve], style, color=_COLOURS["policy"], label=kinds[number])
    ax.set_xlabel("gradient steps")
    ax.set_ylabel("value of the initial states")
    ax.legend(frameon=False)
    ax.set_title(f"stopped {found.stopped}", fontsize="small")
