"""
``VecNormalize`` on tensors.
"""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecNormalize


class TensorNormalizer:
    """
    VecNormalize's arithmetic on tensors. Its statistics are carried to the device when they have changed, not at every batch.
    """

    def __init__(self) -> None:
        self._moments: dict[str, tuple[float, th.Tensor, th.Tensor]] = {}

    def _mean_and_scale(self, key: str, rms: Any, epsilon: float, like: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        cached = self._moments.get(key)
        # Numbers that float32 would merge are stored as float64
        dtype = th.float64 if like.dtype == th.float64 else th.float32
        if cached is None or cached[0] != rms.count or cached[1].device != like.device or cached[1].dtype != dtype:
            mean = th.as_tensor(rms.mean, dtype=dtype, device=like.device)
            scale = th.as_tensor(np.sqrt(rms.var + epsilon), dtype=dtype, device=like.device)
            cached = self._moments[key] = (rms.count, mean, scale)
        return cached[1], cached[2]

    def observations(self, env: VecNormalize, *batches: Any) -> list[Any]:
        def normalize(key: str, rms: Any, batch: th.Tensor) -> th.Tensor:
            mean, scale = self._mean_and_scale(key, rms, env.epsilon, batch)
            return ((batch.to(mean.dtype) - mean) / scale).clamp(-env.clip_obs, env.clip_obs).float()

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
