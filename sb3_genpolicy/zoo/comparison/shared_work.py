"""
Methods on datasets, seeds of each: shared out among processes, every run once.
"""

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pandas as pd

from sb3_genpolicy.zoo.comparison.frames import curves_of, rows_of
from sb3_genpolicy.zoo.comparison.methods import Contender, Pretraining
from sb3_genpolicy.zoo.comparison.progress import Progress
from sb3_genpolicy.zoo.comparison.shared_study import Point, SharedStudy
from sb3_genpolicy.zoo.comparison.trainings import Conditions, Outcome, Place, pretrain, train
from sb3_genpolicy.zoo.environments import dataset_key, register_env
from sb3_genpolicy.zoo.storage import open_storage


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


@contextmanager
def _quiet() -> Any:
    """The bar says what Optuna would write between its lines."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
