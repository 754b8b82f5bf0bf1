"""
Log-probabilities of what a sampler gives, by the change of variables.

Two densities are offered. That of the continuous flow integrates the divergence of the field (Chen et al., 2018) and depends
on the solver only by its error. That of the K-step sampler itself multiplies the determinants of its K maps: exact for the
samples at hand, however few the steps.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch as th

from sb3_genpolicy.generative.checks import check_choice, check_number, with_named_options
from sb3_genpolicy.generative.paths import Path
from sb3_genpolicy.generative.solvers import TABLEAUS, Sampler, Velocity, odeint, odeint_adjoint, step_functions

Method = Literal["continuous", "hutchinson", "discrete"]
METHODS: tuple[Method, ...] = ("continuous", "hutchinson", "discrete")

# Newton's method doubles the digits with every iteration; halving the step serves starts that are far off
_NEWTON_ITERATIONS, _HALVINGS, _RESTARTS = 20, 6, 8


@with_named_options
@dataclass(frozen=True)
class Likelihood:
    """
    How a log-probability is computed.

    :param method: ``continuous``, the flow's density with the divergence exact (one forward-mode product a dimension);
        ``hutchinson``, the same with an unbiased estimate of the divergence (one product a probe, whatever the dimension),
        the probes fixed over a solve, so that what is integrated is smooth;
        ``discrete``, the density of the K-step sampler itself: the sum of log abs(det) of the Jacobians of its steps, and the
        inverse of each step by Newton's method
    :param sampler: solver and steps, one of the Runge-Kutta methods, or ``dopri5`` but for ``discrete``. Default: for
        ``discrete`` the sampler that acts; else rk4 with 16 steps, off by under a hundredth of a nat on smooth densities.
    :param gradient: ``backprop``, through the discretised solve; or ``adjoint``, torchdiffeq's, whose memory does not grow
        with the steps (not for ``discrete``)
    :param n_probes: number of probes of ``hutchinson``, whose variance falls in proportion
    :raises ValueError: for an unknown name, or a combination that does not exist
    """

    method: Method = "continuous"
    sampler: Sampler | None = None
    gradient: Literal["backprop", "adjoint"] = "backprop"
    n_probes: int = 1

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        check_choice("gradient", self.gradient, ("backprop", "adjoint"))
        check_number("n_probes", self.n_probes, low=1)
        if self.method == "discrete" and self.gradient == "adjoint":
            raise ValueError("The adjoint belongs to the continuous flow: method='discrete' needs gradient='backprop'.")

    def resolve_sampler(self, acting: Sampler) -> Sampler:
        """
        :param acting: the sampler that acts
        :return: the sampler that the log-probability refers to
        :raises ValueError: if it has no density of this method
        """
        sampler = self.sampler or (acting if self.method == "discrete" else Sampler("rk4", 16))
        allowed = [*TABLEAUS] if self.method == "discrete" else [*TABLEAUS, "dopri5"]
        if sampler.solver not in allowed:
            raise ValueError(
                f"solver='{sampler.solver}' has no log-probability of method='{self.method}'. There, use "
                f"{', '.join(allowed[:-1])} or {allowed[-1]}: Likelihood('{self.method}', Sampler('{allowed[0]}', steps))."
            )
        return sampler

    def probes(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: points, (batch_size, dim)
        :return: directions along which the field is differentiated: every axis, (dim, 1, dim), or random signs,
            (n_probes, batch_size, dim), scaled such that their products add up to the divergence
        """
        if self.method != "hutchinson":
            return th.eye(x.shape[1], dtype=x.dtype, device=x.device)[:, None]
        signs = th.randint(0, 2, (self.n_probes, *x.shape), device=x.device).to(x.dtype) * 2.0 - 1.0
        return signs / math.sqrt(self.n_probes)


def standard_normal_log_prob(x: th.Tensor, std: float = 1.0) -> th.Tensor:
    """
    :param x: (batch_size, dim)
    :param std: standard deviation of every coordinate
    :return: log-density of N(0, std^2 I), (batch_size,)
    """
    return -0.5 * (x / std).square().sum(dim=1) - x.shape[1] * (0.5 * math.log(2.0 * math.pi) + math.log(std))


def jacobian_products(
    function: Callable[[th.Tensor], th.Tensor], x: th.Tensor, directions: th.Tensor
) -> tuple[th.Tensor, th.Tensor]:
    """
    Value of a function and its Jacobian's products with several directions at once: vectorised forward mode, through which
    backpropagation works.

    :param function: of (batch_size, dim), row by row
    :param x: (batch_size, dim)
    :param directions: (n_directions, batch_size or 1, dim)
    :return: ``function(x)``, (batch_size, dim), and the products, (n_directions, batch_size, dim)
    """

    def product(direction: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return th.func.jvp(function, (x,), (direction.expand_as(x),))  # type: ignore[return-value]

    return th.func.vmap(product, out_dims=(None, 0))(directions)  # type: ignore[arg-type]


def jacobian(function: Callable[[th.Tensor], th.Tensor], x: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    :param function: of (batch_size, dim), row by row
    :param x: (batch_size, dim)
    :return: ``function(x)`` and its Jacobian at each row, (batch_size, dim, dim)
    """
    value, columns = jacobian_products(function, x, th.eye(x.shape[1], dtype=x.dtype, device=x.device)[:, None])
    return value, columns.permute(1, 2, 0)


def flow_with_log_density(
    velocity: Callable[[th.Tensor, th.Tensor, th.Tensor], th.Tensor],
    x: th.Tensor,
    condition: th.Tensor,
    parameters: list[th.Tensor],
    path: Path,
    sampler: Sampler,
    likelihood: Likelihood,
    reverse: bool,
) -> tuple[th.Tensor, th.Tensor]:
    """
    One solve for where the points go and how their log-density changes on the way.

    :param velocity: a field of (t, x, condition)
    :param x: noise, or data if ``reverse``, (batch_size, dim)
    :param condition: (batch_size, condition_dim)
    :param parameters: what the adjoint's gradients are to reach
    :param path: the path
    :param sampler: solver and steps
    :param likelihood: method and gradient
    :param reverse: from data to noise
    :return: the points at the other end, (batch_size, dim), and the log-density gained on the way, (batch_size,)
    """
    probes = likelihood.probes(x)
    z = th.cat([x, x.new_zeros((x.shape[0], 1))], dim=1)

    def augmented(t: th.Tensor, z: th.Tensor, condition: th.Tensor) -> th.Tensor:
        # Points, and the log-density they gain: minus the divergence
        value, products = jacobian_products(lambda x: velocity(t, x, condition), z[:, :-1], probes)
        return th.cat([value, -(products * probes).sum(dim=(0, 2))[:, None]], dim=1)

    if likelihood.gradient == "adjoint":
        z = odeint_adjoint(augmented, z, condition, parameters, sampler, path, reverse)
    else:
        z = odeint(lambda t, z: augmented(t, z, condition), z, sampler, path, reverse)
    return z[:, :-1], z[:, -1]


def steps_with_log_density(velocity: Velocity, x0: th.Tensor, path: Path, sampler: Sampler) -> tuple[th.Tensor, th.Tensor]:
    """
    The K-step sampler and the log-density its samples gain: minus the sum of log abs(det) of its steps' Jacobians.

    :param velocity: a field of (t, x)
    :param x0: noise, (batch_size, dim)
    :param path: the path
    :param sampler: a Runge-Kutta method
    :return: samples, (batch_size, dim), and the log-density gained, (batch_size,)
    """
    x, gained = x0, x0.new_zeros(x0.shape[0])
    for step in step_functions(velocity, sampler, path, x0.dtype, x0.device):
        x, step_jacobian = jacobian(step, x)
        gained = gained - th.linalg.slogdet(step_jacobian).logabsdet
    return x, gained


def invert_steps_with_log_density(
    velocity: Velocity, x1: th.Tensor, path: Path, sampler: Sampler
) -> tuple[th.Tensor, th.Tensor]:
    """
    The inverse of :func:`steps_with_log_density`: which noise the K-step sampler carries to given points.

    Too few steps for a field that bends may fold: a point then comes from several noises, of which one is found, or from none,
    and its log-density is minus infinity. Euler steps of an exact velocity on the linear path never fold.

    :param velocity: a field of (t, x)
    :param x1: points, (batch_size, dim)
    :param path: the path
    :param sampler: a Runge-Kutta method
    :return: their noise, (batch_size, dim), and the log-density gained from noise to point, (batch_size,)
    """
    x, gained = x1, x1.new_zeros(x1.shape[0])
    found = th.ones(x1.shape[0], dtype=th.bool, device=x1.device)
    steps = step_functions(velocity, sampler, path, x1.dtype, x1.device)
    for step in reversed(steps):
        x, step_found = invert(step, x)
        found &= step_found
        _, step_jacobian = jacobian(step, x)
        gained = gained - th.linalg.slogdet(step_jacobian).logabsdet
    if not found.all():
        warnings.warn(
            f"For {int((~found).sum())} of {len(found)} points no noise was found that {sampler.steps} {sampler.solver} steps "
            "carry to them: their log-probability is given as -inf. More steps make every step invertible."
        )
    return x, th.where(found, gained, -math.inf)


def invert(function: Callable[[th.Tensor], th.Tensor], y: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Solve ``function(x) = y`` by Newton's method with halved steps where a whole one leads away, and from further starts where
    the first one fails. Gradients in y and in the function's parameters follow from the implicit function theorem.

    :param function: of (batch_size, dim), row by row, near the identity
    :param y: (batch_size, dim)
    :return: x, (batch_size, dim), and whether it was found, (batch_size,); rows that were not are y itself
    """
    with th.no_grad():
        displacement = function(y) - y
        # Undone where it ends: exact for constant fields
        x, matrix, found = _newton(function, y, y - displacement)
        generator = th.Generator(y.device).manual_seed(0)
        for _ in range(_RESTARTS):
            if found.all():
                break
            noise = th.randn(y.shape, generator=generator, device=y.device, dtype=y.dtype)
            start = y - displacement + noise * displacement.norm(dim=1, keepdim=True)
            again, again_matrix, again_found = _newton(function, y, th.where(found[:, None], x, start))
            x = th.where(found[:, None], x, again)
            matrix = th.where(found[:, None, None], matrix, again_matrix)
            found = found | again_found
        x = th.where(found[:, None], x, y)
    if not th.is_grad_enabled():
        return x, found
    # One more Newton step, whose value is nought and whose gradient is that of the inverse
    matrix = th.where(found[:, None, None], matrix, th.eye(y.shape[1], dtype=y.dtype, device=y.device))
    correction = th.linalg.solve(matrix, (function(x) - y)[:, :, None])[:, :, 0]
    return th.where(found[:, None], x - correction, x), found


def _newton(function: Callable[[th.Tensor], th.Tensor], y: th.Tensor, x: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """The solution from one start, the Jacobian there, and in which rows it is one."""
    tolerance = 100.0 * th.finfo(y.dtype).eps * (1.0 + y.abs().amax(dim=1))
    value, matrix = jacobian(function, x)
    for _ in range(_NEWTON_ITERATIONS):
        error = (value - y).norm(dim=1)
        if (error <= tolerance).all():
            break
        x = _newton_step(function, x, y, value, matrix, error)
        value, matrix = jacobian(function, x)
    return x, matrix, (value - y).norm(dim=1) <= 10.0 * tolerance


def _newton_step(
    function: Callable[[th.Tensor], th.Tensor],
    x: th.Tensor,
    y: th.Tensor,
    value: th.Tensor,
    matrix: th.Tensor,
    error: th.Tensor,
) -> th.Tensor:
    solution, _ = th.linalg.solve_ex(matrix, (value - y)[:, :, None])
    direction = solution[:, :, 0]
    # Where the Jacobian is singular, go along the error itself
    direction = th.where(direction.isfinite().all(dim=1, keepdim=True), direction, value - y)
    length = th.ones_like(error)
    for _ in range(_HALVINGS):
        worse = (function(x - length[:, None] * direction) - y).norm(dim=1) > error
        if not worse.any():
            break
        length = th.where(worse, 0.5 * length, length)
    return x - length[:, None] * direction
