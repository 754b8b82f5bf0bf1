"""
Checks of what SB3 and PyTorch take without a look, or refuse deep inside: options of an algorithm and of a policy.
"""

import inspect
import os
from typing import Any

import gymnasium as gym
import torch as th
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv
from torch.optim import Optimizer

from sb3_genpolicy.common.utils import on_one_line
from sb3_genpolicy.generative.checks import blaming, check_class, check_number, shown

# NumPy's global generator takes no larger ones
_LARGEST_SEED = 2**32 - 1
# What PyTorch raises for devices that it does not know, has not, or cannot reach
_DEVICE_ERRORS = (AssertionError, NotImplementedError, RuntimeError, TypeError)


def check_base_options(
    env: Any,
    learning_rate: Any,
    stats_window_size: Any,
    tensorboard_log: Any,
    verbose: Any,
    seed: Any,
    device: Any,
) -> None:
    """
    Options that go on to SB3, of an algorithm's constructor.

    :param env: an environment, the id of one, or None
    :param learning_rate: a number >= 0, or a function of the progress remaining
    :param stats_window_size: a whole number >= 1
    :param tensorboard_log: a folder or None
    :param verbose: a whole number >= 0
    :param seed: a whole number that NumPy takes, or None
    :param device: a device of this machine
    :raises ValueError: for the first one that is of a wrong type or out of range
    """
    if env is not None:
        check_env(env)
    check_rate("learning_rate", learning_rate)
    check_number("stats_window_size", stats_window_size, low=1, whole=True)
    if tensorboard_log is not None and not isinstance(tensorboard_log, (str, os.PathLike)):
        raise ValueError(f"tensorboard_log must be a folder or None, not {shown(tensorboard_log)}.")
    if not isinstance(verbose, bool):
        check_number("verbose", verbose, low=0, whole=True)
    if seed is not None:
        check_number("seed", seed, low=0, high=_LARGEST_SEED, whole=True)
    check_device(device)


def check_env(env: Any) -> None:
    """
    :param env: an environment, or the id or the specification of one
    :raises ValueError: if it is neither
    """
    if isinstance(env, (str, EnvSpec, gym.Env, VecEnv)):
        return
    wanted = f"env must be an environment, the id of one or None, not {shown(env)}"
    if isinstance(env, gym.vector.VectorEnv):
        raise ValueError(f"{wanted}: gymnasium's vectorised environments are none of SB3, whose `make_vec_env` makes some.")
    # Old environments, of OpenAI's Gym, are SB3's to convert
    if callable(getattr(type(env), "step", None)):
        return
    if isinstance(env, type) or callable(env):
        raise ValueError(f"{wanted}: call it, and give what it makes.")
    raise ValueError(f"{wanted}.")


def check_rate(option: str, rate: Any) -> None:
    """
    :param option: the option's name, for the message
    :param rate: a learning rate, or a function of the progress remaining
    :raises ValueError: if it is neither, or the function gives no rate at the start
    """
    if not callable(rate):
        check_number(option, rate, low=0.0)
        return
    with blaming(f"{option} must be a number or a function of the progress remaining, from 1 to 0", TypeError):
        first = rate(1.0)
    check_number(f"what the function {option} gives at progress 1", first, low=0.0)


def check_device(device: Any) -> None:
    """
    :param device: a device, as SB3 takes it (``cuda`` where there is none is the CPU)
    :raises ValueError: if there is no such device, or it holds no numbers
    """
    if isinstance(device, bool):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or a device of PyTorch, not {device}.")
    with blaming(f"device={shown(device)} cannot be used", *_DEVICE_ERRORS):
        th.zeros((), device=get_device(device)).item()


def check_activation(option: str, activation_fn: Any) -> None:
    """
    :param option: the option's name, for the message
    :param activation_fn: class of an activation function
    :raises ValueError: if what it builds does not act on every entry of a tensor
    """
    if not callable(activation_fn):
        raise ValueError(f"{option} must be a class of activation functions, as nn.ReLU, not {shown(activation_fn)}.")
    given = th.zeros((2, 3))
    # Some draw numbers, which are not to change those that the networks start from
    errors = (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError)
    with th.random.fork_rng(devices=[]), blaming(f"{option}={shown(activation_fn)} is no class of activations", *errors):
        out = activation_fn()(given)
    if not isinstance(out, th.Tensor) or out.shape != given.shape:
        raise ValueError(f"{option}={shown(activation_fn)} has to keep the shape of what it is applied to; take nn.ReLU.")


def check_extractor(extractor_class: type[BaseFeaturesExtractor], observation_space: spaces.Space) -> None:
    """
    :param extractor_class: class of the features extractor
    :param observation_space: what it is to look at
    :raises ValueError: if one is for dictionaries and the other is not, with the policies that are
    """
    if isinstance(observation_space, spaces.Dict) and issubclass(extractor_class, (FlattenExtractor, NatureCNN)):
        raise ValueError(
            f"The observations are a dictionary ({', '.join(observation_space.spaces)}): use the policy "
            "'FlowMultiInputPolicy' or 'DiffusionMultiInputPolicy' instead."
        )
    if issubclass(extractor_class, NatureCNN) and not isinstance(observation_space, spaces.Box):
        given = on_one_line(observation_space)
        raise ValueError(f"The observations are no images, but {given}: use 'FlowPolicy' or 'DiffusionPolicy' instead.")
    if not isinstance(observation_space, spaces.Dict) and issubclass(extractor_class, CombinedExtractor):
        raise ValueError(
            f"The observations are no dictionary, but {on_one_line(observation_space)}: use the policy 'FlowPolicy' or "
            "'DiffusionPolicy', or for images 'FlowCnnPolicy' or 'DiffusionCnnPolicy', instead."
        )


def check_optimizer(optimizer_class: Any, optimizer_kwargs: Any) -> None:
    """
    :param optimizer_class: class of an optimizer
    :param optimizer_kwargs: its options without the learning rate, None for its own
    :raises ValueError: if networks cannot be trained by it
    """
    check_class("optimizer_class", optimizer_class, Optimizer, "th.optim.Adam")
    if inspect.signature(optimizer_class.step).parameters["closure"].default is inspect.Parameter.empty:
        raise ValueError(f"optimizer_class={optimizer_class.__name__} evaluates a loss several times: take th.optim.Adam.")
    if issubclass(optimizer_class, th.optim.SparseAdam):
        raise ValueError("optimizer_class=SparseAdam needs sparse gradients, those of networks are dense: take th.optim.Adam.")
    check_kwargs("optimizer_kwargs", optimizer_kwargs)
    if "lr" in (optimizer_kwargs or {}):
        raise ValueError("optimizer_kwargs has 'lr', which is the algorithm's option: give learning_rate= there.")


def check_kwargs(option: str, kwargs: Any) -> None:
    """
    :param option: the option's name, for the message
    :param kwargs: keyword arguments, or None
    :raises ValueError: if it is no dictionary with names as keys
    """
    if kwargs is not None and not (isinstance(kwargs, dict) and all(isinstance(key, str) for key in kwargs)):
        raise ValueError(f"{option} must be a dictionary of options by their names, not {shown(kwargs)}.")
