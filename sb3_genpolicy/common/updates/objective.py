"""
What a gradient step descends on.
"""

from dataclasses import dataclass, field

import torch as th


@dataclass(frozen=True)
class Objective:
    """
    What one update descends on.

    :param losses: scalars, of shape (), by the name that they are logged under; no two of them train the same network
    :param trains: names of these networks, as the policy has them (``actor``, ``critic``, ...)
    :param means: further scalars, of shape (), for the log
    :param extras: scalars, of shape (), that the algorithm needs before the step, and are not logged
    """

    losses: dict[str, th.Tensor]
    trains: tuple[str, ...]
    means: dict[str, th.Tensor] = field(default_factory=dict)
    extras: dict[str, th.Tensor] = field(default_factory=dict)

    def __add__(self, other: "Objective") -> "Objective":
        """
        :param other: an objective of other networks
        :return: the objective of both
        """
        return Objective(
            {**self.losses, **other.losses},
            (*self.trains, *other.trains),
            {**self.means, **other.means},
            {**self.extras, **other.extras},
        )
