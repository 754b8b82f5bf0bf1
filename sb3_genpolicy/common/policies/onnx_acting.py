"""
The computation of ``predict`` on tensors alone, as it is exported.
"""

import copy
from typing import Any, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_genpolicy.common.policies.candidates import choose_candidates, draw_by_expectile
from sb3_genpolicy.common.policies.critics import CriticEnsemble
from sb3_genpolicy.common.policies.deterministic import DETERMINISTIC_ACTIONS, WEIGHTED, Choice
from sb3_genpolicy.common.policies.guidance import QGuide
from sb3_genpolicy.common.utils import space_items, tree_of

Module = TypeVar("Module", bound=nn.Module)

# Rows with which a critic's gradient is traced, for any number
_TRACED_ROWS = 3


class TracedActing(nn.Module):
    """
    How a policy acts, from the inputs of its file, without branches that depend on their values, which cannot be exported.

    :param policy: an :class:`~sb3_genpolicy.common.policies.onnx_export.ExportedPolicy`
    :param deterministic: whether observations are the only inputs
    """

    low: th.Tensor
    high: th.Tensor
    noise: th.Tensor

    def __init__(self, policy: Any, deterministic: bool):
        super().__init__()
        self.observation_space, self.action_shape = policy.observation_space, policy.action_space.shape
        self.n_candidates = 1 if deterministic and not policy.takes_best else policy.n_candidates
        self.guidance = policy.guidance
        self.deterministic, self.n_draws = deterministic, policy.deterministic_draws
        self.way = policy.deterministic_action if deterministic else "zero_noise"
        self.draws = not deterministic and policy.draws_candidates
        self.temperature = policy.candidate_temperature if self.draws else 0.0
        self.expectile = policy.candidate_expectile if self.draws else None
        self.value_net = None if self.expectile is None else copied(policy.value_net)
        self.actor = copied(policy.actor_ema)
        values = self.n_candidates > 1 or self.guidance > 0.0 or self.way in ("best_q", *WEIGHTED)
        self.critic = copied(policy.critic) if values else None
        has_unit = self.guidance > 0.0 or self.temperature > 0.0 or self.way in WEIGHTED
        self.spreads = copied(policy.known_spreads() if has_unit else policy.spreads)
        self.slopes = TracedSlopes(self.critic) if self.critic is not None and self.guidance > 0.0 else None
        self.action_range = policy.action_range
        least, largest = within_float32(policy.action_space)
        self.register_buffer("low", th.as_tensor(least))
        self.register_buffer("high", th.as_tensor(largest))
        self.register_buffer("noise", policy.candidate_noise(self.n_candidates))

    def forward(self, *inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: the parts of the observation, then random numbers unless it is deterministic: noise, increments if the
            solver takes any, uniform ones if candidates are drawn
        :return: actions, (batch_size, \\*action_shape)
        """
        n_parts = len(space_items(self.observation_space, ""))
        observation, random = tree_of(self.observation_space, inputs[:n_parts]), list(inputs[n_parts:])
        features = self.actor.extract_features(observation, self.actor.features_extractor)
        guide = self._guide(observation)
        if self.way != "zero_noise":
            # What looks at no critic gets none
            critic: Any = self.critic
            choice = Choice(self.actor, critic, observation, features, self.n_draws, self.spreads.q, self.actor.sampler, guide)
            scaled = DETERMINISTIC_ACTIONS[self.way](choice)
        else:
            scaled = self._of_noise(observation, features, guide, random)
        actions = self.action_range.unscale(scaled).reshape(-1, *self.action_shape)
        # Rounding may lead beyond a bound
        return actions.clamp(self.low, self.high)

    def _guide(self, observation: PyTorchObs) -> QGuide | None:
        if self.slopes is None or self.critic is None:
            return None
        return QGuide(self.slopes, self.critic.features_of(observation), self.guidance, self.spreads)

    def _of_noise(
        self, observation: PyTorchObs, features: th.Tensor, guide: QGuide | None, random: list[th.Tensor]
    ) -> th.Tensor:
        uniform = random.pop() if self.draws else None
        noise = self.noise.repeat(features.shape[0], 1) if self.deterministic else random[0].flatten(0, -2)
        increments = random[1].flatten(1, -2) if len(random) > 1 else None
        if increments is None and not self.deterministic:
            # A single step has none, and is not to draw them
            increments = noise[None][:0]
        if self.n_candidates > 1:
            features = features.repeat_interleave(self.n_candidates, dim=0)
            guide = None if guide is None else guide.repeated(self.n_candidates)
        elif not self.deterministic:
            noise = random[0]
        scaled = self.actor.sample(features, noise, self.deterministic, increments=increments, guide=guide)
        if self.critic is None or self.n_candidates == 1:
            return scaled
        candidates = scaled.unflatten(0, (-1, self.n_candidates))
        if self.value_net is not None and self.expectile is not None and uniform is not None:
            return draw_by_expectile(self.critic, self.value_net, observation, candidates, self.expectile, uniform)
        return choose_candidates(self.critic, observation, candidates, self.temperature * self.spreads.q, uniform)


class TracedSlopes(nn.Module):
    """
    The gradient of Q in the actions as operations of its own: the exporter follows no automatic differentiation.

    :param critic: Q
    """

    def __init__(self, critic: CriticEnsemble):
        super().__init__()
        self.critic = critic
        from torch._decomp import core_aten_decompositions
        from torch.fx.experimental.proxy_tensor import make_fx

        n_actions = critic.action_dim
        n_features = next(critic.layers.parameters()).shape[1] - n_actions
        example = th.zeros(_TRACED_ROWS, n_features), th.zeros(_TRACED_ROWS, n_actions)
        self.traced = make_fx(
            lambda features, given: critic.slopes_of_given(features, given),
            decomposition_table=core_aten_decompositions(),  # type: ignore[arg-type]
            tracing_mode="symbolic",
            _allow_non_fake_inputs=True,
        )(*example)

    def slopes(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param features: (batch_size, features_dim)
        :param actions: (batch_size, action_dim), scaled
        :return: see :meth:`~sb3_genpolicy.common.policies.critics.ensemble.CriticEnsemble.slopes`
        """
        usual = self.critic.usual_action
        slopes = self.traced(features, self.critic.given(features, actions))
        return self.critic.of_whole_plans(slopes if usual is None else slopes / usual.deviation, actions)


def within_float32(space: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """
    :param space: action space
    :return: its bounds as float32, rounded inwards
    """
    low, high = (bound.astype(np.float32) for bound in (space.low, space.high))
    low = np.where(low < space.low, np.nextafter(low, np.float32(np.inf)), low)
    return low, np.where(high > space.high, np.nextafter(high, np.float32(-np.inf)), high)


def copied(module: Module) -> Module:
    """
    :param module: a module
    :return: a copy in float32, on the CPU
    """
    return copy.deepcopy(module).cpu().float().requires_grad_(False)
