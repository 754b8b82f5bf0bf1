"""
Processes that do the same work in different ways and take turns at it, never two at once. Needs NumPy alone, so that the
Python of any environment can run it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def serve(calls: Mapping[str, Callable[[], Any]], said: Any, answers: Mapping[str, Callable[[], Any]] | None = None) -> None:
    """
    What each process does: it reads a name and a count, and answers with the seconds of each call, or with what an answer is.

    :param calls: what is timed, by name
    :param said: what the process says of itself first
    :param answers: what is asked for and not timed, by name; they return what JSON can hold
    """
    print(json.dumps([said, list(calls)]), flush=True)
    for line in sys.stdin:
        name, n_calls = json.loads(line)
        if answers is not None and name in answers:
            print(json.dumps(answers[name]()), flush=True)
            continue
        # Time of the processor: waiting for other programs does not count
        seconds = []
        for _ in range(n_calls):
            start = time.process_time()
            calls[name]()
            seconds.append(time.process_time() - start)
        print(json.dumps(seconds), flush=True)


class Worker:
    """
    One of the processes.

    :param command: that starts it
    :param folder: where it runs
    :param paths: where it finds modules, the first ones first
    """

    def __init__(self, command: Sequence[str], folder: str, paths: Sequence[Path]):
        # A safe path has neither the current folder nor this file's, whose neighbours have names of libraries
        path = os.pathsep.join(map(str, paths))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            list(command), env=environment, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.said, self.names = self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"A process has ended, with exit status {self.process.wait()}.")
        return json.loads(line)

    def call(self, name: str, n_calls: int) -> Any:
        """
        :param name: of what is timed, or asked for
        :param n_calls: how often it is called
        :return: seconds of each call, or the answer
        """
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, n_calls]) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait()


def rows_of_two_ways(n_rows: int, obs_dim: int = 11, action_dim: int = 3) -> dict[str, np.ndarray]:
    """
    Rows from which every network has something to learn: each action goes one of two ways that the observation tells, and
    its reward falls with the distance from the first.

    :param n_rows: how many
    :param obs_dim: entries of an observation, at least twice as many as of an action
    :param action_dim: entries of an action
    :return: columns by name, as :func:`~sb3_genpolicy.data.load_dataset` takes them
    """
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(n_rows, obs_dim))
    first = np.tanh(observations[:, :action_dim])
    second = np.tanh(observations[:, action_dim : 2 * action_dim])
    chosen = np.where(rng.uniform(size=(n_rows, 1)) < 0.5, first, second)
    actions = np.clip(chosen + 0.1 * rng.normal(size=chosen.shape), -1.0, 1.0)
    return dict(
        observations=observations.astype(np.float32),
        actions=actions.astype(np.float32),
        rewards=-np.square(actions - first).sum(axis=1).astype(np.float32),
        terminals=np.zeros(n_rows, np.float32),
        timeouts=(np.arange(n_rows) % 1000 == 999).astype(np.float32),
    )
