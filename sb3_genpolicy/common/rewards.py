"""
Reward transforms: rewards are brought to a common scale before the critics see them. They are named, or small objects; what
was fitted to a dataset is saved with the model.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sb3_genpolicy.common.transitions import Transitions
from sb3_genpolicy.generative.checks import check_choice, check_number, with_named_options

#: From rewards to rewards, both (n_rows,)
RewardFunction = Callable[[np.ndarray], np.ndarray]

REWARD_TRANSFORMS = ("locomotion", "antmaze", "none")


@with_named_options
@dataclass(frozen=True)
class AffineReward:
    """
    ``scale * reward + shift``; saved with the model, so that rewards met online later are treated alike.
    """

    scale: float = 1.0
    shift: float = 0.0

    def __call__(self, rewards: np.ndarray) -> np.ndarray:
        return (self.scale * rewards + self.shift).astype(np.float32)


@with_named_options
@dataclass(frozen=True)
class ReturnRange:
    """
    Rewards times ``span / (best return - worst return of the dataset)``, whatever their units (left as they are where all
    episodes have the same return).

    :param span: what the returns of the dataset span afterwards (paper: 1000 for locomotion)
    """

    span: float = 1000.0

    def __post_init__(self) -> None:
        check_number("ReturnRange: span", self.span, low=0.0, low_open=True)

    def fit(self, data: Transitions) -> AffineReward:
        """
        :param data: the dataset
        :return: the scale of its rewards
        """
        returns = data.episode_returns()
        spread = float(returns.max() - returns.min())
        return AffineReward(scale=self.span / spread) if spread > 0.0 else AffineReward()


#: What a reward transform can be given as
RewardTransform = str | ReturnRange | RewardFunction


def check_reward_transform(transform: RewardTransform | None) -> None:
    """
    :param transform: a name, an object, a callable or None
    :raises ValueError: if the name is unknown
    """
    if transform is not None and not callable(transform) and not isinstance(transform, ReturnRange):
        check_choice("reward_transform", transform, REWARD_TRANSFORMS)


def fit_reward_transform(transform: RewardTransform | None, data: Transitions) -> RewardFunction:
    """
    :param transform: ``locomotion``: :class:`ReturnRange`, the scale at which the paper's inverse temperatures are given;
        ``antmaze``: reward - 1, for tasks that pay 1 at the goal; ``none`` or None: as they are; :class:`AffineReward`: scaled
        and shifted; or any function of an array of rewards.
    :param data: the dataset that a scale is taken from
    :return: the function of the rewards
    """
    check_reward_transform(transform)
    if isinstance(transform, ReturnRange):
        return transform.fit(data)
    if callable(transform):
        return transform
    named: dict[str, RewardFunction] = {"antmaze": AffineReward(shift=-1.0), "none": AffineReward()}
    return ReturnRange().fit(data) if transform == "locomotion" else named[transform or "none"]


def transform_rewards(reward_function: RewardFunction, rewards: np.ndarray) -> np.ndarray:
    """
    :param reward_function: a function of an array of rewards
    :param rewards: (n_rows,)
    :return: what it makes of them, in float32
    :raises ValueError: if that is not one finite number for each
    """
    transformed = np.asarray(reward_function(rewards), dtype=np.float32)
    if transformed.shape != rewards.shape or not np.isfinite(transformed).all():
        same = transformed.shape == rewards.shape
        fault = "NaN or infinite values" if same else f"an array of shape {transformed.shape}"
        raise ValueError(
            f"The reward transform turned rewards of shape {rewards.shape} into {fault}; "
            "it has to give one finite number for each."
        )
    return transformed
