"""
Networks that are running averages of others (Polyak averaging).
"""

from collections.abc import Sequence

import torch as th
from stable_baselines3.common.utils import get_parameters_by_name
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sb3_genpolicy.common.files.transient import Transient


def update_averages(averages: Sequence[th.Tensor], parameters: Sequence[th.Tensor], rate: float | th.Tensor) -> None:
    """
    ``average += rate (parameter - average)``, in place and for all at once.

    :param averages: the running averages
    :param parameters: the parameters that are averaged, of the same shapes
    :param rate: in [0, 1]: 0 leaves the averages as they are, 1 copies the parameters. A tensor if only the device knows it.
    """
    if not averages:
        return
    if isinstance(rate, th.Tensor):
        with th.no_grad():
            # Three calls for all tensors: on a GPU, one call for each tensor would cost more in launches than in arithmetic
            differences = th._foreach_sub(list(parameters), list(averages))
            th._foreach_mul_(differences, rate)
            th._foreach_add_(list(averages), differences)
    else:
        get_ema_multi_avg_fn(1.0 - rate)(list(averages), list(parameters), 0)


class PolyakAverage(Transient):
    """
    A network whose parameters are running averages of another network's. Running mean and variance of batch normalisation are
    copied, not averaged (SB3, GH issue #996).

    :param average: the network that holds the averages
    :param network: the network whose parameters are averaged
    """

    def __init__(self, average: nn.Module, network: nn.Module):
        # A walk over a network's modules for its parameters costs as much as their average
        self.averages, self.parameters = list(average.parameters()), list(network.parameters())
        self._statistics = get_parameters_by_name(average, ["running_"]), get_parameters_by_name(network, ["running_"])

    def update(self, rate: float | th.Tensor) -> None:
        """
        :param rate: in [0, 1]: 0 leaves the averages as they are, 1 copies the parameters
        """
        update_averages(self.averages, self.parameters, rate)
        update_averages(*self._statistics, 1.0)
