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
    to their parameters. These are replaced, since ``th.vmap``, by which models learn side by side, ignores ``requires_grad_``.

    :param networks: the networks
    :param but: parameters of these networks that are not frozen
    """
    kept = {id(parameter) for parameter in but}
    places = [
        (module._parameters, name, parameter)
        for network in networks
        for module in network.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and id(parameter) not in kept
    ]
    for registry, name, parameter in places:
        registry[name] = parameter.detach()  # type: ignore[assignment]
    try:
        yield
    finally:
        for registry, name, parameter in places:
            registry[name] = parameter
