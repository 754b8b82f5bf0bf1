"""
Which models can be trained as a batch of networks: those that differ in nothing but their seeds and what may be batched.
"""

import inspect
from collections.abc import Sequence
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch as th
from torch.optim import Optimizer

from sb3_genpolicy.common.gradient_steps import GradientSteps

# Arguments of the constructor that a gradient step does not depend on, or that are compared in another way
_NOT_COMPARED = (
    "self",
    "policy",
    "env",
    "dataset",
    "pretrained",
    "seed",
    "device",
    "capture",
    "verbose",
    "stats_window_size",
    "tensorboard_log",
    "_init_setup_model",
)
# How far a run has come
_PROGRESS = ("_n_updates", "pretraining_finished", "_updates_before_policy")
_ONE_AFTER_THE_OTHER = "Or train these models one after the other, with `learn`."


def name_of(models: Sequence[GradientSteps], index: int) -> str:
    """
    :param models: all models
    :param index: of one of them
    :return: what it is called in messages
    """
    model = models[index]
    settings = [name for name in model.batched_settings if name in inspect.signature(type(model).__init__).parameters]
    marks = ", ".join(f"{name}={getattr(model, name)}" for name in ("seed", *settings))
    return f"model {index} ({marks})"


def check_models(models: Sequence[Any], reset_num_timesteps: bool) -> None:
    """
    :param models: what is to be trained side by side
    :param reset_num_timesteps: whether their steps are counted anew
    :raises ValueError: if that cannot be done, with what is in the way, in which model, and what to do
    """
    if not models:
        raise ValueError("There are no models to train: give a list of GMPO or GMPG models.")
    for index, model in enumerate(models):
        if not isinstance(model, GradientSteps):
            raise ValueError(f"Models are trained side by side, but item {index} is a {type(model).__name__}.")
        if any(model is earlier for earlier in models[:index]):
            raise ValueError(f"Model {index} is in the list twice: give every seed a model of its own.")
    progress = [*_PROGRESS, *([] if reset_num_timesteps else ["num_timesteps"])]
    for index in range(1, len(models)):
        _check_settings(models, index)
        _check_networks(models, index)
        _check_progress(models, index, progress)


def check_obstacles(models: Sequence[GradientSteps]) -> None:
    """
    :param models: the models, with their dataset
    :raises ValueError: if their updates cannot be batched, or their datasets differ; equal ones are then held once
    """
    for index, model in enumerate(models):
        obstacle = model._batching_obstacle()
        if obstacle is not None:
            raise ValueError(
                f"{name_of(models, index).capitalize()} cannot be trained side by side with others: {obstacle}. "
                + _ONE_AFTER_THE_OTHER
            )
        if not model.replay_buffer.share_rows(models[0].replay_buffer):
            raise ValueError(
                f"The dataset of {name_of(models, index)} has other rows than that of {name_of(models, 0)}: give all models "
                "the same one, with the same reward_transform and transforms."
            )


def _check_settings(models: Sequence[GradientSteps], index: int) -> None:
    first, model = models[0], models[index]
    pairs = [("class", type(first), type(model)), ("policy", first.policy_class, model.policy_class)]
    pairs += [("device", first.device, model.device), ("sampler", first.policy.sampler, model.policy.sampler)]
    if type(first) is type(model):
        names = inspect.signature(type(first).__init__).parameters
        compared = [name for name in names if name not in (*_NOT_COMPARED, *first.batched_settings)]
        pairs += [(name, getattr(first, name), getattr(model, name)) for name in compared]
    for name, ours, theirs in pairs:
        if not _is_same(ours, theirs):
            may_differ = " and ".join(("seed", *(known for known in first.batched_settings if known in names)))
            raise ValueError(
                f"Models that are trained side by side may differ in {may_differ} alone, but {name} is {_written(ours)} in "
                f"{name_of(models, 0)} and {_written(theirs)} in {name_of(models, index)}. {_ONE_AFTER_THE_OTHER}"
            )


def _written(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else repr(value)


def _is_same(one: Any, other: Any) -> bool:
    """Of settings, among them objects and functions that were written once and made several times."""
    if one is other:
        return True
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, (dict, list, tuple)) and type(one) is type(other) and len(one) == len(other):
        if isinstance(one, dict):
            return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
        return all(map(_is_same, one, other))
    if type(one) is not type(other) or isinstance(one, (type, CodeType, str, int, float)):
        return bool(one == other)
    if isinstance(one, FunctionType):
        return _is_same(_parts(one), _parts(other))
    # Objects that are compared by identity are what their attributes are
    return bool(one == other) or (type(one).__eq__ is object.__eq__ and _is_same(vars(one), vars(other)))


def _parts(function: FunctionType) -> tuple[Any, ...]:
    cells = tuple(cell.cell_contents for cell in function.__closure__ or ())
    return function.__code__, function.__defaults__, function.__kwdefaults__, cells


def _check_networks(models: Sequence[GradientSteps], index: int) -> None:
    shapes = [_shapes(model) for model in (models[0], models[index])]
    for name in shapes[0].keys() | shapes[1].keys():
        ours, theirs = (tuple(shape[name]) if name in shape else "not there" for shape in shapes)
        if ours != theirs:
            raise ValueError(
                f"The networks of {name_of(models, 0)} and {name_of(models, index)} have other shapes: policy.{name} is {ours} "
                f"in one and {theirs} in the other. Give them the same spaces and policy_kwargs."
            )


def _shapes(model: GradientSteps) -> dict[str, th.Size]:
    return {name: tensor.shape for name, tensor in (*model.policy.named_parameters(), *model.policy.named_buffers())}


def _check_progress(models: Sequence[GradientSteps], index: int, names: Sequence[str]) -> None:
    first, model = models[0], models[index]
    pairs = [(name.strip("_"), getattr(first, name), getattr(model, name)) for name in names]
    optimizers = zip(first._optimizers(True), model._optimizers(True), strict=True)
    pairs += [("number of the optimizer's steps", *map(_steps, pair)) for pair in optimizers]
    for name, ours, theirs in pairs:
        if ours != theirs:
            raise ValueError(
                f"{name_of(models, index).capitalize()} is at another point of its run than {name_of(models, 0)}: its {name} is "
                f"{theirs}, not {ours}. Train both to the same step first."
            )


def _steps(optimizer: Optimizer) -> list[float | None]:
    """Of every parameter that has a state."""
    states = [optimizer.state.get(parameter) for parameter in optimizer.param_groups[0]["params"]]
    return [None if not state else float(th.as_tensor(state.get("step", 0.0))) for state in states]
