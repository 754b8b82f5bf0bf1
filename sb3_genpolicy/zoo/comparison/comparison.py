"""
Methods compared by one call.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sb3_genpolicy.generative.checks import check_flag, check_number, named_arguments
from sb3_genpolicy.zoo.comparison.methods import Method, line_up
from sb3_genpolicy.zoo.comparison.report import write_report
from sb3_genpolicy.zoo.comparison.shared_work import Comparison
from sb3_genpolicy.zoo.comparison.trainings import Conditions


@named_arguments
def compare(
    datasets: str | Sequence[str],
    algos: str | Method | Sequence[str | Method],
    seeds: int | Sequence[int] = 5,
    steps: int = 100_000,
    pretraining_steps: int | None = None,
    batch_size: int = 256,
    episodes: int = 50,
    curve_points: int = 10,
    curve_episodes: int = 10,
    options: Mapping[str, Any] | None = None,
    env: str | None = None,
    output: str | Path = "report",
    storage: str | None = None,
    study_name: str = "comparison",
    patience: float = 120.0,
    device: str = "auto",
    reps: int = 2000,
    progress_bar: bool = True,
) -> pd.DataFrame:
    """
    Train and evaluate methods under equal conditions, and write ``index.html`` about it, with ``runs.csv`` and ``curves.csv``.

    Behaviour model and critics are trained once for each dataset and seed, and handed to every method that takes
    ``pretrained=``; the others train all their own, in as many steps altogether, and the report says which did what. Every run
    is a trial of an Optuna study: as many processes and machines as make the same call share the runs, and a run whose process
    has died is done again. What was done before is not done again: more seeds may be asked for later.

    :param datasets: names of datasets: Minari ids, files, embedded names
    :param algos: names of registered algorithms, or algorithms with settings
    :param seeds: seeds of the trainings, or how many (0, 1, ...)
    :param steps: gradient steps of every method, those of a pretraining that it takes among them
    :param pretraining_steps: of these, the steps of the pretraining. Default: half of them.
    :param batch_size: rows of each gradient step
    :param episodes: of the evaluations of the last parameters, from the same starts for all
    :param curve_points: evaluations along the way, 0 for none
    :param curve_episodes: episodes of each of these
    :param options: options of all the methods' constructors, over which a method's own prevail. All must have them.
    :param env: id of the environment to evaluate in. Default: the one that each dataset names.
    :param output: folder of the report and the models, which all processes share
    :param storage: a database, or a file of Optuna's journal that ends in ``.log``. Default: ``study.db`` in the folder, which
        is enough for the processes of one machine.
    :param study_name: of the study on it
    :param patience: seconds without a sign of life after which a process counts as dead, and its run is done again
    :param device: where models are trained and act
    :param reps: resamples of the bootstrap
    :param progress_bar: whether to show one, with the time that is left
    :return: a row for each run: dataset, algorithm, seed, mean scores (``deterministic``, ``sampled``; ``normalized`` says
        whether they are scores or returns), what was shared, steps, seconds and milliseconds of an action
    :raises ValueError: if an algorithm, an option or a dataset is unknown, or the study has other settings
    """
    check_number("patience", patience, low=0.0, low_open=True)
    check_number("reps", reps, low=1, whole=True)
    check_flag("progress_bar", progress_bar)
    datasets = _several("datasets", datasets)
    methods: Sequence[str | Method] = [algos] if isinstance(algos, (str, Method)) else list(algos)
    conditions = Conditions(
        steps=steps,
        pretraining_steps=steps // 2 if pretraining_steps is None else pretraining_steps,
        batch_size=batch_size,
        episodes=episodes,
        curve_points=curve_points,
        curve_episodes=curve_episodes,
    )
    comparison = Comparison(
        datasets,
        line_up(methods, options),
        _seeds(seeds),
        conditions,
        env,
        Path(output),
        storage,
        study_name,
        patience,
        device,
    )
    comparison.run(progress_bar)
    return write_report(comparison, reps)


def _several(option: str, names: str | Sequence[str]) -> list[str]:
    listed = [names] if isinstance(names, str) else list(names)
    if not listed or len(set(listed)) < len(listed):
        raise ValueError(f"{option} must be one name or several different ones, not {listed}.")
    return listed


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    if isinstance(seeds, int):
        check_number("seeds", seeds, low=1, whole=True)
        return list(range(seeds))
    for seed in seeds:
        check_number("seeds", seed, low=0, high=2**32 - 1, whole=True)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be how many, or different seeds, not {list(seeds)}.")
    return [int(seed) for seed in seeds]
