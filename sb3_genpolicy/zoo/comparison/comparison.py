"""
Methods on datasets, seeds of each: shared out among processes, every run once.
"""

import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pandas as pd

from sb3_genpolicy.generative.checks import check_flag, check_number, named_arguments
from sb3_genpolicy.zoo.comparison.frames import curves_of, rows_of
from sb3_genpolicy.zoo.comparison.methods import Contender, Method, Pretraining, line_up
from sb3_genpolicy.zoo.comparison.progress import Progress
from sb3_genpolicy.zoo.comparison.shared_study import Point, SharedStudy
from sb3_genpolicy.zoo.comparison.trainings import Conditions, Outcome, Place, pretrain, train
from sb3_genpolicy.zoo.environments import dataset_key, register_env
from sb3_genpolicy.zoo.storage import open_storage


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
    # What draws is not needed for the rest
    from sb3_genpolicy.zoo.comparison.report import write_report

    return write_report(comparison, reps)


class Comparison:
    """
    :param datasets: their names
    :param contenders: the methods
    :param seeds: of the trainings
    :param conditions: what is the same for all
    :param env: id of the environment, None for the one that each dataset names
    :param output: folder of the report and the models
    :param storage: address of the storage, None for a database in the folder
    :param study_name: of the study
    :param patience: seconds after which a process counts as dead
    :param device: where models are trained
    """

    def __init__(
        self,
        datasets: Sequence[str],
        contenders: Sequence[Contender],
        seeds: Sequence[int],
        conditions: Conditions,
        env: str | None,
        output: Path,
        storage: str | None,
        study_name: str,
        patience: float,
        device: str,
    ):
        self.contenders, self.conditions, self.output, self.device = contenders, conditions, output, device
        self.env_ids = {dataset: register_env(dataset, env) for dataset in datasets}
        self.pretrainings = list({one.label: one for c in contenders if (one := c.pretraining) is not None}.values())
        output.mkdir(parents=True, exist_ok=True)
        opened = open_storage(storage or f"sqlite:///{output.absolute() / 'study.db'}")
        settings = {**conditions.described(), "env": env}

        def study(name: str, axis: str, parts: Sequence[Contender | Pretraining], run: _Work) -> SharedStudy:
            axes: dict[str, Any] = {"dataset": list(datasets), axis: [part.label for part in parts], "seed": list(seeds)}
            described = {**settings, **{part.label: part.described() for part in parts}}
            return SharedStudy(name, opened, axes, described, run, patience, self._look)

        with _quiet():
            self.runs = study(study_name, "method", contenders, self._run)
            self.shared: SharedStudy | None = None
            if self.pretrainings:
                self.shared = study(f"{study_name} pretraining", "pretraining", self.pretrainings, self._pretrain)
        if "command" not in self.runs.study.user_attrs:
            self.runs.study.set_user_attr("command", shlex.join(["python", *sys.orig_argv[1:]]))
        self.progress: Progress | None = None

    @property
    def command(self) -> str:
        """What started it first."""
        return self.runs.study.user_attrs["command"]

    def run(self, progress_bar: bool) -> None:
        """
        Take part until all runs are done.

        :param progress_bar: whether to show one
        """
        self.progress = Progress(self._total_steps(), self._done_steps, progress_bar)
        try:
            with _quiet():
                if self.shared is not None:
                    self.shared.take_part(stay=False)
                self.runs.take_part()
        finally:
            self.progress.close()

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """
        :return: rows of runs, and of points of curves
        """
        runs = list(self.runs.done().values())
        pretrainings = [] if self.shared is None else list(self.shared.done().values())
        return rows_of(runs, pretrainings, self.contenders, self.conditions), curves_of(runs, pretrainings)

    # Pieces of work

    def _pretrain(self, trial: optuna.Trial, point: Point) -> float:
        pretraining = next(one for one in self.pretrainings if one.label == point["pretraining"])
        self._begin(pretraining.label, point)
        outcome = pretrain(pretraining, self._place(pretraining.label, point), self.conditions, self._step)
        return self._keep(trial, outcome, 0.0)

    def _run(self, trial: optuna.Trial, point: Point) -> float:
        contender = next(one for one in self.contenders if one.label == point["method"])
        pretrained = None if contender.pretraining is None else self._pretrained(contender.pretraining, point)
        self._begin(contender.label, point)
        outcome = train(contender, self._place(contender.label, point), self.conditions, pretrained, self._step)
        return self._keep(trial, outcome, outcome["deterministic"])

    def _pretrained(self, pretraining: Pretraining, point: Point) -> Path:
        assert self.shared is not None
        self.shared.take_part(until=dict(dataset=point["dataset"], pretraining=pretraining.label, seed=point["seed"]))
        path = self._place(pretraining.label, point).model
        if not path.is_file():
            raise ValueError(
                f"There is no {path}, which a process of this comparison has trained: all need one folder, "
                f"output={self.output}. If it was deleted, delete the study too."
            )
        return path

    def _place(self, label: str, point: Point) -> Place:
        dataset, seed = str(point["dataset"]), int(point["seed"])
        name = re.sub(r"[^\w-]+", "-", label).strip("-")
        model = self.output / "models" / dataset_key(dataset) / f"{name}-{seed}.zip"
        return Place(dataset, self.env_ids[dataset], seed, self.device, model)

    @staticmethod
    def _keep(trial: optuna.Trial, outcome: Outcome, value: float) -> float:
        for name, kept in outcome.items():
            trial.set_user_attr(name, kept)
        return value

    # Progress

    def _total_steps(self) -> int:
        shared = 0 if self.shared is None else len(self.shared.points) * self.conditions.pretraining_steps
        return shared + sum(self._own_steps(point) for point in self.runs.points)

    def _done_steps(self) -> int:
        shared = 0 if self.shared is None else len(self.shared.done()) * self.conditions.pretraining_steps
        return shared + sum(self._own_steps(self.runs.points[index]) for index in self.runs.done())

    def _own_steps(self, point: Point) -> int:
        return self.conditions.own_steps(next(one for one in self.contenders if one.label == point["method"]))

    def _begin(self, label: str, point: Point) -> None:
        if self.progress is not None:
            self.progress.begin(f"{label}, {point['dataset']}, seed {point['seed']}")

    def _step(self) -> None:
        if self.progress is not None:
            self.progress.step()

    def _look(self, waiting: bool) -> None:
        if self.progress is not None:
            self.progress.look(waiting)


_Work = Callable[[optuna.Trial, Point], float]


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


@contextmanager
def _quiet() -> Any:
    """The bar says what Optuna would write between its lines."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
