"""
Networks that get no gradient for a while.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(networks: Iterable[nn.Module], but: Iterable[nn.Parameter] = ()) -> Iterator[None]:
    """
    Context in which networks are frozen: what is computed in it passes gradients through them to their inputs, but gives none
    to their parameters.

    :param networks: the networks
    :param but: parameters of these networks that are not frozen
    """
    kept = {id(parameter) for parameter in but}
    parameters = [
        parameter
        for network in networks
        for parameter in network.parameters()
        if parameter.requires_grad and id(parameter) not in kept
    ]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
