"""
Layers of Q and V.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn

from sb3_genpolicy.generative.draws import Source, draw


class BatchedLinear(nn.Module):
    """
    Several linear layers of one shape, each with its own parameters, computed by one batched product.

    The parameters are initialised as in ``nn.Linear``.

    :param layers: the layers to hold, all of one shape
    """

    def __init__(self, layers: list[nn.Linear]):
        super().__init__()
        self.weight = nn.Parameter(th.stack([layer.weight.detach().T for layer in layers]))
        self.bias = nn.Parameter(th.stack([layer.bias.detach()[None] for layer in layers]))

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (n_layers, batch_size, n_in)
        :return: (n_layers, batch_size, n_out)
        """
        return th.baddbmm(self.bias, x, self.weight)

    def unbind(self) -> list[Callable[[th.Tensor], th.Tensor]]:
        """
        :return: the layers one by one, functions of (batch_size, n_in)
        """
        pairs = zip(self.bias.unbind(), self.weight.unbind(), strict=True)
        return [partial(_linear, bias, weight) for bias, weight in pairs]


class BatchedLayerNorm(nn.Module):
    """
    Several layer norms of one width, each with its own scale and shift.

    :param n_layers: how many
    :param width: entries that are normalised
    """

    def __init__(self, n_layers: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(th.ones(n_layers, 1, width))
        self.bias = nn.Parameter(th.zeros(n_layers, 1, width))

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (n_layers, batch_size, width)
        :return: the same shape
        """
        return th.addcmul(self.bias, nn.functional.layer_norm(x, x.shape[-1:]), self.weight)

    def of_one(self, index: int, x: th.Tensor) -> th.Tensor:
        """
        :param index: of a layer
        :param x: (batch_size, width)
        :return: the same shape, by that layer
        """
        return nn.functional.layer_norm(x, x.shape[-1:], self.weight[index, 0], self.bias[index, 0])


def _linear(bias: th.Tensor, weight: th.Tensor, x: th.Tensor) -> th.Tensor:
    return th.addmm(bias, x, weight)


class DrawnDropout(nn.Module):
    """
    Leaves out units at random, as torch's own, but only within :func:`masks_from`, by whose random numbers it does: those of
    a model's own updates, whether it learns alone, beside others or in several processes.

    :param share: of the units that are left out, in [0, 1); the others are scaled up by ``1 / (1 - share)``
    """

    def __init__(self, share: float):
        super().__init__()
        self.share = share
        self.is_drawing = False
        self.source: Source = None

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (..., batch_size, width)
        :return: the same shape
        """
        return x * self.mask(x.shape, x).to(x.dtype) if self.is_drawing else x

    def mask(self, shape: Sequence[int], like: th.Tensor) -> th.Tensor:
        """
        :param shape: (..., batch_size, width)
        :param like: a tensor of the device that is wanted
        :return: factors of the units, float32
        """
        uniform = draw("uniform", shape, like.new_empty(0, dtype=th.float32), self.source, rows_axis=len(shape) - 2)
        return (uniform >= self.share) / (1.0 - self.share)


@contextmanager
def masks_from(source: Source, *networks: nn.Module) -> Iterator[None]:
    """
    Within it, units of the networks are left out.

    :param source: of random numbers
    :param networks: with layers of :class:`DrawnDropout`; others are as ever
    """
    layers = [layer for network in networks for layer in network.modules() if isinstance(layer, DrawnDropout)]
    for layer in layers:
        layer.is_drawing, layer.source = True, source
    try:
        yield
    finally:
        for layer in layers:
            layer.is_drawing, layer.source = False, None


def in_place(activation_fn: type[nn.Module]) -> Callable[[], nn.Module]:
    """
    :param activation_fn: class of an activation function
    :return: function that builds it, as an in-place operation if its gradient allows that
    """
    return partial(nn.ReLU, inplace=True) if activation_fn is nn.ReLU else activation_fn


def dense_layers(
    n_in: int,
    n_out: int,
    net_arch: list[int],
    activation_fn: type[nn.Module],
    layer_norm: bool = False,
    dropout: float = 0.0,
) -> list[nn.Module]:
    """
    :param n_in: number of inputs
    :param n_out: number of outputs
    :param net_arch: widths of the hidden layers
    :param activation_fn: activation function
    :param layer_norm: whether every hidden activation is normalised over its entries
    :param dropout: share of the hidden activations that is left out where losses are taken, see :class:`DrawnDropout`
    :return: the layers of a network, as SB3 initialises them
    """
    *hidden, head = create_mlp(n_in, n_out, net_arch, in_place(activation_fn))  # type: ignore[arg-type]
    layers: list[nn.Module] = []
    for linear, activation in zip(hidden[::2], hidden[1::2], strict=True):
        layers += [linear, activation]
        if layer_norm:
            layers.append(nn.LayerNorm(linear.out_features))  # type: ignore[arg-type]
        if dropout:
            layers.append(DrawnDropout(dropout))
    return [*layers, head]
