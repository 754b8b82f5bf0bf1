"""
How fast actions change in logged data, how suddenly, and how unlikely they are there.
"""

import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_genpolicy.common.datasets import DatasetSource, load_dataset
from sb3_genpolicy.common.policies.planning_policy import horizon_of
from sb3_genpolicy.common.transitions.transitions import Transitions, label_of
from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.generative.checks import check_number, named_arguments, with_named_options

# Of changes of a dimension, in whose units those of all dimensions are compared
_LARGE = 0.99
# What rounding changes, as a share of the largest action
_ROUNDING = 1e-6
# Rows whose density is asked for at a time, and at most
_CHUNK, _MOST = 1024, 8192


class HasDensity(Protocol):
    """What a policy with exact log-probabilities has; a model's is its ``policy``."""

    def obs_to_tensor(self, observation: np.ndarray | dict[str, np.ndarray]) -> tuple[PyTorchObs, bool]:
        """
        :param observation: as the environment gives them, batch first
        :return: tensors, and whether they are a batch, as of SB3's policies
        """

    def log_prob(self, observations: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        :param observations: batch first
        :param actions: (batch_size, \\*action_shape), in the environment's units
        :return: log-density, in nats, (batch_size,)
        """


@with_named_options
@dataclass(frozen=True, eq=False)
class ActionLimits:
    """
    What actions have to keep to, see :class:`~sb3_genpolicy.safety.safe_hands.SafeHands`.

    :param speed: the most that an action may differ from the one before, (action_dim,), in the environment's units for each
        step, > 0; infinite for no limit
    :param jump: the most that this difference may differ from the one before, (action_dim,), > 0; infinite for no limit
    :param log_density: the least log-density of an action under the behaviour model, in nats; -infinity for no limit
    :raises ValueError: if one of them is out of range
    """

    speed: np.ndarray | float = np.inf
    jump: np.ndarray | float = np.inf
    log_density: float = -np.inf

    def __post_init__(self) -> None:
        for name in ("speed", "jump"):
            limit = np.asarray(getattr(self, name), dtype=np.float64)
            if limit.ndim > 1 or not (limit > 0.0).all():
                raise ValueError(f"{name} must be a number above 0, or one for each action dimension, not {limit}.")
            object.__setattr__(self, name, limit)
        if np.isnan(self.log_density):
            raise ValueError("log_density must be a number of nats, or -infinity for no limit.")


@named_arguments
def fit_action_limits(
    dataset: DatasetSource, behaviour: Any = None, touched: float = 0.005, *, jump: bool = True
) -> ActionLimits:
    """
    The limits that logged actions keep to, all but a small share of them.

    Dimensions are measured in units of their own large changes (the 99 % quantile), so that one limit for all of them is
    exceeded as often as was asked for, whatever their number.

    :param dataset: the logged data, see :func:`~sb3_genpolicy.common.datasets.load_dataset`; two steps of an episode at least
    :param behaviour: a model or policy of the behaviour that has a density (a ``BC`` that was trained), for the least
        density. Default: none.
    :param touched: share of the logged actions that are outside, in (0, 1), of all limits together. 0.005 by default, half of
        what one would notice.
    :param jump: whether there is to be a limit on sudden changes of speed
    :return: the limits
    :raises ValueError: if the dataset has no two steps in a row
    """
    check_number("touched", touched, low=0.0, high=1.0, low_open=True, high_open=True)
    data = load_dataset(dataset)
    share = touched / (1 + bool(jump) + (behaviour is not None))
    actions = np.asarray(data.actions, dtype=np.float64).reshape(data.n_rows, -1)
    rounding = _ROUNDING * max(1.0, float(np.abs(actions).max(initial=0.0)))
    first = differences(actions, data.ends)
    if not len(first):
        raise ValueError(f"{label_of(data)} has no two steps of an episode, from which to tell how fast its actions change.")
    limits: dict[str, Any] = dict(speed=_joint_quantile(first, share, rounding))
    if jump:
        ends = np.flatnonzero(~np.asarray(data.ends, dtype=bool)[:-1])
        # Whose difference before is of the same episode
        second = np.diff(first, axis=0)[np.diff(ends) == 1]
        limits["jump"] = _joint_quantile(second, share, rounding) if len(second) else 2.0 * limits["speed"]
    if (limits["speed"] >= np.ptp(actions, axis=0) * (1.0 - _ROUNDING)).all():
        warnings.warn(
            f"Actions of {label_of(data)} go from one end of what they span to the other in one step: a limit on their speed "
            "that lets them pass stops nothing. Give ActionLimits(speed=...) as the machine bears it.",
            stacklevel=4,
        )
    check_behaviour(behaviour)
    if behaviour is not None:
        limits["log_density"] = float(np.quantile(_log_densities(getattr(behaviour, "policy", behaviour), data), share))
    return ActionLimits(**limits)


def differences(actions: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """
    :param actions: (n_rows, action_dim)
    :param ends: (n_rows,), whether an episode ends there
    :return: of actions from those before, within episodes, (n, action_dim)
    """
    return np.diff(actions, axis=0)[~np.asarray(ends, dtype=bool)[:-1]]


def _joint_quantile(changes: np.ndarray, share: float, rounding: float) -> np.ndarray:
    """Limits of all dimensions, (action_dim,), that a share of the changes exceeds in one of them."""
    sizes = np.abs(changes)
    units = np.maximum(np.quantile(sizes, _LARGE, axis=0), rounding)
    # Of actions that never change there is no largest change but rounding
    return units * (float(np.quantile((sizes / units).max(axis=1), 1.0 - share)) or 1.0)


def _log_densities(policy: HasDensity, data: Transitions) -> np.ndarray:
    rows = np.arange(data.n_rows)[:: -(-data.n_rows // _MOST)]
    found = []
    for chunk in np.split(rows, range(_CHUNK, len(rows), _CHUNK)):
        observations = tree_map(lambda array, chunk=chunk: np.asarray(array[chunk]), data.observations)
        with th.no_grad():
            actions = th.as_tensor(np.asarray(data.actions[chunk]))
            found.append(policy.log_prob(policy.obs_to_tensor(observations)[0], actions).cpu().numpy())
    return np.concatenate(found)


def check_behaviour(behaviour: Any) -> None:
    """
    :param behaviour: a model or policy of the behaviour, or None
    :raises ValueError: if its densities are not of single actions in single observations
    """
    if not horizon_of(behaviour).is_one_step:
        raise ValueError(
            "behaviour= plans several actions or sees several observations: the density of one action is meant, by a BC with "
            "chunk_length=1 and history=1. The policy that acts may plan."
        )
