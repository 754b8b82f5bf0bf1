"""
Work that processes share: every piece is a trial of an Optuna study on storage that all of them reach.

:class:`optuna.samplers.GridSampler` says which piece is next. Two things are added to it: a piece whose process has died is
done again, and a piece that another process is at, or has done, is not begun.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

#: Values of a grid's axes: a piece of work
Point = dict[str, str | int]

_SETTINGS = "settings"
_ALIVE = "alive"
_PROCESS = "process"
# Signs of life within the time after which a process counts as dead
_SIGNS = 4
_LARGEST = 2**32 - 1
# To say which piece a trial is that has just begun
_ANNOUNCED_WITHIN = 10.0


class SharedStudy:
    """
    :param name: of the study
    :param storage: where it is kept
    :param axes: of the grid, by name; whole numbers may be added to an axis later on, names may not
    :param settings: what all processes have to agree on, plain texts and numbers
    :param run: does a piece of work, and keeps what came of it in the trial's attributes; gives the trial's value
    :param patience: seconds without a sign of life after which a process counts as dead
    :param look: called when a piece is done, and now and then while others do theirs, with whether that is what is waited for
    :raises ValueError: if the study has other settings
    """

    def __init__(
        self,
        name: str,
        storage: BaseStorage,
        axes: Mapping[str, Sequence[Any]],
        settings: Mapping[str, Any],
        run: Callable[[optuna.Trial, Point], float],
        patience: float,
        look: Callable[[bool], None],
    ):
        self.axes, self.run, self.patience, self.look = axes, run, patience, look
        self.points = [Point(zip(axes, values, strict=True)) for values in product(*axes.values())]
        sampler = optuna.samplers.GridSampler({axis: list(values) for axis, values in axes.items()}, seed=0)
        self.study = optuna.create_study(
            study_name=name, storage=storage, sampler=sampler, direction="maximize", load_if_exists=True
        )
        # The grid's sampler ends a loop at the last point, and fails where somebody is told of a trial outside of one
        self._without_grid = optuna.load_study(study_name=name, storage=storage)
        names = {axis: list(values) for axis, values in axes.items() if not _are_numbers(values)}
        self._agree({**settings, **names})
        # Whether another process took this one for dead
        self._lost = False
        # Number of a trial -> its last sign of life, and when that was first seen: clocks of machines need not agree
        self._signs: dict[int, tuple[Any, float]] = {}

    def _agree(self, settings: Mapping[str, Any]) -> None:
        ours = json.loads(json.dumps(settings))
        theirs = self.study.user_attrs.get(_SETTINGS)
        if theirs is None:
            self.study.set_user_attr(_SETTINGS, ours)
            return
        different = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
        if different:
            shown = "; ".join(f"{name}: {theirs.get(name)!r} there, {ours.get(name)!r} here" for name in different)
            raise ValueError(f"The study '{self.study.study_name}' has other settings ({shown}). Take them, or another study.")

    def done(self) -> dict[int, FrozenTrial]:
        """
        :return: index of a point -> the trial that did it
        """
        return self._first(TrialState.COMPLETE)

    def take_part(self, until: Point | None = None, stay: bool = True) -> None:
        """
        Do what nobody else does.

        :param until: the piece that is waited for. Default: all.
        :param stay: whether to wait for others while there is nothing to do, so that their pieces are done should they die
        """
        wanted = set(range(len(self.points))) if until is None else {self.points.index(until)}
        while not wanted <= self.done().keys():
            self._fail_the_dead()
            self._repeat_the_failed()
            running, finished = self._first(TrialState.RUNNING), self.done()
            if any(index not in running and index not in finished for index in range(len(self.points))):
                self._do_one()
                self.look(False)
            elif not stay:
                return
            else:
                self.look(True)
                time.sleep(min(self.patience / 10.0, 5.0))

    def _do_one(self) -> None:
        self._lost = False
        try:
            self.study.optimize(self._objective, n_trials=1)
        except ValueError:
            if not self._lost:
                raise
            print(
                f"A run of '{self.study.study_name}' was lost: for {self.patience:g} seconds others saw no sign of life of "
                "this process, and do it again."
            )

    def _objective(self, trial: optuna.Trial) -> float:
        point = {axis: self._suggest(trial, axis) for axis in self.axes}
        if self._is_anothers(trial.number, point):
            raise optuna.TrialPruned("Another process is at it, or has done it.")
        trial.set_user_attr(_PROCESS, f"{platform.node()} {os.getpid()}")
        with _signs_of_life(trial, self.patience / _SIGNS):
            try:
                return self.run(trial, point)
            except optuna.exceptions.UpdateFinishedTrialError:
                self._lost = True
                raise

    def _suggest(self, trial: optuna.Trial, axis: str) -> str | int:
        values = self.axes[axis]
        if _are_numbers(values):
            return trial.suggest_int(axis, 0, _LARGEST)
        return trial.suggest_categorical(axis, list(values))  # type: ignore[return-value]

    def _is_anothers(self, number: int, point: Point) -> bool:
        """Whether a trial with a lower number is at a piece, or any trial has done it."""
        give_up = time.monotonic() + min(_ANNOUNCED_WITHIN, self.patience)
        while True:
            trials = [trial for trial in self.study.get_trials(deepcopy=False) if trial.number != number]
            begun = [trial for trial in trials if trial.state == TrialState.RUNNING and trial.number < number]
            if any(trial.params == point for trial in begun):
                return True
            if all(trial.params.keys() >= point.keys() for trial in begun) or time.monotonic() > give_up:
                return any(trial.params == point and trial.state == TrialState.COMPLETE for trial in trials)
            time.sleep(0.05)

    def _first(self, *states: TrialState) -> dict[int, FrozenTrial]:
        found: dict[int, FrozenTrial] = {}
        for trial in self.study.get_trials(deepcopy=False, states=states):
            if trial.params in self.points:
                found.setdefault(self.points.index(trial.params), trial)
        return found

    def _fail_the_dead(self) -> None:
        now = time.monotonic()
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            sign = trial.user_attrs.get(_ALIVE)
            last, since = self._signs.get(trial.number, (None, None))
            if since is None or last != sign:
                self._signs[trial.number] = (sign, now)
            elif now - since > self.patience:
                # Others look too, and may be faster
                with suppress(optuna.exceptions.UpdateFinishedTrialError):
                    self._without_grid.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def _repeat_the_failed(self) -> None:
        """Queue anew what was begun and not ended. Where two processes do so at once, one of the two is left again."""
        under_way = self._first(TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING)
        for index, trial in self._first(TrialState.FAIL, TrialState.PRUNED).items():
            if index not in under_way:
                self.study.add_trial(
                    optuna.trial.create_trial(
                        state=TrialState.WAITING,
                        params=trial.params,
                        distributions=trial.distributions,
                        # Of the grid
                        system_attrs=trial.system_attrs,
                    )
                )


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int) for value in values)


@contextmanager
def _signs_of_life(trial: optuna.Trial, interval: float) -> Iterator[None]:
    """Signs of life in a trial's attributes: of Optuna's storages databases alone keep heartbeats."""
    ended = threading.Event()

    def sign() -> None:
        number = 0
        while not ended.wait(interval):
            number += 1
            try:
                trial.set_user_attr(_ALIVE, number)
            except Exception:
                # A sign that a busy storage does not take is followed by others
                continue

    thread = threading.Thread(target=sign, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
