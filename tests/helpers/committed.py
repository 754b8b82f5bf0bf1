"""
Policies on the finite chain that commit themselves to several steps in one direction, and what they are worth.
"""

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy

from sb3_genpolicy.common.policies.planning import Horizon
from sb3_genpolicy.common.policies.planning_policy import PlanningPolicy
from sb3_genpolicy.common.transitions.time_windows import planned_space
from tests.helpers.chain import ACTION_SPACE, N_STATES, OBSERVATION_SPACE, REWARDS, moves


class Committed(PlanningPolicy):
    """
    Plans to go right all the time with a probability of its own in every state, else left.

    :param rights: the probabilities, (N_STATES,)
    :param chunk_length: number of actions of a plan
    :param execute_length: of those that are executed
    """

    def __init__(self, rights, chunk_length, execute_length=None, plan_blending=None):
        super().__init__(OBSERVATION_SPACE, planned_space(ACTION_SPACE, chunk_length))
        horizon = Horizon.of(chunk_length, execute_length, 1)
        self.plan_by(horizon, OBSERVATION_SPACE, ACTION_SPACE, plan_blending)
        self.rights = th.as_tensor(rights, dtype=th.float64)

    def _predict(self, observation, deterministic=False):
        rights = self.rights[observation.argmax(dim=1)]
        sign = th.where(th.rand(rights.shape) < rights, 1.0, -1.0)[:, None]
        return (sign * th.rand(len(sign), self.horizon.chunk_length).clamp(min=1e-6)).float()

    def log_prob(self, observations, actions):
        rights = self.rights[observations.argmax(dim=1)]
        is_right = actions.flatten(1) > 0.0
        share = rights * is_right.all(dim=1) + (1.0 - rights) * (~is_right).all(dim=1)
        return share.log()


class Windows(BasePolicy):
    """
    The exact density of several actions that follow each other of somebody who looks at every state.

    :param rights: the probabilities, (N_STATES,)
    :param length: number of actions
    """

    def __init__(self, rights, length):
        super().__init__(OBSERVATION_SPACE, planned_space(ACTION_SPACE, length))
        self.rights = rights

    def _predict(self, observation, deterministic=False):
        raise NotImplementedError

    def log_prob(self, observations, actions):
        share = observations.double().numpy()
        for is_right in (actions.flatten(1) > 0.0).numpy().T[:, :, None]:
            share = np.where(is_right, share * self.rights, share * (1.0 - self.rights))
            share = np.where(is_right, share @ moves(np.ones(N_STATES)), share @ moves(np.zeros(N_STATES)))
        return th.as_tensor(np.log(share.sum(axis=1)))


def _earned(side, n_steps, gamma, terminal):
    """Of so many steps in one direction, from every state: what they earn, and where they lead to."""
    step = moves(np.full(N_STATES, side))
    goes_on = step.copy()
    if terminal:
        goes_on[:, -1] = 0.0
    earned, reached = np.zeros(N_STATES), np.eye(N_STATES)
    for _ in range(n_steps):
        earned = earned + reached @ step @ REWARDS
        reached = gamma * reached @ goes_on
    return earned, reached


def _of_plans(rights, n_steps, gamma, terminal):
    sides = [_earned(side, n_steps, gamma, terminal) for side in (1.0, 0.0)]
    shares = rights[:, None], 1.0 - rights[:, None]
    earned = sum(share[:, 0] * own[0] for share, own in zip(shares, sides, strict=True))
    return earned, sum(share * own[1] for share, own in zip(shares, sides, strict=True))


def discounted_value(rights, start, gamma, execute_length, terminal=False):
    """Exact, without a time limit."""
    earned, reached = _of_plans(rights, execute_length, gamma, terminal)
    return start @ np.linalg.solve(np.eye(N_STATES) - reached, earned)


def total_value(rights, start, n_steps, execute_length, terminal=False):
    """Exact, of so many steps, the last plan cut short."""
    value = np.zeros(N_STATES)
    lengths = [min(execute_length, n_steps - first) for first in range(0, n_steps, execute_length)]
    for length in reversed(lengths):
        earned, reached = _of_plans(rights, length, 1.0, terminal)
        value = earned + reached @ value
    return start @ value
