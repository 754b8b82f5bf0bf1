"""
What an update is given: rows, a source of random numbers, and means over the whole batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch as th

from sb3_genpolicy.generative.draws import Source


def mean_of_rows(values: th.Tensor) -> th.Tensor:
    """
    :param values: (..., n_rows)
    :return: their mean over these rows, without gradient, (...)
    """
    return values.detach().mean(dim=-1)


@dataclass(frozen=True)
class Batch:
    """
    Rows that an update is computed from. All random numbers of the update come from :attr:`generator`, and whatever depends
    on all rows beyond a mean of losses goes by :attr:`mean`: then the same update can be resumed, shared out among processes
    and made for many models at once.

    :param observations: (batch_size, \\*shape), or a dictionary of such tensors
    :param actions: (batch_size, action_dim), scaled to [-1, 1]
    :param next_observations: as ``observations``
    :param dones: (batch_size, 1), 1 where the episode terminated
    :param rewards: (batch_size, 1), transformed
    :param discounts: (batch_size, 1), the discount of the next observation's value, where rewards are of several steps; else
        None: it is gamma
    :param rows: indices of the rows, (batch_size,)
    :param generator: source of random numbers, for :func:`~sb3_genpolicy.generative.draws.draw` and the losses that take one
    :param mean: of values, (..., batch_size), over all rows of the batch, also those that other processes have; without
        gradient, (...)
    """

    observations: Any
    actions: th.Tensor
    next_observations: Any
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None
    rows: th.Tensor
    generator: Source = None
    mean: Callable[[th.Tensor], th.Tensor] = mean_of_rows

    @classmethod
    def of(
        cls,
        samples: Any,
        rows: th.Tensor,
        generator: Source = None,
        mean: Callable[[th.Tensor], th.Tensor] = mean_of_rows,
    ) -> "Batch":
        """
        :param samples: rows, as SB3's replay buffers give them
        :param rows: their indices, (batch_size,)
        :param generator: source of random numbers
        :param mean: over the whole batch
        :return: the batch
        """
        return cls(**samples._asdict(), rows=rows, generator=generator, mean=mean)
