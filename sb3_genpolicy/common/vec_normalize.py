"""
``VecNormalize`` gathers its statistics while an environment is stepped; offline they come from the dataset.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy.common.normalization import running_moments
from sb3_genpolicy.common.transitions import Transitions


def fit_vec_normalize(env: VecNormalize, data: Transitions, chunks: Iterable[Any], gamma: float) -> None:
    """
    Give a ``VecNormalize`` wrapper the statistics of a dataset. Statistics gathered by stepping are kept.

    :param env: the wrapper
    :param data: the dataset
    :param chunks: its observations, some at a time
    :param gamma: discount factor of the returns that rewards are normalised by
    """
    if not env.training:
        return
    if env.norm_obs:
        running: dict[Any, RunningMeanStd] = env.obs_rms if isinstance(env.obs_rms, dict) else {None: env.obs_rms}
        unseen = {key: rms for key, rms in running.items() if _is_unseen(rms, env)}
        for key, moments in running_moments(chunks, {key: rms.mean.shape for key, rms in unseen.items()}).items():
            vars(unseen[key]).update(vars(moments))
    if env.norm_reward and _is_unseen(env.ret_rms, env):
        returns = discounted_returns_so_far(data, gamma)
        vars(env.ret_rms).update(mean=returns.mean(), var=returns.var(), count=len(returns))


def _is_unseen(rms: RunningMeanStd, env: VecNormalize) -> bool:
    # An environment that was reset but never stepped has seen one observation for each of its copies
    return rms.count < env.num_envs + 1


def discounted_returns_so_far(data: Transitions, gamma: float) -> np.ndarray:
    """
    What ``VecNormalize`` takes the variance of: ``R_t = gamma R_{t-1} + r_t``, from 0 at the start of every episode.

    :param data: the dataset
    :param gamma: discount factor
    :return: (n_rows,)
    """
    returns, total = np.zeros(data.n_rows), 0.0
    for row, (reward, end) in enumerate(zip(data.rewards, data.ends, strict=True)):
        total = gamma * total + float(reward)
        returns[row] = total
        if end:
            total = 0.0
    return returns
