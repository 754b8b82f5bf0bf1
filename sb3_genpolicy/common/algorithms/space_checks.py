"""
Spaces that a model can act on; SB3 would fail on the others somewhere in its networks, or learn nonsense.
"""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import unwrap_vec_normalize

from sb3_genpolicy.common.utils import on_one_line, space_items

_SINGLE = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def check_model_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    :param observation_space: of an environment
    :param action_space: of an environment; others than boxes are not looked at
    :raises ValueError: if observations cannot be made numbers for a network, or actions leave no choice
    """
    for name, space in space_items(observation_space, "observations"):
        fault = _fault_of_observations(space)
        if fault is not None:
            raise ValueError(f"The space of {name}, {on_one_line(space)}, {fault}.")
    images = [space for _, space in space_items(observation_space, "") if is_image_space(space)]
    if len({is_image_space_channels_first(space) for space in images if isinstance(space, spaces.Box)}) > 1:
        raise ValueError(
            f"The observations {on_one_line(observation_space)} have images with their channels first "
            "beside others with their channels last: turn them all the same way."
        )
    if isinstance(action_space, spaces.Box):
        fault = _fault_of_actions(action_space)
        if fault is not None:
            raise ValueError(f"The action space {on_one_line(action_space)} {fault}.")


def check_continuous_actions(action_space: spaces.Space, algorithm: str) -> None:
    """
    :param action_space: of an environment
    :param algorithm: the algorithm's name, for the message
    :raises ValueError: if actions are not continuous
    """
    if not isinstance(action_space, spaces.Box):
        raise ValueError(
            f"{algorithm} learns continuous actions (a Box space), but the actions are {on_one_line(action_space)}. For "
            "discrete actions see SB3's DQN or QR-DQN of sb3-contrib."
        )


def take_env(model: Any, env: GymEnv | str, policy: Any) -> None:
    """
    Set a model's environment as SB3's constructor does; SB3's own refuses unbounded actions.

    :param model: a model that is being made
    :param env: its environment, or the id of one
    :param policy: the policy that it was asked for
    :raises ValueError: if the environment cannot be made, or no model can act on its spaces
    """
    made = model._wrap_env(env, model.verbose)
    model.env, model.n_envs = made, made.num_envs
    model.observation_space, model.action_space = made.observation_space, made.action_space
    model._vec_normalize_env = unwrap_vec_normalize(made)
    if policy in ("MlpPolicy", "CnnPolicy") and isinstance(model.observation_space, spaces.Dict):
        raise ValueError(f"The observations are a dictionary: use 'MultiInputPolicy' in place of '{policy}'.")


def _fault_of_observations(space: spaces.Space) -> str | None:
    if not isinstance(space, _SINGLE):
        return "is none that a network takes: flatten it (gymnasium.wrappers.FlattenObservation)"
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and np.any(np.asarray(space.start) != 0):
        return "counts from another number than 0: subtract its start from observations"
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim != 1:
        return "has several dimensions: flatten it to one"
    return _fault_of_shape(space) if isinstance(space, spaces.Box) else None


def _fault_of_actions(space: spaces.Box) -> str | None:
    if space.dtype.kind != "f":
        return f"holds numbers of type {space.dtype}: actions are continuous here, give it as a Box of float32"
    if np.isnan(space.low).any() or np.isnan(space.high).any():
        return "has a bound that is no number: give every one, infinite where there is none"
    with np.errstate(over="ignore"):
        width = space.high.astype(np.float64) - space.low
    if (width <= 0.0).any():
        where = np.argwhere(width <= 0.0)[0].tolist()
        return f"leaves no choice at {where}, where its lowest and its highest action are the same: leave that entry out"
    return _fault_of_shape(space) if space.shape else "has no entries along its shape (): give it (1,) or more"


def _fault_of_shape(space: spaces.Box) -> str | None:
    return None if 0 not in space.shape else f"has no entries along its shape {space.shape}: give it (1,) or more"
