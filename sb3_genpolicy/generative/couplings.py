"""
Couplings: which noise is paired with which data point in a batch.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch as th

from sb3_genpolicy.generative.checks import check_number


class Coupling(ABC):
    """
    A coupling reorders the noise of a batch.
    """

    #: Whether noise and data stay independent, which scores and diffusions rest upon
    independent: ClassVar[bool]

    @abstractmethod
    def __call__(self, x0: th.Tensor, x1: th.Tensor, condition: th.Tensor) -> th.Tensor:
        """
        :param x0: noise, (batch_size, dim)
        :param x1: data, (batch_size, dim)
        :param condition: (batch_size, condition_dim)
        :return: the noise in an order that fits the data, (batch_size, dim)
        """


class IndependentCoupling(Coupling):
    """
    Noise and data as they were drawn.
    """

    independent = True

    def __call__(self, x0: th.Tensor, x1: th.Tensor, condition: th.Tensor) -> th.Tensor:
        return x0


class OptimalTransportCoupling(Coupling):
    """
    Minibatch optimal transport (OT-CFM, https://arxiv.org/abs/2302.00482): noise and data are paired such that the squared
    distances within a batch sum to the least. Lines between pairs cross less, and a learnt field bends less.

    Pairs are sought across the batch, and so across conditions. Were conditions ignored, the noise paired with a condition
    would no longer be standard normal, but samplers start from standard normal noise at every condition. Therefore the
    distance includes that of the conditions (https://arxiv.org/abs/2503.10636), weighted by ``condition_weight``.

    What it costs: one assignment problem a batch, solved exactly on the CPU in O(batch_size^3) by
    :func:`scipy.optimize.linear_sum_assignment`, and a transfer there and back if the batch lives on another device.

    :param condition_weight: weight of the squared distance of conditions, >= 0. 0 is published OT-CFM, fit for models without
        condition; the larger, the nearer to the independent coupling.
    :raises ValueError: if it is negative
    """

    independent = False

    def __init__(self, condition_weight: float = 10.0):
        check_number("condition_weight", condition_weight, low=0.0)
        self.condition_weight = condition_weight

    def __call__(self, x0: th.Tensor, x1: th.Tensor, condition: th.Tensor) -> th.Tensor:
        # Half a second that an import of the package would take longer, for whom no batch is paired
        from scipy.optimize import linear_sum_assignment

        with th.no_grad():
            cost = th.cdist(x1, x0).square()
            if condition.shape[1] > 0 and self.condition_weight > 0.0:
                cost = cost + self.condition_weight * th.cdist(condition, condition).square()
            _, columns = linear_sum_assignment(cost.cpu().numpy())
        return x0[th.as_tensor(columns, device=x0.device)]


COUPLINGS: dict[str, type[Coupling]] = {
    "independent": IndependentCoupling,
    "optimal_transport": OptimalTransportCoupling,
}
