"""
The part of a policy that acts in the course of time: step by step, or by plans of several actions, from one observation or
several.
"""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_genpolicy.common.policies.planning import Horizon, Planning
from sb3_genpolicy.common.policies.policy_files import PlainPolicy
from sb3_genpolicy.generative.checks import check_number


class PlanningPolicy(PlainPolicy):
    """
    A policy whose ``observation_space`` is of what it sees together, and whose ``action_space`` is of what it plans together.
    Those of the environment are in :attr:`planning`.
    """

    action_space: spaces.Box
    #: How far it looks back and plans ahead
    horizon: Horizon
    planning: Planning

    def plan_by(
        self, horizon: Horizon, observation_space: spaces.Space, action_space: spaces.Box, plan_blending: float | None
    ) -> None:
        """
        :param horizon: how far it looks back and plans ahead
        :param observation_space: of the environment
        :param action_space: of the environment
        :param plan_blending: see :attr:`plan_blending`
        """
        self.horizon = horizon
        self.planning = Planning(horizon, observation_space, action_space)
        self.plan_blending = plan_blending

    @property
    def plan_blending(self) -> float | None:
        """
        By which weights plans that overlap are averaged, see :func:`~sb3_genpolicy.common.policies.planning.blended`; None:
        the newest acts. Can be changed at any time.
        """
        return self._plan_blending

    @plan_blending.setter
    def plan_blending(self, value: float | None) -> None:
        if value is not None:
            check_number("plan_blending", value, low=0.0)
        self._plan_blending = value

    def planning_options(self) -> dict[str, Any]:
        """
        :return: the constructor's options for this, by name
        """
        return dict(
            observation_space=self.planning.observation_space,
            action_space=self.planning.action_space,
            chunk_length=self.horizon.chunk_length,
            execute_length=self.horizon.execute_length,
            history=self.horizon.history,
            plan_blending=self.plan_blending,
        )

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Get the policy action from an observation, as SB3's policies do.

        :param observation: the input observation
        :param state: what the last call returned, for a policy that plans several actions or sees several observations.
            Without, it goes on from its last call.
        :param episode_start: (n_envs,), where an episode begins, for such a policy
        :param deterministic: whether to act without drawing random numbers
        :return: the action, in the action space by ``space.contains``, and the next ``state``
        """
        action, _, state = self._act(observation, state, episode_start, dict(deterministic=deterministic))
        return action, state

    def predict_chunk(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Plan anew, and get the whole plan. It counts as a call of :meth:`predict`, which goes on with the plan's second action.

        :param observation: the input observation
        :param state: as for :meth:`predict`
        :param episode_start: as for :meth:`predict`
        :param deterministic: whether to plan without drawing random numbers
        :return: the plan, (chunk_length, \\*action_shape), with the number of environments before it for several, and the next
            ``state``
        """
        _, plan, state = self._act(observation, state, episode_start, dict(deterministic=deterministic), anew=True)
        return plan, state

    def plan(self, observations: np.ndarray | dict[str, np.ndarray], deterministic: bool = False) -> np.ndarray:
        """
        Plans for observations as the policy sees them; nothing is remembered, and nothing that is remembered counts.

        :param observations: of :attr:`observation_space`, batch first; with a history, stacks with the newest last
        :param deterministic: whether to plan without drawing random numbers
        :return: (n, chunk_length, \\*action_shape), in the environment's units; of a policy that plans one action,
            (n, \\*action_shape)
        """
        self.set_training_mode(False)
        return self._predicted(self.obs_to_tensor(observations)[0], dict(deterministic=deterministic))

    def reset_memory(self) -> None:
        """Forget plans and observations: an episode begins in every environment. For callers without ``episode_start``."""
        self.planning.forget()

    def _act(
        self, observation: Any, state: Any, episode_start: Any, options: dict[str, Any], anew: bool = False
    ) -> tuple[np.ndarray, np.ndarray, Any]:
        """What ``_predict(obs, **options)`` does in the environment's units: the action, the plan that it is of, the state."""
        if isinstance(observation, tuple):
            # A pair of observation and info, as gymnasium's reset returns: SB3 raises a clear error
            super().predict(observation, state, episode_start)  # type: ignore[arg-type]
        self.set_training_mode(False)
        if not self.horizon.is_one_step:
            planned = self.horizon.chunk_length > 1

            def plan(seen: Any) -> np.ndarray:
                actions = self._predicted(self.obs_to_tensor(seen)[0], options)
                return actions if planned else actions[:, None]

            return self.planning.act(observation, state, episode_start, self.plan_blending, plan, anew)
        obs_tensor, is_batch = self.obs_to_tensor(observation)
        actions = self._predicted(obs_tensor, options)
        return (*((actions, actions[:, None]) if is_batch else (actions.squeeze(axis=0), actions)), state)

    def _predicted(self, observations: PyTorchObs, options: dict[str, Any]) -> np.ndarray:
        """(n, \\*action_shape), in the environment's units."""
        with th.no_grad():
            scaled = self._predict(observations, **options)
        return self.unscale_action(scaled.cpu().numpy().reshape(-1, *self.action_space.shape))


def horizon_of(model: Any) -> Horizon:
    """
    :param model: a model or a policy, of any library
    :return: how far it looks back and plans ahead
    """
    policy = getattr(model, "policy", model)
    return policy.horizon if isinstance(policy, PlanningPolicy) else Horizon()
