"""
Networks that follow others as running averages of their parameters.
"""

from collections.abc import Sequence

import torch as th
from torch.optim.swa_utils import get_ema_multi_avg_fn


def follow(averages: Sequence[th.Tensor], parameters: Sequence[th.Tensor], rate: float | th.Tensor) -> None:
    """
    ``average += rate (parameter - average)``, in place and for all at once.

    :param averages: what follows
    :param parameters: what is followed, of the same shapes
    :param rate: in [0, 1]: 0 stays, 1 copies. A tensor where it changes between two replays of a recorded update.
    """
    if not averages:
        return
    if isinstance(rate, th.Tensor):
        with th.no_grad():
            for average, parameter in zip(averages, parameters, strict=True):
                average.lerp_(parameter, rate)
    else:
        get_ema_multi_avg_fn(1.0 - rate)(list(averages), list(parameters), 0)
