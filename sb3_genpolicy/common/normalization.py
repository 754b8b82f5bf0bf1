"""
Observation normalisation that lives inside the policy: fitted once from the dataset, saved and loaded with the weights.
"""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_genpolicy.common.utils import space_items

# Smallest standard deviation divided by: an entry that is constant in the data stays small when it moves later
_STD_FLOOR = 1e-3
# Normalised observations are clamped here, as VecNormalize does
_CLIP = 10.0


class _Standardizer(nn.Module):
    """Mean and standard deviation of one array; the identity until fitted."""

    mean: th.Tensor
    std: th.Tensor

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.register_buffer("mean", th.zeros(shape))
        self.register_buffer("std", th.ones(shape))

    def forward(self, x: th.Tensor) -> th.Tensor:
        return ((x - self.mean) / self.std).clamp(-_CLIP, _CLIP)


class ObservationNormalizer(nn.Module):
    """
    Standardises the entries of float Box observations; images and discrete observations pass unchanged.

    :param observation_space: the observation space, a Dict allowed
    """

    def __init__(self, observation_space: spaces.Space):
        super().__init__()
        parts = space_items(observation_space, "")
        keys = list(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else [None]
        #: key of the observation (None for a flat one) -> its position in ``parts``
        self.positions: dict[str | None, int] = {}
        self.parts = nn.ModuleList()
        for key, (_, space) in zip(keys, parts, strict=True):
            if isinstance(space, spaces.Box) and not is_image_space(space) and np.issubdtype(space.dtype, np.floating):
                self.positions[key] = len(self.parts)
                self.parts.append(_Standardizer(space.shape))

    def fit(self, observations: Any) -> None:
        """
        Take mean and standard deviation over rows.

        :param observations: (n_rows, \\*shape) tensor, or a dictionary of tensors
        """
        for key, position in self.positions.items():
            rows = observations if key is None else observations[key]
            part = self.parts[position]
            assert isinstance(part, _Standardizer)
            # In float64: a million rows of a large mean lose digits otherwise
            std, mean = th.std_mean(rows.double(), dim=0, correction=0)
            part.mean.copy_(mean)
            part.std.copy_(std.clamp(min=_STD_FLOOR))

    def forward(self, observations: Any) -> Any:
        """
        :param observations: preprocessed observations, a tensor or a dictionary of tensors
        :return: the same, normalised
        """
        if isinstance(observations, dict):
            return {
                key: self.parts[self.positions[key]](value) if key in self.positions else value
                for key, value in observations.items()
            }
        return self.parts[0](observations) if self.positions else observations


class NormalizedExtractor(BaseFeaturesExtractor):
    """
    A features extractor behind a normaliser.

    :param observation_space: observation space
    :param normalizer: shared by every network of a policy
    :param extractor: SB3 features extractor
    """

    def __init__(self, observation_space: spaces.Space, normalizer: ObservationNormalizer, extractor: BaseFeaturesExtractor):
        super().__init__(observation_space, extractor.features_dim)
        self.normalizer = normalizer
        self.extractor = extractor

    def forward(self, observations: Any) -> th.Tensor:
        return self.extractor(self.normalizer(observations))
