"""
Reward transforms: rewards are brought to a common scale before the critics see them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sb3_genpolicy.common.transitions import Transitions
from sb3_genpolicy.generative.checks import check_choice

#: From rewards to rewards, both (n_rows,)
RewardFunction = Callable[[np.ndarray], np.ndarray]

REWARD_TRANSFORMS = ("locomotion", "antmaze", "none")


@dataclass(frozen=True)
class AffineReward:
    """
    ``scale * reward + shift``; saved with the model, so that rewards met online later are treated alike.
    """

    scale: float = 1.0
    shift: float = 0.0

    def __call__(self, rewards: np.ndarray) -> np.ndarray:
        return (self.scale * rewards + self.shift).astype(np.float32)


def check_reward_transform(transform: str | RewardFunction | None) -> None:
    """
    :param transform: a name, a callable or None
    :raises ValueError: if the name is unknown
    """
    if transform is not None and not callable(transform):
        check_choice("reward_transform", transform, REWARD_TRANSFORMS)


def fit_reward_transform(transform: str | RewardFunction | None, data: Transitions) -> RewardFunction:
    """
    :param transform: ``locomotion``: rewards times 1000 / (best return - worst return of the dataset), the scale at
        which the paper's inverse temperatures are given, whatever the units of the reward (left as they are where all
        episodes have the same return); ``antmaze``: reward - 1, for tasks that pay 1 at the goal; ``none`` or None:
        as they are; or any function of an array of rewards.
    :param data: the dataset that the scale is taken from
    :return: the function of the rewards
    """
    check_reward_transform(transform)
    if callable(transform):
        return transform
    if transform == "antmaze":
        return AffineReward(shift=-1.0)
    if transform == "locomotion":
        returns = data.episode_returns()
        spread = float(returns.max() - returns.min())
        return AffineReward(scale=1000.0 / spread) if spread > 0.0 else AffineReward()
    return AffineReward()
