"""
From the values of several Q networks to one.
"""

from collections.abc import Callable

import torch as th

from sb3_genpolicy.common.policies.critics.base_options import Aggregation

# Under the root of a variance: the root's gradient at 0 is no number
_SMALL = 1e-12
# Of larger values, products of three would be beyond float32
_LARGE = 1e12


def aggregate(values: th.Tensor, aggregation: Aggregation, rho: float) -> th.Tensor:
    """
    :param values: of every network, (n_critics, ...)
    :param aggregation: ``minimum``, ``mean`` or ``lower_bound``
    :param rho: standard deviations below the mean, of ``lower_bound``
    :return: one value, (...)
    """
    if aggregation == "lower_bound":
        return values.mean(dim=0) - rho * (values.var(dim=0, correction=0) + _SMALL).sqrt()
    return _PLAIN[aggregation](values)


_PLAIN: dict[str, Callable[[th.Tensor], th.Tensor]] = {
    "minimum": lambda values: values.amin(dim=0),
    "mean": lambda values: values.mean(dim=0),
}


def agreement(values: th.Tensor, whole: int = 0) -> th.Tensor:
    """
    By how much what several networks say is to be shrunk, ``m^2 / (m^2 + v)``: m is their mean and v the square of its
    standard error, from how far they are apart. 1 where all say the same, 0 where they differ in sign alone.

    :param values: advantages or slopes of every network, (n_critics, ...)
    :param whole: so many last dimensions are one vector, whose squared length takes the place of m^2
    :return: shares, (...) without the last ``whole`` dimensions; 1 of a single network
    """
    values = values / _unit(values, dim=(0, *range(values.ndim - whole, values.ndim)))
    squared = values.mean(dim=0).square()
    noise = th.zeros_like(squared) if len(values) == 1 else values.var(dim=0) / len(values)
    for _ in range(whole):
        squared, noise = squared.sum(dim=-1), noise.sum(dim=-1)
    # Where nobody says anything there is nothing to shrink
    return (squared + _SMALL) / (squared + noise + _SMALL)


def agreed(preferences: th.Tensor) -> th.Tensor:
    """
    What several networks say of the actions of a state, shrunk by what of it they agree on: by ``m^2 / (m^2 + v)``, with m^2
    the variance over the actions of their mean, and v the mean variance of the networks about it.

    :param preferences: Qs or advantages, (n_critics, batch_size, n_actions)
    :return: above their mean over the actions, (batch_size, n_actions); of a single network as they are
    """
    centred = preferences - preferences.mean(dim=2, keepdim=True)
    if len(preferences) == 1:
        return centred[0]
    unit = _unit(centred, dim=(0, 2))
    centred = centred / unit
    centre = centred.mean(dim=0)
    agreement = centre.square().mean(dim=1, keepdim=True)
    disagreement = ((centred - centre).square().sum(dim=0) / (len(preferences) - 1)).mean(dim=1, keepdim=True)
    return unit[0] * (centre * agreement / (agreement + disagreement).clamp(min=th.finfo(centre.dtype).tiny))


def _unit(values: th.Tensor, dim: tuple[int, ...]) -> th.Tensor:
    """1, or the size in which the largest of values along some dimensions, which are kept, is ``_LARGE``."""
    return (values.detach().abs().amax(dim=dim, keepdim=True) / _LARGE).clamp(min=1.0)


def smallest_quantiles(quantiles: th.Tensor, dropped: int) -> th.Tensor:
    """
    Pool the quantiles of all networks and leave out the largest (TQC, arXiv 2005.04269, section 3.3).

    :param quantiles: of every network, (n_critics, batch_size, n_quantiles)
    :param dropped: how many are left out for each network, >= 0
    :return: (batch_size, n_critics \\* (n_quantiles - dropped)), ascending if any were left out
    """
    n_critics, batch_size, n_quantiles = quantiles.shape
    pooled = quantiles.transpose(0, 1).reshape(batch_size, n_critics * n_quantiles)
    if dropped == 0:
        return pooled
    return pooled.sort(dim=1).values[:, : n_critics * (n_quantiles - dropped)]
