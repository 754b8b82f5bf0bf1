"""
The energy that guides: what is to be expected of exp(beta Q) from a noisy action.
"""

from dataclasses import dataclass, replace

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_genpolicy.common.policies.normalization import NormalizedModel, ObservationNormalizer
from sb3_genpolicy.generative.networks import ConditionalMLP
from sb3_genpolicy.generative.schedules import TimePoint


class Energy(NormalizedModel):
    """
    ``f(s, x, t)``, up to a constant of s and t the logarithm of ``E[exp(beta Q(s, a)) | x]`` for ``x = alpha a + sigma z``.

    The network sees ``alpha x``: f does not depend on x where alpha vanishes, and its gradient in x, by which a sampler
    divides alpha, is then alpha times one that is finite.

    :param observation_space: observation space
    :param action_space: action space
    :param net_arch: widths of the hidden layers
    :param features_extractor: network that extracts features
    :param features_dim: number of features
    :param activation_fn: activation function, smooth
    :param normalize_images: whether to divide images by 255
    :param normalizer: of observations, shared by every network of a policy
    """

    features_extractor: BaseFeaturesExtractor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.SiLU,
        normalize_images: bool = True,
        normalizer: ObservationNormalizer | None = None,
    ):
        super().__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        self.normalizer = normalizer
        self.network = ConditionalMLP(get_action_dim(action_space), features_dim, net_arch, activation_fn)

    def forward(self, features: th.Tensor, t: th.Tensor, scaled: th.Tensor) -> th.Tensor:
        """
        :param features: of observations, (batch_size, features_dim)
        :param t: times, (batch_size, 1), or (1, 1) for one that all share
        :param scaled: alpha x, (batch_size, action_dim)
        :return: f, (batch_size,)
        """
        return self.network(t, scaled, features).sum(dim=1)

    def slopes(self, features: th.Tensor, t: th.Tensor, scaled: th.Tensor) -> th.Tensor:
        """
        :param features: of observations, (batch_size, features_dim)
        :param t: times, (batch_size, 1) or (1, 1)
        :param scaled: alpha x, (batch_size, action_dim)
        :return: gradient of f in alpha x, (batch_size, action_dim); no gradient passes
        """
        with th.enable_grad():
            scaled = scaled.detach().requires_grad_()
            (slopes,) = th.autograd.grad(self(features.detach(), t, scaled).sum(), scaled)
        return slopes


@dataclass(frozen=True)
class EnergyGuide:
    """
    The field of ``mu(a | s) exp(strength f)`` from that of mu. Its score is larger by the gradient of f in x; a velocity is
    ``d_alpha data + d_sigma noise``, of which that adds ``sigma wronskian / alpha`` times as much.

    :param energy: f
    :param features: the energy's, (batch_size, features_dim)
    :param strength: 1 for the optimum, larger to follow f further (published: 1 to 10)
    """

    energy: Energy
    features: th.Tensor
    strength: float

    def repeated(self, n: int) -> "EnergyGuide":
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
        slopes = self.energy.slopes(self.features, point.t, alpha * x)
        return velocity + self.strength * sigma * coefficients.wronskian * slopes


def contrastive_loss(energies: th.Tensor, values: th.Tensor) -> th.Tensor:
    """
    Contrastive energy prediction (equation 12 of the paper): cross entropy between softmax of ``values`` and of ``energies``
    over the actions of a state, whose minimum is at ``log E[exp(values) | x]``.

    :param energies: f at noisy actions, (batch_size, n_actions)
    :param values: beta Q at the actions without noise, (batch_size, n_actions)
    :return: one loss for each state, (batch_size,)
    """
    return -(values.softmax(dim=1) * energies.log_softmax(dim=1)).sum(dim=1)
