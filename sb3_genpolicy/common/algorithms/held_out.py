"""
Held-out (validation) rows: nothing is learnt from them, and the losses on them are logged, and how well the critics' advantage
foretells what followed.
"""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy.common.files.transient import Transient
from sb3_genpolicy.common.policies.critic_policy import CriticPolicy
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.transitions.returns import returns_to_go
from sb3_genpolicy.common.transitions.rewards import transform_rewards
from sb3_genpolicy.common.transitions.transitions import Transitions
from sb3_genpolicy.common.updates.batch import Batch

# At most so many rows are evaluated each time that the log is written
_ROWS = 4096


class HeldOutRows(Transient):
    """
    :param rows: indices of the rows; at most 4096 of them are kept, evenly spaced
    :param data: the dataset
    :param buffer: the same, as it is learnt from
    :param env: VecNormalize wrapper whose statistics are applied
    :param gamma: discount factor of returns
    :param distilled_from: number of logged actions that critics are distilled from; None for others
    """

    def __init__(
        self,
        rows: np.ndarray,
        data: Transitions,
        buffer: OfflineReplayBuffer,
        env: VecNormalize | None,
        gamma: float,
        distilled_from: int | None = None,
    ):
        rows = rows[:: -(-len(rows) // _ROWS)]
        #: Whether it was said what they say against the critics
        self.has_spoken = False
        self.rows = th.as_tensor(rows)
        self.samples: Any = buffer.rows(self.rows, env)
        self._next_actions = buffer.next_actions(self.rows)
        self._windows = None if distilled_from is None else buffer.logged_windows(self.rows, distilled_from)
        rewards = th.as_tensor(transform_rewards(buffer.reward_function, data.rewards))
        to_go = returns_to_go(data, buffer.normalized_rewards(env, rewards).numpy(), gamma)
        last_rows, self._episodes = np.unique(to_go.last_rows[rows], return_inverse=True)
        # What the episodes ended with, once for each
        self._last_observations = buffer.rows(th.as_tensor(last_rows), env).next_observations
        self._rewards, self._discounts = (
            th.as_tensor(values[rows], dtype=th.float32, device=buffer.device)[:, None]
            for values in (to_go.rewards, to_go.discounts)
        )

    def batch(self, device: th.device) -> Batch:
        """
        :param device: where noise is wanted
        :return: the rows, with the same noise every time, apart from the training's random state
        """
        generator = th.Generator(device).manual_seed(0)
        return Batch.of(self.samples, self.rows, generator, next_actions=self._next_actions, logged_windows=self._windows)

    @th.no_grad()
    def advantage_correlation(self, policy: CriticPolicy) -> th.Tensor:
        """
        How well the advantage foretells what followed: the correlation of ``Q(s, a) - V(s)`` with the return from there to the
        episode's end minus ``V(s)``. The value of what a cut-off episode ended with is V's. It is small even for a perfect
        critic, since most of a return is decided later; it is 0 for one that knows nothing (docs/guide/critics.md).

        :param policy: whose critics, in evaluation mode
        :return: correlation over the rows, a scalar; 0 where one side does not vary
        """
        samples = self.samples
        values = policy.value_net(samples.observations)
        advantage = policy.critic_target.q_values(samples.observations, samples.actions) - values
        last_values = policy.value_net(self._last_observations)[self._episodes]
        followed = self._rewards + self._discounts * last_values - values
        return th.corrcoef(th.cat([advantage, followed], dim=1).double().T)[0, 1].nan_to_num(nan=0.0)
