"""
Noise that a policy which acts without any explores by, once it goes on online.
"""

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.preprocessing import get_action_dim


def exploration(space: spaces.Box, deviation: float) -> NormalActionNoise | None:
    """
    :param space: action space
    :param deviation: standard deviation of the noise, of actions scaled to [-1, 1]
    :return: SB3's action noise; None for 0
    """
    if deviation == 0.0:
        return None
    dim = get_action_dim(space)
    return NormalActionNoise(np.zeros(dim), np.full(dim, deviation))
