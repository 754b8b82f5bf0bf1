"""
``VecNormalize`` gathers its statistics while an environment is stepped; offline they come from the dataset.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_genpolicy.common.transitions.moments import running_moments
from sb3_genpolicy.common.transitions.rewards import AffineReward, RewardFunction, transform_rewards
from sb3_genpolicy.common.transitions.transitions import Transitions, label_of

# A variance below so many times the wrapper's epsilon is no longer visible beside it
_DROWNED = 10.0


def fit_observations(env: VecNormalize, chunks: Iterable[Any], label: str) -> None:
    """
    Give a ``VecNormalize`` wrapper the observations' statistics of a dataset. Statistics gathered by stepping are kept.

    :param env: the wrapper
    :param chunks: the dataset's observations, some at a time
    :param label: what the dataset is called
    """
    if not env.training or not env.norm_obs:
        return
    running: dict[Any, RunningMeanStd] = env.obs_rms if isinstance(env.obs_rms, dict) else {None: env.obs_rms}
    unseen = {key: rms for key, rms in running.items() if _is_unseen(rms, env)}
    for key, moments in running_moments(chunks, {key: rms.mean.shape for key, rms in unseen.items()}).items():
        vars(unseen[key]).update(vars(moments))
    small = [rms.var[(rms.var > 0.0) & (rms.var < _DROWNED * env.epsilon)] for rms in running.values()]
    if any(len(var) for var in small):
        least = np.sqrt(min(float(var.min()) for var in small if len(var)))
        warnings.warn(
            f"{label}: entries of the observations have a standard deviation of {least:.3g} only, which VecNormalize hides "
            f"behind its epsilon={env.epsilon:.3g}. Give it a smaller one, or norm_obs=False: the policy standardises "
            "observations itself.",
            stacklevel=2,
        )


def fit_rewards(env: VecNormalize, data: Transitions, reward_function: RewardFunction, gamma: float, known: bool) -> None:
    """
    Give a ``VecNormalize`` wrapper the statistics of the returns of a dataset, of the rewards that critics see: those that
    the reward function was applied to.

    :param env: the wrapper
    :param data: the dataset
    :param reward_function: applied to its rewards
    :param gamma: discount factor of the returns that rewards are normalised by
    :param known: whether the wrapper's present statistics are of transformed rewards; others are replaced, with a warning
    """
    if not env.norm_reward:
        return
    unseen = _is_unseen(env.ret_rms, env)
    if not env.training:
        if not known and reward_function != AffineReward():
            warnings.warn(
                f"{label_of(data)}: VecNormalize does not train, and keeps statistics of rewards (standard deviation "
                f"{np.sqrt(float(env.ret_rms.var)):.4g}) that may be others than critics see, which reward_transform was "
                "applied to. Give it norm_reward=False or training=True, or the model reward_transform='none'.",
                stacklevel=2,
            )
        return
    if known and not unseen:
        return
    if not unseen:
        warnings.warn(
            f"{label_of(data)}: VecNormalize's statistics of rewards were gathered by stepping. Critics see rewards that "
            "reward_transform was applied to: the statistics of the dataset's take their place.",
            stacklevel=2,
        )
    returns = discounted_returns_so_far(data, transform_rewards(reward_function, data.rewards), gamma)
    vars(env.ret_rms).update(mean=returns.mean(), var=returns.var(), count=len(returns))


def check_known(env: VecNormalize, reward_function: RewardFunction) -> None:
    """
    Warn if a wrapper's reward statistics are of raw rewards, as with a model of release 0.1. If the reward function only
    scales rewards, the statistics are scaled likewise.

    :param env: the wrapper
    :param reward_function: the model's
    """
    if not env.norm_reward or _is_unseen(env.ret_rms, env) or reward_function == AffineReward():
        return
    if isinstance(reward_function, AffineReward) and reward_function.shift == 0.0:
        scale = reward_function.scale
        env.ret_rms.mean, env.ret_rms.var = env.ret_rms.mean * scale, env.ret_rms.var * scale**2
        what = f"they are multiplied by its scale, {scale:.4g}"
    else:
        what = "give the model its dataset once, by `read_dataset`, to have them right"
    warnings.warn(
        "VecNormalize's statistics are of rewards that reward_transform was not applied to, as release 0.1 took them: "
        f"{what}.",
        stacklevel=2,
    )


def _is_unseen(rms: RunningMeanStd, env: VecNormalize) -> bool:
    # An environment that was reset but never stepped has seen one observation for each of its copies
    return rms.count < env.num_envs + 1


def discounted_returns_so_far(data: Transitions, rewards: np.ndarray, gamma: float) -> np.ndarray:
    """
    What ``VecNormalize`` takes the variance of: ``R_t = gamma R_{t-1} + r_t``, from 0 at the start of every episode.

    :param data: the dataset
    :param rewards: (n_rows,), its rewards, or what was made of them
    :param gamma: discount factor, in [0, 1]
    :return: (n_rows,)
    """
    returns, total = np.zeros(data.n_rows), 0.0
    is_start = np.zeros(data.n_rows + 1, dtype=bool)
    is_start[data.episode_starts] = True
    for row, (reward, starts) in enumerate(zip(rewards.tolist(), is_start.tolist(), strict=False)):
        total = reward if starts else gamma * total + reward
        returns[row] = total
    return returns


class _TransformedRewards(VecEnvWrapper):
    """
    An environment whose rewards are transformed as the critics see them.

    :param venv: the environment
    :param reward_function: applied to its rewards
    """

    def __init__(self, venv: Any, reward_function: RewardFunction):
        super().__init__(venv)
        self.reward_function = reward_function

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, np.asarray(self.reward_function(np.asarray(rewards, np.float32))), dones, infos


@contextmanager
def seeing_transformed_rewards(env: VecNormalize, reward_function: RewardFunction) -> Iterator[None]:
    """
    As long as the context lasts, a ``VecNormalize`` wrapper is stepped with rewards that the reward function was applied to:
    its statistics, and what it calls original rewards, are of those.

    :param env: the wrapper
    :param reward_function: the function
    """
    venv = env.venv
    env.venv = _TransformedRewards(venv, reward_function)
    try:
        yield
    finally:
        env.venv = venv
