"""
Checks of an algorithm's options that SB3 and PyTorch would accept unchecked, or reject late with an obscure error.
"""

import os
from typing import Any

import torch as th
from stable_baselines3.common.utils import get_device

from sb3_genpolicy.common.datasets.envs import check_env
from sb3_genpolicy.generative.checks import blaming, check_number, shown

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
