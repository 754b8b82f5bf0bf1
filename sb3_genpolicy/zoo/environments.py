"""
In the zoo an environment's id names the run: its entry among the hyper-parameters, its folder, its repository. Two datasets of
one environment would collide, so the environment is registered once more for each dataset, under the dataset's name.
"""

import re
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from sb3_genpolicy.common.datasets import EMBEDDED, load_dataset, open_minari
from sb3_genpolicy.common.datasets.download import local_id
from sb3_genpolicy.common.datasets.env_specs import recorded_spec
from sb3_genpolicy.common.datasets.loading import JOINT
from sb3_genpolicy.common.datasets.paths import FILE_SUFFIXES, ending
from sb3_genpolicy.common.datasets.suites import register_suite
from sb3_genpolicy.zoo.tasks import published_task

#: What stands for an environment's id where there is no simulator
NO_SIMULATOR = "NoSimulator"

# Id that an environment was registered under for a dataset -> its own id
_REGISTERED: dict[str, str] = {}


def dataset_key(dataset: str) -> str:
    """
    :param dataset: name of a dataset: an id, a file, or several that are joined
    :return: what its runs are called: ``rlzoo-hopper-medium-v0``; of a file the name and its folder's
    """
    return "-".join(_key_of_one(part) for part in dataset.split(JOINT))


def _key_of_one(name: str) -> str:
    path = Path(name).expanduser()
    if ending(path) in FILE_SUFFIXES or path.is_absolute():
        path = path.absolute()
        path = path.with_suffix("") if ending(path) in FILE_SUFFIXES else path
        name = "-".join(part for part in path.parts[-2:] if part != path.anchor)
    # What follows a dot would be taken for the ending of the model's file
    return re.sub(r"[^\w-]+", "-", local_id(name)).strip("-")


def entry_names(dataset: str) -> list[str]:
    """
    :param dataset: name of a dataset
    :return: the keys that its hyper-parameters may have in a file, in the order in which they are looked for
    """
    task = published_task(dataset)
    ids = JOINT.join(local_id(part) for part in dataset.split(JOINT))
    return [dataset, ids] + ([task.name] if task is not None else [])


def register_env(dataset: str, env_id: str | None = None) -> str:
    """
    :param dataset: name of a dataset
    :param env_id: id of the environment to evaluate in. Default: the one that the dataset names.
    :return: the id under which the environment is registered for this dataset
    :raises ValueError: if there is no such environment, or none is known
    """
    key = dataset_key(dataset)
    if key in gym.registry and key not in _REGISTERED:
        raise ValueError(f"The dataset '{dataset}' has the name of the environment {key}: give its file another name.")
    spec = _spec(env_id) if env_id is not None else _recorded_in(dataset)
    gym.registry[key] = replace(spec, id=key)
    _REGISTERED[key] = spec.id
    return key


def register_no_simulator(dataset: str) -> str:
    """
    :param dataset: name of a dataset
    :return: the id under which something that has its spaces, and cannot be stepped, is registered for it
    """
    key = dataset_key(dataset)
    entry_point = "sb3_genpolicy.zoo.offline_evaluation:NoSimulator"
    gym.registry[key] = EnvSpec(key, entry_point=entry_point, kwargs={"dataset": dataset}, disable_env_checker=True)
    _REGISTERED[key] = NO_SIMULATOR
    return key


def original_env_id(key: str) -> str:
    """
    :param key: an environment's id
    :return: its own id, where that one was registered for a dataset
    """
    return _REGISTERED.get(key, key)


def _spec(env_id: str) -> EnvSpec:
    register_suite(env_id)
    return gym.spec(env_id)


def _recorded_in(dataset: str) -> EnvSpec:
    name = dataset.split(JOINT)[0]
    task = published_task(name)
    if task is not None:
        return _spec(task.env_id)
    if name in EMBEDDED:
        env_id = load_dataset(name).env_id
        assert env_id is not None
        return gym.spec(env_id)
    if ending(name) in FILE_SUFFIXES:
        raise ValueError(
            f"The dataset '{dataset}' does not say what environment it was recorded in: add --env, or "
            "--offline-evaluation where there is none."
        )
    return recorded_spec(open_minari(name), evaluation=True, way_on="add --env")
