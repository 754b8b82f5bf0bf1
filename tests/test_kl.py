"""
Divergences between a model and its reference: against closed forms, each other and finite differences.
"""

import copy
import math

import numpy as np
import pytest
import torch as th
from torch import nn

from sb3_genpolicy.generative import (
    CosinePath,
    DiscreteKL,
    GenerativeModel,
    Likelihood,
    LinearPath,
    OdeKL,
    PathKL,
    Sampler,
    VPPath,
    inversion,
)
from sb3_genpolicy.generative.inversion import invert, jacobian
from sb3_genpolicy.generative.kl import Conditioned, Draws
from tests.helpers.closed_forms import GaussianMixture, directional_difference
from tests.helpers.models import non_linear_model

SAMPLER = Sampler("midpoint", 3)
ESTIMATORS = {
    "discrete": DiscreteKL(),
    "path": PathKL(4),
    "ode": OdeKL(Likelihood(sampler=Sampler("midpoint", 3))),
    "ode hutchinson": OdeKL(Likelihood("hutchinson", Sampler("midpoint", 3), n_probes=2)),
}
CONDITION = th.randn(6, 3, dtype=th.float64, generator=th.Generator().manual_seed(3))
NOISE = th.randn(6, 2, dtype=th.float64, generator=th.Generator().manual_seed(4))


def gaussian_model(path, mean, std, weights=None):
    network = GaussianMixture(path, "velocity", [mean], [std], weights)
    return Conditioned(GenerativeModel(network, path, "velocity", len(mean), data_bound=None), th.zeros(4000, 0))


def moved(model, size=0.1):
    other = copy.deepcopy(model)
    generator = th.Generator().manual_seed(5)
    for parameter in other.parameters():
        parameter.data.add_(size * th.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return other


@pytest.mark.parametrize("path", [LinearPath(), CosinePath(), VPPath()], ids=lambda path: type(path).__name__)
@pytest.mark.parametrize(
    ("estimator", "tolerance"),
    [
        (DiscreteKL(Sampler("midpoint", 20)), 0.02),
        (OdeKL(), 0.02),
        # Over whole paths: not below the divergence of their ends, and not far above where both undo the same noising
        (PathKL(100), 0.06),
    ],
)
def test_divergence_of_gaussians(path, estimator, tolerance):
    """KL(N(0.3, 0.4^2) || N(0, 0.7^2)) in two dimensions by the textbook, from samples of either side."""
    policy, reference = gaussian_model(path, [0.3, -0.2], 0.4), gaussian_model(path, [0.0, 0.0], 0.7)
    exact = 2 * math.log(0.7 / 0.4) + (2 * 0.4**2 + 0.3**2 + 0.2**2) / (2 * 0.7**2) - 1.0
    noise = th.randn(4000, 2, dtype=th.float64, generator=th.Generator().manual_seed(0))
    generator = th.Generator().manual_seed(1)
    sample = estimator.of_samples(policy, reference, Draws(noise, Sampler(), generator))
    assert sample.log_ratio.mean().item() == pytest.approx(exact, abs=tolerance)
    assert sample.found.all()
    np.testing.assert_allclose(sample.x1.mean(0), [0.3, -0.2], atol=0.03)
    # From samples of the other side: the ratio's mean there is minus the divergence the other way round
    back = estimator.of_reference_samples(reference, policy, Draws(noise, Sampler(), generator))
    # Not symmetric (1.35 the other way round), so that the sides are told apart
    assert back.log_ratio.mean().item() == pytest.approx(-exact, abs=max(0.08, tolerance))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_equal_models_have_no_divergence(name):
    """In every row, not on average; with three steps the quadrature of `ode` is not its own inverse, and says so."""
    model = non_linear_model(LinearPath(), "velocity")
    sample = ESTIMATORS[name].of_samples(Conditioned(model, CONDITION), Conditioned(model, CONDITION), Draws(NOISE, SAMPLER))
    worst = sample.log_ratio.abs().max()
    assert (worst > 1e-4) if name.startswith("ode") else (worst < 1e-8)


def test_path_divergence_is_positive_in_every_row():
    model = non_linear_model(CosinePath(), "velocity")
    for size in (1e-3, 0.1, 1.0):
        sample = PathKL(5).of_samples(
            Conditioned(moved(model, size), CONDITION), Conditioned(model, CONDITION), Draws(NOISE, SAMPLER)
        )
        assert (sample.log_ratio > 0).all()


def test_path_ratio_of_reference_samples_is_that_of_the_chains_gaussian_steps():
    """By another route: the log-densities of the very chain under both models, from torch's Normal."""
    model, steps = non_linear_model(LinearPath(), "velocity"), 4
    policy, reference = Conditioned(moved(model), CONDITION), Conditioned(model, CONDITION)
    sample = PathKL(steps, "uniform").of_reference_samples(
        policy, reference, Draws(NOISE, SAMPLER, th.Generator().manual_seed(0))
    )
    generator, x, ratio = th.Generator().manual_seed(0), NOISE, 0.0
    for k in range(steps):
        t, h = th.tensor(k / steps, dtype=th.float64), 1 / steps
        sigma = 1 - t
        squared = min((2 * sigma / t).item() if k else math.inf, (sigma**2 / h).item())

        def step(side, x=x, t=t, h=h, sigma=sigma, squared=squared):
            v = side.velocity(t.reshape(1, 1), x)
            score = (t * v - x) / sigma
            return th.distributions.Normal(x + h * (v + 0.5 * squared * score), math.sqrt(squared * h))

        after = step(reference).mean + step(reference).stddev * th.randn(x.shape, generator=generator, dtype=x.dtype)
        ratio = ratio + (step(policy).log_prob(after) - step(reference).log_prob(after)).sum(1)
        x = after
    np.testing.assert_allclose(sample.x1.detach(), x.detach(), rtol=1e-9)
    np.testing.assert_allclose(sample.log_ratio.detach(), ratio.detach(), rtol=1e-7)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize(
    ("path", "prediction"),
    [(LinearPath(), "velocity"), pytest.param(VPPath(), "velocity", marks=pytest.mark.slow), (VPPath(), "noise")],
)
@pytest.mark.parametrize("side", ["of_samples", "of_reference_samples"])
def test_gradients_agree_with_finite_differences(name, path, prediction, side):
    """Of actions and log ratio together, in the parameters and the condition of the policy."""
    base = non_linear_model(path, prediction)
    model, reference = moved(base), Conditioned(base.requires_grad_(False), CONDITION)

    def value(condition=CONDITION):
        generator = th.Generator().manual_seed(2)
        sample = getattr(ESTIMATORS[name], side)(Conditioned(model, condition), reference, Draws(NOISE, SAMPLER, generator))
        assert sample.found.all()
        return (sample.log_ratio + (sample.x1 - 0.5).square().sum(dim=1)).mean()

    leaf = CONDITION.clone().requires_grad_()
    value(leaf).backward()
    for seed in range(3):
        direction = th.randn(CONDITION.shape, generator=th.Generator().manual_seed(seed), dtype=th.float64)
        expected = (value(CONDITION + 1e-5 * direction) - value(CONDITION - 1e-5 * direction)).item() / 2e-5
        assert (leaf.grad * direction).sum().item() == pytest.approx(expected, rel=1e-2, abs=1e-6)
    assert all(parameter.grad is None for parameter in reference.model.parameters())
    for parameter in model.parameters():
        direction = th.randn(parameter.shape, generator=th.Generator().manual_seed(1), dtype=th.float64)
        expected = directional_difference(lambda: value().detach(), parameter, direction)
        assert (parameter.grad * direction).sum().item() == pytest.approx(expected, rel=1e-2, abs=1e-6)


def test_the_detached_gradient_is_another():
    """The published code's: values as of `ode`, gradients off by more than a tenth of their length."""
    base = non_linear_model(LinearPath(), "velocity")
    reference = Conditioned(base.requires_grad_(False), CONDITION)
    likelihood, values, gradients = Likelihood(sampler=Sampler("rk4", 16)), [], []
    for detached in (False, True):
        model = moved(base).requires_grad_()
        sample = OdeKL(likelihood, detached).of_samples(
            Conditioned(model, CONDITION), reference, Draws(NOISE, Sampler("rk4", 16))
        )
        sample.log_ratio.mean().backward()
        values.append(sample.log_ratio.detach())
        gradients.append(th.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    np.testing.assert_allclose(values[1], values[0], atol=1e-4)
    assert (gradients[1] - gradients[0]).norm() > 0.1 * gradients[0].norm()


class _Bounded(nn.Module):
    def forward(self, t, x, condition):
        return -x + 2.0 * th.tanh(x)


def test_rows_that_the_reference_cannot_reach_are_marked_and_leave_the_rest_alone():
    """x -> 2 tanh(x) ends inside (-2, 2): an action of 3 has no noise there, one of 0.5 has."""
    path = LinearPath()
    bounded = GenerativeModel(_Bounded(), path, "velocity", 1)
    shift = nn.Linear(1, 1).double()
    shift.weight.data.zero_(), shift.bias.data.fill_(1.0)
    network = type("Shift", (nn.Module,), {"forward": lambda self, t, x, condition: shift(x)})()
    policy = Conditioned(GenerativeModel(network, path, "velocity", 1), th.zeros(2, 0))
    noise = th.tensor([[-0.5], [2.0]], dtype=th.float64)  # to 0.5 and 3
    sampler = Sampler("euler", 1)
    sample = DiscreteKL().of_samples(policy, Conditioned(bounded, th.zeros(2, 0)), Draws(noise, sampler))
    assert sample.found.tolist() == [True, False] and sample.log_ratio[1] == 0.0
    source = math.atanh(0.25)
    log_mu = -0.5 * source**2 - math.log(2 * (1 - 0.25**2))
    assert sample.log_ratio[0].item() == pytest.approx(-0.5 * 0.25 - log_mu, abs=1e-6)
    sample.log_ratio.sum().backward()
    assert th.isfinite(shift.bias.grad).all() and shift.bias.grad.abs() > 0


def test_a_good_guess_saves_jacobians_and_gives_the_same_inverse(monkeypatch):
    model = non_linear_model(LinearPath(), "velocity")
    other = moved(model, 0.01)

    def function(x, model=model):
        return x + 0.3 * model.velocity(th.full((1, 1), 0.5, dtype=th.float64), x, CONDITION)

    y = function(NOISE).detach()
    _, matrix = jacobian(lambda x: function(x, other), NOISE)
    with monkeypatch.context() as patch:
        patch.delattr(inversion, "_newton")
        x, found = invert(function, y, (NOISE + 0.01, matrix.detach()))
    assert found.all()
    np.testing.assert_allclose(x, NOISE, atol=1e-9)
    # A useless one falls back on Newton's method
    x, found = invert(function, y, (NOISE + 5.0, -matrix.detach()))
    assert found.all()
    np.testing.assert_allclose(x, NOISE, atol=1e-9)


def test_estimators_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="take DiscreteKL"):
        OdeKL(Likelihood("discrete"))
    with pytest.raises(ValueError, match="steps of PathKL must be a number >= 1"):
        PathKL(0)
    with pytest.raises(ValueError, match="Did you mean 'tapered'"):
        PathKL(time_grid="taperd")
    with pytest.raises(TypeError, match="PathKL has no option 'step'. Did you mean 'steps'"):
        PathKL(step=3)
    model = Conditioned(non_linear_model(LinearPath(), "velocity"), CONDITION)
    with pytest.raises(ValueError, match=r"solver='dpm\+\+' has no log-probability"):
        DiscreteKL().of_samples(model, model, Draws(NOISE, Sampler("dpm++")))
