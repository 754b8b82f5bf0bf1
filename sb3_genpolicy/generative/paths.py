"""
Probability paths between noise and data: ``x_t = alpha(t) x_1 + sigma(t) x_0``.

Time runs from ``t = 0`` (noise, ``x_0 ~ N(0, I)``) to ``t = 1`` (data, ``x_1``) for every path.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch as th

from sb3_genpolicy.generative.checks import check_number


class PathCoefficients(NamedTuple):
    """
    The four scalars of a path at the times asked for, each of the shape of ``t``.
    """

    alpha: th.Tensor
    sigma: th.Tensor
    d_alpha: th.Tensor
    d_sigma: th.Tensor

    @property
    def wronskian(self) -> th.Tensor:
        """``d_alpha sigma - alpha d_sigma``, positive: what conversions between predictions divide by."""
        return self.d_alpha * self.sigma - self.alpha * self.d_sigma


class Path(ABC):
    """
    A path is its four scalars; everything else (targets, conversions, samplers) follows from them.

    What samplers take from a path is computed once if all of its attributes are plain numbers or strings, and every time if
    not: a path of your own may learn.
    """

    #: Latest time at which the scalars are evaluated, later ones are clamped to it. Below 1 if a derivative is infinite there
    t_max: float = 1.0
    #: Standard deviation of the noise that a sampler starts from
    prior_std: float = 1.0
    #: What a network may predict on this path
    predictions: ClassVar[tuple[str, ...]] = ("velocity", "noise", "score", "data")
    #: Whether fields are smooth up to the path's end in the angle atan(alpha / sigma) rather than in time
    smooth_in_angle: ClassVar[bool] = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={option}' for name, option in vars(self).items())})"

    @abstractmethod
    def _coefficients(self, t: th.Tensor) -> PathCoefficients:
        """
        :param t: times, already clamped to [0, ``t_max``]
        :return: alpha, sigma and their derivatives in t
        """

    @abstractmethod
    def time_of_angle(self, angle: th.Tensor) -> th.Tensor:
        """
        The time at which data and noise mix in a given ratio.

        :param angle: atan(alpha / sigma), from 0 (noise alone) to pi / 2 (data alone), any shape
        :return: that time, of the same shape; not clamped where the path does not reach the angle
        """

    def __call__(self, t: th.Tensor) -> PathCoefficients:
        """
        :param t: times in [0, 1], any shape
        :return: alpha, sigma and their derivatives in t, each of the shape of ``t``
        """
        return self._coefficients(t.clamp(0.0, self.t_max))

    def angle(self, t: th.Tensor) -> th.Tensor:
        """
        :param t: times in [0, 1], any shape
        :return: atan(alpha / sigma), in [0, pi / 2], of the same shape
        """
        alpha, sigma, _, _ = self(t)
        return th.atan2(alpha, sigma)

    def squared_diffusion(self, t: th.Tensor) -> th.Tensor:
        """
        ``g^2`` of the diffusion ``dx = f x du + g dw`` (in the noise time ``u = 1 - t``) that has the path's marginals:
        ``d sigma^2 / du - 2 (d log alpha / du) sigma^2`` (Song et al., 2021).

        :param t: times in [0, 1], any shape. Infinite where alpha is zero.
        :return: ``g^2``, of the shape of ``t``
        """
        coefficients = self(t)
        return 2.0 * coefficients.sigma * coefficients.wronskian / coefficients.alpha

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

    With ``extra_noise`` s, the published I-CFM adds an independent ``s eps`` to every ``x_t``. Both noises are Gaussian and
    add up to one of standard deviation ``sigma = sqrt((1 - t)^2 + s^2)``, which gives the same velocity field from targets
    that vary less. Such a model starts from noise of standard deviation ``sqrt(1 + s^2)`` and ends at the data blurred by s.

    :param extra_noise: standard deviation of the extra noise, >= 0 (published: 0.1; 0, the default, blurs nothing)
    :raises ValueError: if it is negative
    """

    # A noise network would have to say more of the data than x itself, which is all noise at t = 0
    predictions = ("velocity", "data")

    def __init__(self, extra_noise: float = 0.0):
        check_number("extra_noise of LinearPath", extra_noise, low=0.0)
        self.extra_noise = extra_noise
        self.prior_std = math.sqrt(1.0 + extra_noise**2)

    def _coefficients(self, t: th.Tensor) -> PathCoefficients:
        one = th.ones_like(t)
        if self.extra_noise == 0.0:
            return PathCoefficients(t, 1.0 - t, one, -one)
        sigma = th.sqrt((1.0 - t).square() + self.extra_noise**2)
        return PathCoefficients(t, sigma, one, (t - 1.0) / sigma)

    def time_of_angle(self, angle: th.Tensor) -> th.Tensor:
        # The positive root of t^2 cos^2 = sin^2 ((1 - t)^2 + extra), in the form that divides by no difference
        sin, cos, extra = angle.sin(), angle.cos(), self.extra_noise**2
        root = ((1.0 + extra) * cos.square() - extra * sin.square()).clamp(min=0.0).sqrt()
        return (1.0 + extra) * sin / (sin + root)


class CosinePath(Path):
    """
    A quarter of a circle: ``alpha = sin(pi t / 2)``, ``sigma = cos(pi t / 2)`` (GVP in the paper).
    """

    def _coefficients(self, t: th.Tensor) -> PathCoefficients:
        half_pi = math.pi / 2
        # cos(pi t / 2) written as a sine, so that it is exactly zero at t = 1 in float32 too
        alpha, sigma = th.sin(half_pi * t), th.sin(half_pi * (1.0 - t))
        return PathCoefficients(alpha, sigma, half_pi * sigma, -half_pi * alpha)

    def time_of_angle(self, angle: th.Tensor) -> th.Tensor:
        return angle * (2.0 / math.pi)


class VPPath(Path):
    """
    The variance-preserving diffusion (VP-SDE) with a linear noise rate ``b(u) = beta_min + u (beta_max - beta_min)``
    in the noise time ``u = 1 - t``: ``alpha = exp(-B / 2)``, ``sigma = sqrt(1 - alpha^2)``, ``B`` the integral of ``b``
    from 0 to u.

    The derivative of sigma is infinite at ``t = 1``; times past ``1 - 1e-5`` are clamped (as in Song et al., 2021).

    :param beta_min: noise rate at the data, > 0
    :param beta_max: noise rate at the noise, >= ``beta_min``. With the default 20, ``alpha(0)`` is 0.0066: what is left of the
        data at ``t = 0`` is under a hundredth of the noise.
    :raises ValueError: for any other rates
    """

    t_max = 1.0 - 1e-5
    # Uniform steps in t would cross the last third of the noise in one
    smooth_in_angle = True

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

    def time_of_angle(self, angle: th.Tensor) -> th.Tensor:
        # alpha = sin(angle) = exp(-B / 2)
        integral = -th.log1p(-th.cos(angle).square().clamp(max=1.0 - 1e-12))
        slope = self.beta_max - self.beta_min
        # The root of u (beta_min + slope u / 2) = integral, in the form that needs no slope > 0
        return 1.0 - 2.0 * integral / (self.beta_min + th.sqrt(self.beta_min**2 + 2.0 * slope * integral))


PATHS: dict[str, type[Path]] = {"linear": LinearPath, "cosine": CosinePath, "vp": VPPath}
