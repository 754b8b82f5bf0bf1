"""
What the rl-zoo calls our algorithms, and the files of hyper-parameters that ship for them.
"""

import functools
import importlib.resources
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.generative.checks import did_you_mean
from sb3_genpolicy.gmpg import GMPG
from sb3_genpolicy.gmpo import GMPO

OFFLINE_ALGORITHMS: dict[str, type[OfflineAlgorithm]] = {"gmpo": GMPO, "gmpg": GMPG}


@contextmanager
def trusting_pickles() -> Iterator[None]:
    """
    While it lasts, our algorithms' files may hold pickles: rl_zoo3's commands load them without an option to say so.
    """
    for cls in OFFLINE_ALGORITHMS.values():
        cls.load = functools.partial(cls.load, trust_pickle=True)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for cls in OFFLINE_ALGORITHMS.values():
            # What it inherits shows again
            del cls.load


def hyperparams_folder() -> Path:
    """
    :return: the folder of the files that ship with the package
    """
    return Path(str(importlib.resources.files("sb3_genpolicy") / "hyperparams"))


def hyperparams_file(algo: str, name: str | None = None) -> str:
    """
    :param algo: ``gmpo`` or ``gmpg``
    :param name: a file, a Python module, or a set of the package's (``published-cosine``). Default: the tuned ones.
    :return: what rl_zoo3 takes as ``-conf``
    :raises ValueError: if there is no such file or set
    """
    if name is None:
        return str(hyperparams_folder() / f"{algo}.yml")
    if Path(name).is_file() or name.endswith(".py") or importlib.util.find_spec(name.partition(".")[0]) is not None:
        return name
    shipped = {path.parent.name: str(path) for path in hyperparams_folder().glob(f"*/{algo}.yml")}
    if name not in shipped:
        raise ValueError(
            f"-conf {name}: there is neither such a file nor such a set of the package's. {did_you_mean(name, shipped)}"
        )
    return shipped[name]
