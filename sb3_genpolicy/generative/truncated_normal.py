"""
Normal distributions that end at the bounds of actions.
"""

import math
from typing import NamedTuple

import torch as th

_ROOT_2 = math.sqrt(2.0)
_LOG_ROOT_2_PI = 0.5 * math.log(2.0 * math.pi)


class TruncatedNormal(NamedTuple):
    """
    Independent normal distributions, cut off at -1 and 1 and made to integrate to 1 between them. In contrast to a normal
    distribution squashed by tanh, the density of an action at a bound is finite.

    :param location: where each has its mode, (batch_size, dim), in [-1, 1]
    :param scale: standard deviation before the cut, (batch_size, dim) or (dim,), > 0
    """

    location: th.Tensor
    scale: th.Tensor

    def _ends(self) -> tuple[th.Tensor, th.Tensor]:
        """erf of the two ends. One of them is at or beyond the mode on its side, so that their difference keeps its digits."""
        width = _ROOT_2 * self.scale
        return th.erf((-1.0 - self.location) / width), th.erf((1.0 - self.location) / width)

    def log_prob(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (batch_size, dim)
        :return: log-density, (batch_size,); minus infinity beyond the ends
        """
        low, high = self._ends()
        of_normal = -0.5 * ((x - self.location) / self.scale).square() - self.scale.log() - _LOG_ROOT_2_PI
        log_prob = of_normal - (0.5 * (high - low)).log()
        return log_prob.masked_fill(x.abs() > 1.0, -math.inf).sum(dim=-1)

    def quantile(self, uniform: th.Tensor) -> th.Tensor:
        """
        :param uniform: levels in [0, 1], (batch_size, dim); uniform draws become draws of the distribution
        :return: the quantiles, (batch_size, dim), in [-1, 1]
        """
        low, high = self._ends()
        return (self.location + _ROOT_2 * self.scale * th.erfinv(low + uniform * (high - low))).clamp(-1.0, 1.0)
