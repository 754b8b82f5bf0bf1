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
    :param rate: in [0, 1]: 0 stays, 1 copies. A tensor where it is known on the device alone.
    """
    if not averages:
        return
    if isinstance(rate, th.Tensor):
        with th.no_grad():
            # Three calls for all, where one call for each would wait for its launch on a GPU
            differences = th._foreach_sub(list(parameters), list(averages))
            th._foreach_mul_(differences, rate)
            th._foreach_add_(list(averages), differences)
    else:
        get_ema_multi_avg_fn(1.0 - rate)(list(averages), list(parameters), 0)
