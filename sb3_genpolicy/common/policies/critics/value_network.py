"""
The state value.
"""

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_genpolicy.common.policies.critics.layers import dense_layers
from sb3_genpolicy.common.policies.normalization import NormalizedModel, ObservationNormalizer
from sb3_genpolicy.generative.networks import in_float32


class ValueNetwork(NormalizedModel):
    """
    State value V(s).

    :param observation_space: observation space
    :param action_space: action space (kept for saving, not used)
    :param net_arch: widths of the hidden layers
    :param features_extractor: network that extracts features
    :param features_dim: number of features
    :param activation_fn: activation function
    :param normalize_images: whether to divide images by 255
    :param share_features_extractor: whether the extractor is the actor's; it then gets no gradient from here
    :param normalizer: of observations, shared by every network of a policy
    :param layer_norm: whether every hidden activation is normalised over its entries
    :param dropout: share of the hidden activations that is left out while training
    :param scaled: whether outputs are scaled and shifted by buffers, :attr:`scale` and :attr:`shift`, see :meth:`fit_scale`
    """

    #: Mean and standard deviation of returns, so that what the network gives is of the order of 1
    shift: th.Tensor
    scale: th.Tensor

    features_extractor: BaseFeaturesExtractor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        share_features_extractor: bool = False,
        normalizer: ObservationNormalizer | None = None,
        layer_norm: bool = False,
        dropout: float = 0.0,
        scaled: bool = False,
    ):
        super().__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        self.normalizer = normalizer
        self.share_features_extractor = share_features_extractor
        self.value_net = nn.Sequential(*dense_layers(features_dim, 1, net_arch, activation_fn, layer_norm, dropout))
        self.scaled = scaled
        if scaled:
            self.register_buffer("shift", th.zeros(()))
            self.register_buffer("scale", th.ones(()))

    def forward(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: observations
        :return: values, (batch_size, 1)
        """
        with th.set_grad_enabled(th.is_grad_enabled() and not self.share_features_extractor):
            features = self.extract_features(obs, self.features_extractor)
        *hidden, head = self.value_net
        for layer in hidden:
            features = layer(features)
        values = in_float32(head, features)
        return self.shift + self.scale * values if self.scaled else values
