"""
A look at what critics say: values that no policy can earn are named once.
"""

import warnings

import torch as th
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy.common.buffers import OfflineReplayBuffer
from sb3_genpolicy.common.generative_policy import GenerativePolicy

# Rows, and as many observations that no row starts from, that are looked at
_ROWS = 256
# Values may leave the allowed interval by so many times its size, and by what untrained networks say
_TIMES, _UNTRAINED = 2.0, 1.0


class ValueWatch:
    """
    Compares Q and V with what rewards and discount allow: between the least and the largest ``r / (1 - gamma)``, or 0 where
    an episode ends.
    """

    def __init__(self) -> None:
        self.has_spoken = False

    @th.no_grad()
    def look(
        self,
        policy: GenerativePolicy,
        buffer: OfflineReplayBuffer,
        env: VecNormalize | None,
        gamma: float,
        logger: Logger,
    ) -> None:
        """
        Warn, and log a warning, if values are beyond what is possible by far.

        :param policy: whose critics are looked at, in evaluation mode
        :param buffer: the rows
        :param env: VecNormalize wrapper whose statistics are applied
        :param gamma: discount factor
        :param logger: the log
        """
        if self.has_spoken or gamma >= 1.0 or buffer.n_from_dataset == 0:
            return
        batch = buffer.rows(buffer.watched_rows(_ROWS), env)
        low, high = buffer.return_bounds(env, gamma)
        values = {
            "Q": policy.critic_target.values(batch.observations, batch.actions),
            "V": policy.value_net(batch.observations),
            "V of what steps led to": policy.value_net(batch.next_observations),
        }
        room = max((_TIMES - 1.0) * max(abs(low), abs(high)), _UNTRAINED)
        for name, value in values.items():
            least, largest = (float(extreme) for extreme in value.aminmax())
            beyond = largest if largest > high + room else least
            if beyond > high + room or beyond < low - room:
                self.has_spoken = True
                message = (
                    f"{name} is {beyond:.4g} somewhere, where rewards and discount allow {low:.4g} to {high:.4g}. Critics "
                    "do not find back from that where they bootstrap from observations that they are never trained on: look "
                    "at the dataset's next_observations where episodes were cut off, or take a lower gamma or learning rate."
                )
                logger.warn(message)
                warnings.warn(message, stacklevel=2)
                return
