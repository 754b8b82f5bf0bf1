"""
The least that a gradient step could take on this machine: the floating-point operations of its matrix products over the rate
of a large product, plus the bytes that optimizers and averages must move over the rate of a copy.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch as th
from torch import nn

from benchmarks.peers import seconds_of
from sb3_genpolicy import GMPG, GMPO
from sb3_genpolicy.common.policies.critics.layers import BatchedLinear

# Adam reads a parameter, its gradient and two moments, and writes three of these; an average reads two and writes one
_ADAM_BYTES, _AVERAGE_BYTES = 7 * 4, 3 * 4


def product_rate(dtype: th.dtype = th.float32, size: int = 1024) -> float:
    """Floating-point operations a second of a matrix product."""
    left, right = (th.randn(size, size).to(dtype) for _ in range(2))
    return 2.0 * size**3 / seconds_of(lambda: left @ right, 0.5)


def copy_rate(n_bytes: int = 2**28) -> float:
    """Bytes a second that a copy reads and writes."""
    source, target = (th.zeros(n_bytes // 4) for _ in range(2))
    return 2.0 * n_bytes / seconds_of(lambda: target.copy_(source), 0.5)


def weights(network: nn.Module) -> list[int]:
    """Entries of the matrices of each linear layer."""
    return [module.weight.numel() for module in network.modules() if isinstance(module, (nn.Linear, BatchedLinear))]


def forward_flops(network: nn.Module, batch_size: int) -> float:
    return 2.0 * batch_size * sum(weights(network))


def training_flops(network: nn.Module, batch_size: int) -> float:
    """Forward, gradients of weights, and gradients of inputs, which the first layer does not need."""
    return 3.0 * forward_flops(network, batch_size) - 2.0 * batch_size * weights(network)[0]


def n_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


class Floor:
    """
    :param products: floating-point operations a second
    :param copies: bytes a second
    """

    def __init__(self, products: float, copies: float):
        self.products, self.copies = products, copies

    def critics(self, model: GMPO | GMPG, batch_size: int) -> float:
        """Seconds of a step of V, both Qs and their targets."""
        policy = model.policy
        flops = training_flops(policy.value_net, batch_size) + forward_flops(policy.value_net, batch_size)
        flops += training_flops(policy.critic, batch_size) + forward_flops(policy.critic_target, batch_size)
        moved = _ADAM_BYTES * (n_parameters(policy.value_net) + n_parameters(policy.critic))
        return flops / self.products + (moved + _AVERAGE_BYTES * n_parameters(policy.critic)) / self.copies

    def actor(self, model: GMPO | GMPG, batch_size: int) -> float:
        """Seconds of a step of the actor and its average."""
        actor = model.policy.actor
        moved = (_ADAM_BYTES + _AVERAGE_BYTES) * n_parameters(actor)
        return training_flops(actor, batch_size) / self.products + moved / self.copies


class BareUpdate:
    """
    The matrix products of an update of GMPO with critics by implicit Q-learning, one fused Adam step of all networks and one
    fused average, and nothing else: no gradients of activations, no losses, no rows. Memory is reused wherever a shape comes
    again, so that caches are as warm as can be.

    :param widths: of the hidden layers of every network
    :param batch_size: rows
    :param obs_dim: entries of an observation
    :param action_dim: entries of an action
    :param time_dim: features of the time, which the actor sees
    """

    def __init__(self, widths: list[int], batch_size: int, obs_dim: int, action_dim: int, time_dim: int = 16):
        self._memory: dict[tuple[Any, ...], th.Tensor] = {}
        self.products: list[Callable[[], Any]] = []
        self.batch_size = batch_size
        self._parameters: list[th.Tensor] = []
        of_q = [obs_dim + action_dim, *widths, 1]
        self._network(of_q, 2, backward=False)
        self._network([obs_dim, *widths, 1], 1, backward=False)
        followed = self._network(of_q, 2)
        self._network([obs_dim, *widths, 1], 1)
        followed += self._network([action_dim + time_dim + obs_dim, *widths, action_dim], 1)
        self._averages = [parameter.clone() for parameter in followed]
        self._followed = followed
        self._gradients, self._first, self._second = (
            [1e-3 * th.ones_like(parameter) for parameter in self._parameters] for _ in range(3)
        )
        self._steps = [th.ones(()) for _ in self._parameters]

    def _at(self, name: str, *shape: int) -> th.Tensor:
        return self._memory.setdefault((name, shape), th.randn(shape))

    def _network(self, widths: list[int], n_members: int, backward: bool = True) -> list[th.Tensor]:
        """Note the products of a network; returns its parameters."""
        parameters: list[th.Tensor] = []
        for n_in, n_out in pairwise(widths):
            bias, weight = th.randn(n_members, 1, n_out), th.randn(n_members, n_in, n_out)
            x, y = (self._at(name, n_members, self.batch_size, width) for name, width in (("x", n_in), ("y", n_out)))
            self.products.append(lambda bias=bias, x=x, weight=weight, y=y: _affine(bias, x, weight, y))
            parameters += [weight, bias]
        for index in reversed(range(len(widths) - 1) if backward else ()):
            n_in, n_out, weight = widths[index], widths[index + 1], parameters[2 * index]
            x, g = (self._at(name, n_members, self.batch_size, width) for name, width in (("x", n_in), ("y", n_out)))
            of_weight, of_x = self._at("gw", n_members, n_in, n_out), self._at("gx", n_members, self.batch_size, n_in)
            self.products.append(lambda x=x, g=g, out=of_weight: _product(x.mT, g, out))
            if index:
                self.products.append(lambda g=g, weight=weight, out=of_x: _product(g, weight.mT, out))
        if backward:
            self._parameters += parameters
        return parameters

    @th.no_grad()
    def multiply(self) -> None:
        """All products."""
        for product in self.products:
            product()

    @th.no_grad()
    def step(self) -> None:
        """One fused Adam step, and one fused average."""
        options: dict[str, Any] = dict(lr=1e-3, beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8)
        moments = (self._first, self._second, [], self._steps)
        th._fused_adam_(self._parameters, self._gradients, *moments, amsgrad=False, maximize=False, **options)
        th._foreach_lerp_(self._averages, self._followed, 0.01)

    def run(self) -> None:
        """Both."""
        self.multiply()
        self.step()


def _affine(bias: th.Tensor, x: th.Tensor, weight: th.Tensor, out: th.Tensor) -> None:
    if len(x) == 1:
        th.addmm(bias[0], x[0], weight[0], out=out[0])
    else:
        th.baddbmm(bias, x, weight, out=out)


def _product(left: th.Tensor, right: th.Tensor, out: th.Tensor) -> None:
    if len(left) == 1:
        th.mm(left[0], right[0], out=out[0])
    else:
        th.bmm(left, right, out=out)
