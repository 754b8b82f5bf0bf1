"""
Networks of a generative model: they see a noisy point, its time and a condition (features of the observation).
"""

import math
from itertools import pairwise

import torch as th
from torch import nn


class FourierTimeEmbedding(nn.Module):
    """
    Sines and cosines of the time, frequencies spaced geometrically from a quarter of a turn to ``max_frequency`` turns.

    The range is low on purpose: a field that cannot wiggle faster than a solver steps is one that few steps can follow.

    :param dim: number of features, even
    :param max_frequency: highest frequency, in turns over the unit interval
    """

    frequencies: th.Tensor

    def __init__(self, dim: int = 16, max_frequency: float = 4.0):
        super().__init__()
        self.dim = dim
        turns = th.logspace(math.log10(0.25), math.log10(max_frequency), dim // 2)
        self.register_buffer("frequencies", 2.0 * math.pi * turns, persistent=False)

    def forward(self, t: th.Tensor) -> th.Tensor:
        """
        :param t: times, (batch_size, 1)
        :return: features, (batch_size, dim)
        """
        angles = t * self.frequencies
        return th.cat([angles.sin(), angles.cos()], dim=1)


class ConditionalMLP(nn.Module):
    """
    Residual MLP on the concatenation of point, time features and condition.
    A layer as wide as the one before it is added to it (a residual block); any other replaces it.

    :param dim: dimension of the points
    :param condition_dim: dimension of the condition, 0 for none
    :param net_arch: widths of the hidden layers
    :param activation_fn: activation between the layers. Smooth ones suit fields that are integrated and differentiated.
    :param time_dim: number of time features
    """

    def __init__(
        self,
        dim: int,
        condition_dim: int,
        net_arch: list[int],
        activation_fn: type[nn.Module] = nn.SiLU,
        time_dim: int = 16,
    ):
        super().__init__()
        self.time_embedding = FourierTimeEmbedding(time_dim)
        widths = [dim + time_dim + condition_dim, *net_arch]
        self.layers = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths))
        self.activation = activation_fn()
        self.head = nn.Linear(widths[-1], dim)

    def forward(self, t: th.Tensor, x: th.Tensor, condition: th.Tensor) -> th.Tensor:
        """
        :param t: times, (batch_size, 1)
        :param x: noisy points, (batch_size, dim)
        :param condition: (batch_size, condition_dim)
        :return: prediction, (batch_size, dim)
        """
        h = th.cat([x, self.time_embedding(t), condition], dim=1)
        for layer in self.layers:
            out = self.activation(layer(h))
            h = h + out if out.shape == h.shape else out
        return self.head(h)
