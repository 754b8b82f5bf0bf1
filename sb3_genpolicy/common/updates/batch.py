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
    Rows that an update is computed from. An update has to draw all its random numbers from :attr:`generator`, and to compute
    every mean over the batch, other than that of the loss, by :attr:`mean`. Then it can be resumed, shared by several
    processes, and computed for several models at once.

    :param observations: (batch_size, \\*shape), or a dictionary of such tensors
    :param actions: (batch_size, action_dim), scaled to [-1, 1]
    :param next_observations: as ``observations``
    :param dones: (batch_size, 1), 1 where the episode terminated
    :param rewards: (batch_size, 1), transformed
    :param discounts: (batch_size, 1), with n-step returns the discount of the next observation's value; otherwise None, which
        stands for gamma
    :param rows: indices of the rows, (batch_size,)
    :param next_actions: (batch_size, action_dim), the logged actions at the next observations, scaled, and not a number where
        none was logged; None for algorithms and critics that do not ask for them
    :param logged_windows: (batch_size, n_steps * action_dim), the logged actions from the rows on, scaled, as many as critics
        are distilled from; None for critics that are not
    :param matched: as many rows that the policy is matched to, drawn as often as their episodes weigh; None: these
    :param generator: source of random numbers, for :func:`~sb3_genpolicy.generative.draws.draw` and the losses that take one
    :param mean: function from values, (..., batch_size), to their mean over all rows of the batch, (...), those in other
        processes included; without gradient
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
    next_actions: th.Tensor | None = None
    matched: "Batch | None" = None
    logged_windows: th.Tensor | None = None

    @property
    def for_policy(self) -> "Batch":
        """
        :return: the rows that the policy is matched to: of better episodes more, where these weigh more, else the same
        """
        return self if self.matched is None else self.matched

    @classmethod
    def of(
        cls,
        samples: Any,
        rows: th.Tensor,
        generator: Source = None,
        mean: Callable[[th.Tensor], th.Tensor] = mean_of_rows,
        next_actions: th.Tensor | None = None,
        matched: "Batch | None" = None,
        logged_windows: th.Tensor | None = None,
    ) -> "Batch":
        """
        :param samples: rows, as SB3's replay buffers give them
        :param rows: their indices, (batch_size,)
        :param generator: source of random numbers
        :param mean: from values, (..., batch_size), to their mean over the whole batch, (...)
        :param next_actions: logged actions at the next observations, (batch_size, action_dim), None where nobody asks for them
        :param matched: rows that the policy is matched to, None where they are these
        :param logged_windows: logged actions from the rows on, (batch_size, n_steps * action_dim), None where nobody asks for
            them
        :return: the batch
        """
        beside: dict[str, Any] = dict(next_actions=next_actions, matched=matched, logged_windows=logged_windows)
        columns: dict[str, Any] = dict(samples._asdict(), rows=rows, **beside)
        return cls(**columns, generator=generator, mean=mean)
