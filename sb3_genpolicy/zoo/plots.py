"""
rl_zoo3's plots of runs that did not train in an environment, and plots drawn into files.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from stable_baselines3.common.monitor import LoadMonitorResultsError, load_results
from stable_baselines3.common.results_plotter import X_TIMESTEPS, ts2xy

from sb3_genpolicy.zoo.arguments import Arguments, value_of, without
from sb3_genpolicy.zoo.runs import Run, find_runs


def training_returns(folder: str, evaluated: dict[str, Run], max_timesteps: int | None) -> pd.DataFrame:
    """
    :param folder: of a run
    :param evaluated: runs with evaluations, by folder
    :param max_timesteps: last step that is wanted, None for all
    :return: an episode a row: return ``r``, length ``l``, seconds ``t``. Where the training played none, an evaluation a row:
        the means of its episodes, and the gradient steps before it in ``steps``.
    """
    try:
        frame = load_results(folder)
    except LoadMonitorResultsError:
        frame = pd.DataFrame()
    if len(frame) == 0 and folder in evaluated:
        frame = _mean_evaluations(evaluated[folder])
    if len(frame) == 0:
        raise LoadMonitorResultsError(f"Nothing was played in {folder}.")
    if max_timesteps is not None:
        steps = frame["steps"] if "steps" in frame else frame["l"].cumsum()
        frame = frame[steps <= max_timesteps]
    return frame


def _mean_evaluations(run: Run) -> pd.DataFrame:
    evaluations = run.evaluations
    assert evaluations is not None
    seconds = evaluation_seconds(run)
    return pd.DataFrame(
        dict(
            r=evaluations.returns.mean(axis=1),
            l=evaluations.lengths.mean(axis=1),
            t=[seconds.get(int(step), np.nan) for step in evaluations.timesteps],
            steps=evaluations.timesteps,
        )
    )


def evaluation_seconds(run: Run) -> dict[int, float]:
    """
    :param run: a run
    :return: gradient step of an evaluation -> seconds of training before it, evaluations included
    """
    path = run.path / "progress.csv"
    if not path.is_file():
        return {}
    log = pd.read_csv(path)
    if not {"eval/mean_reward", "time/time_elapsed", "time/total_timesteps"} <= set(log.columns):
        return {}
    log = log[log["eval/mean_reward"].notna()]
    return dict(zip(log["time/total_timesteps"].astype(int), log["time/time_elapsed"], strict=True))


@contextmanager
def with_evaluations(module: ModuleType, arguments: Arguments) -> Iterator[Arguments]:
    """
    Let rl_zoo3's ``plot_train`` draw evaluations of runs that had no other episodes, against gradient steps.

    :param module: the module of ``plot_train``
    :param arguments: its command line
    :return: the arguments it is to be run with
    """
    folder, algo = value_of(arguments, "-f", "--exp-folder"), value_of(arguments, "-a", "--algo")
    runs = [run for run in find_runs(folder or ".", [algo or ""]) if run.evaluations is not None]
    evaluated = {str(run.path): run for run in runs}
    given = value_of(arguments, "-max", "--max-timesteps")
    max_timesteps = None if given is None else int(given)
    if any(run.dataset is not None for run in runs) and value_of(arguments, "-w", "--episode-window") is None:
        # rl_zoo3's window of a hundred episodes would be longer than all evaluations
        arguments = [*arguments, "-w", "1"]

    def steps_and_returns(frame: pd.DataFrame, x_axis: str) -> tuple[np.ndarray, np.ndarray]:
        if x_axis == X_TIMESTEPS and "steps" in frame:
            return frame["steps"].to_numpy(), frame["r"].to_numpy()
        return ts2xy(frame, x_axis)

    names = {"load_results": lambda path: training_returns(path, evaluated, max_timesteps), "ts2xy": steps_and_returns}
    theirs = {name: getattr(module, name) for name in names}
    vars(module).update(names)
    try:
        yield without(arguments, "-max", "--max-timesteps")
    finally:
        vars(module).update(theirs)


class _NumpyOfFewEvaluations:
    """
    NumPy, but for its ``load``: rl_zoo3's ``all_plots`` stumbles over evaluations of one episode, and skips a run that has one
    evaluation. Each is given twice, which changes neither means nor their spread over runs.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def load(self, path: str) -> dict[str, np.ndarray]:
        with np.load(path) as stored:
            arrays = dict(stored)
        for axis in (0, 1):
            if arrays["results"].shape[axis] == 1:
                arrays = {name: array.repeat(2, axis) if array.ndim > axis else array for name, array in arrays.items()}
        return arrays


@contextmanager
def with_few_evaluations(module: ModuleType, arguments: Arguments) -> Iterator[Arguments]:
    """
    Let rl_zoo3's ``all_plots`` take runs of any length and any number of evaluations.

    :param module: the module of ``all_plots``
    :param arguments: its command line
    :return: the arguments it is to be run with
    """
    if value_of(arguments, "-max", "--max-timesteps") is None:
        # rl_zoo3 leaves out what comes after two million steps, the paper's last evaluations among it
        arguments = [*arguments, "-max", str(2**62)]
    theirs, module.np = module.np, _NumpyOfFewEvaluations()  # type: ignore[attr-defined]
    try:
        yield arguments
    finally:
        module.np = theirs  # type: ignore[attr-defined]


@contextmanager
def drawn_into(picture: Path | None) -> Iterator[None]:
    """
    :param picture: file that is drawn into, None for a window; where there are several figures, each has a file of its own
    """
    if picture is None:
        yield
        return
    matplotlib.use("Agg")
    plt.close("all")
    theirs, plt.show = plt.show, lambda *args, **kwargs: None
    try:
        yield
    finally:
        plt.show = theirs
    labels = plt.get_figlabels()
    for label in labels:
        suffix = "" if len(labels) == 1 else "-" + re.sub(r"[^\w.-]+", "-", label.removeprefix("Results "))
        path = picture.with_name(picture.stem + suffix + picture.suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        plt.figure(label).savefig(path)
        print(f"Drawn into {path}")
    plt.close("all")
    if not labels:
        raise ValueError("There is nothing to draw: no run of these has an evaluation.")
