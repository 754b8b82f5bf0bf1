"""
``VecNormalize`` gathers its statistics while an environment is stepped; offline they come from the dataset.
"""

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy.common.transitions import Transitions


def fit_vec_normalize(env: VecNormalize, data: Transitions, gamma: float) -> None:
    """
    Give a ``VecNormalize`` wrapper the statistics of a dataset. Statistics gathered by stepping are kept.

    :param env: the wrapper
    :param data: the dataset
    :param gamma: discount factor of the returns that rewards are normalised by
    """
    if not env.training:
        return
    if env.norm_obs:
        if isinstance(env.observation_space, spaces.Dict):
            assert isinstance(data.observations, dict) and isinstance(env.obs_rms, dict)
            for key, rms in env.obs_rms.items():
                _fit(rms, data.observations[key], env.num_envs)
        else:
            assert isinstance(env.obs_rms, RunningMeanStd) and isinstance(data.observations, np.ndarray)
            _fit(env.obs_rms, data.observations, env.num_envs)
    if env.norm_reward:
        _fit(env.ret_rms, discounted_returns_so_far(data, gamma), env.num_envs)


def _fit(rms: RunningMeanStd, rows: np.ndarray, num_envs: int) -> None:
    # An environment that was reset but never stepped has seen one observation for each of its copies
    if rms.count < num_envs + 1:
        rms.mean, rms.var, rms.count = rows.mean(axis=0, dtype=np.float64), rows.var(axis=0, dtype=np.float64), len(rows)


def discounted_returns_so_far(data: Transitions, gamma: float) -> np.ndarray:
    """
    What ``VecNormalize`` takes the variance of: ``R_t = gamma R_{t-1} + r_t``, from 0 at the start of every episode.

    :param data: the dataset
    :param gamma: discount factor
    :return: (n_rows,)
    """
    returns, total = np.zeros(data.n_rows), 0.0
    ends = (data.terminals + data.timeouts) > 0
    for row, (reward, end) in enumerate(zip(data.rewards, ends, strict=True)):
        total = gamma * total + float(reward)
        returns[row] = total
        if end:
            total = 0.0
    return returns
