"""
Features of the time that a network sees: sines and cosines of it at several frequencies.
"""

import math

import torch as th
from torch import nn


class TimeFeatures(nn.Module):
    """
    Sines and cosines of the time. A class of your own derives from it, is built without arguments, and has a ``dim``.

    :param frequencies: (dim / 2,), in radians over the unit interval
    :param persistent: whether the frequencies are saved with the model; those that were drawn have to be
    """

    frequencies: th.Tensor

    def __init__(self, frequencies: th.Tensor, persistent: bool = False):
        super().__init__()
        self.dim: int = 2 * len(frequencies)
        self.register_buffer("frequencies", frequencies, persistent=persistent)

    def forward(self, t: th.Tensor) -> th.Tensor:
        """
        :param t: times, (batch_size, 1)
        :return: features, (batch_size, dim)
        """
        angles = t * self.frequencies
        return th.cat([angles.sin(), angles.cos()], dim=-1)


class SinusoidalTimeFeatures(TimeFeatures):
    """
    Frequencies spaced geometrically from a quarter of a turn to ``max_frequency`` turns.

    The range is low on purpose: a field that cannot wiggle faster than a solver steps is one that few steps can follow.

    :param dim: number of features, even
    :param max_frequency: highest frequency, in turns over the unit interval
    """

    def __init__(self, dim: int = 16, max_frequency: float = 4.0):
        super().__init__(2.0 * math.pi * th.logspace(math.log10(0.25), math.log10(max_frequency), dim // 2))


class GaussianFourierTimeFeatures(TimeFeatures):
    """
    Random frequencies, drawn once from N(0, scale^2) and saved with the model (Song et al., 2021). The paper's choice; a field
    of such features wiggles thirty times over the unit interval as easily as once, and needs solver steps as short.

    :param dim: number of features, even (paper: 32)
    :param scale: standard deviation of the frequencies, in turns over the unit interval (paper: 30)
    """

    def __init__(self, dim: int = 32, scale: float = 30.0):
        super().__init__(2.0 * math.pi * scale * th.randn(dim // 2), persistent=True)


TIME_FEATURES: dict[str, type[TimeFeatures]] = {
    "sinusoidal": SinusoidalTimeFeatures,
    "gaussian_fourier": GaussianFourierTimeFeatures,
}
