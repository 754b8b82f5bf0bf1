"""
What a policy sees of the past, and plans of the future: stacks of observations, and chunks of actions.

A stack has its frames along the first axis, the oldest first, as SB3's ``VecFrameStack`` has them of flat observations and of
images with their channels first. Before an episode's start its first observation is repeated, after its end its last action.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_genpolicy.common.transitions.transitions import Transitions
from sb3_genpolicy.common.utils import on_one_line, tree_items, tree_map


def stacked_space(space: spaces.Space[Any], history: int) -> spaces.Space[Any]:
    """
    :param space: of one observation, a Dict allowed
    :param history: number of observations, >= 1
    :return: of a stack of them; the space itself for one
    :raises ValueError: for a part whose stack is no space that SB3 knows
    """
    if history == 1:
        return space
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: stacked_space(part, history) for key, part in space.spaces.items()})
    if isinstance(space, spaces.Box):
        low, high = (stacked(np.repeat(bound[None, None], history, axis=1))[0] for bound in (space.low, space.high))
        return spaces.Box(low, high, dtype=space.dtype)
    if isinstance(space, spaces.Discrete) and int(space.start) == 0:
        return spaces.MultiDiscrete([int(space.n)] * history)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not np.any(space.start):
        return spaces.MultiDiscrete(np.tile(space.nvec, history))
    if isinstance(space, spaces.MultiBinary) and isinstance(space.n, int):
        return spaces.MultiBinary(space.n * history)
    raise ValueError(f"history={history} cannot stack observations of the space {on_one_line(space)}. Leave it out.")


def stacked(frames: Any) -> Any:
    """
    :param frames: (n, history, \\*observation_shape), an array or a tensor, or a dictionary of them
    :return: (n, \\*shape of the stack)
    """
    return tree_map(lambda array: array.reshape(len(array), -1, *array.shape[3:]), frames)


def planned_space(space: spaces.Box, n_steps: int) -> spaces.Box:
    """
    :param space: of one action
    :param n_steps: number of actions, >= 1
    :return: of so many actions, (n_steps, \\*action_shape); the space itself for one
    """
    if n_steps == 1:
        return space
    low, high = (np.repeat(bound[None], n_steps, axis=0) for bound in (space.low, space.high))
    return spaces.Box(low, high, dtype=space.dtype)


def frame_indices(data: Transitions, history: int) -> np.ndarray:
    """
    :param data: a record
    :param history: number of observations, >= 1
    :return: (n_states, history), for every observation of the record those that a stack with it last is made of
    """
    n_states = len(tree_items(data.states, "")[0][1])
    own = np.arange(n_states)
    # Where an observation stands in its episode, and where that begins
    place, first = own.copy(), own.copy()
    starts = data.episode_starts
    first[: data.n_rows] = np.repeat(starts[:-1], np.diff(starts))
    next_rows = np.asarray(data.next_rows)
    rows = np.flatnonzero(next_rows >= data.n_rows)
    place[next_rows[rows]], first[next_rows[rows]] = rows + 1, first[rows]
    indices: np.ndarray = np.maximum(place[:, None] - np.arange(history)[::-1], first[:, None])
    indices[:, -1] = own
    return indices


def plan_rows(data: Transitions, chunk_length: int) -> np.ndarray:
    """
    :param data: a record
    :param chunk_length: number of actions, >= 1
    :return: (n_rows, chunk_length), the rows whose actions follow each other from a row on
    """
    planned: np.ndarray = np.minimum(np.arange(data.n_rows)[:, None] + np.arange(chunk_length), last_rows(data)[:, None])
    return planned


def last_rows(data: Transitions) -> np.ndarray:
    """
    :param data: a record
    :return: (n_rows,), the row that a row's episode ends with
    """
    rows = np.arange(data.n_rows)
    ends = np.where(np.asarray(data.ends) | (np.asarray(data.terminals) > 0), rows, data.n_rows)
    last: np.ndarray = np.minimum.accumulate(ends[::-1])[::-1]
    return last


def with_stacks(data: Transitions, history: int) -> Transitions:
    """
    :param data: a record
    :param history: number of observations that are seen together, >= 1
    :return: the same steps, in memory, whose observations are stacks; the record itself for one
    """
    if history == 1:
        return data
    indices = frame_indices(data, history)
    states = tree_map(lambda array: stacked(np.asarray(array)[indices]), data.states)
    return replace(
        data,
        states=states,
        observation_space=stacked_space(data.observation_space, history),
        name=None,
        memory_mapped=False,
    )
