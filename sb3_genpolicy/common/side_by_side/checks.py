"""
Which models can be trained as a batch of networks: those that differ in nothing but their seeds and what may be batched.
"""

from collections.abc import Sequence
from types import FunctionType
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from torch.optim import Optimizer

from sb3_genpolicy.common.algorithms.obstacles import side_by_side_obstacle
from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.updates.processes import world_size
from sb3_genpolicy.common.utils import described
from sb3_genpolicy.generative import Path
from sb3_genpolicy.generative.checks import options_of

# Arguments of the constructor that a gradient step does not depend on, or that are compared in another way
_NOT_COMPARED = (
    "policy",
    "self",
    "env",
    "dataset",
    "pretrained",
    # Among the options of the policy, which are compared
    "critic",
    "expectile",
    "seed",
    "device",
    "capture",
    "verbose",
    "stats_window_size",
    "tensorboard_log",
    "_init_setup_model",
)
# Schedules of SB3, which have no `__eq__` of their own: their attributes are compared
_SCHEDULES = (FloatSchedule, ConstantSchedule, LinearSchedule)
_ONE_AFTER_THE_OTHER = "Or train these models one after the other, with `learn`."


def name_of(models: Sequence[OfflineAlgorithm], index: int) -> str:
    """
    :param models: all models
    :param index: of one of them
    :return: what it is called in messages
    """
    model = models[index]
    marks = ", ".join(f"{name}={vars(model)[name]}" for name in _may_differ(model))
    return f"model {index} ({marks})"


def _may_differ(model: OfflineAlgorithm) -> list[str]:
    options = options_of(type(model))
    return ["seed", *(name for name in model.batched_settings if name in options)]


def check_models(models: Sequence[Any], reset_num_timesteps: bool) -> None:
    """
    :param models: what is to be trained side by side
    :param reset_num_timesteps: whether their steps are counted anew
    :raises ValueError: if that cannot be done, with what is in the way, in which model, and what to do
    """
    if world_size() > 1:
        raise ValueError(
            f"{world_size()} processes train one model here (data_parallel), and learn_side_by_side is of one process: leave "
            "the context, or call `learn` of each model."
        )
    if not models:
        raise ValueError("There are no models to train: give a list of models of one offline algorithm.")
    for index, model in enumerate(models):
        if not isinstance(model, OfflineAlgorithm):
            raise ValueError(
                f"Models that are trained side by side are of offline algorithms, but item {index} is a {_kind(model)}."
            )
        if any(model is earlier for earlier in models[:index]):
            raise ValueError(f"{_capital(name_of(models, index))} is in the list twice: give every seed a model of its own.")
        if type(model) is not type(models[0]):
            raise ValueError(
                f"Models that are trained side by side are of one class, but item 0 is a {_kind(models[0])} and item "
                f"{index} a {_kind(model)}."
            )
    progress = [name for name in models[0].progress if name != "num_timesteps" or not reset_num_timesteps]
    for index in range(len(models)):
        _check_progress(models, index, progress)
        _check_settings(models, index)
        _check_networks(models, index)
        _check_obstacle(models, index)
        _check_optimizers(models, index)


def share_dataset(models: Sequence[OfflineAlgorithm], index: int) -> None:
    """
    Let a model hold the first one's rows in place of its own.

    :param models: all models
    :param index: of one that has read its dataset, as the first one has
    :raises ValueError: if these differ, or are streamed, or critics have discount factors that were fitted to others
    """
    _check_obstacle(models, index)
    ours, theirs = models[0].critic_gamma, models[index].critic_gamma
    if ours != theirs:
        raise ValueError(
            f"The critics of {name_of(models, index)} have another discount factor than those of {name_of(models, 0)}, fitted "
            f"to the first dataset of each: {theirs:g}, not {ours:g}. " + _ONE_AFTER_THE_OTHER
        )
    if not models[index].replay_buffer.share_rows(models[0].replay_buffer):
        raise ValueError(
            f"The dataset of {name_of(models, index)} has other rows than that of {name_of(models, 0)}: give all models "
            "the same dataset, reward_transform and transforms."
        )


def _kind(model: Any) -> str:
    return type(model).__name__


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _check_obstacle(models: Sequence[OfflineAlgorithm], index: int) -> None:
    obstacle = side_by_side_obstacle(models[index])
    if obstacle is not None:
        raise ValueError(
            f"{_capital(name_of(models, index))} cannot be trained side by side with others: {obstacle}. "
            + _ONE_AFTER_THE_OTHER
        )


def _check_settings(models: Sequence[OfflineAlgorithm], index: int) -> None:
    first, model = models[0], models[index]
    names = [name for name in options_of(type(first)) if name not in (*_NOT_COMPARED, *first.batched_settings)]
    pairs = [("policy", first.policy_class, model.policy_class), ("device", first.device, model.device)]
    changed = model.policy.settings_that_change()
    pairs += [(f"the policy's {name}", value, changed[name]) for name, value in first.policy.settings_that_change().items()]
    pairs += [(name, vars(first).get(name), vars(model).get(name)) for name in names]
    for name, ours, theirs in pairs:
        if not _is_same(ours, theirs):
            raise ValueError(
                f"Models that are trained side by side differ in {' and '.join(_may_differ(first))} alone, but {name} is "
                f"{described(ours)} in {name_of(models, 0)} and {described(theirs)} in {name_of(models, index)}. "
                + _ONE_AFTER_THE_OTHER
            )


def _is_same(one: Any, other: Any) -> bool:
    """Whether two settings are equal, also if they are different objects for the same path, function or schedule."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, FunctionType) and isinstance(other, FunctionType):
        return one is other or _is_same(_parts(one), _parts(other))
    if isinstance(one, Path) and isinstance(other, Path):
        return described(one) == described(other)
    if isinstance(one, _SCHEDULES) and type(one) is type(other):
        return _is_same(vars(one), vars(other))
    return bool(one == other)


def _parts(function: FunctionType) -> tuple[Any, ...]:
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return function.__code__, function.__defaults__, function.__kwdefaults__, cells


def _check_networks(models: Sequence[OfflineAlgorithm], index: int) -> None:
    shapes = [_shapes(model) for model in (models[0], models[index])]
    for name in shapes[0].keys() | shapes[1].keys():
        ours, theirs = (tuple(shape[name]) if name in shape else "not there" for shape in shapes)
        if ours != theirs:
            raise ValueError(
                f"The networks of {name_of(models, 0)} and {name_of(models, index)} have other shapes: policy.{name} is "
                f"{ours} in one and {theirs} in the other. Give them the same spaces and policy_kwargs."
            )


def _shapes(model: OfflineAlgorithm) -> dict[str, th.Size]:
    return {name: tensor.shape for name, tensor in (*model.policy.named_parameters(), *model.policy.named_buffers())}


def _check_progress(models: Sequence[OfflineAlgorithm], index: int, names: Sequence[str]) -> None:
    for name in names:
        ours, theirs = vars(models[0]).get(name), vars(models[index]).get(name)
        if ours != theirs:
            raise ValueError(
                f"{_capital(name_of(models, index))} is at another point of its run than {name_of(models, 0)}: its "
                f"{name.strip('_')} is {theirs}, not {ours}. Train both to the same step first."
            )


def _check_optimizers(models: Sequence[OfflineAlgorithm], index: int) -> None:
    for optimizers in zip(*(models[k].descent.optimizers().values() for k in (0, index)), strict=True):
        ours, theirs = map(_steps, optimizers)
        if ours != theirs:
            raise ValueError(
                f"An optimizer of {name_of(models, index)} has made other steps than that of {name_of(models, 0)}: for some "
                "parameter its state is of another step, or was cleared. Train both to the same step first."
            )


def _steps(optimizer: Optimizer) -> list[float | None]:
    """The optimizer's count of steps for every parameter; None where it has no state."""
    states = [optimizer.state.get(parameter) for parameter in optimizer.param_groups[0]["params"]]
    return [None if not state else float(state.get("step", 0.0)) for state in states]
