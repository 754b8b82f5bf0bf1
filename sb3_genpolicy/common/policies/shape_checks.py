"""
Shapes of what a user hands to a policy: batches of observations and actions.
"""

import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_genpolicy.common.utils import space_items, tree_items, tree_map


def check_observations(observations: PyTorchObs, space: spaces.Space, device: th.device) -> PyTorchObs:
    """
    :param observations: tensors or arrays, batch first; a dictionary of them for a Dict space
    :param space: observation space
    :param device: where tensors are wanted
    :return: tensors on the device
    :raises ValueError: for a wrong shape, or batches of unequal size
    """
    if isinstance(observations, dict) != isinstance(space, spaces.Dict) or (
        isinstance(observations, dict) and set(observations) != set(space.spaces)  # type: ignore[attr-defined]
    ):
        given = f"a dictionary of {', '.join(observations)}" if isinstance(observations, dict) else "one tensor"
        wanted = f"a dictionary of {', '.join(space.spaces)}" if isinstance(space, spaces.Dict) else "one tensor"
        raise ValueError(f"observations are {given}, but this policy's are {wanted}.")
    observations = tree_map(lambda array: th.as_tensor(array, device=device), observations)
    sizes = set()
    for (name, array), (_, part) in zip(
        sorted(tree_items(observations, "observations")), sorted(space_items(space, "observations")), strict=True
    ):
        _check_shape(name, tuple(array.shape), tuple(part.shape or ()))
        sizes.add(len(array))
    if len(sizes) > 1:
        raise ValueError(f"observations have batches of unequal size: {', '.join(map(str, sorted(sizes)))}.")
    return observations


def check_actions(actions: th.Tensor, space: spaces.Box, batch_size: int, device: th.device) -> th.Tensor:
    """
    :param actions: a tensor or an array, batch first
    :param space: action space
    :param batch_size: number of observations
    :param device: where the tensor is wanted
    :return: a tensor on the device
    :raises ValueError: for a wrong shape
    """
    actions = th.as_tensor(actions, device=device)
    _check_shape("actions", tuple(actions.shape), space.shape)
    if len(actions) != batch_size:
        raise ValueError(f"There are {len(actions)} actions for {batch_size} observations: give one action per observation.")
    return actions


def _check_shape(name: str, given: tuple[int, ...], one: tuple[int, ...]) -> None:
    if given[1:] == one and len(given) == len(one) + 1:
        return
    wanted = ", ".join(["batch_size", *map(str, one)]) + ("" if one else ",")
    hint = f" One alone becomes a batch by {name}[None]." if given == one else ""
    raise ValueError(f"{name} have shape {given}, but this policy's are ({wanted}).{hint}")
