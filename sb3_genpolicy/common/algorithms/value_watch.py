"""
Watch the critics: warn once if their values are beyond any return that the rewards allow.
"""

import warnings

import torch as th
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy.common.files.transient import Transient
from sb3_genpolicy.common.policies.critic_policy import CriticPolicy
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.replay.row_store import RowStore

# Number of rows that are watched, and of further rows whose next observation is not the observation of any row
_ROWS = 256
# Values may be so many times as large as those allowed, or exceed them by what untrained networks put out
_TIMES, _UNTRAINED = 2.0, 1.0


class ValueWatch(Transient):
    """
    Compares Q and V with what rewards and discount allow: between the least and the largest ``r / (1 - gamma)``, or 0 where
    an episode ends.
    """

    def __init__(self) -> None:
        self.has_spoken = False
        # Rows and bounds are kept for the store that was watched last, since finding them takes a pass over all of its rows
        self._store: RowStore | None = None
        self._rows = self._bounds = th.empty(0)

    @th.no_grad()
    def look(
        self,
        policy: CriticPolicy,
        buffer: OfflineReplayBuffer,
        env: VecNormalize | None,
        gamma: float,
        logger: Logger,
    ) -> None:
        """
        Warn, and log a warning, if values are far beyond those that are possible.

        :param policy: whose critics are looked at, in evaluation mode
        :param buffer: the rows
        :param env: VecNormalize wrapper whose statistics are applied
        :param gamma: discount factor, in [0, 1]
        :param logger: the log
        """
        if self.has_spoken or gamma >= 1.0 or buffer.n_from_dataset == 0:
            return
        if self._store is not buffer.store:
            self._store = buffer.store
            self._rows, self._bounds = _watched_rows(buffer.store), _return_bounds(buffer.store, gamma)
        low, high = self._allowed(buffer, env, gamma)
        batch = buffer.rows(self._rows, env)
        room = room_for(low, high)
        for name, value in policy.values_of(batch).items():
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

    def _allowed(self, buffer: OfflineReplayBuffer, env: VecNormalize | None, gamma: float) -> tuple[float, float]:
        """Smallest and largest possible value over any number of steps, with the rewards of added rows taken into account."""
        bounds = self._bounds
        if buffer.n_added:
            rows = buffer.added_rows()
            added = th.stack((rows.rewards / (1.0 - (gamma if rows.discounts is None else rows.discounts))).aminmax())
            bounds = th.stack([th.minimum(bounds[0], added[0]), th.maximum(bounds[1], added[1])])
        # The wrapper clips the reward of a step
        bounds = buffer.normalized_rewards(env, bounds * (1.0 - gamma)) / (1.0 - gamma)
        return min(float(bounds[0]), 0.0), max(float(bounds[1]), 0.0)


def room_for(low: float, high: float) -> float:
    """
    :param low: the least value that is possible
    :param high: the largest
    :return: by how much values may go beyond these, lest they be called diverged
    """
    return max((_TIMES - 1.0) * max(abs(low), abs(high)), _UNTRAINED)


def _watched_rows(store: RowStore) -> th.Tensor:
    """Evenly spaced rows, and as many of those whose next observation is not the observation of any row."""
    loose = th.nonzero(store.next_rows >= store.n_rows)[:, 0]
    every = th.arange(store.n_rows, device=store.rewards.device)
    return th.cat([rows[:: max(1, -(-len(rows) // _ROWS))] for rows in (every, loose)])


def _return_bounds(store: RowStore, gamma: float) -> th.Tensor:
    """The smallest and the largest return if the reward of one row were paid at every step forever, (2,)."""
    return th.stack((store.rewards / (1.0 - (gamma if store.discounts is None else store.discounts))).aminmax())
