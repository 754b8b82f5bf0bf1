"""
Policies of Gaussian actions.
"""

import os
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_genpolicy.common.policies.deterministic_policy import DirectActor, DirectPolicy
from sb3_genpolicy.common.policies.dict_extractor import DictExtractor
from sb3_genpolicy.common.policies.normalization import ObservationNormalizer
from sb3_genpolicy.common.policies.shape_checks import check_actions, check_observations
from sb3_genpolicy.generative.draws import Source
from sb3_genpolicy.generative.truncated_normal import TruncatedNormal

# Bounds of the logarithm of the standard deviation of scaled actions, as IQL's
_LEAST, _LARGEST = -5.0, 2.0


class GaussianActor(DirectActor):
    """
    Normal distributions whose modes the network gives, and whose standard deviation is one for all states (as in IQL),
    truncated at the ends of the actions: a density that is right up to the bounds, where the actions of many agents are.

    :param observation_space: observation space
    :param action_space: action space
    :param net_arch: widths of the hidden layers
    :param features_extractor: network that extracts features
    :param features_dim: number of features
    :param activation_fn: activation function
    :param layer_norm: whether every hidden activation is normalised over its entries
    :param normalize_images: whether to divide images by 255
    :param normalizer: of observations, shared by every network of a policy
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        layer_norm: bool = False,
        normalize_images: bool = True,
        normalizer: ObservationNormalizer | None = None,
    ):
        super().__init__(
            observation_space,
            action_space,
            net_arch,
            features_extractor,
            features_dim,
            activation_fn,
            layer_norm,
            normalize_images=normalize_images,
            normalizer=normalizer,
        )
        self.raw_deviation = nn.Parameter(th.zeros(self.action_dim))

    @property
    def deviation(self) -> th.Tensor:
        """Standard deviation of scaled actions before they are truncated, (action_dim,), between e^-5 and e^2."""
        # Bounded smoothly: a clamped parameter that has once gone beyond gets no gradient any more
        return (_LEAST + 0.5 * (_LARGEST - _LEAST) * (1.0 + self.raw_deviation.tanh())).exp()

    def distribution(self, obs: PyTorchObs) -> TruncatedNormal:
        """
        :param obs: observations
        :return: distribution of scaled actions
        """
        return TruncatedNormal(self(obs), self.deviation)

    def cloning_loss(self, obs: PyTorchObs, actions: th.Tensor, generator: Source = None) -> th.Tensor:
        """
        :param obs: observations
        :param actions: (batch_size, action_dim), in [-1, 1]
        :param generator: not used
        :return: negative log-density of each action, in nats, (batch_size,)
        """
        return -self.distribution(obs).log_prob(actions)


class GaussianPolicy(DirectPolicy):
    """
    :class:`GaussianActor` beside Q and V. ``predict(deterministic=True)`` takes the mode.

    The parameters are those of :class:`~sb3_genpolicy.common.policies.deterministic_policy.DirectPolicy`; by default the actor
    has two layers of 256, as in IQL.
    """

    default_net_arch = (256, 256)
    actor: GaussianActor
    actor_ema: GaussianActor

    def make_actor(self) -> GaussianActor:
        options: dict[str, Any] = dict(activation_fn=self.activation_fn, layer_norm=self.layer_norm)
        return GaussianActor(**self.network_kwargs(), net_arch=self.net_arch["pi"], **options).to(self.device)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        distribution = self.actor_ema.distribution(observation)
        mode = distribution.location
        return mode if deterministic else distribution.quantile(th.rand(mode.shape, device=mode.device))

    def log_prob(self, observations: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        Log-density of actions, of the policy that acts. Gradients reach actions, observations and parameters.

        :param observations: batch first
        :param actions: (batch_size, \\*action_shape), in the environment's units
        :return: log p(action | observation) in nats, with respect to the environment's units, (batch_size,); minus infinity
            beyond the range of actions
        :raises ValueError: for a wrong shape
        """
        observations = check_observations(observations, self.observation_space, self.device)
        distribution = self.actor_ema.distribution(observations)
        actions = check_actions(actions, self.action_space, len(distribution.location), self.device)
        scaled = self.action_range.scale(actions.flatten(1))
        return distribution.log_prob(scaled.to(distribution.location.dtype)) - self.log_scale()

    def export_onnx(self, path: str | os.PathLike[str], deterministic: bool = True) -> None:
        """
        Write what ``predict(observation, deterministic=True)`` computes to one ONNX file, as
        :meth:`~sb3_genpolicy.common.policies.deterministic_policy.DirectPolicy.export_onnx` says.

        :param path: the file
        :param deterministic: True alone
        :raises ImportError: if onnx or onnxscript is not installed
        :raises ValueError: for drawn actions, which ONNX has no operation for
        """
        if not deterministic:
            raise ValueError(
                "Drawn actions of a Gaussian policy cannot be written: ONNX has no inverse error function. Leave out "
                "deterministic=False."
            )
        super().export_onnx(path, deterministic)


class GaussianCnnPolicy(GaussianPolicy):
    """:class:`GaussianPolicy` for images."""

    default_features_extractor_class = NatureCNN


class GaussianMultiInputPolicy(GaussianPolicy):
    """:class:`GaussianPolicy` for dictionaries of observations."""

    default_features_extractor_class = DictExtractor
