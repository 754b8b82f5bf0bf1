"""
Time grids: which variable a sampler's steps are laid out in, and where they begin and end.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch as th

from sb3_genpolicy.generative.paths import Path

#: Where the signal-to-noise ratio alpha / sigma of a log-SNR grid (and of likelihood weighting) is cut off at either end
RATIO_MAX = 1e3
# Exponent of the tapered grid. Of 1 to 2.5 at five midpoint steps, 1.5 to 2 came out best on five trained policies and on
# narrow Gaussians (docs/guide/generative.md)
_TAPER = 1.75


class TimeGrid(NamedTuple):
    """
    :param times: (path, s) -> t(s) and dt / ds for shares ``s`` of the way, in [0, 1]. Solvers integrate in ``s``.
    :param taper: the k-th of K steps ends at ``s = 1 - (1 - k / K)^taper``; 1 for steps of equal length
    """

    times: Callable[[Path, th.Tensor], tuple[th.Tensor, th.Tensor]]
    taper: float = 1.0

    def knots(self, steps: int, reverse: bool = False) -> th.Tensor:
        """
        :param steps: number of steps
        :param reverse: from data to noise
        :return: where steps begin and end, in ``s``, (steps + 1,), float64
        """
        knots = 1.0 - (1.0 - th.linspace(0.0, 1.0, steps + 1, dtype=th.float64)) ** self.taper
        return knots.flip(0) if reverse else knots


def uniform(path: Path, s: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """Equal steps of time."""
    return s, th.ones_like(s)


def angle(path: Path, s: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Equal steps of atan(alpha / sigma). In this time every variance-preserving path is the cosine path, smooth up to its end.
    """
    first, last = path.angle(th.tensor([0.0, 1.0], dtype=th.float64)).tolist()
    return _time_of_angle(path, first + (last - first) * s, s.new_full((), last - first))


def log_snr(path: Path, s: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Equal steps of log(alpha / sigma) (half the log-SNR), as is usual for DPM-Solver. Both ends may be infinite, and are cut
    where noise outweighs data, or data noise, 1000 to 1.
    """
    first, last = log_ratio_range(path)
    angles = th.atan(th.exp(first + (last - first) * s))
    # d angle / d log tan(angle) = sin cos
    return _time_of_angle(path, angles, (last - first) * angles.sin() * angles.cos())


def log_ratio_range(path: Path) -> tuple[float, float]:
    """
    :param path: a path
    :return: the smallest and the largest log(alpha / sigma) on it, cut at plus and minus log 1000
    """
    angles = path.angle(th.tensor([0.0, 1.0], dtype=th.float64))
    low, high = math.atan(1.0 / RATIO_MAX), math.atan(RATIO_MAX)
    first, last = angles.clamp(low, high).tan().log().tolist()
    return first, last


def _time_of_angle(path: Path, angles: th.Tensor, d_angle: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    t = path.time_of_angle(angles).clamp(0.0, path.t_max)
    coefficients = path(t)
    # d angle / dt = wronskian / (alpha^2 + sigma^2)
    return t, d_angle * (coefficients.alpha.square() + coefficients.sigma.square()) / coefficients.wronskian


def smooth(path: Path, s: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """The angle where the path is smooth in it, else time."""
    return angle(path, s) if path.smooth_in_angle else uniform(path, s)


#: By name. ``tapered``, the default, takes shorter steps the nearer the data, where fields of narrow distributions are stiff.
TIME_GRIDS: dict[str, TimeGrid] = {
    "tapered": TimeGrid(smooth, _TAPER),
    "uniform": TimeGrid(uniform),
    "angle": TimeGrid(angle),
    "log_snr": TimeGrid(log_snr),
}
