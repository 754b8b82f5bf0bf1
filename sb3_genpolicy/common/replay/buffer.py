"""
The replay buffer that a dataset becomes.
"""

from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy.common.replay import following
from sb3_genpolicy.common.replay.held_rows import HeldRows
from sb3_genpolicy.common.replay.row_store import Rows, joined
from sb3_genpolicy.common.replay.streaming import Prefetcher
from sb3_genpolicy.common.transitions.time_windows import stacked
from sb3_genpolicy.common.utils import tree_map

# Rows at a time when something is computed over all of them
_CHUNK = 2**16
# The statistics of a dataset on disk are taken from so many of its rows
_SAMPLED_ROWS = 100_000


class OfflineReplayBuffer(HeldRows):
    """
    A replay buffer of tensors on the training device, so that a batch is one gather and costs the same whether it is drawn
    from 10^4 rows or from 10^7. An observation that two rows share, as where one led to and where the next starts from, is
    held once. Rows that do not fit there, or that are mapped from files, stay where they are; batches of them are gathered on
    threads, ahead of their use.

    It starts without rows: :meth:`fill` takes a whole dataset, :meth:`add` takes transitions one by one, as a model that goes
    on online does, up to ``buffer_size`` of them; then new ones replace the oldest that were added. The dataset's rows stay,
    and :attr:`offline_share` of a batch comes from them. Rows that were added are numbered after the dataset's.

    Actions are scaled to [-1, 1] and ``dones`` mean *terminated*, as in every SB3 buffer. Observations are float32
    (images uint8). Rows of parallel environments follow each other: there is no axis for the environments.

    :param buffer_size: most rows to hold when transitions are added one by one
    :param observation_space: observation space, a Dict allowed
    :param action_space: action space, a Box
    :param device: where batches are wanted, and rows live if they fit
    :param n_envs: number of environments that :meth:`add` is given rows of
    :param optimize_memory_usage: not supported: nothing is stored twice anyway
    :param handle_timeout_termination: whether :meth:`add` treats a time limit as truncation, not as termination
    """

    #: Share of a batch that is drawn from the dataset, in [0, 1], once there are other rows; None: their share of all rows
    offline_share: float | None = 0.5
    #: Generator for drawing rows, used for nothing else; None: one is made when it is needed
    generator: th.Generator | None = None
    _prefetcher: Prefetcher | None = None
    _source_of_added: th.Generator | None = None

    # Drawing

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """
        Draw rows with replacement.

        :param batch_size: number of rows
        :param env: VecNormalize wrapper whose statistics are applied to observations and rewards
        :return: ``ReplayBufferSamples`` or ``DictReplayBufferSamples`` on the buffer's device
        """
        return self.draw(batch_size, env)[1]

    def draw(self, batch_size: int, env: VecNormalize | None = None, part: slice = slice(None)) -> tuple[th.Tensor, Any]:
        """
        :param batch_size: number of rows, drawn with replacement
        :param env: VecNormalize wrapper whose statistics are applied to observations and rewards
        :param part: which of the rows drawn from the dataset are returned, when processes share a batch
        :return: indices of these rows, and the rows as :meth:`sample` gives them
        """
        n_added = self._added_in_batch(batch_size)
        parts = [self._draw_added(n_added)] if n_added else []
        if batch_size > n_added:
            parts.insert(0, self._draw_from_dataset(batch_size - n_added, part))
        rows, batch = parts[0]
        if len(parts) > 1:
            rows, batch = th.cat([rows, parts[1][0].to(rows)]), joined(batch, parts[1][1], self._gamma)
        return rows, self._as_samples(batch, env)

    def _added_in_batch(self, batch_size: int) -> int:
        """How many rows of a batch are drawn from those that were added."""
        n_dataset, n_added = self._store.n_rows, self.n_added
        if n_added == 0 or n_dataset == 0:
            return batch_size if n_dataset == 0 else 0
        if self.offline_share is None:
            return round(batch_size * n_added / self.size())
        wanted = batch_size - round(self.offline_share * batch_size)
        # Otherwise the first few would be drawn again and again, and overfitted
        return min(wanted, n_added) if self.offline_share > 0.0 else wanted

    def _draw_added(self, n_rows: int) -> tuple[th.Tensor, Rows]:
        source = self.generator
        if self.streams:
            # The other generator is ahead: batches of the dataset's rows are drawn before they are needed
            if self._source_of_added is None:
                self._source_of_added = th.Generator().manual_seed(self._own_generator().initial_seed())
            source = self._source_of_added
        rows = th.randint(0, self.n_added, (n_rows,), device=self.rows_device, generator=source)
        return rows + self._store.n_rows, self._added.gather(rows)

    def _draw_from_dataset(self, n_rows: int, part: slice) -> tuple[th.Tensor, Rows]:
        if not self.streams:
            rows = self.draw_rows(n_rows)[part]
            return rows, self._store.gather(rows)
        if self._prefetcher is None:
            self._prefetcher = Prefetcher(self.draw_rows, self._gather_for_device, self._own_generator())
        rows, batch = self._prefetcher.next(n_rows, part)
        return rows, self._on_device(batch)

    def draw_rows(self, batch_size: int) -> th.Tensor:
        """
        :param batch_size: number of rows of the dataset, drawn with replacement
        :return: their indices, (batch_size,)
        """
        return self._draws.draw(batch_size, self.rows_device, self.generator)

    def matched_rows(self, uniform: th.Tensor) -> th.Tensor:
        """
        :param uniform: draws from [0, 1), (batch_size,), in float64
        :return: rows that the policy is matched to, (batch_size,), drawn as often as their episodes weigh
        """
        assert self._matched is not None
        return self._matched.at(uniform.to(self.rows_device))

    @property
    def has_matched_rows(self) -> bool:
        """
        :return: whether the policy is matched to other rows than those that are drawn
        """
        return self._matched is not None

    def _own_generator(self) -> th.Generator:
        if self.generator is None:
            self.seed_rows(int(th.randint(2**62, ())))
        assert self.generator is not None
        return self.generator

    def rows(self, indices: th.Tensor, env: VecNormalize | None = None) -> Any:
        """
        :param indices: of rows, (batch_size,)
        :param env: VecNormalize wrapper whose statistics are applied to observations and rewards
        :return: those rows, as :meth:`sample` gives them
        """
        return self._get_samples(indices, env)

    def next_actions(self, rows: th.Tensor) -> th.Tensor:
        """
        :param rows: indices, (batch_size,)
        :return: the dataset's actions at the rows' next observations, (batch_size, action_dim), scaled, on the training
            device; not a number where no row starts from there, as at an episode's end, and in rows that were added
        """
        if self._store.n_rows == 0:
            return th.full((len(rows), self._added.window.chunk_length * self.action_dim), th.nan, device=self.device)
        actions, is_known = following.next_actions(self._store, rows.to(self.rows_device))
        actions = self._scale(actions.to(self.device)) if self.streams else actions
        return th.where(is_known[:, None].to(self.device), actions, th.nan)

    def logged_windows(self, rows: th.Tensor, n_steps: int) -> th.Tensor:
        """
        :param rows: indices, (batch_size,)
        :param n_steps: number of actions
        :return: the actions that were taken from the rows on, as far as their episodes go, then the last one again,
            (batch_size, n_steps * action_dim), scaled, on the training device
        :raises ValueError: if rows were read or added for critics that do not ask for so many
        """
        n_own = self._store.n_rows
        if n_own == 0:
            return self._added.windows_at(rows, n_steps)
        if self._store.last_rows is None:
            raise ValueError(
                "These rows were read for critics that are not distilled from logged windows: read the dataset anew, by "
                "learn(dataset=...) of the model whose critic is, or fill(..., windows=True)."
            )
        rows = rows.to(self.rows_device)
        actions = self._store.window_at(rows.clamp(max=n_own - 1), n_steps)
        actions = self._scale(actions.to(self.device)) if self.streams else actions
        if self.n_added:
            is_added = (rows >= n_own).to(self.device)
            added = self._added.windows_at((rows - n_own).clamp(min=0), n_steps)
            actions = th.where(is_added[:, None], added, actions)
        return actions

    def with_lambda_returns(
        self, rows: th.Tensor, samples: Any, uniform: th.Tensor, env: VecNormalize | None = None
    ) -> tuple[Any, th.Tensor]:
        """
        :param rows: indices, (batch_size,)
        :param samples: these rows, as :meth:`sample` gives them
        :param uniform: a draw from [0, 1) for each row
        :param env: VecNormalize wrapper whose statistics are applied
        :return: the same rows with returns of random length, see
            :func:`~sb3_genpolicy.common.replay.following.lambda_returns`, rows that were added as they are; and the rows of
            these returns' last steps, (batch_size,)
        """
        if self._store.n_rows == 0:
            return samples, rows
        at = self.rows_device
        rows = rows.to(at)
        followed, is_known = following.lambda_returns(
            self._store, rows, uniform.to(at), self.return_lambda, self._gamma, self._least_steps
        )
        rewards, next_observations = followed.rewards, followed.next_observations
        if env is not None:
            (next_observations,) = self._normalizer.observations(env, next_observations)
            # The wrapper clips the reward of a step
            rewards = followed.weights * self.normalized_rewards(env, rewards / followed.weights)
        followed = followed._replace(rewards=rewards, next_observations=self._as_seen(next_observations))
        return following.taking_the_place_of(samples, followed, is_known, self._gamma), th.where(
            is_known, followed.last_rows, rows
        )

    def _get_samples(self, batch_inds: Any, env: VecNormalize | None = None) -> Any:
        rows = th.as_tensor(batch_inds, device=self.rows_device)
        return self._as_samples(self._gather_from_both(rows) if self.n_added else self._gather_from_dataset(rows), env)

    def _gather_from_both(self, rows: th.Tensor) -> Rows:
        """In the order of the indices."""
        if self._store.n_rows == 0:
            return self._added.gather(rows)
        added = rows >= self._store.n_rows
        parts = self._gather_from_dataset(rows[~added]), self._added.gather(rows[added] - self._store.n_rows)
        order = th.cat([th.nonzero(~added), th.nonzero(added)])[:, 0].argsort().to(self.device)
        return joined(*parts, self._gamma).take(order)

    def _gather_from_dataset(self, rows: th.Tensor) -> Rows:
        return self._on_device(self._gather_for_device(rows)) if self.streams else self._store.gather(rows)

    def _gather_for_device(self, rows: th.Tensor) -> Rows:
        return self._store.gather(rows, pinned=self.device.type == "cuda" and self.rows_device.type == "cpu")

    def _on_device(self, batch: Rows) -> Rows:
        batch = batch.to(self.device)
        return batch._replace(actions=self._scale(batch.actions))

    def _as_samples(self, batch: Rows, env: VecNormalize | None) -> Any:
        observations, next_observations, rewards = batch.observations, batch.next_observations, batch.rewards
        if env is not None:
            observations, next_observations = self._normalizer.observations(env, observations, next_observations)
            rewards = self.normalized_rewards(env, rewards)
        observations, next_observations = self._as_seen(observations), self._as_seen(next_observations)
        samples = DictReplayBufferSamples if isinstance(observations, dict) else ReplayBufferSamples
        return samples(observations, batch.actions, next_observations, batch.dones, rewards, batch.discounts)

    def _as_seen(self, observations: Any) -> Any:
        """As the policy sees them: stacked, where it sees several."""
        are_stacks = self._store.frames is not None or self._added.window.history > 1
        return stacked(observations) if are_stacks else observations

    def observation_chunks(self, single: bool = False) -> Any:
        """
        :param single: whether they are those of the environment also where the policy sees several together
        :return: iterator over the observations of the dataset's rows that are drawn from, some at a time, on the rows' device;
            of rows on a disk, over enough of them, evenly spaced, to know their mean and spread
        """
        step = max(1, self.n_drawn_from // _SAMPLED_ROWS) if self.streams else 1
        for indices in self._draws.every(step, self.rows_device).split(_CHUNK):
            if single or self._store.frames is None:
                yield tree_map(lambda array, indices=indices: array[indices], self._store.states)
            else:
                yield stacked(self._store.observations_at(indices))

    # Random state

    def seed_rows(self, seed: int) -> None:
        """
        :param seed: of the rows that are drawn from now on
        """
        self._stop_streaming()
        self.generator = th.Generator(self.rows_device).manual_seed(seed)
        self._source_of_added = None

    def random_state(self) -> th.Tensor:
        """
        :return: the generator's state before the first row that was not handed out yet
        """
        if self._prefetcher is not None:
            return self._prefetcher.random_state()
        return self._own_generator().get_state()

    def set_random_state(self, state: th.Tensor) -> bool:
        """
        :param state: what :meth:`random_state` gave
        :return: whether it is of a generator on the same kind of device, and was taken
        """
        self._stop_streaming()
        generator = self._own_generator()
        if state.shape != generator.get_state().shape:
            return False
        generator.set_state(state)
        return True

    def _stop_streaming(self) -> None:
        if self._prefetcher is not None:
            self._prefetcher.rewind()
            self._prefetcher.close()
            self._prefetcher = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "generator": None, "_source_of_added": None, "_prefetcher": None}
