"""
The replay buffer that a dataset becomes.
"""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy.common.rewards import AffineReward, RewardFunction
from sb3_genpolicy.common.transitions import Transitions
from sb3_genpolicy.common.utils import tree_map

# Rows first made room for when transitions arrive one by one
_FIRST_ROOM = 1024


class OfflineReplayBuffer(ReplayBuffer):
    """
    A replay buffer whose rows are tensors on the training device, so that a batch is one gather and costs the same
    whether it is drawn from 10^4 rows or from 10^7. It starts without rows: :meth:`fill` takes a whole dataset,
    :meth:`add` takes transitions one by one (fine-tuning online) and makes room as it goes, up to ``buffer_size`` or the
    dataset's size, whichever is larger; past that the oldest rows give way.

    Actions are scaled to [-1, 1] and ``dones`` mean *terminated*, as in every SB3 buffer. Observations are float32
    (images uint8). Rows of parallel environments follow each other: there is no axis for the environments.

    :param buffer_size: most rows to hold when transitions are added one by one
    :param observation_space: observation space, a Dict allowed
    :param action_space: action space, bounded
    :param device: where the rows live
    :param n_envs: number of environments that :meth:`add` is given rows of
    :param optimize_memory_usage: not supported
    :param handle_timeout_termination: whether :meth:`add` takes a time limit for what it is, a cut and no end
    """

    observations: Any
    next_observations: Any
    actions: th.Tensor  # type: ignore[assignment]
    rewards: th.Tensor  # type: ignore[assignment]
    dones: th.Tensor  # type: ignore[assignment]

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
    ):
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        if optimize_memory_usage:
            raise ValueError("OfflineReplayBuffer stores next observations: optimize_memory_usage is not supported.")
        self.optimize_memory_usage = False
        self.handle_timeout_termination = handle_timeout_termination
        self.max_rows = buffer_size
        self.generator: th.Generator | None = None
        self.reward_function: RewardFunction = AffineReward()
        self._normalizer = _TensorNormalizer()
        self._allocate(0)

    def _allocate(self, n_rows: int) -> None:
        self.buffer_size = n_rows
        self.observations = self._zeros_like_observations(n_rows)
        self.next_observations = self._zeros_like_observations(n_rows)
        self.actions = th.zeros((n_rows, self.action_dim), device=self.device)
        self.rewards = th.zeros((n_rows, 1), device=self.device)
        self.dones = th.zeros((n_rows, 1), device=self.device)

    def _zeros_like_observations(self, n_rows: int) -> Any:
        def zeros(space: spaces.Space, shape: Any) -> th.Tensor:
            return th.zeros((n_rows, *shape), device=self.device, dtype=th.uint8 if is_image_space(space) else th.float32)

        if isinstance(self.observation_space, spaces.Dict):
            return tree_map(zeros, dict(self.observation_space.spaces), self.obs_shape)
        return zeros(self.observation_space, self.obs_shape)

    def fill(self, data: Transitions, reward_function: RewardFunction) -> None:
        """
        Take a dataset in place of all rows.

        :param data: the dataset, of this buffer's spaces
        :param reward_function: applied to its rewards, and to those of later :meth:`add`
        :raises ValueError: if the reward function does not give one finite number per row
        """
        rewards = np.asarray(reward_function(data.rewards), dtype=np.float32)
        if rewards.shape != data.rewards.shape or not np.isfinite(rewards).all():
            fault = "NaN or infinite values" if rewards.shape == data.rewards.shape else f"an array of shape {rewards.shape}"
            raise ValueError(
                f"The reward transform turned rewards of shape {data.rewards.shape} into {fault}; "
                "it has to give one finite number for each."
            )
        self.reward_function = reward_function
        self.observations = tree_map(self._rows_to_device, data.observations)
        self.next_observations = tree_map(self._rows_to_device, data.next_observations)
        self.actions = self._rows_to_device(self._scale(data.actions).reshape(data.n_rows, self.action_dim))
        self.rewards = self._rows_to_device(rewards.reshape(-1, 1))
        self.dones = self._rows_to_device(data.terminals.reshape(-1, 1))
        self.buffer_size = data.n_rows
        self.pos, self.full = 0, True

    def _rows_to_device(self, array: np.ndarray) -> th.Tensor:
        # A copy, also on the CPU: the caller's arrays stay the caller's
        return th.tensor(array, device=self.device)

    def _scale(self, actions: np.ndarray) -> np.ndarray:
        assert isinstance(self.action_space, spaces.Box)
        low, high = self.action_space.low, self.action_space.high
        return np.clip(2.0 * (actions - low) / (high - low) - 1.0, -1.0, 1.0).astype(np.float32)

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Add one step of every environment; actions are already scaled, as SB3's online loop gives them.
        """
        cut = np.array([info.get("TimeLimit.truncated", False) for info in infos]) & self.handle_timeout_termination
        terminated = np.asarray(done, dtype=np.float32) * (1.0 - cut)
        rewards = np.asarray(self.reward_function(np.asarray(reward, dtype=np.float32)))
        for env in range(self.n_envs):
            if self.size() == self.buffer_size < self.max_rows:
                self._make_room(min(max(2 * self.buffer_size, _FIRST_ROOM), self.max_rows))
            for store, value in ((self.observations, obs), (self.next_observations, next_obs)):
                tree_map(lambda rows, new, env=env: self._put(rows, new[env]), store, value)
            self._put(self.actions, np.asarray(action).reshape(self.n_envs, self.action_dim)[env])
            self._put(self.rewards, rewards[env])
            self._put(self.dones, terminated[env])
            self.pos += 1
            if self.pos == self.buffer_size:
                self.full, self.pos = True, 0

    def _put(self, rows: th.Tensor, value: Any) -> None:
        rows[self.pos] = th.as_tensor(value, device=rows.device, dtype=rows.dtype).reshape(rows.shape[1:])

    def _make_room(self, n_rows: int) -> None:
        """Append empty rows after the ones there are, oldest first."""
        n_old = self.size()

        def grow(rows: th.Tensor) -> th.Tensor:
            return th.cat([rows[:n_old], rows.new_zeros((n_rows - n_old, *rows.shape[1:]))])

        self.observations = tree_map(grow, self.observations)
        self.next_observations = tree_map(grow, self.next_observations)
        self.actions, self.rewards, self.dones = grow(self.actions), grow(self.rewards), grow(self.dones)
        self.buffer_size, self.pos, self.full = n_rows, n_old, False

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """
        Draw rows with replacement.

        :param batch_size: number of rows
        :param env: VecNormalize wrapper whose statistics are applied to observations and rewards
        :return: ``ReplayBufferSamples`` or ``DictReplayBufferSamples`` on the buffer's device
        """
        return self._get_samples(self.draw_rows(batch_size), env)

    def draw_rows(self, batch_size: int) -> th.Tensor:
        """
        :param batch_size: number of rows
        :return: indices of rows drawn with replacement, (batch_size,)
        """
        return th.randint(0, self.size(), (batch_size,), device=self.device, generator=self.generator)

    def rows(self, indices: th.Tensor, env: VecNormalize | None = None) -> Any:
        """
        :param indices: of rows, (batch_size,)
        :param env: VecNormalize wrapper whose statistics are applied to observations and rewards
        :return: those rows, as :meth:`sample` gives them
        """
        return self._get_samples(indices, env)

    def _get_samples(self, batch_inds: Any, env: VecNormalize | None = None) -> Any:
        rows = th.as_tensor(batch_inds, device=self.device)
        observations = tree_map(lambda array: array[rows], self.observations)
        next_observations = tree_map(lambda array: array[rows], self.next_observations)
        rewards = self.rewards[rows]
        if env is not None:
            observations, next_observations = self._normalizer.observations(env, observations, next_observations)
            rewards = self._normalizer.rewards(env, rewards)
        samples = DictReplayBufferSamples if isinstance(observations, dict) else ReplayBufferSamples
        return samples(observations, self.actions[rows], next_observations, self.dones[rows], rewards)

    def to(self, device: th.device | str) -> "OfflineReplayBuffer":
        """
        :param device: where the rows go
        :return: this buffer
        """
        self.device = th.device(device)
        for name in ("observations", "next_observations", "actions", "rewards", "dones"):
            setattr(self, name, tree_map(lambda rows: rows.to(self.device), getattr(self, name)))
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "generator": None, "_normalizer": _TensorNormalizer()}


class _TensorNormalizer:
    """
    VecNormalize's arithmetic on tensors. Its statistics are carried to the device when they have changed, not at every batch.
    """

    def __init__(self) -> None:
        self._moments: dict[str, tuple[float, th.Tensor, th.Tensor]] = {}

    def _mean_and_scale(self, key: str, rms: Any, epsilon: float, like: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        cached = self._moments.get(key)
        if cached is None or cached[0] != rms.count or cached[1].device != like.device:
            mean = th.as_tensor(rms.mean, dtype=th.float32, device=like.device)
            scale = th.as_tensor(np.sqrt(rms.var + epsilon), dtype=th.float32, device=like.device)
            cached = self._moments[key] = (rms.count, mean, scale)
        return cached[1], cached[2]

    def observations(self, env: VecNormalize, *batches: Any) -> list[Any]:
        def normalize(key: str, rms: Any, batch: th.Tensor) -> th.Tensor:
            mean, scale = self._mean_and_scale(key, rms, env.epsilon, batch)
            return ((batch.float() - mean) / scale).clamp(-env.clip_obs, env.clip_obs)

        if not env.norm_obs:
            return list(batches)
        if not isinstance(env.obs_rms, dict):
            return [normalize("", env.obs_rms, batch) for batch in batches]
        return [
            {key: normalize(key, env.obs_rms[key], value) if key in env.obs_rms else value for key, value in batch.items()}
            for batch in batches
        ]

    def rewards(self, env: VecNormalize, rewards: th.Tensor) -> th.Tensor:
        if not env.norm_reward:
            return rewards
        _, scale = self._mean_and_scale("reward", env.ret_rms, env.epsilon, rewards)
        return (rewards / scale).clamp(-env.clip_reward, env.clip_reward)
