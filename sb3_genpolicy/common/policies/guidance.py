"""
Guide the sampler by the critic, without any training (QGF, arXiv 2606.11087).

The policy mu is to become pi, in proportion to ``mu(a | s) exp(w Q(s, a) / q)``, with q the spread of Q over what the policy
does. On its way ``x = alpha a + sigma z`` a sampler at x knows of the action to come its mean, the model's prediction of the
data a_hat, and not much of its covariance. Take that of actions with the spread s, ``C = s^2 sigma^2 / (alpha^2 s^2 +
sigma^2)``. Where what is known of the action is Gaussian and Q linear, the tilt moves its mean by ``C w grad Q(s, a_hat) / q``
exactly. A velocity is ``(d_sigma x + wronskian a_hat) / sigma``, so that the field of pi is::

    v + wronskian sigma s^2 / (alpha^2 s^2 + sigma^2) * w grad Q(s, a_hat) / q

with the gradient taken in a_hat: how a_hat changes with x is in C already. So a Gaussian policy moves by w of its own standard
deviations, at w^2 / 2 nats from where it was, on any path and for rewards of any size. Published, on straight lines alone, is
``v + w grad Q`` (C = 1 - t), which moves the narrower policies the more.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_genpolicy.common.policies.actor import GenerativeActor
from sb3_genpolicy.common.policies.critics import CriticEnsemble
from sb3_genpolicy.common.policies.fixed_draws import fixed_draws
from sb3_genpolicy.generative.predictions import to_parts
from sb3_genpolicy.generative.schedules import TimePoint

# No critic's spread is less: it is divided by
_SMALLEST = 1e-12


class Spreads(nn.Module):
    """
    How much the actions of a policy, and their values, differ in one state: root mean squares over states of their standard
    deviations there. All are 0 until they are fitted.

    :param action_dim: dimension of actions
    """

    #: Of draws in each dimension, (action_dim,), scaled
    actions: th.Tensor
    #: Of Q at these draws, ()
    q: th.Tensor

    def __init__(self, action_dim: int):
        super().__init__()
        self.register_buffer("actions", th.zeros(action_dim))
        self.register_buffer("q", th.zeros(()))

    @th.no_grad()
    def fit(self, actor: GenerativeActor, critic: CriticEnsemble, observations: PyTorchObs, n_draws: int = 8) -> None:
        """
        :param actor: the actor, in evaluation mode
        :param critic: Q
        :param observations: batch first, of states that the policy will be in
        :param n_draws: fixed draws for each
        :raises ValueError: if networks give what is not finite
        """
        features = actor.extract_features(observations, actor.features_extractor)
        draws = fixed_draws(actor, features, n_draws)
        of_critic = critic.features_of(observations).repeat_interleave(n_draws, dim=0)
        values = critic.aggregated(critic.preferences_of_members(of_critic, draws.flatten(0, 1))).unflatten(0, (-1, n_draws))
        of_actions, of_q = _spread(draws), _spread(values)
        if not of_q.isfinite():
            raise ValueError("Q is not finite: training diverged. Load an earlier checkpoint, or lower the learning rate.")
        self.actions.copy_(of_actions)
        self.q.copy_(of_q[0].clamp(min=_SMALLEST))

    def forget(self) -> None:
        """Be 0, as before a fit."""
        self.actions.zero_()
        self.q.zero_()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Files of release 0.1 do not have them
        for name, value in self.named_buffers():
            state_dict.setdefault(prefix + name, th.zeros_like(value))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _spread(draws: th.Tensor) -> th.Tensor:
    """Root mean square over states of how far draws differ, (n_entries,), of (n_states, n_draws, n_entries)."""
    spread = draws.var(dim=1).mean(dim=0).sqrt()
    if spread.isfinite().all():
        return spread
    # Squares of large numbers go beyond float32 before the numbers do
    return draws.double().var(dim=1).mean(dim=0).sqrt().to(draws.dtype)


class HasSlopes(Protocol):
    """What guides: Q, or its gradient as it is exported."""

    def slopes(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param features: the critic's, (batch_size, features_dim)
        :param actions: (batch_size, action_dim), scaled
        :return: the gradient of Q in the actions, (batch_size, action_dim)
        """


@dataclass(frozen=True)
class QGuide:
    """
    Changes a velocity towards actions of larger Q.

    :param critic: Q
    :param features: the critic's features, (batch_size, features_dim)
    :param strength: w, by how many standard deviations a Gaussian policy moves
    :param spreads: of the policy
    """

    critic: HasSlopes
    features: th.Tensor
    strength: float
    spreads: Spreads

    def repeated(self, n: int) -> "QGuide":
        """
        :param n: actions for each observation
        :return: the guide of as many rows for each
        """
        return replace(self, features=self.features.repeat_interleave(n, dim=0))

    def __call__(self, point: TimePoint, x: th.Tensor, velocity: th.Tensor) -> th.Tensor:
        """
        :param point: when, with the path's scalars
        :param x: where, (batch_size, action_dim)
        :param velocity: the model's, (batch_size, action_dim)
        :return: the guided velocity, (batch_size, action_dim)
        """
        alpha, sigma, _, _ = coefficients = point.coefficients
        expected = to_parts("velocity", velocity, coefficients, x).data.clamp(-1.0, 1.0)
        variance = self.spreads.actions.square()
        gain = coefficients.wronskian * sigma * variance / (alpha.square() * variance + sigma.square()).clamp(min=_SMALLEST)
        return velocity + gain * (self.strength / self.spreads.q) * self.critic.slopes(self.features, expected)


def check_has_density(deterministic_action: str, guidance: float) -> None:
    """
    :param deterministic_action: its name
    :param guidance: by how much Q pulls
    :raises ValueError: if a density is asked for that nobody computes
    """
    if guidance > 0.0 and deterministic_action == "densest":
        raise ValueError(
            "deterministic_action='densest' asks for densities, and those of a guided policy are not computed: take "
            "'mode_mean' or 'best_q', or guidance=0.0."
        )
