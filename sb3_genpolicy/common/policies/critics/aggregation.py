"""
From the values of several Q networks to one.
"""

from collections.abc import Callable

import torch as th

from sb3_genpolicy.common.policies.critics.options import Aggregation

# Under the root of a variance: the root's gradient at 0 is no number
_SMALL = 1e-12


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
