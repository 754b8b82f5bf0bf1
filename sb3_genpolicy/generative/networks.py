"""
Networks of a generative model: they see a noisy point, its time and a condition (features of the observation).

A network of your own takes the arguments of :class:`ConditionalMLP`, in its constructor and in ``forward``.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar

import torch as th
from torch import nn

from sb3_genpolicy.generative.time_features import GaussianFourierTimeFeatures, SinusoidalTimeFeatures, TimeFeatures


def in_float32(layer: Callable[[th.Tensor], th.Tensor], x: th.Tensor) -> th.Tensor:
    """
    :param layer: a layer whose output keeps its digits at any precision, as a value of which differences are taken
    :param x: its argument
    :return: its output, not computed in half precision under autocast
    """
    if not th.is_autocast_enabled(x.device.type):
        return layer(x)
    with th.autocast(x.device.type, enabled=False):
        return layer(x.float() if x.dtype == th.bfloat16 else x)


class ConditionalMLP(nn.Module):
    """
    Residual MLP on the concatenation of point, time features and condition.
    A layer as wide as the one before it is added to it (a residual block); any other replaces it.

    :param dim: dimension of the points
    :param condition_dim: dimension of the condition, 0 for none
    :param net_arch: widths of the hidden layers
    :param activation_fn: activation between the layers. Smooth ones suit fields that are integrated and differentiated.
    :param time_features: features of the time; 16 sinusoidal ones by default
    """

    default_net_arch: ClassVar[tuple[int, ...]] = (256, 256, 256)

    def __init__(
        self,
        dim: int,
        condition_dim: int,
        net_arch: list[int],
        activation_fn: type[nn.Module] = nn.SiLU,
        time_features: TimeFeatures | None = None,
    ):
        super().__init__()
        self.time_features: TimeFeatures = SinusoidalTimeFeatures() if time_features is None else time_features
        widths = [dim + self.time_features.dim + condition_dim, *net_arch]
        self.layers = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths))
        self.activation = activation_fn()
        self.head = nn.Linear(widths[-1], dim)

    def forward(self, t: th.Tensor, x: th.Tensor, condition: th.Tensor) -> th.Tensor:
        """
        :param t: times, (batch_size, 1), or (1, 1) for one that all share
        :param x: noisy points, (batch_size, dim)
        :param condition: (batch_size, condition_dim)
        :return: prediction, (batch_size, dim)
        """
        h = th.cat([x, self.time_features(t).expand(x.shape[0], -1), condition], dim=1)
        for layer in self.layers:
            out = self.activation(layer(h))
            h = h + out if out.shape == h.shape else out
        return in_float32(self.head, h)


class UShapedMLP(nn.Module):
    """
    The paper's network (after QGPO's): residual blocks that narrow and widen again, with skip connections between blocks of
    the same width; every block is told an encoding of time and condition. 1.6 million parameters at 512-256-128.

    :param dim: dimension of the points
    :param condition_dim: dimension of the condition, 0 for none
    :param net_arch: widths of the blocks on the way down, at least two
    :param activation_fn: activation
    :param time_features: features of the time; 32 Gaussian Fourier features of scale 30 by default
    :param condition_features: width to which the condition is encoded (paper: 32)
    :param encoding_dim: width of the encoding that every block is told (paper: 128)
    :raises ValueError: for fewer than two widths
    """

    default_net_arch: ClassVar[tuple[int, ...]] = (512, 256, 128)

    def __init__(
        self,
        dim: int,
        condition_dim: int,
        net_arch: list[int],
        activation_fn: type[nn.Module] = nn.SiLU,
        time_features: TimeFeatures | None = None,
        condition_features: int = 32,
        encoding_dim: int = 128,
    ):
        super().__init__()
        if len(net_arch) < 2:
            raise ValueError(f"A UShapedMLP narrows over two widths or more, net_arch={list(net_arch)} has {len(net_arch)}.")
        self.time_features: TimeFeatures = GaussianFourierTimeFeatures() if time_features is None else time_features
        encoder = nn.Sequential(nn.Linear(condition_dim, condition_features), activation_fn()) if condition_dim else None
        self.condition_encoder = encoder or nn.Identity()
        self.encoder = nn.Sequential(
            nn.Linear(self.time_features.dim + (condition_features if condition_dim else 0), encoding_dim),
            activation_fn(),
            nn.Linear(encoding_dim, encoding_dim),
        )

        def block(n_in: int, n_out: int) -> _ResidualBlock:
            return _ResidualBlock(n_in, n_out, encoding_dim, activation_fn)

        self.down = nn.ModuleList(block(n_in, n_out) for n_in, n_out in pairwise([dim, *net_arch]))
        self.middle = block(net_arch[-1], net_arch[-1])
        # A block on the way up sees the one below it beside the one of its width on the way down
        widths = list(reversed(net_arch))
        self.up = nn.ModuleList(block(2 * below, width) for below, width in pairwise(widths))
        self.head = nn.Linear(2 * widths[-1], dim)

    def forward(self, t: th.Tensor, x: th.Tensor, condition: th.Tensor) -> th.Tensor:
        """
        :param t: times, (batch_size, 1), or (1, 1) for one that all share
        :param x: noisy points, (batch_size, dim)
        :param condition: (batch_size, condition_dim)
        :return: prediction, (batch_size, dim)
        """
        features = self.time_features(t).expand(x.shape[0], -1)
        encoding = self.encoder(th.cat([features, self.condition_encoder(condition)], dim=1))
        h, skips = x, []
        for block in self.down:
            h = block(h, encoding)
            skips.append(h)
        h = self.middle(h, encoding)
        for block in self.up:
            h = block(th.cat([h, skips.pop()], dim=1), encoding)
        return in_float32(self.head, th.cat([h, skips.pop()], dim=1))


class _ResidualBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, encoding_dim: int, activation_fn: type[nn.Module]):
        super().__init__()
        self.first = nn.Linear(n_in, n_out)
        self.encoding = nn.Linear(encoding_dim, n_out)
        self.second = nn.Linear(n_out, n_out)
        self.shortcut = nn.Linear(n_in, n_out) if n_in != n_out else nn.Identity()
        self.activation = activation_fn()

    def forward(self, x: th.Tensor, encoding: th.Tensor) -> th.Tensor:
        h = self.activation(self.first(x)) + self.activation(self.encoding(encoding))
        out: th.Tensor = self.shortcut(x) + self.activation(self.second(h))
        return out


NETWORKS: dict[str, type[nn.Module]] = {"mlp": ConditionalMLP, "unet": UShapedMLP}
