"""
How far a model has moved away from a reference: estimates of KL(model || reference) whose gradients train the model.

Three estimators are offered. ``discrete`` is the divergence of the two K-step samplers themselves, exact up to the draw of the
noise. ``path`` is that of two diffusions that share the models' marginals, taken over whole paths: an upper bound. ``ode``
integrates the divergences of the fields along the flow, as published; with few steps a model learns to exploit its error.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import torch as th

from sb3_genpolicy.generative.checks import check_number, with_named_options
from sb3_genpolicy.generative.draws import Source, draw
from sb3_genpolicy.generative.inversion import jacobian_products
from sb3_genpolicy.generative.likelihood import (
    Likelihood,
    standard_normal_log_prob,
    steps_log_prob,
    steps_with_log_density,
)
from sb3_genpolicy.generative.models import GenerativeModel
from sb3_genpolicy.generative.solvers import Sampler, odeint, sde_steps


class KLSample(NamedTuple):
    """
    :param x1: samples, (batch_size, dim)
    :param log_ratio: log model(x1) - log reference(x1) in nats, or for ``path`` the divergence along the path, (batch_size,).
        Its mean over samples of the model is the KL divergence. Zero where ``found`` is not.
    :param found: which rows have an estimate, (batch_size,), see :class:`DiscreteKL`
    :param log_model: log model(x1), (batch_size,); None for ``path``, which does without
    :param log_reference: log reference(x1), (batch_size,); None for ``path``
    """

    x1: th.Tensor
    log_ratio: th.Tensor
    found: th.Tensor
    log_model: th.Tensor | None
    log_reference: th.Tensor | None


def _kl_sample(x1: th.Tensor, log_model: th.Tensor, log_reference: th.Tensor) -> KLSample:
    found = log_model.isfinite() & log_reference.isfinite()
    log_model, log_reference = (th.where(found, value, 0.0) for value in (log_model, log_reference))
    return KLSample(x1, log_model - log_reference, found, log_model, log_reference)


class Conditioned(NamedTuple):
    """
    A model and what it is conditioned on.

    :param model: the model
    :param condition: (batch_size, condition_dim)
    """

    model: GenerativeModel
    condition: th.Tensor

    def velocity(self, t: th.Tensor, x: th.Tensor) -> th.Tensor:
        """
        :param t: times that broadcast against x
        :param x: (batch_size, dim)
        :return: the field, (batch_size, dim)
        """
        return self.model.velocity(t, x, self.condition)


class Draws(NamedTuple):
    """
    What samples are made from.

    :param noise: standard normal draws, (batch_size, dim)
    :param sampler: the sampler that acts
    :param generator: source of further noise; torch's global one by default
    """

    noise: th.Tensor
    sampler: Sampler
    generator: Source = None


class KLEstimator(ABC):
    """
    An estimate of KL(model || reference), for two models on the same path.
    """

    @abstractmethod
    def of_samples(self, model: Conditioned, reference: Conditioned, draws: Draws) -> KLSample:
        """
        Samples of the model and what each adds to the divergence. Gradients reach the model through both.

        :param model: the model
        :param reference: what it is compared with; no gradient reaches its parameters
        :param draws: where samples start, and by which sampler
        :return: samples and estimates
        """

    @abstractmethod
    def of_reference_samples(self, model: Conditioned, reference: Conditioned, draws: Draws) -> KLSample:
        """
        Samples of the reference and the log ratio of both densities there. Gradients reach the model through the ratio alone.

        :param model: the model
        :param reference: what it is compared with
        :param draws: where samples start, and by which sampler
        :return: samples and log ratios
        """


@with_named_options
@dataclass(frozen=True)
class DiscreteKL(KLEstimator):
    """
    KL divergence of the distributions of the two K-step samplers themselves, each a composition of K maps. The model's
    log-density comes with its samples, from the Jacobians of its maps; the reference's from inverting its own maps, for which
    the model's trajectory is a good first guess. There is no solver error that a model could exploit: the estimate is
    unbiased however few the steps, and 0 in every row where both models agree.

    Maps with too few steps may fold. A sample that no noise of the reference leads to has no density there; such rows are
    marked (``found``), and whoever averages leaves them out.

    :param sampler: a Runge-Kutta method. Default: the sampler that acts.
    """

    sampler: Sampler | None = None

    def _sampler(self, acting: Sampler) -> Sampler:
        return Likelihood("discrete", self.sampler).resolve_sampler(acting)

    def of_samples(self, model: Conditioned, reference: Conditioned, draws: Draws) -> KLSample:
        sampler, path = self._sampler(draws.sampler), model.model.path
        x0 = path.prior_std * draws.noise
        x1, gained, trail = steps_with_log_density(model.velocity, x0, path, sampler)
        log_model = standard_normal_log_prob(x0, path.prior_std) + gained
        log_reference, _ = steps_log_prob(reference.velocity, x1, path, sampler, trail, frozen=True)
        return _kl_sample(x1, log_model, log_reference)

    def of_reference_samples(self, model: Conditioned, reference: Conditioned, draws: Draws) -> KLSample:
        sampler, path = self._sampler(draws.sampler), model.model.path
        x0 = path.prior_std * draws.noise
        with th.no_grad():
            x1, gained, trail = steps_with_log_density(reference.velocity, x0, path, sampler)
            log_reference = standard_normal_log_prob(x0, path.prior_std) + gained
        log_model, _ = steps_log_prob(model.velocity, x1, path, sampler, trail)
        return _kl_sample(x1, log_model, log_reference)


@with_named_options
@dataclass(frozen=True)
class PathKL(KLEstimator):
    """
    KL divergence, over whole paths (Girsanov), of the diffusions ``dx = (v + g^2 / 2 score) dt + g dw`` that have the models'
    marginals.
    In steps of Euler and Maruyama both are chains of Gaussians of the same spread, so that the divergence is a sum of squares,
    ``h c^2 / (2 g^2) |v_model - v_reference|^2`` with ``c = 1 + g^2 / 2 d score / d v``: positive, without Jacobians, without
    a reverse solve.

    It bounds the divergence of the chains' ends from above. ``g`` is the path's own diffusion, which makes the bound tightest
    (c = 2 on every path): both diffusions then undo the same noising, and where a model moves by tilting the reference's
    density the bound is met. Squares summed along the deterministic flow are positive too, yet no divergence: a flow may
    contract all noise to a point at a finite price.

    :param steps: number of steps, positive. The deterministic sampler that acts agrees with the chain up to an error of its
        order: where N(0.35, 0.90^2) is best, 10 steps end at a spread of 0.97 and 40 at 0.93.
    :param time_grid: where these steps are
    """

    steps: int = 10
    time_grid: str = "tapered"

    def __post_init__(self) -> None:
        check_number("steps of PathKL", self.steps, low=1, whole=True)
        Sampler("sde", self.steps, self.time_grid)

    def of_samples(self, model: Conditioned, reference: Conditioned, draws: Draws) -> KLSample:
        path = model.model.path
        x = path.prior_std * draws.noise
        kl = x.new_zeros(x.shape[0])
        for step in sde_steps(Sampler("sde", self.steps, self.time_grid), path, x):
            velocity = model.velocity(step.t, x)
            difference = step.slope * (velocity - reference.velocity(step.t, x))
            kl = kl + (0.5 * step.length / step.squared_diffusion * difference.square()).sum(dim=1)
            x = step.mean(x, velocity) + step.std * draw("normal", x.shape, x, draws.generator)
        return KLSample(x, kl, th.ones_like(kl, dtype=th.bool), None, None)

    def of_reference_samples(self, model: Conditioned, reference: Conditioned, draws: Draws) -> KLSample:
        path = model.model.path
        x = path.prior_std * draws.noise
        log_ratio = x.new_zeros(x.shape[0])
        for step in sde_steps(Sampler("sde", self.steps, self.time_grid), path, x):
            with th.no_grad():
                velocity = reference.velocity(step.t, x)
            increment = draw("normal", x.shape, x, draws.generator)
            # By how many standard deviations the model's mean is off the reference's
            shift = step.length / step.std * step.slope * (model.velocity(step.t, x) - velocity)
            log_ratio = log_ratio + (shift * increment - 0.5 * shift.square()).sum(dim=1)
            x = step.mean(x, velocity) + step.std * increment
        return KLSample(x, log_ratio, th.ones_like(log_ratio, dtype=th.bool), None, None)


@with_named_options
@dataclass(frozen=True)
class OdeKL(KLEstimator):
    """
    KL divergence of the continuous flows, as in the paper: one solve gives the model's samples and their density, and one
    solve of the reference, back to noise, its density there. Its error is the solver's: with few steps, training makes the
    estimate negative and large.

    :param likelihood: divergence (``continuous``: exact, ``hutchinson``: estimated), solver and gradient
    :param detached: the gradient of the published code, for comparison: samples from the sampler that acts, densities by two
        reverse solves whose points pass no gradient on, which is wrong (docs/modules/gmpg.md)
    :raises ValueError: for another likelihood than of the continuous flow
    """

    likelihood: Likelihood = field(default_factory=Likelihood)
    detached: bool = False

    def __post_init__(self) -> None:
        if self.likelihood.method == "discrete":
            raise ValueError("OdeKL integrates the continuous flow: for method='discrete' take DiscreteKL.")

    def of_samples(self, model: Conditioned, reference: Conditioned, draws: Draws) -> KLSample:
        if self.detached:
            x1 = model.model.sample(model.condition, draws.noise, draws.sampler, generator=draws.generator)
            log_model = self._detached_log_prob(model, x1, draws.generator)
            return _kl_sample(x1, log_model, self._detached_log_prob(reference, x1, draws.generator))
        x1, log_model = model.model.sample_with_log_prob(
            model.condition, draws.noise, self.likelihood, generator=draws.generator
        )
        log_reference = reference.model.log_prob(x1, reference.condition, self.likelihood, generator=draws.generator)
        return _kl_sample(x1, log_model, log_reference)

    def of_reference_samples(self, model: Conditioned, reference: Conditioned, draws: Draws) -> KLSample:
        with th.no_grad():
            x1, log_reference = reference.model.sample_with_log_prob(
                reference.condition, draws.noise, self.likelihood, generator=draws.generator
            )
        log_model = model.model.log_prob(x1, model.condition, self.likelihood, generator=draws.generator)
        return _kl_sample(x1, log_model, log_reference)

    def _detached_log_prob(self, model: Conditioned, x1: th.Tensor, generator: Source) -> th.Tensor:
        probes = self.likelihood.probes(x1, generator)

        def augmented(t: th.Tensor, z: th.Tensor) -> th.Tensor:
            value, products = jacobian_products(lambda x: model.velocity(t, x), z[:, :-1].detach(), probes)
            return th.cat([value, -(products * probes).sum(dim=(0, 2))[:, None]], dim=1)

        path, sampler = model.model.path, self.likelihood.resolve_sampler(Sampler())
        z = odeint(augmented, th.cat([x1, x1.new_zeros((x1.shape[0], 1))], dim=1), sampler, path, reverse=True)
        return standard_normal_log_prob(z[:, :-1], path.prior_std) - z[:, -1]


KL_ESTIMATORS: dict[str, type[KLEstimator]] = {"discrete": DiscreteKL, "path": PathKL, "ode": OdeKL}
