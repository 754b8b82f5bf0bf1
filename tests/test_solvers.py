"""
Solvers: measured orders of convergence, samples of models whose distribution is known, and what happens when they fail.
"""

import math

import numpy as np
import pytest
import torch as th
from torch import nn

from sb3_genpolicy.generative import PATHS, SOLVERS, CosinePath, GenerativeModel, LinearPath, Sampler, VPPath, odeint
from tests.helpers.closed_forms import gaussian


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)])
@pytest.mark.parametrize("reverse", [False, True])
def test_solvers_converge_with_their_order(solver, order, reverse):
    """dx/dt = t - 1.5 x from 1 at t = 0, whose solution at t = 1 is known; and the way back."""
    there = (1.0 + 1.0 / 2.25) * math.exp(-1.5) + 1.0 / 1.5 - 1.0 / 2.25
    start, exact = (there, 1.0) if reverse else (1.0, there)
    x0 = th.full((1, 1), start, dtype=th.float64)

    def error(steps):
        return abs(odeint(lambda t, x: t - 1.5 * x, x0, Sampler(solver, steps), reverse=reverse).item() - exact)

    assert math.log2(error(32) / error(64)) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("name", ["vp", "cosine"])
def test_dpm_solver_converges_with_order_two(name):
    """Data N(0.2, 0.3^2), whose score is known, against many steps of another solver on the same grid."""
    path = PATHS[name]()
    model = GenerativeModel(gaussian(path, "score", 0.2, 0.3), path, "score", 1, data_bound=None)
    noise = th.tensor([[-1.5], [0.3], [1.0]], dtype=th.float64)
    reference = model.sample(th.zeros(3, 0), noise, Sampler("rk4", 2000, "log_snr"))
    errors = [
        (model.sample(th.zeros(3, 0), noise, Sampler("dpm++", steps, "log_snr")) - reference).abs().max().item()
        for steps in (32, 64, 128)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.2)
    assert math.log2(errors[1] / errors[2]) == pytest.approx(2, abs=0.2)


def test_dopri5_keeps_its_tolerance():
    path = CosinePath()
    model = GenerativeModel(gaussian(path, "velocity", 0.2, 0.1), path, "velocity", 1)
    noise = th.tensor([[-1.5], [0.3]], dtype=th.float64)
    errors = {}
    for tolerance in (1e-3, 1e-8):
        samples = model.sample(th.zeros(2, 0), noise, Sampler("dopri5", rtol=tolerance, atol=tolerance))
        errors[tolerance] = (samples - 0.2 - 0.1 * noise).abs().max().item()
    assert errors[1e-3] < 1e-2 and errors[1e-8] < 1e-7


def test_dopri5_says_when_no_step_is_short_enough():
    with pytest.raises(ValueError, match="dopri5 found no step so short.*take a solver of fixed steps"):
        odeint(lambda t, x: x / (t - 0.5).abs().clamp(min=0.0), th.ones(1, 1), Sampler("dopri5"))


@pytest.mark.parametrize("solver", sorted(set(SOLVERS) - {"sde"}))
def test_every_solver_is_exact_on_a_constant_field(solver):
    x = odeint(lambda t, x: th.full_like(x, 2.0), th.zeros(3, 2), Sampler(solver, 7))
    np.testing.assert_allclose(x, 2.0, rtol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("name", "prediction"),
    [(name, prediction) for name in PATHS for prediction in PATHS[name].predictions],
)
def test_a_perfect_network_samples_the_data_distribution(name, prediction, solver):
    """Mean and spread of N(0.2, 0.1^2) come out, whatever the network predicts and whichever solver follows it."""
    path, mean, std = PATHS[name](), 0.2, 0.1
    model = GenerativeModel(gaussian(path, prediction, mean, std), path, prediction, dim=1)
    noise = th.randn((4000, 1), generator=th.Generator().manual_seed(0), dtype=th.float64)
    noise = (noise - noise.mean()) / noise.std()
    th.manual_seed(0)
    samples = model.sample(th.zeros(4000, 0), noise, Sampler(solver, 100))
    assert samples.mean().item() == pytest.approx(mean, abs=0.006)
    assert samples.std().item() == pytest.approx(std, rel=0.05)
    if solver not in ("sde", "euler"):
        # The clamp of estimated data, and data left over at the noise end, move the first steps a little
        np.testing.assert_allclose(samples, mean + std * noise, atol=0.012)


def test_extra_noise_widens_what_a_sampler_starts_from_and_ends_at():
    path = LinearPath(extra_noise=0.5)
    model = GenerativeModel(gaussian(path, "velocity", 0.2, 0.3), path, "velocity", dim=1)
    noise = th.tensor([[-1.0], [2.0]], dtype=th.float64)
    samples = model.sample(th.zeros(2, 0), noise, Sampler("rk4", 50))
    np.testing.assert_allclose(samples, 0.2 + math.hypot(0.3, 0.5) * noise, atol=1e-3)


@pytest.mark.parametrize("prediction", ["noise", "score"])
def test_wrong_noise_where_little_data_are_left_stays_in_the_data_box(prediction):
    """A network that is off by 0.3 in the noise: unclamped, the data it implies at t = 0 are 0.3 / 0.0066 = 45 off."""
    path = VPPath()
    exact = gaussian(path, prediction, 0.2, 0.1)

    class Off(nn.Module):
        def forward(self, t, x, condition):
            return exact(t, x) + 0.3 * th.exp(-20.0 * t)

    samples = {
        bound: GenerativeModel(Off(), path, prediction, 1, data_bound=bound).sample(th.zeros(1, 0), th.zeros(1, 1).double())
        for bound in (1.0, None)
    }
    assert abs(samples[1.0].item() - 0.2) < 0.1 < abs(samples[None].item() - 0.2)


def test_the_reverse_diffusion_forgets_the_noise_it_started_from():
    path = VPPath()
    model = GenerativeModel(gaussian(path, "noise", 0.2, 0.1), path, "noise", dim=1)
    th.manual_seed(0)
    noise = th.randn(2000, 1, dtype=th.float64)
    first, second = (model.sample(th.zeros(2000, 0), noise, Sampler("sde", 50)) for _ in range(2))
    correlation = th.corrcoef(th.cat([first, second], dim=1).T)[0, 1]
    assert abs(correlation) < 0.1
    # With the increments given it repeats
    increments = th.randn(49, 1, 1, dtype=th.float64)
    once, again = (model.sample(th.zeros(2000, 0), noise, Sampler("sde", 50), increments) for _ in range(2))
    assert th.equal(once, again)


@pytest.mark.parametrize(("path", "spreads"), [(CosinePath(), (0.189, 0.035)), (VPPath(), (0.182, 0.0355))])
def test_default_sampler_keeps_the_spread_that_published_steps_shrink(path, spreads):
    """An exact model of N(0, s^2): 32 uniform Euler steps lose 5 to 9 % of s = 0.2 and 30 % or more of s = 0.05."""
    for std, published, kept in zip((0.2, 0.05), spreads, (0.94, 0.8), strict=True):
        model = GenerativeModel(gaussian(path, "velocity", 0.0, std), path, "velocity", dim=1)
        one = th.ones(1, 1, dtype=th.float64)
        assert model.sample(th.zeros(1, 0), one, Sampler("euler", 32, "uniform")).item() == pytest.approx(
            published, abs=1.5e-3
        )
        # Ten evaluations of the network in place of 32
        assert kept * std < model.sample(th.zeros(1, 0), one).item() < 1.06 * std
        assert model.sample(th.zeros(1, 0), one, Sampler(steps=16)).item() == pytest.approx(std, rel=0.02)


class FailsLater(nn.Module):
    """A network whose output overflows from t = 0.5 on."""

    def forward(self, t, x, condition):
        return x * th.where(t >= 0.5, math.inf, 1.0)


@pytest.mark.parametrize(
    ("sampler", "step"),
    [
        (Sampler("midpoint", 4), "midpoint step 2 of 4"),
        (Sampler("dopri5"), "dopri5 step"),
        (Sampler("sde", 4), "sde step 3 of 4"),
    ],
)
def test_a_non_finite_output_names_the_step_and_a_remedy(sampler, step):
    model = GenerativeModel(FailsLater(), LinearPath(), "velocity", dim=1)
    with pytest.raises(ValueError, match=rf"output is not finite in {step}.*take more steps"):
        model.sample(th.zeros(1, 1), th.ones(1, 1), sampler)


def test_a_non_finite_output_names_its_cause():
    model = GenerativeModel(nn.Module(), LinearPath(), "velocity", dim=1)
    model.network.weight = nn.Parameter(th.ones(1))
    model.network.forward = lambda t, x, condition: x * model.network.weight + condition
    with pytest.raises(ValueError, match=r"step 1 of 5 \(t = 0\).*look for NaN in the observations"):
        model.sample(th.full((1, 1), math.nan), th.ones(1, 1))
    model.network.weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match="parameters are not finite: training diverged"):
        model.sample(th.zeros(1, 1), th.ones(1, 1))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(solver="midpont"), ValueError, "solver='midpont' is unknown. Did you mean 'midpoint'"),
        (dict(steps=0), ValueError, "number of solver steps must be a number >= 1, not 0"),
        (dict(steps=-3), ValueError, "number of solver steps must be a number >= 1, not -3"),
        (dict(steps=2.5), ValueError, "must be whole, not 2.5"),
        (dict(time_grid="logsnr"), ValueError, "time_grid='logsnr' is unknown. Did you mean 'log_snr'"),
        (dict(rtol=0.0), ValueError, "rtol must be a number > 0"),
        (dict(step=3), TypeError, "Sampler has no option 'step'. Did you mean 'steps'"),
    ],
)
def test_samplers_that_cannot_be_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Sampler(**options)
