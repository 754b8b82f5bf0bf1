"""
Log-probabilities of what a sampler gives, by the change of variables.

Two densities are offered. That of the continuous flow integrates the divergence of the field (Chen et al., 2018) and depends
on the solver only by its error. That of the K-step sampler itself multiplies the determinants of its K maps: exact for the
samples at hand, however few the steps.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch as th

from sb3_genpolicy.generative.checks import check_choice, check_number, with_named_options
from sb3_genpolicy.generative.draws import Source, draw
from sb3_genpolicy.generative.inversion import invert, jacobian, jacobian_products
from sb3_genpolicy.generative.paths import Path
from sb3_genpolicy.generative.schedules import TABLEAUS
from sb3_genpolicy.generative.solvers import Sampler, Velocity, odeint, odeint_adjoint, step_functions

Method = Literal["continuous", "hutchinson", "discrete"]
METHODS: tuple[Method, ...] = ("continuous", "hutchinson", "discrete")


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
        check_number("n_probes", self.n_probes, low=1, whole=True)
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

    def probes(self, x: th.Tensor, generator: Source = None) -> th.Tensor:
        """
        :param x: points, (batch_size, dim)
        :param generator: source of random signs; torch's global one by default
        :return: directions along which the field is differentiated: every axis, (dim, 1, dim), or random signs,
            (n_probes, batch_size, dim), scaled such that their products add up to the divergence
        """
        if self.method != "hutchinson":
            return th.eye(x.shape[1], dtype=x.dtype, device=x.device)[:, None]
        return draw("sign", (self.n_probes, *x.shape), x, generator, rows_axis=1) / math.sqrt(self.n_probes)


def standard_normal_log_prob(x: th.Tensor, std: float = 1.0) -> th.Tensor:
    """
    :param x: (batch_size, dim)
    :param std: standard deviation of every coordinate
    :return: log-density of N(0, std^2 I), (batch_size,)
    """
    return -0.5 * (x / std).square().sum(dim=1) - x.shape[1] * (0.5 * math.log(2.0 * math.pi) + math.log(std))


def flow_with_log_density(
    velocity: Callable[[th.Tensor, th.Tensor, th.Tensor], th.Tensor],
    x: th.Tensor,
    condition: th.Tensor,
    parameters: list[th.Tensor],
    path: Path,
    sampler: Sampler,
    likelihood: Likelihood,
    reverse: bool,
    generator: Source = None,
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
    :param generator: source of random probes; torch's global one by default
    :return: the points at the other end, (batch_size, dim), and the log-density gained on the way, (batch_size,)
    """
    probes = likelihood.probes(x, generator)
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


class StepSamples(NamedTuple):
    """
    :param x1: samples, (batch_size, dim)
    :param gained: the log-density gained from noise to sample, (batch_size,)
    :param trail: for every step, where it began, (batch_size, dim), and its Jacobian there, (batch_size, dim, dim)
    """

    x1: th.Tensor
    gained: th.Tensor
    trail: list[tuple[th.Tensor, th.Tensor]]


def steps_with_log_density(velocity: Velocity, x0: th.Tensor, path: Path, sampler: Sampler) -> StepSamples:
    """
    The K-step sampler and the log-density its samples gain: minus the sum of log abs(det) of its steps' Jacobians.

    :param velocity: a field of (t, x)
    :param x0: noise, (batch_size, dim)
    :param path: the path
    :param sampler: a Runge-Kutta method
    :return: samples, log-density gained, and the way there
    """
    x, gained, trail = x0, x0.new_zeros(x0.shape[0]), []
    for step in step_functions(velocity, sampler, path, x0.dtype, x0.device):
        start = x
        x, step_jacobian = jacobian(step, start)
        gained = gained - th.linalg.slogdet(step_jacobian).logabsdet
        trail.append((start.detach(), step_jacobian.detach()))
    return StepSamples(x, gained, trail)


def steps_log_prob(
    velocity: Velocity,
    x1: th.Tensor,
    path: Path,
    sampler: Sampler,
    trail: Sequence[tuple[th.Tensor, th.Tensor]] | None = None,
    frozen: bool = False,
) -> tuple[th.Tensor, th.Tensor]:
    """
    The log-density of :func:`steps_with_log_density` at given points: which noise does the K-step sampler carry to them?

    Too few steps for a field that bends may fold: a point then comes from several noises, of which one is found, or from none,
    and its log-density is minus infinity. Euler steps of an exact velocity on the linear path never fold.

    Gradients follow from the implicit function theorem, applied once to all steps together.

    :param velocity: a field of (t, x)
    :param x1: points, (batch_size, dim)
    :param path: the path
    :param sampler: a Runge-Kutta method
    :param trail: the way on which another, similar field came to these points, which makes theirs quick to find
    :param frozen: whether gradients are to reach the points alone, not what the field depends on
    :return: log-density, (batch_size,), and whether a noise was found, (batch_size,)
    """
    x0, found = _noise_of(step_functions(velocity, sampler, path, x1.dtype, x1.device), x1.detach(), trail)
    with_gradient = th.is_grad_enabled() and (x1.requires_grad or not frozen)
    with th.set_grad_enabled(with_gradient):
        x0.requires_grad_(with_gradient)
        reached, gained, own_trail = steps_with_log_density(velocity, x0, path, sampler)
        log_prob = standard_normal_log_prob(x0, path.prior_std) + gained
    if with_gradient:
        (slope,) = th.autograd.grad(log_prob.sum(), x0, retain_graph=not frozen)
        if frozen:
            log_prob, reached = log_prob.detach(), reached.detach()
        # By how much the noise moves as the points do, or the steps: the inverse of all steps' Jacobian
        total = own_trail[0][1]
        for _, step_jacobian in own_trail[1:]:
            total = step_jacobian @ total
        total = th.where(found[:, None, None], total, th.eye(x1.shape[1], dtype=x1.dtype, device=x1.device))
        moved = th.linalg.solve(total, (x1 - reached)[:, :, None])[:, :, 0]
        log_prob = log_prob + (th.where(found[:, None], slope, 0.0) * moved).sum(dim=1)
    return th.where(found, log_prob, -math.inf), found


def _noise_of(
    steps: Sequence[Callable[[th.Tensor], th.Tensor]],
    x1: th.Tensor,
    trail: Sequence[tuple[th.Tensor, th.Tensor]] | None,
) -> tuple[th.Tensor, th.Tensor]:
    x, found = x1, th.ones(x1.shape[0], dtype=th.bool, device=x1.device)
    for k in reversed(range(len(steps))):
        x, step_found = invert(steps[k], x, None if trail is None else trail[k])
        found &= step_found
    return x, found
