"""
What must hold of rows before training starts; each fault ends in one sentence that says what, where and what to do.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_obs_shape, is_image_space

from sb3_genpolicy.common.datasets.columns import slices
from sb3_genpolicy.common.transitions.transitions import Transitions, check_reference_scores, label_of
from sb3_genpolicy.common.utils import on_one_line, space_items, tree_items

#: Space of one number for each row
NUMBER = spaces.Box(-np.inf, np.inf, (1,), np.float32)
# Share of an action bound's width by which a logged action may stick out (rounding) and be clipped silently
ACTION_TOLERANCE = 1e-4


def storage_dtype(space: spaces.Space) -> type:
    """
    :param space: space of one array
    :return: uint8 for images, float32 for all else
    """
    return np.uint8 if is_image_space(space) else np.float32


def stored_shape(space: spaces.Space) -> tuple[int, ...]:
    """
    :param space: space of one row of one array
    :return: shape that a row is stored in
    """
    shape: Any = get_obs_shape(space)
    return tuple(shape)


def check_numeric(dtype: np.dtype, name: str) -> None:
    """
    :param dtype: of a source's array
    :param name: what the array is called, for the message
    :raises ValueError: if its entries are no real numbers
    """
    if dtype.hasobject:
        raise ValueError(f"{name} is a ragged array of objects: give one array with a row for every step.")
    if dtype.kind not in "fiub":
        raise ValueError(f"{name} holds entries of type {dtype}; it needs numbers.")


def shaped(array: Any, space: spaces.Space, name: str, dtype: type | None = None) -> np.ndarray:
    """
    Bring an array of rows to the space's shape and to the dtype that it is stored in.

    :param array: (n_rows, ...), of numbers, whose rows were seen to have the space's shape
    :param space: space of one row
    :param name: what the array is called, for the message
    :param dtype: another than the one that such arrays are stored in
    :return: (n_rows, \\*shape)
    :raises ValueError: if the space is one of images and the rows are not bytes
    """
    array = np.asarray(array)
    if is_image_space(space) and array.dtype != np.uint8:
        raise ValueError(f"{name} is of type {array.dtype}, but its space holds images, which are uint8.")
    with np.errstate(over="ignore"):
        return array.reshape(len(array), *stored_shape(space)).astype(dtype or storage_dtype(space), copy=False)


def check_row_shape(shape: tuple[int, ...], space: spaces.Space, name: str) -> None:
    """
    :param shape: of an array, (n_rows, ...)
    :param space: space of one row
    :param name: what the array is called, for the message
    :raises ValueError: if the rows do not have the space's shape
    """
    wanted = stored_shape(space)
    # Axes of length 1 do not count: a column of numbers is (n,) or (n, 1)
    if not shape or (shape[0] and [n for n in shape[1:] if n != 1] != [n for n in wanted if n != 1]):
        raise ValueError(f"{name} has rows of shape {shape[1:]}, but its space {on_one_line(space)} has shape {wanted}.")


def are_flat_rows(shape: tuple[int, ...], space: spaces.Space) -> bool:
    """
    :param shape: of an array, (n_rows, ...)
    :param space: space of one row
    :return: whether the rows are the matrices of a space one row of theirs after the other (as RL Unplugged writes them)
    """
    wanted = [n for n in stored_shape(space) if n != 1]
    rows = [n for n in shape[1:] if n != 1]
    return len(rows) == 1 and len(wanted) > 1 and rows[0] == math.prod(wanted) and not is_image_space(space)


def say_flat_rows(name: str, space: spaces.Space) -> None:
    """
    :param name: what the array of flat rows is called
    :param space: space of one row
    """
    warnings.warn(
        f"{name}: rows of {math.prod(stored_shape(space))} numbers are read as the arrays of shape {stored_shape(space)} that "
        "its space has, whose last index runs fastest.",
        stacklevel=3,
    )


def check_finite(array: np.ndarray, name: str, where: Callable[[int], str]) -> None:
    """
    :param array: (n_rows, ...), as it is stored
    :param name: what the array is called, for the message
    :param where: from a row to words
    :raises ValueError: if an entry is NaN or infinite
    """
    if array.dtype.kind != "f":
        return
    finite = np.isfinite(array)
    if not finite.all():
        row = int(np.argmin(finite.reshape(len(array), -1).all(axis=1)))
        raise ValueError(
            f"{name} has a NaN or infinite value (or one beyond float32) at {where(row)}: {array[row]}. "
            "Remove or mend such rows."
        )


def check_members(array: np.ndarray, space: spaces.Space, name: str, where: Callable[[int], str]) -> None:
    """
    :param array: (n_rows, \\*shape), as it is stored
    :param space: of one row
    :param name: what the array is called, for the message
    :param where: from a row to words
    :raises ValueError: if the space is discrete and a row is not in it
    """
    if isinstance(space, spaces.Discrete):
        low, high = space.start, space.start + space.n - 1
    elif isinstance(space, spaces.MultiDiscrete):
        low, high = space.start, space.start + space.nvec - 1
    elif isinstance(space, spaces.MultiBinary):
        low, high = 0, 1
    else:
        return
    outside = ((array < low) | (array > high) | (array != np.round(array))).reshape(len(array), -1).any(axis=1)
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(f"{name} has {array[row]} at {where(row)}, which is not in its space {on_one_line(space)}.")


def check_action_bounds(actions: np.ndarray, space: spaces.Box, name: str, where: Callable[[int], str]) -> None:
    """
    :param actions: (n_rows, \\*shape), in the environment's units
    :param space: of the actions
    :param name: what the array is called, for the message
    :param where: from a row to words
    :raises ValueError: if actions lie outside the space's bounds by more than rounding
    """
    low, high = space.low, space.high
    with np.errstate(over="ignore", invalid="ignore"):
        width = high.astype(np.float64) - low
    # No tolerance for a bound whose opposite bound is infinite
    margin = ACTION_TOLERANCE * np.where(np.isfinite(width), width, 0.0)
    for part in slices(len(actions)):
        outside = (actions[part] < low - margin) | (actions[part] > high + margin)
        if outside.any():
            row = part.start + int(np.argmax(outside.any(axis=tuple(range(1, outside.ndim)))))
            raise ValueError(
                f"{name} has values outside the bounds {low.tolist()} to {high.tolist()}, first at {where(row)}: "
                f"{actions[row].tolist()}. Clip them if the environment did (the transform `ClipActions`), or correct the "
                "action space."
            )


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space, label: str) -> None:
    """
    :param observation_space: of a source
    :param action_space: of a source
    :param label: what the source is called, for the message
    :raises ValueError: if no policy here could learn from them
    """
    parts = [space for _, space in space_items(observation_space, "")]
    if any(isinstance(space, (spaces.Dict, spaces.Tuple)) for space in parts):
        raise ValueError(f"{label} has nested or tuple observations, {on_one_line(observation_space)}: flatten them first.")
    if not isinstance(action_space, spaces.Box):
        raise ValueError(
            f"{label} has actions in {on_one_line(action_space)}; only continuous actions (a Box space) can be learnt."
        )


_FLAT = ("actions", "rewards", "terminals", "timeouts")


def check_transitions(data: Transitions) -> Transitions:
    """
    Check a record that a user made; records that were read here were checked piece by piece.

    :param data: a record
    :return: the same record
    :raises ValueError: for an empty dataset, arrays of unequal length, NaN or infinite entries
    """
    label = label_of(data)
    lengths = {key: len(getattr(data, key)) for key in (*_FLAT, "ends", "next_rows")}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{label} has arrays of different lengths: {lengths}. Every array needs one row for each step.")
    if data.n_rows == 0:
        raise ValueError(f"{label} is empty: it has no rows to learn from.")
    check_spaces(data.observation_space, data.action_space, label)
    if data.reference_scores is not None:
        check_reference_scores(data.reference_scores, f"{label}: reference_scores")
    if data.memory_mapped:
        return data
    _check_ends(data, label)
    for key in ("states", *_FLAT):
        for name, array in tree_items(getattr(data, key), "observations" if key == "states" else key):
            check_finite(array, f"{label}: {name}", lambda row: data.where(min(row, data.n_rows - 1)))
    return data


def _check_ends(data: Transitions, label: str) -> None:
    astray = (np.asarray(data.timeouts) > 0) & ~data.ends
    astray[-1] |= not data.ends[-1]
    if astray.any():
        raise ValueError(
            f"{label}: `ends` is not set in row {int(np.argmax(astray))}, where an episode ends: set it in every row that is "
            "flagged in `timeouts`, and in the last one, or leave it out."
        )
