"""
Why a model cannot be trained side by side, by several processes, with recorded updates, or online. A model declares what its
update depends on, see :meth:`~sb3_genpolicy.common.algorithms.offline_algorithm.OfflineAlgorithm.dependences`; all other
obstacles (optimizers, layers, ...) are found here.

Each function returns a clause for a message, followed by a sentence with a remedy, or None if there is no obstacle.
"""

from typing import Any, Protocol

import torch as th
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import nn
from torch.optim import Optimizer

from sb3_genpolicy.common.datasets.envs import SpacesVecEnv
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.updates.dependence import Dependence, Way
from sb3_genpolicy.common.updates.descent import GradientDescent
from sb3_genpolicy.common.updates.layers import draws_masks, has_running_statistics, layer_like, sees_whole_batch
from sb3_genpolicy.common.updates.processes import world_size

#: Optimizers that treat every entry by itself, so that one step of a stack of models is a step of each
ELEMENTWISE_OPTIMIZERS: tuple[type[Optimizer], ...] = (
    th.optim.Adadelta,
    th.optim.Adagrad,
    th.optim.Adam,
    th.optim.Adamax,
    th.optim.AdamW,
    th.optim.NAdam,
    th.optim.RAdam,
    th.optim.RMSprop,
    th.optim.SGD,
)


class Model(Protocol):
    """The attributes of a model that these checks read."""

    online: bool
    device: th.device
    env: VecEnv | None
    policy: Any
    replay_buffer: OfflineReplayBuffer
    descent: GradientDescent
    _vec_normalize_env: VecNormalize | None

    def dependences(self) -> tuple[Dependence, ...]: ...
    @property
    def collects(self) -> bool: ...


def _dependence(model: Model, way: Way) -> Dependence | None:
    return next((found for found in model.dependences() if way in found.scope.value), None)


def _sentence(dependence: Dependence) -> str:
    return f"{dependence.what}. {dependence.remedy}"


def side_by_side_obstacle(model: Model) -> str | None:
    """
    :param model: a model
    :return: why models like this one cannot be trained as a batch of networks
    """
    dependence = _dependence(model, "side by side")
    if dependence is not None:
        return _sentence(dependence)
    if model.online:
        return "it has gone on online, where every model sees rows of its own"
    if model.replay_buffer.streams:
        return "its dataset is streamed from files. Take one that fits into memory"
    if model._vec_normalize_env is not None:
        return "its environment is a VecNormalize. Take normalize_observations=True in policy_kwargs and a reward_transform"
    layer = layer_like(model.policy, lambda module: draws_masks(module) or has_running_statistics(module))
    if layer is not None:
        return f"its network has {layer}. Take layers without it, as LayerNorm"
    for optimizer in model.descent.optimizers().values():
        if type(optimizer) not in ELEMENTWISE_OPTIMIZERS:
            names = ", ".join(known.__name__ for known in ELEMENTWISE_OPTIMIZERS)
            return f"its optimizer is {type(optimizer).__name__}. Take one of {names}"
    return None


def processes_obstacle(model: Model) -> str | None:
    """
    :param model: a model, whose dataset need not be there yet
    :return: why several processes cannot train a model like this one together
    """
    dependence = _dependence(model, "several processes")
    if dependence is not None:
        return _sentence(dependence)
    if model.online:
        return "it has gone on online, where every process would see rows of its own"
    networks: nn.Module = model.policy
    layer = layer_like(networks, sees_whole_batch)
    if layer is not None:
        return f"its network has {layer}, whose statistics would be of a share of the batch. Take LayerNorm"
    layer = layer_like(networks, draws_masks)
    if layer is not None:
        return f"its network has {layer}, whose masks every process would draw for itself. Leave it out"
    return None


def recording_obstacle(model: Model) -> str | None:
    """
    :param model: a model, with its dataset
    :return: why an update cannot be recorded as a CUDA graph, without a remedy
    """
    if world_size() > 1:
        return f"{world_size()} processes train the model together"
    if model.device.type != "cuda":
        return f"the model is on the device '{model.device}', and CUDA graphs are of CUDA devices"
    if model.collects:
        return "rows arrive between updates"
    if model.replay_buffer.streams:
        return "the dataset does not fit on the GPU, so that batches come from outside"
    if model._vec_normalize_env is not None:
        return "VecNormalize's statistics are on the host"
    dependence = _dependence(model, "recorded")
    if dependence is not None:
        return dependence.what
    for optimizer in model.descent.optimizers().values():
        if "capturable" not in optimizer.param_groups[0]:
            return f"{type(optimizer).__name__} has no option `capturable`"
    return None


def online_obstacle(model: Model) -> str | None:
    """
    :param model: a model
    :return: why it cannot be trained online
    """
    dependence = _dependence(model, "online")
    if dependence is not None:
        return _sentence(dependence)
    if world_size() > 1:
        return f"{world_size()} processes train it together, of which each would see rows of its own. Take one process"
    if model.policy.critic_options.distilled_from is not None:
        return (
            f"its critic is distilled from {model.policy.critic_options.distilled_from} logged actions, and of rows that are "
            "collected one by one it is not known what follows. Train a model without distilled_from"
        )
    if not model.policy.horizon.is_one_step:
        return "its policy plans several actions or sees several observations, and what is collected comes step by step"
    if model.env is None or isinstance(model.env, SpacesVecEnv):
        return "it has no environment to act in. Give it one by `model.set_env(env)` or `load(path, env=env)`"
    return None
