"""
What a gradient step descends on.
"""

from typing import NamedTuple

import torch as th


class Objective(NamedTuple):
    """
    What one update descends on.

    :param losses: scalars by the name that they are logged under, each of networks of its own
    :param means: further scalars for the log
    :param trains_critics: whether Q and V are among these networks, besides the actor
    :param kl: divergence from the behaviour policy, where it was estimated, a scalar
    """

    losses: dict[str, th.Tensor]
    means: dict[str, th.Tensor]
    trains_critics: bool
    kl: th.Tensor | None = None
