"""
The actor of a generative policy: actions are noise carried along a learnt velocity field.
"""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_genpolicy.common.policies.normalization import NormalizedExtractor, NormalizedModel, ObservationNormalizer
from sb3_genpolicy.common.updates.dependence import ON_ROWS, Dependence, Scope
from sb3_genpolicy.common.updates.weights import as_probabilities
from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.generative import Coupling, GenerativeModel, Likelihood, MatchingLoss, Path, Prediction, Sampler
from sb3_genpolicy.generative.checks import blaming
from sb3_genpolicy.generative.draws import Source, fixed_normals
from sb3_genpolicy.generative.models import Guide

#: With an adaptive solver, what the update of one row depends on besides that row
ADAPTIVE_STEPS = Dependence(
    Scope.BATCH, "the solver dopri5 chooses its steps by the errors of a whole batch", "Take one of fixed steps, as 'rk4'"
)
# Seed of the noise that a stochastic sampler (`sde`) uses for deterministic actions
_SAMPLER_SEED = 0


class GenerativeActor(NormalizedModel, BasePolicy):
    """
    Actor whose actions are samples of a generative model p(a | s), scaled to [-1, 1] between the ends of the policy's
    :class:`~sb3_genpolicy.common.transitions.action_range.ActionRange`.

    :param observation_space: observation space
    :param action_space: action space
    :param net_arch: widths of the hidden layers of the model's network
    :param features_extractor: network that extracts features
    :param features_dim: number of features
    :param path: the path between noise and actions
    :param prediction: what the network predicts
    :param network: class of the model's network
    :param time_features: class of its time features; None for its own
    :param matching_loss: the loss of training; None for the error in the quantity that the network predicts
    :param coupling: how noise is paired with actions in training
    :param sampler: solver, steps and time grid
    :param activation_fn: activation function
    :param normalize_images: whether to divide images by 255
    :param normalizer: of observations, shared by every network of a policy
    """

    action_space: spaces.Box

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        path: Path,
        prediction: Prediction,
        network: type[nn.Module],
        time_features: type[nn.Module] | None,
        matching_loss: MatchingLoss | None,
        coupling: Coupling,
        sampler: Sampler,
        activation_fn: type[nn.Module] = nn.SiLU,
        normalize_images: bool = True,
        normalizer: ObservationNormalizer | None = None,
    ):
        if isinstance(features_extractor, NormalizedExtractor):
            normalizer, features_extractor = features_extractor.taken_apart(observation_space)
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
            squash_output=True,
        )
        self.normalizer = normalizer
        self.net_arch = net_arch
        self.features_dim = features_dim
        self.activation_fn = activation_fn
        self.network = network
        self.time_features = time_features
        self.sampler = sampler
        self.action_dim = get_action_dim(action_space)
        self.model = GenerativeModel(
            self._make_network(net_arch),
            path,
            prediction,
            self.action_dim,
            matching_loss=matching_loss,
            coupling=coupling,
        )

    def _make_network(self, net_arch: list[int]) -> nn.Module:
        time_features = None
        if self.time_features is not None:
            with blaming(f"time_features={self.time_features.__name__} cannot be built", TypeError):
                time_features = self.time_features()
        with blaming(f"network={self.network.__name__} cannot be built with net_arch={net_arch}", AttributeError, TypeError):
            return self.network(self.action_dim, self.features_dim, net_arch, self.activation_fn, time_features)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            dict(
                net_arch=self.net_arch,
                features_extractor=self.features_extractor,
                features_dim=self.features_dim,
                normalizer=self.normalizer,
                path=self.model.path,
                prediction=self.model.prediction,
                network=self.network,
                time_features=self.time_features,
                matching_loss=self.model.loss,
                coupling=self.model.coupling,
                sampler=self.sampler,
                activation_fn=self.activation_fn,
            )
        )
        return data

    @property
    def matching_dependence(self) -> Dependence:
        """What a row's matching loss depends on."""
        coupling = self.model.coupling
        if coupling.independent:
            return ON_ROWS
        pairs = f"{type(coupling).__name__} pairs noise with the actions of a whole batch, on the host"
        return Dependence(Scope.HOST, pairs, "Take coupling='independent'")

    @property
    def sampling_dependence(self) -> Dependence:
        """What a sampled action depends on."""
        if self.sampler.solver != "dopri5":
            return ON_ROWS
        return ADAPTIVE_STEPS

    def matching_loss(self, obs: PyTorchObs, actions: th.Tensor, generator: Source = None) -> th.Tensor:
        """
        :param obs: observations
        :param actions: (batch_size, action_dim), in [-1, 1]
        :param generator: source of times and noise
        :return: flow or score matching loss of each sample, (batch_size,)
        """
        features = self.extract_features(obs, self.features_extractor)
        return self.model.matching_loss(actions, features, generator)

    #: As the actors of all policies have it that can be cloned
    cloning_loss, cloning_dependence = matching_loss, matching_dependence

    def weighted_matching_loss(
        self, obs: PyTorchObs, actions: th.Tensor, weights: th.Tensor, generator: th.Generator | Any = None
    ) -> tuple[th.Tensor, th.Tensor]:
        """
        :param obs: observations
        :param actions: (batch_size, action_dim), in [-1, 1]
        :param weights: (batch_size,)
        :param generator: source of times and noise
        :return: the weighted mean of their matching losses, and the plain mean
        """
        if self.model.coupling.independent:
            losses = self.matching_loss(obs, actions, generator)
            return (weights * losses).mean(), losses.mean()
        # When a coupling pairs noise with actions, a weight in the loss changes only how well the paired action is learnt, and
        # moves no probability to other actions. So rows are resampled in proportion to their weights before they are paired.
        rows = th.multinomial(as_probabilities(weights), len(weights), replacement=True, generator=generator)
        observations = tree_map(lambda array: array[rows], obs)
        loss = self.matching_loss(observations, actions[rows], generator).mean()
        return weights.mean() * loss, loss

    def sample(
        self,
        features: th.Tensor,
        noise: th.Tensor,
        deterministic: bool = False,
        generator: Source = None,
        sampler: Sampler | None = None,
        increments: th.Tensor | None = None,
        guide: Guide | None = None,
    ) -> th.Tensor:
        """
        :param features: extracted features, (batch_size, features_dim)
        :param noise: standard normal draws, (batch_size, action_dim)
        :param deterministic: whether a stochastic sampler (``sde``) uses the same fixed noise in every call and for every row
        :param generator: source of that noise; torch's global one by default
        :param sampler: solver, steps and time grid; the actor's own by default
        :param increments: the noise of its steps where it is stochastic, (n_increments, batch_size or 1, action_dim)
        :param guide: what changes the velocity on the way
        :return: actions, (batch_size, action_dim), clamped to [-1, 1]
        """
        sampler = sampler or self.sampler
        if increments is None and deterministic and sampler.solver == "sde":
            increments = self.fixed_increments(sampler).to(noise)
        return self.model.sample(features, noise, sampler, increments, generator, guide).clamp(-1.0, 1.0)

    def fixed_increments(self, sampler: Sampler | None = None) -> th.Tensor:
        """
        :param sampler: the sampler; the actor's own by default
        :return: the noise of a stochastic sampler's steps for deterministic actions, the same for every row,
            (n_increments, 1, action_dim); n_increments is 0 for every solver but ``sde``
        """
        sampler = sampler or self.sampler
        n_increments = sampler.steps - 1 if sampler.solver == "sde" else 0
        return fixed_normals(_SAMPLER_SEED, (n_increments, 1, self.action_dim))

    def log_prob(self, obs: PyTorchObs, actions: th.Tensor, likelihood: Likelihood | None = None) -> th.Tensor:
        """
        :param obs: observations
        :param actions: (batch_size, action_dim), scaled to [-1, 1]
        :param likelihood: method, solver and gradient
        :return: log-density with respect to the scaled actions, (batch_size,)
        """
        features = self.extract_features(obs, self.features_extractor)
        return self.model.log_prob(actions, features, likelihood, self.sampler)

    def sample_with_log_prob(
        self, obs: PyTorchObs, noise: th.Tensor | None = None, likelihood: Likelihood | None = None
    ) -> tuple[th.Tensor, th.Tensor]:
        """
        :param obs: observations
        :param noise: standard normal draws, (batch_size, action_dim); drawn by default
        :param likelihood: method, solver and gradient
        :return: scaled actions, not clamped, (batch_size, action_dim), and their log-density, (batch_size,)
        :raises ValueError: for noise of another shape
        """
        features = self.extract_features(obs, self.features_extractor)
        shape = (features.shape[0], self.action_dim)
        if noise is None:
            noise = th.randn(shape, device=features.device)
        elif tuple(noise.shape) != shape:
            raise ValueError(f"noise has shape {tuple(noise.shape)}, but needs one draw per action dimension: {shape}.")
        return self.model.sample_with_log_prob(features, noise, likelihood, self.sampler)

    def forward(
        self,
        obs: PyTorchObs,
        deterministic: bool = False,
        sampler: Sampler | None = None,
        guide: Guide | None = None,
    ) -> th.Tensor:
        features = self.extract_features(obs, self.features_extractor)
        shape = (features.shape[0], self.action_dim)
        noise = features.new_zeros(shape) if deterministic else th.randn(shape, device=features.device)
        return self.sample(features, noise, deterministic, sampler=sampler, guide=guide)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self(observation, deterministic)
