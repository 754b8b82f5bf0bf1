"""
Curves of a training, from what was logged: kept in memory, or in the files that SB3 writes.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from sb3_genpolicy.common.datasets.picture import panel
from sb3_genpolicy.common.transitions.transitions import normalized_score

if TYPE_CHECKING:
    import pandas as pd

#: Stands where there is no number
NOTHING = "\N{EN DASH}"
PROGRESS, EVALUATIONS = "progress.csv", "evaluations.npz"
_STEPS = "time/total_timesteps"
#: How to have curves, where there are none
HOW_TO_HAVE_THEM = (
    "Curves are of what is logged: report in the process that trained (learn's log_interval, 1,000 steps by default, has to "
    "be shorter than the training), or let SB3 write them, model.set_logger(configure('logs', ['csv'])) of "
    "stable_baselines3.common.logger, and give logs='logs'. The zoo's runs have them."
)
HOW_TO_EVALUATE = (
    "Nothing was played while it learnt. Give learn an OfflineEvalCallback(eval_env, log_path='logs') for curves of returns; "
    "without a simulator an OfflineSelectionCallback."
)
# These come first, in this order; then losses, then the others
_FIRST = ("value", "difference", "normalized_score", "kl", "weight_kl", "effective_sample_size", "beta", "weight_clamped")
# Who logs what is drawn, by its name in legends
_SOURCES = {"batches": "train/", "held-out rows": "validation/", "judged by logged data": "offline/"}
_LEFT_OUT = {"is_known", "n_updates", "learning_rate", "critic_learning_rate", "phase"}
_TRAINING, _HELD_OUT, _PHASE = "#3b6fb6", "#d1782f", "0.6"


class Evaluations(NamedTuple):
    """
    What was played during a training.

    :param steps: (n,), gradient steps before
    :param mean: (n,), mean return
    :param std: (n,), its standard deviation over episodes; None where only means are known
    """

    steps: np.ndarray
    mean: np.ndarray
    std: np.ndarray | None


def _frame(*rows: Any, **index: Any) -> "pd.DataFrame":
    # Imported late: pandas takes longer than all else of this package
    import pandas as pd

    return pd.DataFrame(*rows, **index)


@dataclass(frozen=True)
class Curves:
    """
    :param source: where they are from, in words; empty where there are none
    :param frame: a line of the log a row, its steps as index
    :param evaluations: what was played; None where nothing was
    """

    source: str = ""
    frame: "pd.DataFrame" = field(default_factory=lambda: _frame())
    evaluations: Evaluations | None = None

    @property
    def are_judged_by_data(self) -> bool:
        """Whether policies were judged by logged data while they learnt."""
        return "offline/value" in self.frame

    def last(self, name: str) -> float | None:
        """
        :param name: of what is logged, as ``train/kl``
        :return: its last value; None where there is none
        """
        values = self.frame[name].dropna().to_numpy() if name in self.frame else []
        return float(values[-1]) if len(values) else None


def find_curves(model: Any, logs: Path | None) -> Curves:
    """
    :param model: the model
    :param logs: folder of its logs; None: what it keeps itself, or the folder of its logger
    :return: the curves there are
    :raises ValueError: if a folder is given that holds none
    """
    if logs is not None:
        if not logs.is_dir() or not ((logs / PROGRESS).is_file() or (logs / EVALUATIONS).is_file()):
            raise ValueError(
                f"There is neither {PROGRESS} nor {EVALUATIONS} in logs={str(logs)!r}: give the folder that SB3's logger or "
                "an evaluation callback wrote into, or leave it out."
            )
        return _of_folder(logs)
    lines = model.kept_log.lines
    folder = _folder_of_logger(model)
    stored = Curves() if folder is None else _of_folder(folder)
    if not lines:
        return stored
    frame = _frame([line for _, line in lines], index=[step for step, _ in lines])
    return Curves("the training, in this process", frame, stored.evaluations or _logged_evaluations(frame))


def _folder_of_logger(model: Any) -> Path | None:
    logger = getattr(model, "_logger", None)
    folder = None if logger is None else logger.get_dir()
    return Path(folder) if folder else None


def _of_folder(folder: Path) -> Curves:
    import pandas as pd

    frame, evaluations = _frame(), None
    found = [name for name in (PROGRESS, EVALUATIONS) if (folder / name).is_file()]
    if PROGRESS in found and (folder / PROGRESS).stat().st_size:
        frame = pd.read_csv(folder / PROGRESS)
        frame = frame.set_index(frame[_STEPS].ffill().astype(int)) if _STEPS in frame else _frame()
        evaluations = _logged_evaluations(frame)
    if EVALUATIONS in found:
        with np.load(folder / EVALUATIONS) as stored:
            returns = stored["results"]
            evaluations = Evaluations(stored["timesteps"], returns.mean(axis=1), returns.std(axis=1))
    return Curves(" and ".join(str(folder / name) for name in found), frame, evaluations)


def _logged_evaluations(frame: "pd.DataFrame") -> Evaluations | None:
    if "eval/mean_reward" not in frame:
        return None
    means = frame["eval/mean_reward"].dropna()
    return Evaluations(means.index.to_numpy(), means.to_numpy(dtype=float), None) if len(means) else None


def evaluation_figure(evaluations: Evaluations, reference_scores: tuple[float, float] | None) -> Figure:
    """
    :param evaluations: what was played
    :param reference_scores: returns that count as 0 and 100; None where nobody says
    :return: scores, or returns where there are none, with a band of a standard deviation over episodes
    """
    figure, axis = _panel()
    low, high = evaluations.mean, evaluations.mean
    if evaluations.std is not None:
        low, high = low - evaluations.std, high + evaluations.std
    mean, low, high = (_scored(values, reference_scores) for values in (evaluations.mean, low, high))
    axis.plot(evaluations.steps, mean, ".-", color=_TRAINING)
    axis.fill_between(evaluations.steps, low, high, color=_TRAINING, alpha=0.2, linewidth=0)
    axis.set_ylabel("return" if reference_scores is None else "normalised score")
    return figure


def _scored(values: np.ndarray, reference_scores: tuple[float, float] | None) -> np.ndarray:
    return values if reference_scores is None else normalized_score(values, reference_scores)


def logged_figures(curves: Curves, held_kl: float | None) -> list[tuple[str, Figure]]:
    """
    :param curves: what was logged
    :param held_kl: divergence that is held; None where none is
    :return: name and figure of everything that a training logs of itself; what is of held-out rows beside what is of the batch
    """
    names = [name.partition("/")[2] for name in curves.frame if str(name).startswith(tuple(_SOURCES.values()))]
    found = []
    for name in sorted(dict.fromkeys(names), key=_order):
        if name in _LEFT_OUT:
            continue
        figure = _logged_figure(curves.frame, name, held_kl if name in ("kl", "weight_kl") else None)
        if figure is not None:
            found.append((name.replace("_", " "), figure))
    return found


def _order(name: str) -> tuple[int, str]:
    if name in _FIRST:
        return _FIRST.index(name), name
    return len(_FIRST) + ("loss" not in name), name


def _logged_figure(frame: "pd.DataFrame", name: str, held: float | None) -> Figure | None:
    import pandas as pd

    drawn = {
        label: pd.to_numeric(frame[key], errors="coerce").dropna()
        for label, key in ((label, f"{source}{name}") for label, source in _SOURCES.items())
        if key in frame
    }
    drawn = {label: values for label, values in drawn.items() if len(values)}
    if not drawn:
        return None
    figure, axis = _panel()
    for label, values in drawn.items():
        color = _HELD_OUT if label == "held-out rows" else _TRAINING
        axis.plot(values.index, values, ".-" if len(values) < 30 else "-", color=color, linewidth=1.2, label=label)
    if held is not None:
        axis.axhline(held, color="black", linestyle="--", linewidth=0.8, label="held")
    for step in _changes_of_phase(frame):
        axis.axvline(step, color=_PHASE, linestyle=":", linewidth=1)
    if len(drawn) > 1 or held is not None or "batches" not in drawn:
        axis.legend(frameon=False, fontsize=8)
    if all((values > 0).all() and values.max() > 100.0 * values.min() for values in drawn.values()):
        axis.set_yscale("log")
    return figure


def _changes_of_phase(frame: "pd.DataFrame") -> Iterable[float]:
    if "train/phase" not in frame:
        return []
    phases = frame["train/phase"].dropna()
    changed = np.flatnonzero(phases.to_numpy()[1:] != phases.to_numpy()[:-1])
    return [0.5 * (phases.index[at] + phases.index[at + 1]) for at in changed]


def _panel() -> tuple[Figure, Any]:
    figure, axis = panel(2.9)
    axis.set_xlabel("gradient steps")
    return figure, axis


def in_words(value: float | None, form: str = ".3g") -> str:
    """
    :param value: a number; None where it is not known
    :param form: as ``format`` takes it
    :return: the number, or a dash
    """
    return NOTHING if value is None or math.isnan(value) else format(value, form)
