"""
States that a policy without a dataset can think of: around the mean of what its statistics were taken from.
"""

import copy
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_genpolicy.common.policies.normalization import ObservationNormalizer, Standardizer
from sb3_genpolicy.common.utils import space_items, tree_of

_SEED = 0


def guessed_observations(space: spaces.Space, normalizer: ObservationNormalizer, n: int) -> Any:
    """
    :param space: observation space
    :param normalizer: of observations
    :param n: number of states
    :return: observations, batch first: numbers that are standardised at half their standard deviation around their mean, each
        by itself; others uniform in their space. The same in every call.
    """
    keys = list(space.spaces) if isinstance(space, spaces.Dict) else [None]
    parts = (part for _, part in space_items(space, ""))
    return tree_of(space, [_guessed(part, normalizer.part(key), n) for part, key in zip(parts, keys, strict=True)])


def _guessed(space: spaces.Space, standardizer: Standardizer | None, n: int) -> np.ndarray:
    if standardizer is None or not isinstance(space, spaces.Box):
        own = copy.deepcopy(space)
        own.seed(_SEED)
        return np.stack([own.sample() for _ in range(n)])
    mean, std, clip, offset = (
        getattr(standardizer, name).double().cpu().numpy() for name in ("mean", "std", "clip", "offset")
    )
    noise = np.random.default_rng(_SEED).normal(scale=0.5, size=(n, *space.shape))
    # What is constant in the data is clipped close to its mean, and stays there
    guessed = offset + mean + np.where(clip > 1.0, std, 0.0) * noise
    if np.issubdtype(space.dtype, np.integer):
        guessed = guessed.round()
    return guessed.clip(space.low, space.high).astype(space.dtype)
