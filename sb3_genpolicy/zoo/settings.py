"""
From the YAML of hyper-parameters to the options of our algorithms. An object is written as its name, or as a mapping from its
name to its options, as rl_zoo3 writes wrappers and callbacks::

    transforms:
      - ClipActions
      - BestEpisodes: {share: 0.1}
    critic: {OneStepCritic: {n_steps: 5}}
    policy_kwargs:
      path: {LinearPath: {extra_noise: 0.1}}

What ``sb3_genpolicy.register`` was given as ``objects`` is written the same way, and its ``classes`` by name in
``policy_kwargs``.
"""

from collections.abc import Callable, Iterable, Mapping
from types import NoneType
from typing import Any

from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.algorithms.registry import RegisteredAlgorithm
from sb3_genpolicy.common.policies.critics.options import CRITICS, CriticOptions
from sb3_genpolicy.common.transitions.rewards import AffineReward, ReturnRange
from sb3_genpolicy.common.transitions.transforms import (
    ActionTransform,
    BestEpisodes,
    ClipActions,
    DatasetTransform,
    HeldOutEpisodes,
    NStepReturns,
    RescaleActions,
    WeightedEpisodes,
)
from sb3_genpolicy.generative import CosinePath, LinearPath, Path, VPPath
from sb3_genpolicy.generative.checks import did_you_mean, options_of

_TRANSFORMS: dict[str, type] = {
    cls.__name__: cls for cls in (BestEpisodes, ClipActions, HeldOutEpisodes, NStepReturns, RescaleActions, WeightedEpisodes)
}
_REWARDS: dict[str, type] = {cls.__name__: cls for cls in (AffineReward, ReturnRange)}
_CRITICS: dict[str, type] = {cls.__name__: cls for cls in CRITICS.values()}
_PATHS: dict[str, type] = {cls.__name__: cls for cls in (LinearPath, CosinePath, VPPath)}

# Read by rl_zoo3 before the rest reaches the constructor
_OF_THE_ZOO = frozenset(
    "n_timesteps normalize env_wrapper vec_env_wrapper frame_stack callback monitor_kwargs env_kwargs".split()
)
# Given to the constructor by rl_zoo3 itself
_BY_FLAG = {"env": "--env", "seed": "--seed", "device": "--device", "verbose": "--verbose", "tensorboard_log": "-tb"}


def check_names(algo: str, algorithm: type[OfflineAlgorithm], names: Iterable[str]) -> None:
    """
    :param algo: what the zoo calls the algorithm, for the message
    :param algorithm: the algorithm
    :param names: names of hyper-parameters
    :raises ValueError: if one is neither the zoo's nor an option of the algorithm
    """
    options = {name for name in options_of(algorithm) if name != "self" and name[0] != "_"}
    known = _OF_THE_ZOO | (options - set(_BY_FLAG))
    for name in names:
        if name == "n_envs":
            raise ValueError(f"{algo} does not step its environment: leave out n_envs. Evaluations take --n-eval-envs.")
        if name in _BY_FLAG:
            raise ValueError(f"'{name}' is no hyper-parameter: give it by the flag {_BY_FLAG[name]}.")
        if name not in known:
            raise ValueError(f"{algo} has no hyper-parameter '{name}'. {did_you_mean(name, known)}")


def with_objects(hyperparams: Mapping[str, Any], entry: RegisteredAlgorithm) -> dict[str, Any]:
    """
    :param hyperparams: options as a file gives them
    :param entry: the algorithm that they are for
    :return: the same, with objects for their descriptions; what is an object already stays
    :raises ValueError: if a description names no known object
    """
    options = dict(hyperparams)
    if "transforms" in options:
        given = options["transforms"] or []
        if not isinstance(given, (list, tuple)):
            raise ValueError(f"transforms: {given!r} is no list: write `- {given}` on a line of its own.")
        known = _TRANSFORMS | _own(entry, ActionTransform, DatasetTransform)
        options["transforms"] = [_build("transforms", transform, known, strict=True) for transform in given]
    if "reward_transform" in options:
        known = _REWARDS | _own(entry, Callable)
        options["reward_transform"] = _build("reward_transform", options["reward_transform"], known)
    if "critic" in options:
        options["critic"] = _build("critic", options["critic"], _CRITICS | _own(entry, CriticOptions))
    policy_kwargs = options.get("policy_kwargs")
    if isinstance(policy_kwargs, Mapping):
        classes = {cls.__name__: cls for cls in entry.classes}
        chosen = {
            name: classes.get(value, value) if isinstance(value, str) else value for name, value in policy_kwargs.items()
        }
        if "path" in chosen:
            chosen["path"] = _build("path", chosen["path"], _PATHS | _own(entry, Path))
        options["policy_kwargs"] = chosen
    return options


def _own(entry: RegisteredAlgorithm, *bases: Any) -> dict[str, type]:
    """Classes that were registered with an algorithm, by name."""
    return {cls.__name__: cls for cls in entry.objects if issubclass(cls, bases)}


def _build(option: str, value: Any, classes: Mapping[str, type], strict: bool = False) -> Any:
    """
    :param option: where it is written, for the message
    :param value: a name, a mapping from one name to options, or an object
    :param classes: by name
    :param strict: whether every name must be one of these; else others are the algorithm's own
    :return: the object
    """
    name: Any = value
    given: Mapping[str, Any] | None = None
    if isinstance(value, Mapping):
        if len(value) != 1:
            raise ValueError(f"{option}: {dict(value)!r} names {len(value)} things; write one name, and its options below it.")
        name, given = next(iter(value.items()))
    if not isinstance(name, str):
        return value
    if name in classes:
        if not isinstance(given, (Mapping, NoneType)):
            raise ValueError(f"{option}: what is below {name} must be its options by their names, not {given!r}.")
        return classes[name](**(given or {}))
    if strict or isinstance(value, Mapping):
        raise ValueError(f"{option}: '{name}' is unknown. {did_you_mean(name, classes)}")
    return value
