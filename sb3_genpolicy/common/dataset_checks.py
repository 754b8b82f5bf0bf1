"""
What must hold of a dataset before training starts; each fault ends in one sentence that says what, where and what to do.
"""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_obs_shape, is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecTransposeImage

from sb3_genpolicy.common.transitions import Arrays, Transitions
from sb3_genpolicy.common.utils import space_items, tree_items, tree_map

# Share of an action bound's width by which a logged action may stick out (rounding) and be clipped silently
ACTION_TOLERANCE = 1e-4


def storage_dtype(space: spaces.Space) -> type:
    """
    :param space: space of one array
    :return: uint8 for images, float32 for all else
    """
    return np.uint8 if is_image_space(space) else np.float32


def shaped(array: Any, space: spaces.Space, name: str) -> np.ndarray:
    """
    Bring an array of rows to the space's shape and to the dtype that it is stored in.

    :param array: (n_rows, ...)
    :param space: space of one row
    :param name: what the array is called, for the message
    :return: (n_rows, \\*shape)
    :raises ValueError: if the rows do not have the space's shape
    """
    array = np.asarray(array)
    shape: Any = get_obs_shape(space)
    if array.dtype == object:
        raise ValueError(f"{name} is a ragged array of objects: give one array with a row for every step.")
    if array.ndim == 0 or array[:1].size != (np.prod(shape, dtype=int) if len(array) else 0):
        raise ValueError(f"{name} has rows of shape {array.shape[1:]}, but its space {space} has shape {shape}.")
    return array.reshape(len(array), *shape).astype(storage_dtype(space), copy=False)


def check_transitions(data: Transitions) -> Transitions:
    """
    :param data: a record whose arrays have been shaped
    :return: the same record
    :raises ValueError: for an empty dataset, arrays of unequal length, NaN or infinite entries, actions outside their bounds
    """
    label = f"Dataset '{data.name}'" if data.name else "The dataset"
    named = [pair for key in data for pair in tree_items(data[key], key)]
    lengths = {name: len(array) for name, array in named}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{label} has arrays of different lengths: {lengths}. Every array needs one row for each step.")
    if data.n_rows == 0:
        raise ValueError(f"{label} is empty: it has no rows to learn from.")
    if not isinstance(data.action_space, spaces.Box):
        raise ValueError(f"{label} has actions in {data.action_space}; only continuous actions (a Box space) can be learnt.")
    for name, array in named:
        finite = np.isfinite(array)
        if not finite.all():
            row = int(np.argmin(finite.reshape(len(array), -1).all(axis=1)))
            raise ValueError(
                f"{label} has a NaN or infinite value in {name}, {data.where(row)}: {array[row]}. Remove or mend such rows."
            )
    _check_action_bounds(data, label)
    return data


def _check_action_bounds(data: Transitions, label: str) -> None:
    low, high = data.action_space.low, data.action_space.high
    margin = ACTION_TOLERANCE * (high - low)
    outside = ((data.actions < low - margin) | (data.actions > high + margin)).reshape(data.n_rows, -1).any(axis=1)
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(
            f"{label} has {outside.sum()} actions outside the bounds {low.tolist()} to {high.tolist()}, first at "
            f"{data.where(row)}: {data.actions[row].tolist()}. Clip them if the environment did, or correct the action space."
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
    ours, theirs = dict(space_items(data.observation_space, "observations")), dict(
        space_items(observation_space, "observations")
    )
    label = f"dataset '{data.name}'" if data.name else "the dataset"
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
    if data.action_space.shape != action_space.shape:
        raise ValueError(
            f"The actions of {label} have shape {data.action_space.shape}, but the environment's have {action_space.shape}."
        )
    _check_action_bounds(_with_spaces(data, observation_space, action_space), label[:1].upper() + label[1:])
    return _with_spaces(data, observation_space, action_space)


def _with_spaces(data: Transitions, observation_space: spaces.Space, action_space: spaces.Box) -> Transitions:
    fields = {**vars(data), "observation_space": observation_space, "action_space": action_space}
    return Transitions(**fields)


def is_transposed(ours: spaces.Space, theirs: spaces.Space) -> bool:
    """
    :param ours: a dataset's observation space
    :param theirs: a model's observation space
    :return: whether the model sees the dataset's images with their channels first
    """
    pairs = zip(space_items(ours, ""), space_items(theirs, ""), strict=False)
    return any(
        _is_channels_last(mine) and mine.shape != his.shape and VecTransposeImage.transpose_space(mine).shape == his.shape
        for (_, mine), (_, his) in pairs
        if isinstance(mine, spaces.Box)
    )


def _is_channels_last(space: spaces.Box) -> bool:
    return is_image_space(space) and not is_image_space_channels_first(space)


def _transpose_images(data: Transitions, observation_space: spaces.Space) -> Transitions:
    def transpose(arrays: Arrays) -> Arrays:
        if isinstance(arrays, dict):
            assert isinstance(observation_space, spaces.Dict)
            return {key: _channels_first(value, observation_space[key]) for key, value in arrays.items()}
        return _channels_first(arrays, observation_space)

    fields = {
        **vars(data),
        "observations": transpose(data.observations),
        "next_observations": transpose(data.next_observations),
        "observation_space": observation_space,
    }
    return Transitions(**fields)


def _channels_first(images: np.ndarray, space: spaces.Space) -> np.ndarray:
    if images.shape[1:] == space.shape or images.ndim != 4:
        return images
    return np.ascontiguousarray(VecTransposeImage.transpose_image(images))


def infer_observation_space(observations: Any) -> spaces.Space:
    """
    The widest space that arrays fit: unbounded boxes, 0 to 255 for uint8 images.

    :param observations: (n_rows, ...) or a dictionary of such arrays
    :return: a Box, or a Dict of Boxes
    """

    def box(array: Any) -> spaces.Box:
        array = np.asarray(array)
        if array.dtype == np.uint8 and array.ndim == 4:
            return spaces.Box(0, 255, array.shape[1:], np.uint8)
        return spaces.Box(-np.inf, np.inf, array.shape[1:], np.float32)

    boxes = tree_map(box, observations)
    return spaces.Dict(boxes) if isinstance(boxes, dict) else boxes
