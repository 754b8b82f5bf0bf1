"""
The least that a gradient step could take on this machine: the floating-point operations of its matrix products over the rate
of a large product, plus the bytes that optimizers and averages must move over the rate of a copy.
"""

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
