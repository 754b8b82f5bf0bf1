"""
The action range and the statistics of observations, which a policy fits to its first dataset and then keeps: networks that
were trained with one set of statistics cannot change to another. Later datasets that do not fit them cause a warning.
"""

import warnings

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy.common.policies.critic_policy import CriticPolicy
from sb3_genpolicy.common.policies.normalization import check_float32_suffices
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.transitions.outliers import evenly, typical_bounds
from sb3_genpolicy.common.transitions.transitions import Transitions, label_of
from sb3_genpolicy.common.utils import tree_items

# Rows of a dataset that are searched for outliers, at most
_LOOKED_AT = 50_000
# An entry that is clamped in more than this share of the rows is taken to be in another unit
_CLAMPED = 0.5


def fit_action_range(policy: CriticPolicy, data: Transitions, first: bool) -> None:
    """
    :param policy: a policy, whose range of actions is fitted
    :param data: the dataset
    :param first: whether it is the policy's first dataset; for a later one, a warning says where actions lie beyond the range
    """
    if not policy.normalize_actions:
        return
    least, largest = data.action_extent()
    if first:
        policy.action_range.fit(*_without_glitches(data, least, largest))
        policy.action_range.say(label_of(data))
    else:
        policy.action_range.say_beyond(least, largest, label_of(data))


def _without_glitches(data: Transitions, least: np.ndarray, largest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sample = data.actions[evenly(data.n_rows, _LOOKED_AT)].reshape(-1, len(least))
    low, high = typical_bounds(sample)
    few = (least < low) | (largest > high)
    if not few.any():
        return least, largest
    typical = np.where((sample >= low) & (sample <= high), sample, np.nan)
    lowest, highest = np.nanmin(typical, axis=0), np.nanmax(typical, axis=0)
    k = int(np.argmax(few))
    warnings.warn(
        f"{label_of(data)}: actions go from {least[k]:.4g} to {largest[k]:.4g} in dimension {k}, but all except a few rows "
        f"are between {lowest[k]:.4g} and {highest[k]:.4g}. The policy models the range of those, and the few count as its "
        "ends: look at them. policy_kwargs=dict(normalize_actions=False) models the whole of a bounded space.",
        stacklevel=2,
    )
    return np.where(few, lowest, least), np.where(few, highest, largest)


def fit_normalizer(policy: CriticPolicy, buffer: OfflineReplayBuffer, env: VecNormalize | None, label: str) -> None:
    """
    :param policy: a policy, whose statistics of observations are fitted
    :param buffer: the rows of the first dataset
    :param env: VecNormalize wrapper, which normalises some of the observations itself
    :param label: what the dataset is called
    :raises ValueError: if the policy does not normalise, and float32 would merge some of the observations
    """
    if not policy.normalize_observations:
        check_float32_suffices(buffer.store.states, label)
        return
    by_wrapper: list[str | None] = []
    if env is not None and env.norm_obs:
        by_wrapper = [*env.obs_rms] if isinstance(env.obs_rms, dict) else [None]
    for key, few in policy.normalizer.fit(buffer.observation_chunks(), left_alone=by_wrapper).items():
        warnings.warn(
            f"{label}: a few rows of {_name_of(key)}, entry {np.argwhere(few)[0].tolist()}, lie far from all others. They are "
            "left out of its mean and standard deviation, and clamped: look at them.",
            stacklevel=2,
        )


def say_other_units(policy: CriticPolicy, buffer: OfflineReplayBuffer, label: str) -> None:
    """
    Warn of a later dataset that the policy's statistics do not fit.

    :param policy: a policy
    :param buffer: the rows of the dataset
    :param label: what it is called
    """
    rows = next(iter(buffer.observation_chunks()))
    for key, position in policy.normalizer.positions.items():
        part = policy.normalizer.parts[position]
        array = (rows if key is None else rows[key]).to(policy.device)
        with th.no_grad():
            clamped = (part(array).reshape(len(array), -1).abs() >= part.clip.reshape(-1)).float().mean(dim=0)  # type: ignore
        if float(clamped.max()) > _CLAMPED:
            warnings.warn(
                f"{label}: {_name_of(key)}, entry {int(clamped.argmax())}, lies far outside what the policy's statistics were "
                "taken from, its first dataset, and is clamped: is it in another unit? Train a new model on these data.",
                stacklevel=2,
            )


def say_coarse_space(space: spaces.Space, buffer: OfflineReplayBuffer, label: str) -> None:
    """
    Warn if the environment's observation space is of too low a precision to tell apart observations that differ in the data.

    :param space: its observation space
    :param buffer: the rows of a dataset
    :param label: what it is called
    """
    parts = dict(tree_items(dict(space.spaces) if isinstance(space, spaces.Dict) else space, "observations"))
    for name, array in tree_items(buffer.store.states, "observations"):
        if array.dtype == th.float64 and parts[name].dtype in (np.float32, np.float16):
            warnings.warn(
                f"{label}: {name} are numbers that {parts[name].dtype} would merge, but the environment's space is of that "
                "type, so that the policy cannot tell apart there what it was trained on: make the space float64.",
                stacklevel=2,
            )


def _name_of(key: str | None) -> str:
    return "observations" if key is None else f"observations[{key!r}]"
