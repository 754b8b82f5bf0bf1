"""
Observation normalisation that lives inside the policy: fitted once from the dataset, saved and loaded with the weights.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_genpolicy.common.utils import space_items

# Smallest standard deviation divided by: an entry that is constant in the data stays small when it moves later
_STD_FLOOR = 1e-3
# Normalised observations are clamped here, as VecNormalize does
_CLIP = 10.0


def running_moments(chunks: Iterable[Any], shapes: Mapping[str | None, tuple[int, ...]]) -> dict[str | None, RunningMeanStd]:
    """
    :param chunks: some rows at a time, (n_rows, \\*shape) tensors or dictionaries of tensors
    :param shapes: key of an array (None for a flat observation) -> its shape
    :return: mean and variance of each, in float64: a million rows of a large mean lose digits otherwise
    """
    moments = {key: RunningMeanStd(epsilon=0.0, shape=tuple(shape)) for key, shape in shapes.items()}
    for chunk in chunks:
        for key, running in moments.items():
            running.update((chunk if key is None else chunk[key]).double().cpu().numpy())
    return moments


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

    def fit(self, chunks: Iterable[Any]) -> None:
        """
        Take mean and standard deviation over rows.

        :param chunks: some rows at a time, (n_rows, \\*shape) tensors or dictionaries of tensors
        """
        parts: dict[str | None, Any] = {key: self.parts[position] for key, position in self.positions.items()}
        for key, moments in running_moments(chunks, {key: part.mean.shape for key, part in parts.items()}).items():
            part = parts[key]
            part.mean.copy_(th.as_tensor(moments.mean))
            part.std.copy_(th.as_tensor(np.sqrt(moments.var)).clamp(min=_STD_FLOOR))

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
