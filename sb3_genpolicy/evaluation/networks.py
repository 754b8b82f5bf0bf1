"""
Q for an evaluation: many members in one batched product, none of which ever trained a policy.
"""

from itertools import pairwise
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_genpolicy.common.policies.critics.layers import BatchedLayerNorm, BatchedLinear
from sb3_genpolicy.common.policies.normalization import ObservationNormalizer
from sb3_genpolicy.common.utils import tree_map


class ValueEnsemble(nn.Module):
    """
    Networks of observation, action and time, with layer norm. What they see of an observation they share.

    :param extractor: of features of an observation, trained with them
    :param normalizer: of the observations
    :param action_dim: number of dimensions of the actions
    :param n_members: how many
    :param net_arch: widths of the hidden layers
    """

    def __init__(
        self,
        extractor: BaseFeaturesExtractor,
        normalizer: ObservationNormalizer,
        action_dim: int,
        n_members: int,
        net_arch: list[int],
    ):
        super().__init__()
        self.normalizer = normalizer
        self.extractor = extractor
        self.n_members = n_members
        # One more input, the time
        widths = [self.extractor.features_dim + action_dim + 1, *net_arch, 1]
        drawn = [[nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths)] for _ in range(n_members)]
        self.layers = nn.ModuleList(BatchedLinear(list(layers)) for layers in zip(*drawn, strict=True))
        self.norms = nn.ModuleList(BatchedLayerNorm(n_members, width) for width in net_arch)

    def features(self, observations: Any) -> th.Tensor:
        """
        :param observations: as the environment gives them, (..., \\*shape), or a dictionary of such
        :return: (..., features_dim)
        """
        lead = _lead(observations, self.normalizer.observation_space)
        flat = tree_map(lambda array: array.flatten(0, len(lead) - 1) if len(lead) > 1 else array, observations)
        return self.extractor(self.normalizer(flat)).unflatten(0, lead)

    def forward(self, features: th.Tensor, actions: th.Tensor, times: th.Tensor) -> th.Tensor:
        """
        :param features: (n_members or 1, batch_size, features_dim)
        :param actions: (n_members or 1, batch_size, action_dim), scaled
        :param times: (n_members, batch_size), of the order of 1
        :return: (n_members, batch_size)
        """
        shape = self.n_members, features.shape[1]
        h = th.cat([features.expand(*shape, -1), actions.expand(*shape, -1), times[:, :, None]], dim=2)
        *hidden, head = self.layers
        for layer, norm in zip(hidden, self.norms, strict=True):
            h = norm(layer(h).relu())
        return head(h)[:, :, 0]


def _lead(observations: Any, space: spaces.Space) -> tuple[int, ...]:
    """Shape of a batch of observations, without that of one observation."""
    if isinstance(observations, dict):
        assert isinstance(space, spaces.Dict)
        key = next(iter(observations))
        return _lead(observations[key], space.spaces[key])
    return tuple(observations.shape[: observations.ndim - len(space.shape or ())])
