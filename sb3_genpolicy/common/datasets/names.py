"""
What each convention calls its columns, and what a source of bare arrays does not say of itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_genpolicy.common.datasets.checks import ACTION_TOLERANCE
from sb3_genpolicy.common.datasets.columns import Column
from sb3_genpolicy.common.transforms import ActionTransform
from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.generative.checks import did_you_mean

#: Column -> what it is called by Minari, D4RL, OGBench, RL Unplugged's npz files, SB3 and their users
ALIASES = {
    "observations": ("observations", "observation", "obs", "states", "state"),
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "next_observations": ("next_observations", "next_observation", "next_obs", "next_states", "next_state"),
    "terminals": ("terminals", "terminal", "terminations", "terminated"),
    "timeouts": ("timeouts", "timeout", "truncations", "truncated"),
    # Ends of either kind
    "dones": ("dones", "done", "dones_float", "done_floats"),
    # 0 where nothing is earned afterwards
    "masks": ("masks", "mask", "discounts", "discount"),
    # OGBench's compact form: 0 where a row is only the last observation of an episode
    "valids": ("valids",),
}
_BY_ALIAS = {alias: key for key, aliases in ALIASES.items() for alias in aliases}
#: Prefixes of what files carry beside: simulator states, infos
IGNORED = ("infos", "metadata", "qpos", "qvel", "button_states", "physics", "oracle_reps", "next_oracle_reps")

Columns = dict[str, Any]


@dataclass(frozen=True)
class Known:
    """
    What a source of bare arrays does not say of itself.

    :param observation_space: space of the observations
    :param action_space: space of the actions, bounded
    :param env_id: id of the environment
    :param reference_scores: returns that count as normalised scores of 0 and 100
    :param action_transforms: what is done to its actions
    """

    observation_space: spaces.Space | None = None
    action_space: spaces.Space | None = None
    env_id: str | None = None
    reference_scores: tuple[float, float] | None = None
    action_transforms: tuple[ActionTransform, ...] = ()

    def transformed(self, actions: np.ndarray, space: spaces.Box) -> np.ndarray:
        """
        :param actions: (n_rows, \\*shape), as they were logged
        :param space: of the environment's actions
        :return: the actions after all transforms
        """
        for transform in self.action_transforms:
            actions = transform(actions, space)
        return actions


def named_columns(given: Mapping[str, Any], label: str, strict: bool) -> Columns:
    """
    :param given: name -> column, dictionaries of observations nested or with a slash (``observations/position``)
    :param label: what the source is called, for the message
    :param strict: whether every unknown name is a fault, or only those that resemble a known one
    :return: the names of :data:`ALIASES` -> column, or dictionary of columns
    :raises ValueError: if a name is unknown, or two names mean the same
    """
    columns: Columns = {}
    sources: dict[str, str] = {}
    for name, column in given.items():
        outer, _, inner = name.partition("/")
        if outer.startswith(IGNORED):
            continue
        key = _BY_ALIAS.get(outer)
        if key is None:
            hint = did_you_mean(outer, _BY_ALIAS)
            if strict or hint.startswith("Did"):
                raise ValueError(f"{label}: the key '{name}' is unknown. {hint}")
            continue
        if sources.setdefault(key, outer) != outer:
            raise ValueError(f"{label} has both '{sources[key]}' and '{outer}', which mean the same: leave one out.")
        if inner:
            columns.setdefault(key, {})[inner] = column
        else:
            columns[key] = column
    return columns


def infer_observation_space(observations: Any) -> spaces.Space:
    """
    The widest space that arrays fit: unbounded boxes, 0 to 255 for uint8 images.

    :param observations: a column, or a dictionary of columns
    :return: a Box, or a Dict of Boxes
    """

    def box(column: Column) -> spaces.Box:
        if column.dtype == np.uint8 and len(column.shape) == 4:
            return spaces.Box(0, 255, column.shape[1:], np.uint8)
        return spaces.Box(-np.inf, np.inf, column.shape[1:] or (1,), np.float32)

    boxes = tree_map(box, observations)
    return spaces.Dict(boxes) if isinstance(boxes, dict) else boxes


def infer_action_space(column: Column, label: str, as_they_are: bool = True) -> spaces.Box:
    """
    :param column: of the actions
    :param label: what the source is called, for the message
    :param as_they_are: whether nothing is done to the actions before they are checked
    :return: the box from -1 to 1
    :raises ValueError: if the actions are discrete or larger
    """
    if column.dtype.kind != "f":
        raise ValueError(
            f"{label}: the actions are of type {column.dtype}; only continuous (floating-point) actions can be learnt. "
            "If they are continuous, give 'action_space'."
        )
    largest = max((float(np.abs(chunk).max()) for chunk in column.chunks() if chunk.size), default=0.0)
    if as_they_are and np.isfinite(largest) and largest > 1.0 + ACTION_TOLERANCE:
        raise ValueError(
            f"{label}: the actions reach {largest:.4g} in size and nothing says what their bounds are: add 'action_space', "
            "a gymnasium.spaces.Box with the lowest and the highest action."
        )
    return spaces.Box(-1.0, 1.0, column.shape[1:] or (1,), np.float32)
