"""
Our algorithms in the rl-zoo: what it finds of them, and their files of hyper-parameters.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rl_zoo3 import ALGOS
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.algorithms.registry import registered
from sb3_genpolicy.generative.checks import did_you_mean


def add_to_zoo() -> None:
    """
    Make all registered algorithms known to rl_zoo3 in this process, also those that were registered since the last call.

    :raises ValueError: if one has the name of an algorithm of rl_zoo3
    """
    for name, entry in registered().items():
        if not issubclass(ALGOS.get(name, OfflineAlgorithm), OfflineAlgorithm):
            place = f"{entry.algorithm.__module__}.{entry.algorithm.__name__}"
            raise ValueError(f"rl_zoo3 has an algorithm '{name}' of its own: register {place} under another name.")
        ALGOS[name] = entry.algorithm
        HYPERPARAMS_CONVERTER[name] = entry.converter  # type: ignore[assignment]
        if entry.sampler is not None:
            HYPERPARAMS_SAMPLER[name] = entry.sampler  # type: ignore[assignment]


def is_ours(algo: str) -> bool:
    """
    :param algo: what the zoo calls an algorithm
    :return: whether it learns from a dataset, and not in its environment
    """
    return algo in registered()


def check_algorithm(algo: str) -> None:
    """
    :param algo: what the zoo is asked to call an algorithm
    :raises ValueError: if there is none of that name
    """
    if algo not in ALGOS:
        raise ValueError(
            f"There is no algorithm '{algo}'. {did_you_mean(algo, ALGOS)} One of your own is known by --gym-packages with the "
            "module that calls sb3_genpolicy.register."
        )


class _Trusting:
    """
    What rl_zoo3 takes for an algorithm, whose files may hold pickles.

    :param algorithm: the algorithm
    """

    def __init__(self, algorithm: type[OfflineAlgorithm]):
        self.algorithm, self.__name__ = algorithm, algorithm.__name__

    def __call__(self, *args: Any, **options: Any) -> OfflineAlgorithm:
        return self.algorithm(*args, **options)

    def load(self, path: str, **options: Any) -> OfflineAlgorithm:
        return self.algorithm.load(path, trust_pickle=True, **options)


@contextmanager
def trusting_pickles() -> Iterator[None]:
    """
    While it lasts, files of our algorithms that rl_zoo3 loads may hold pickles: its commands have no option to say so.
    """
    theirs = dict(ALGOS)
    ALGOS.update({name: _Trusting(entry.algorithm) for name, entry in registered().items()})  # type: ignore[misc]
    try:
        yield
    finally:
        ALGOS.update(theirs)


def hyperparams_file(algo: str, name: str | None = None) -> str | None:
    """
    :param algo: one of our algorithms
    :param name: a file, a Python module, or a set that was registered with the algorithm (``published-cosine``). Default: the
        file that was registered.
    :return: what rl_zoo3 takes as ``-conf``; None where nothing was asked for and nothing is registered
    :raises ValueError: if there is no such file or set
    """
    registered_file = registered()[algo].hyperparams
    if name is None:
        return None if registered_file is None else str(registered_file)
    if Path(name).is_file() or name.endswith(".py") or importlib.util.find_spec(name.partition(".")[0]) is not None:
        return name
    sets = {} if registered_file is None else {path.stem: str(path) for path in registered_file.parent.glob("*.yml")}
    if name not in sets:
        near = f" {did_you_mean(name, sets)}" if sets else ""
        raise ValueError(f"-conf {name}: there is neither such a file nor such a set of {algo}'s.{near}")
    return sets[name]
