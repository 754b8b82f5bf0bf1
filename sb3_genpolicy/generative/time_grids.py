"""
Time grids: where a sampler stands after a share ``s`` of its way. Steps are of equal length in ``s``.
"""

import math
from collections.abc import Callable

import torch as th

from sb3_genpolicy.generative.paths import Path

#: Where the signal-to-noise ratio alpha / sigma of a log-SNR grid (and of likelihood weighting) is cut off at either end
RATIO_MAX = 1e3

#: A grid: (path, s) -> t(s) and dt / ds, all of the shape of s
TimeGrid = Callable[[Path, th.Tensor], tuple[th.Tensor, th.Tensor]]


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


TIME_GRIDS: dict[str, TimeGrid] = {"uniform": uniform, "angle": angle, "log_snr": log_snr}
