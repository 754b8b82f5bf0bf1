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

from sb3_genpolicy.generative import ConditionalMLP, GenerativeModel, Path
from sb3_genpolicy.generative.models import Prediction


class GenerativeActor(BasePolicy):
    """
    Actor whose actions are samples of a generative model p(a | s), scaled to [-1, 1].

    :param observation_space: observation space
    :param action_space: action space
    :param net_arch: widths of the hidden layers of the model's network
    :param features_extractor: network that extracts features
    :param features_dim: number of features
    :param path: the path between noise and actions
    :param prediction: what the network predicts
    :param solver: name of the solver that samples
    :param sampling_steps: number of its steps
    :param activation_fn: activation function
    :param normalize_images: whether to divide images by 255
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
        solver: str,
        sampling_steps: int,
        activation_fn: type[nn.Module] = nn.SiLU,
        normalize_images: bool = True,
    ):
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
            squash_output=True,
        )
        self.net_arch = net_arch
        self.features_dim = features_dim
        self.activation_fn = activation_fn
        self.solver = solver
        self.sampling_steps = sampling_steps
        self.action_dim = get_action_dim(action_space)
        network = ConditionalMLP(self.action_dim, features_dim, net_arch, activation_fn)
        self.model = GenerativeModel(network, path, prediction, self.action_dim)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            dict(
                net_arch=self.net_arch,
                features_extractor=self.features_extractor,
                features_dim=self.features_dim,
                path=self.model.path,
                prediction=self.model.prediction,
                solver=self.solver,
                sampling_steps=self.sampling_steps,
                activation_fn=self.activation_fn,
            )
        )
        return data

    def matching_loss(self, obs: PyTorchObs, actions: th.Tensor, generator: th.Generator | None = None) -> th.Tensor:
        """
        :param obs: observations
        :param actions: (batch_size, action_dim), in [-1, 1]
        :param generator: source of times and noise
        :return: flow or score matching loss of each sample, (batch_size,)
        """
        features = self.extract_features(obs, self.features_extractor)
        return self.model.matching_loss(actions, features, generator)

    def sample(self, features: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """
        :param features: extracted features, (batch_size, features_dim)
        :param noise: standard normal draws, (batch_size, action_dim)
        :return: actions, (batch_size, action_dim), clamped to [-1, 1]
        """
        return self.model.sample(features, noise, self.solver, self.sampling_steps).clamp(-1.0, 1.0)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        features = self.extract_features(obs, self.features_extractor)
        shape = (features.shape[0], self.action_dim)
        noise = features.new_zeros(shape) if deterministic else th.randn(shape, device=features.device)
        return self.sample(features, noise)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self(observation, deterministic)
