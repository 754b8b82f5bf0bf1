"""
What fitted Q evaluation learns of each kind of value, discounted or total, from logged rows.
"""

from typing import NamedTuple

import numpy as np
import torch as th

from sb3_genpolicy.evaluation.question import DISCOUNTED, Question


class RowsOfKind(NamedTuple):
    """
    Of every row, (n_rows,) on the device, and numbers for all of them.

    :param discounts: of what a step led to; 0 where nothing that counts follows
    :param returns: from the row on, as far as they were logged, see ``Question.returns_to_go``
    :param tail_discounts: of what its episode was cut off with; 0 where it was not
    :param first_weights: 1 where the return is known but for that, or 0
    :param shift: mean of the returns, about which networks give their values
    :param scale: their spread, in which networks give their values
    :param least: that a value can be
    :param most: that a value can be
    """

    discounts: th.Tensor
    returns: th.Tensor
    tail_discounts: th.Tensor
    first_weights: th.Tensor
    shift: float
    scale: float
    least: float
    most: float


def rows_of_kind(ask: Question, kind: int, device: th.device) -> RowsOfKind:
    """
    :param ask: what is asked
    :param kind: discounted or total
    :param device: where the tensors are
    :return: what is learnt from the rows
    """
    rows, last = np.arange(ask.data.n_rows), ask.last_rows[ask.episodes]
    is_open = ask.is_open(kind)[ask.episodes]
    # At their time limit totals are over; discounted values go on behind it
    stops = ask.terminals if kind == DISCOUNTED else ask.terminals | (np.asarray(ask.data.ends) & ~is_open)
    tail_discounts = np.where(is_open, ask.gamma_of(kind) ** (last - rows), 0.0)
    returns = ask.returns_to_go(kind)
    least, most = float(ask.rewards.min()), float(ask.rewards.max())
    longest = 1.0 / (1.0 - ask.gamma) if kind == DISCOUNTED else float(ask.horizon.steps or 1)
    # As if episodes went on with their mean reward where they were cut off
    steps_left = longest if kind == DISCOUNTED else longest - ask.steps[last]
    typical = returns + tail_discounts * steps_left * ask.rewards.mean()
    shift, spread = float(typical.mean()), float(typical.std())
    scale = spread if spread > 1e-6 * max(1.0, abs(shift)) else max(1.0, abs(most - least))
    # Of the last row of an episode that is open nothing is known but its reward
    weights = ask.is_counted & ~(is_open & (rows == last))

    def tensor(array: np.ndarray) -> th.Tensor:
        return th.as_tensor(array.astype(np.float32), device=device)

    return RowsOfKind(
        tensor(np.where(stops, 0.0, ask.gamma_of(kind))),
        tensor(returns),
        tensor(tail_discounts),
        tensor(weights),
        shift,
        scale,
        longest * min(least, 0.0),
        longest * max(most, 0.0),
    )
