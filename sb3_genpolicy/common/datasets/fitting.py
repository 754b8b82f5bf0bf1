"""
A dataset is brought to the spaces of a model.
"""

import math
import warnings
from dataclasses import replace

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_obs_shape, is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecTransposeImage

from sb3_genpolicy.common.datasets.checks import (
    ACTION_TOLERANCE,
    are_flat_rows,
    check_action_bounds,
    check_members,
    check_spaces,
    say_flat_rows,
)
from sb3_genpolicy.common.datasets.names import Known
from sb3_genpolicy.common.transitions.transitions import Arrays, Transitions, label_of
from sb3_genpolicy.common.utils import on_one_line, space_items, tree_items, tree_of


def in_action_space(data: Transitions, known: Known) -> Transitions:
    """
    :param data: a dataset
    :param known: the action space that was asked for, if any, and what was done to the actions
    :return: the dataset with that space; where its own has other bounds, a warning says so
    :raises ValueError: if its actions do not fit
    """
    own, asked = data.action_space, known.action_space
    if asked is None or own == asked:
        return data
    label = label_of(data)
    check_spaces(data.observation_space, asked, label)
    assert isinstance(asked, spaces.Box)
    _check_action_shape(data, asked)
    if own.is_bounded() and not _have_same_bounds(own, asked):
        warnings.warn(
            f"{label}: its actions are in {on_one_line(own)}, those of the environment (or what was asked for) in "
            f"{on_one_line(asked)}. They are taken as they are; if they were logged in units of their own, bring them over by "
            "transforms=[RescaleActions(low, high)].",
            stacklevel=2,
        )
    check_action_bounds(data.actions, asked, f"{label}: actions", data.where)
    return replace(data, action_space=asked)


def _have_same_bounds(one: spaces.Box, other: spaces.Box) -> bool:
    return all(
        np.allclose(mine, his, rtol=ACTION_TOLERANCE, atol=0.0) for mine, his in ((one.low, other.low), (one.high, other.high))
    )


def _check_action_shape(data: Transitions, action_space: spaces.Box) -> None:
    if data.action_space.shape != action_space.shape:
        label = f"dataset '{data.name}'" if data.name else "the dataset"
        raise ValueError(
            f"The actions of {label} have shape {data.action_space.shape}, but the environment's have {action_space.shape}."
        )


def fit_to_spaces(data: Transitions, observation_space: spaces.Space, action_space: spaces.Box) -> Transitions:
    """
    Check a dataset against the spaces of a model (or its environment) and turn images channel-first where the model's are.

    :param data: the dataset
    :param observation_space: the model's observation space
    :param action_space: the model's action space
    :return: the dataset, with the model's spaces
    :raises ValueError: if observations, action shapes or action bounds do not match
    """
    if is_transposed(data.observation_space, observation_space):
        data = _transpose_images(data, observation_space)
    label = f"dataset '{data.name}'" if data.name else "the dataset"
    data = _in_shape(data, observation_space, label)
    ours, theirs = dict(space_items(data.observation_space, "observations")), dict(
        space_items(observation_space, "observations")
    )
    if ours.keys() != theirs.keys():
        raise ValueError(
            f"The observations of {label} ({', '.join(sorted(ours))}) "
            f"are not those of the environment ({', '.join(sorted(theirs))})."
        )
    for name, space in theirs.items():
        if get_obs_shape(ours[name]) != get_obs_shape(space):
            raise ValueError(
                f"{name} of {label} has shape {get_obs_shape(ours[name])}, but the environment's has {get_obs_shape(space)}: "
                f"the data are of another environment{f' ({data.env_id})' if data.env_id else ''}, or another version of it."
            )
        if ours[name] != space and not data.memory_mapped:
            states = dict(tree_items(data.states, "observations"))[name]
            check_members(states, space, f"{label}: {name}", lambda row: f"row {row}")
    _check_action_shape(data, action_space)
    if action_space != data.action_space:
        check_action_bounds(data.actions, action_space, f"{label[:1].upper()}{label[1:]}: actions", data.where)
    return replace(data, observation_space=observation_space, action_space=action_space)


def _in_shape(data: Transitions, observation_space: spaces.Space, label: str) -> Transitions:
    """Rows as the model's space has them, where they have its numbers and lack its axes: matrices, and single numbers."""
    ours, theirs = dict(space_items(data.observation_space, "observations")), dict(
        space_items(observation_space, "observations")
    )
    arrays = dict(tree_items(data.states, "observations"))
    changed = False
    for name, own in ours.items():
        space = theirs.get(name)
        if not isinstance(own, spaces.Box) or not isinstance(space, spaces.Box) or own.shape == space.shape:
            continue
        if are_flat_rows(arrays[name].shape, space):
            say_flat_rows(f"{label[:1].upper()}{label[1:]}: {name}", space)
        elif math.prod(own.shape) != 1 or math.prod(space.shape) != 1:
            continue
        arrays[name], ours[name], changed = arrays[name].reshape(-1, *space.shape), space, True
    if not changed:
        return data
    shaped = tree_of(data.observation_space, ours.values())
    return replace(
        data,
        states=tree_of(data.observation_space, (arrays[name] for name in ours)),
        observation_space=spaces.Dict(shaped) if isinstance(shaped, dict) else shaped,
    )


def is_transposed(ours: spaces.Space, theirs: spaces.Space) -> bool:
    """
    :param ours: a dataset's observation space
    :param theirs: a model's observation space
    :return: whether the model sees the dataset's images with their channels first
    """
    theirs_by_name = dict(space_items(theirs, ""))
    pairs = [(mine, theirs_by_name[name]) for name, mine in space_items(ours, "") if name in theirs_by_name]
    return any(
        _is_channels_last(mine) and mine.shape != his.shape and VecTransposeImage.transpose_space(mine).shape == his.shape
        for mine, his in pairs
        if isinstance(mine, spaces.Box)
    )


def _is_channels_last(space: spaces.Box) -> bool:
    return is_image_space(space) and not is_image_space_channels_first(space)


def _transpose_images(data: Transitions, observation_space: spaces.Space) -> Transitions:
    def channels_first(images: np.ndarray, space: spaces.Space) -> np.ndarray:
        if images.shape[1:] == space.shape or images.ndim != 4:
            return images
        turned = VecTransposeImage.transpose_image(images)
        # On disk they stay as they are, and each batch is turned
        return turned if data.memory_mapped else np.ascontiguousarray(turned)

    if isinstance(data.states, dict):
        assert isinstance(observation_space, spaces.Dict)
        states: Arrays = {key: channels_first(value, observation_space[key]) for key, value in data.states.items()}
    else:
        states = channels_first(data.states, observation_space)
    return replace(data, states=states, observation_space=observation_space)
