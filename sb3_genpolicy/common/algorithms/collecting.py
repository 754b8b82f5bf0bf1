"""
How a policy acts in the environment that it goes on learning in, step by step or by plans.
"""

from typing import Any

import numpy as np
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_genpolicy.common.files.transient import Transient


class Collecting(Transient):
    """
    What a policy that plans or remembers knows of the environments it learns from. It is kept apart from what ``predict``
    keeps by itself, since others let the policy act meanwhile, as ``EvalCallback`` does.
    """

    def __init__(self) -> None:
        self._state: tuple[np.ndarray, ...] | None = None
        self._begins = np.ones(1, dtype=bool)

    def begin(self, n_envs: int) -> None:
        """
        :param n_envs: number of environments, in all of which an episode begins
        """
        self._state, self._begins = None, np.ones(n_envs, dtype=bool)

    def act(self, model: Any, observations: Any) -> np.ndarray:
        """
        :param model: the model
        :param observations: of all environments
        :return: sampled actions, (n_envs, \\*action_shape), in the environment's units
        """
        actions, self._state = model.predict(observations, self._state, self._begins, deterministic=False)
        taken: np.ndarray = actions
        return taken

    def see(self, dones: np.ndarray) -> None:
        """
        :param dones: (n_envs,), where the episode ended, so that another begins
        """
        self._begins = np.asarray(dones, dtype=bool)


def sample_action(
    self: Any, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """
    cf `OffPolicyAlgorithm`. The policy is trained: actions at random are no better a start.
    """
    if self.policy.horizon.is_one_step:
        return OffPolicyAlgorithm._sample_action(self, 0, action_noise, n_envs)
    scaled = self.policy.scale_action(self.collecting.act(self, self._last_obs))
    if action_noise is not None:
        scaled = np.clip(scaled + action_noise(), -1.0, 1.0)
    return self.policy.unscale_action(scaled), scaled


def store_transition(
    self: Any, replay_buffer: Any, buffer_action: np.ndarray, new_obs: Any, reward: Any, dones: np.ndarray, infos: Any
) -> None:
    """
    cf `OffPolicyAlgorithm`.
    """
    OffPolicyAlgorithm._store_transition(self, replay_buffer, buffer_action, new_obs, reward, dones, infos)
    self.collecting.see(dones)
