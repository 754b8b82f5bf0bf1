"""
Reward transforms: rewards are brought to a common scale before the critics see them. They are named, or small objects; what
was fitted to a dataset is saved with the model.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sb3_genpolicy.common.transitions.outliers import typical_bounds
from sb3_genpolicy.common.transitions.transitions import Transitions, count_fragments, label_of
from sb3_genpolicy.generative.checks import check_choice, check_number, with_named_options

#: From rewards to rewards, both (n_rows,)
RewardFunction = Callable[[np.ndarray], np.ndarray]

REWARD_TRANSFORMS = ("locomotion", "antmaze", "none")

# Rewards are taken to span so many standard deviations, where no scale can be taken from returns
_DEVIATIONS = 4.0
# Returns whose spread is at most this share of that estimate differ only by noise or rounding
_SAME = 0.02
# The spread of returns is taken to be at least this share of abs(mean reward) times the horizon
_LEAST = 1e-2
# Below this share of their size, differences are rounding
_ROUNDING = 1e-6
# Longest horizon, where nothing is discounted
_LONGEST = 1000.0


@with_named_options
@dataclass(frozen=True)
class AffineReward:
    """
    ``scale * reward + shift``; saved with the model, so that rewards met online later are treated alike.

    :param scale: what rewards are multiplied by, 1 leaves them
    :param shift: what is added to the product, in units of the scaled reward
    """

    scale: float = 1.0
    shift: float = 0.0

    def __call__(self, rewards: np.ndarray) -> np.ndarray:
        return (self.scale * rewards + self.shift).astype(np.float32)


@with_named_options
@dataclass(frozen=True)
class ReturnRange:
    """
    Rewards times ``span / (best return - worst return of the dataset)``, whatever their units.

    No scale can be taken from returns if most episodes are fragments (shuffled transitions), or if all returns are about
    equal. Then the spread of returns is estimated, with a warning: as four standard deviations of the rewards times the length
    of an episode, or the horizon of the discount ``1 / (1 - gamma)`` if that is shorter.

    :param span: what the returns of the dataset span afterwards (paper: 1000 for locomotion)
    """

    span: float = 1000.0

    def __post_init__(self) -> None:
        check_number("ReturnRange: span", self.span, low=0.0, low_open=True)

    def fit(self, data: Transitions, gamma: float = 0.99) -> AffineReward:
        """
        :param data: the dataset
        :param gamma: discount factor, in [0, 1]
        :return: the scale of its rewards; 1 where all rewards are the same
        """
        returns = data.episode_returns()
        sizes = np.add.reduceat(np.abs(data.rewards), data.episode_starts[:-1], dtype=np.float64)
        spread, deviation = float(returns.max() - returns.min()), float(np.std(data.rewards, dtype=np.float64))
        # The spread of equal numbers that were rounded to float32 counts as none
        spread = spread if spread > _ROUNDING * sizes.max() else 0.0
        deviation = deviation if deviation > _ROUNDING * float(np.abs(data.rewards).max()) else 0.0
        fragments = count_fragments(data)
        horizon = 1.0 / max(1.0 - gamma, 1.0 / _LONGEST)
        if fragments == 0:
            horizon = min(horizon, data.n_rows / data.n_episodes)
        likely = _DEVIATIONS * horizon * deviation
        reason = None
        if fragments:
            reason = f"{fragments} of {data.n_episodes} episodes are single steps or cuts that were inferred"
        elif spread <= _SAME * likely:
            reason = f"the returns of all {data.n_episodes} episodes are about the same ({returns.mean():.6g})"
        if reason is not None:
            spread = likely
        # Otherwise nearly equal rewards would be scaled to huge values, in which differences are lost
        least = _LEAST * horizon * abs(float(data.rewards.mean(dtype=np.float64)))
        if 0.0 < spread < least:
            reason = f"the rewards are about the same ({data.rewards.mean(dtype=np.float64):.6g})"
            spread = least
        if reason is None:
            _say_if_one_return_is_the_scale(returns, label_of(data))
        if reason is not None and spread > 0.0:
            warnings.warn(
                f"{label_of(data)}: {reason}, so that no scale can be taken from returns. Rewards are scaled by "
                f"{self.span / spread:.4g}, from their own spread or size over {horizon:.4g} steps; "
                "`reward_transform=AffineReward(scale)` gives them another one.",
                stacklevel=2,
            )
        return AffineReward(scale=self.span / spread) if spread > 0.0 else AffineReward()


def _say_if_one_return_is_the_scale(returns: np.ndarray, label: str) -> None:
    low, high = typical_bounds(returns)
    far = np.flatnonzero((returns < low) | (returns > high))
    if len(far):
        warnings.warn(
            f"{label}: the return of episode {far[0]}, {returns[far[0]]:.6g}, is far from all others (most lie near "
            f"{np.median(returns):.6g}), and rewards are scaled by the span of returns: look at that episode, or give "
            "`reward_transform=AffineReward(scale)`.",
            stacklevel=2,
        )


#: What a reward transform can be given as
RewardTransform = str | ReturnRange | RewardFunction


def check_reward_transform(transform: RewardTransform | None) -> None:
    """
    :param transform: a name, an object, a callable or None
    :raises ValueError: if the name is unknown
    """
    if transform is not None and not callable(transform) and not isinstance(transform, ReturnRange):
        check_choice("reward_transform", transform, REWARD_TRANSFORMS)


def fit_reward_transform(transform: RewardTransform | None, data: Transitions, gamma: float = 0.99) -> RewardFunction:
    """
    :param transform: ``locomotion``: :class:`ReturnRange`, the scale at which the paper's inverse temperatures are given;
        ``antmaze``: reward - 1, for tasks that pay 1 at the goal; ``none`` or None: as they are; :class:`AffineReward`: scaled
        and shifted; or any function of an array of rewards.
    :param data: the dataset that a scale is taken from
    :param gamma: discount factor, in [0, 1]
    :return: the function of the rewards
    """
    check_reward_transform(transform)
    if isinstance(transform, ReturnRange):
        return transform.fit(data, gamma)
    if callable(transform):
        return transform
    named: dict[str, RewardFunction] = {"antmaze": AffineReward(shift=-1.0), "none": AffineReward()}
    return ReturnRange().fit(data, gamma) if transform == "locomotion" else named[transform or "none"]


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
