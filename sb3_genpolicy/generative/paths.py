"""
Probability paths between noise and data: ``x_t = alpha(t) x_1 + sigma(t) x_0``.

Time runs from ``t = 0`` (noise, ``x_0 ~ N(0, I)``) to ``t = 1`` (data, ``x_1``) for every path.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch as th


class PathCoefficients(NamedTuple):
    """
    The four scalars of a path at the times asked for, each of the shape of ``t``.
    """

    alpha: th.Tensor
    sigma: th.Tensor
    d_alpha: th.Tensor
    d_sigma: th.Tensor


class Path(ABC):
    """
    A path is its four scalars; everything else (targets, conversions, samplers) follows from them.
    """

    #: Latest time at which the scalars are evaluated, later ones are clamped to it. Below 1 if a derivative is infinite there
    t_max: float = 1.0

    @abstractmethod
    def _coefficients(self, t: th.Tensor) -> PathCoefficients:
        """
        :param t: times, already clamped to [0, ``t_max``]
        :return: alpha, sigma and their derivatives in t
        """

    def __call__(self, t: th.Tensor) -> PathCoefficients:
        """
        :param t: times in [0, 1], any shape
        :return: alpha, sigma and their derivatives in t, each of the shape of ``t``
        """
        return self._coefficients(t.clamp(0.0, self.t_max))

    def sampling_time(self, s: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        The time at which a sampler stands after a share of its way, so that steps of equal length in ``s`` suit the path.

        :param s: share of the sampler's way, in [0, 1]
        :return: the time t(s), in [0, 1], and dt / ds, both of the shape of ``s``
        """
        return s, th.ones_like(s)

    def interpolate(self, t: th.Tensor, x0: th.Tensor, x1: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        The point of the path between a noise and a data point, and the velocity with which it passes.

        :param t: times, (batch_size, 1)
        :param x0: noise, (batch_size, dim)
        :param x1: data, (batch_size, dim)
        :return: ``x_t`` and ``d x_t / dt``, both (batch_size, dim)
        """
        alpha, sigma, d_alpha, d_sigma = self(t)
        return alpha * x1 + sigma * x0, d_alpha * x1 + d_sigma * x0


class LinearPath(Path):
    """
    Straight lines: ``alpha = t``, ``sigma = 1 - t`` (I-CFM, rectified flow).
    """

    def _coefficients(self, t: th.Tensor) -> PathCoefficients:
        one = th.ones_like(t)
        return PathCoefficients(t, 1.0 - t, one, -one)


class CosinePath(Path):
    """
    A quarter of a circle: ``alpha = sin(pi t / 2)``, ``sigma = cos(pi t / 2)`` (GVP in the paper).
    """

    def _coefficients(self, t: th.Tensor) -> PathCoefficients:
        half_pi = math.pi / 2
        # cos(pi t / 2) written as a sine, so that it is exactly zero at t = 1 in float32 too
        alpha, sigma = th.sin(half_pi * t), th.sin(half_pi * (1.0 - t))
        return PathCoefficients(alpha, sigma, half_pi * sigma, -half_pi * alpha)


class VPPath(Path):
    """
    The variance-preserving diffusion (VP-SDE) with a linear noise rate ``b(u) = beta_min + u (beta_max - beta_min)``
    in the noise time ``u = 1 - t``: ``alpha = exp(-B / 2)``, ``sigma = sqrt(1 - alpha^2)``, ``B`` the integral of ``b``
    from 0 to u.

    The derivative of sigma is infinite at ``t = 1``; times past ``1 - 1e-5`` are clamped (as in Song et al., 2021).

    :param beta_min: noise rate at the data, > 0
    :param beta_max: noise rate at the noise, >= ``beta_min``. With the default 20, ``alpha(0)`` is 0.0066: what is left of the
        data at ``t = 0`` is under a hundredth of the noise.
    """

    t_max = 1.0 - 1e-5

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0):
        if not 0.0 < beta_min <= beta_max:
            raise ValueError(f"VPPath needs 0 < beta_min <= beta_max, not beta_min={beta_min} and beta_max={beta_max}.")
        self.beta_min = beta_min
        self.beta_max = beta_max

    def _coefficients(self, t: th.Tensor) -> PathCoefficients:
        u = 1.0 - t
        rate = self.beta_min + u * (self.beta_max - self.beta_min)
        integral = u * (self.beta_min + 0.5 * u * (self.beta_max - self.beta_min))
        alpha = th.exp(-0.5 * integral)
        # expm1 keeps the digits of 1 - alpha^2 near the data, where it is small
        sigma = th.sqrt(-th.expm1(-integral))
        d_alpha = 0.5 * rate * alpha
        return PathCoefficients(alpha, sigma, d_alpha, -alpha * d_alpha / sigma)

    def sampling_time(self, s: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        Steps of equal angle: ``alpha = sin(phi)``, ``sigma = cos(phi)``, phi linear in ``s``. Uniform steps in t would cross
        the last third of the noise in one; in phi the path is the cosine path, smooth up to its end.
        """
        first = math.asin(math.exp(-0.25 * (self.beta_min + self.beta_max)))
        angle = first + (math.pi / 2 - first) * s
        integral = -th.log1p(-th.cos(angle).square().clamp(max=1.0 - 1e-12))
        slope = self.beta_max - self.beta_min
        # The root of u (beta_min + slope u / 2) = integral, in the form that needs no slope > 0
        u = 2.0 * integral / (self.beta_min + th.sqrt(self.beta_min**2 + 2.0 * slope * integral))
        t = (1.0 - u).clamp(0.0, self.t_max)
        _, sigma, d_alpha, _ = self(t)
        return t, (math.pi / 2 - first) * sigma / d_alpha


PATHS: dict[str, type[Path]] = {"linear": LinearPath, "cosine": CosinePath, "vp": VPPath}
