"""
Checks of a policy's options that SB3 and PyTorch would accept unchecked, or reject late with an obscure error.
"""

import inspect
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN
from torch.optim import Optimizer

from sb3_genpolicy.common.utils import on_one_line
from sb3_genpolicy.generative.checks import blaming, check_class, shown


def check_activation(option: str, activation_fn: Any) -> None:
    """
    :param option: the option's name, for the message
    :param activation_fn: class of an activation function
    :raises ValueError: if what it builds does not act on every entry of a tensor
    """
    if not callable(activation_fn):
        raise ValueError(f"{option} must be a class of activation functions, as nn.ReLU, not {shown(activation_fn)}.")
    given = th.zeros((2, 3))
    # Some activations draw random numbers, which must not change the initialisation of the networks
    errors = (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError)
    with th.random.fork_rng(devices=[]), blaming(f"{option}={shown(activation_fn)} is no class of activations", *errors):
        out = activation_fn()(given)
    if not isinstance(out, th.Tensor) or out.shape != given.shape:
        raise ValueError(f"{option}={shown(activation_fn)} has to keep the shape of what it is applied to; take nn.ReLU.")


def check_extractor(extractor_class: type[BaseFeaturesExtractor], observation_space: spaces.Space) -> None:
    """
    :param extractor_class: class of the features extractor
    :param observation_space: space of the observations that it gets
    :raises ValueError: if the extractor is for dictionaries and the space is not one, or the reverse; names policies that fit
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
