"""
Paths and solvers of the generative core, against finite differences, closed forms and measured orders.
"""

import math

import numpy as np
import pytest
import torch as th

from sb3_genpolicy.generative import PATHS, SOLVERS, CosinePath, GenerativeModel, LinearPath, VPPath, odeint

ALL_PATHS = [LinearPath(), CosinePath(), VPPath(), VPPath(beta_min=0.5, beta_max=5.0)]


@pytest.mark.parametrize("path", ALL_PATHS, ids=lambda path: type(path).__name__)
def test_derivatives_agree_with_finite_differences(path):
    t = th.linspace(0.01, 0.99, 99, dtype=th.float64)
    h = 1e-6
    _, _, d_alpha, d_sigma = path(t)
    after, before = path(t + h), path(t - h)
    np.testing.assert_allclose(d_alpha, (after.alpha - before.alpha) / (2 * h), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(d_sigma, (after.sigma - before.sigma) / (2 * h), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("path", ALL_PATHS, ids=lambda path: type(path).__name__)
def test_paths_lead_from_noise_to_data_and_stay_finite_at_both_ends(path):
    ends = path(th.tensor([0.0, 1.0]))
    assert all(th.isfinite(scalar).all() for scalar in ends)
    # What is left of the data at t = 0, and of the noise at t = 1
    assert ends.alpha[0] < 0.3 and abs(ends.sigma[0] - 1.0) < 0.05
    assert abs(ends.alpha[1] - 1.0) < 1e-4 and ends.sigma[1] < 4e-3


def test_vp_path_is_the_diffusion_it_is_named_after():
    """alpha and sigma solve d alpha^2 / du = -b alpha^2 and d sigma^2 / du = b (1 - sigma^2) in the noise time u = 1 - t."""
    path, n = VPPath(beta_min=0.1, beta_max=20.0), 200_000
    u = (th.arange(n, dtype=th.float64) + 0.5) / n
    integral = (0.1 + u * 19.9).cumsum(0) / n
    half_way = path(th.tensor(0.5, dtype=th.float64))
    np.testing.assert_allclose(half_way.alpha, math.exp(-0.5 * integral[n // 2 - 1]), rtol=1e-4)
    np.testing.assert_allclose(half_way.alpha**2 + half_way.sigma**2, 1.0, rtol=1e-12)


def test_vp_derivative_keeps_its_beta_min_near_the_data():
    """The published code drops it (-83 % at the data): at t -> 1, d_alpha / alpha is beta_min / 2."""
    coefficients = VPPath()(th.tensor(1.0 - 1e-5, dtype=th.float64))
    np.testing.assert_allclose(coefficients.d_alpha / coefficients.alpha, 0.05, rtol=3e-3)


def test_vp_path_refuses_rates_that_are_no_diffusion():
    with pytest.raises(ValueError, match="beta_min"):
        VPPath(beta_min=2.0, beta_max=1.0)


@pytest.mark.parametrize("name", PATHS)
def test_interpolation_passes_through_both_points_and_moves_with_its_velocity(name):
    path, (x0, x1) = PATHS[name](), th.randn(2, 4, 3, dtype=th.float64)
    t, h = th.full((4, 1), 0.4, dtype=th.float64), 1e-6
    after, before = path.interpolate(t + h, x0, x1)[0], path.interpolate(t - h, x0, x1)[0]
    np.testing.assert_allclose(path.interpolate(t, x0, x1)[1], (after - before) / (2 * h), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(path.interpolate(t * 0 + 1.0, x0, x1)[0], x1, atol=4e-3 * 4)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)])
def test_solvers_converge_with_their_order(solver, order):
    """dx/dt = t - 1.5 x from 1, whose solution is known."""
    exact = (1.0 + 1.0 / 2.25) * math.exp(-1.5) + 1.0 / 1.5 - 1.0 / 2.25
    x0 = th.ones((1, 1), dtype=th.float64)
    errors = [abs(odeint(lambda t, x: t - 1.5 * x, x0, solver, steps).item() - exact) for steps in (32, 64)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_every_solver_is_exact_on_a_constant_field():
    for solver in SOLVERS:
        x = odeint(lambda t, x: th.full_like(x, 2.0), th.zeros(3, 2), solver, 7)
        np.testing.assert_allclose(x, 2.0, rtol=1e-6)


class _GaussianNoise(th.nn.Module):
    """E[x_0 | x_t] in closed form for data ~ N(mean, std^2): what a perfect noise (or velocity) network would say."""

    def __init__(self, path, mean, std, prediction):
        super().__init__()
        self.path, self.mean, self.std, self.prediction = path, mean, std, prediction

    def forward(self, t, x, condition):
        alpha, sigma, d_alpha, d_sigma = self.path(t)
        variance = (alpha * self.std) ** 2 + sigma**2
        noise = sigma * (x - alpha * self.mean) / variance
        data = self.mean + alpha * self.std**2 * (x - alpha * self.mean) / variance
        return noise if self.prediction == "noise" else d_alpha * data + d_sigma * noise


@pytest.mark.parametrize(
    ("name", "prediction"),
    [("linear", "velocity"), ("cosine", "velocity"), ("vp", "velocity"), ("cosine", "noise"), ("vp", "noise")],
)
def test_a_perfect_network_samples_the_data_distribution(name, prediction):
    """Quantiles of N(0.2, 0.1^2) come out of the quantiles of the noise, also where a noise prediction becomes a velocity."""
    path, mean, std = PATHS[name](), 0.2, 0.1
    model = GenerativeModel(_GaussianNoise(path, mean, std, prediction), path, prediction, dim=1)
    noise = th.tensor([[-1.5], [0.0], [0.5], [2.0]], dtype=th.float64)
    samples = model.sample(th.zeros(4, 0), noise, solver="midpoint", steps=100)
    # The VP path keeps 0.7 % of the data at t = 0, the clamp of the data moves the cosine path's first steps
    np.testing.assert_allclose(samples, mean + std * noise, atol=0.01)


@pytest.mark.parametrize("prediction", ["velocity", "noise"])
def test_matching_loss_of_a_perfect_network_is_the_variance_that_remains(prediction):
    """For data that are one point, a perfect network leaves no error at all; one loss comes per sample."""
    path = CosinePath()
    model = GenerativeModel(_GaussianNoise(path, 0.5, 1e-9, prediction), path, prediction, dim=2)
    loss = model.matching_loss(th.full((64, 2), 0.5, dtype=th.float64), th.zeros(64, 0))
    assert loss.shape == (64,)
    np.testing.assert_allclose(loss, 0.0, atol=1e-6)


def test_matching_loss_draws_from_its_generator_alone():
    path = LinearPath()
    model = GenerativeModel(_GaussianNoise(path, 0.0, 1.0, "velocity"), path, "velocity", dim=2)

    def loss(seed):
        return model.matching_loss(th.zeros(8, 2), th.zeros(8, 0), th.Generator().manual_seed(seed))

    state = th.get_rng_state()
    first = loss(3)
    assert th.equal(th.get_rng_state(), state)
    assert th.equal(first, loss(3)) and not th.equal(first, loss(4))


@pytest.mark.parametrize("path", [VPPath(), VPPath(beta_min=2.0, beta_max=2.0), CosinePath(), LinearPath()])
def test_sampling_time_runs_from_noise_to_data_at_its_own_rate(path):
    s = th.linspace(0.0, 0.98, 50, dtype=th.float64)
    t, dt_ds = path.sampling_time(s)
    assert t[0].abs() < 1e-6 and path.sampling_time(th.tensor(1.0))[0] >= 1.0 - 2e-5 and (t.diff() > 0).all()
    after, before = path.sampling_time(s + 1e-6)[0], path.sampling_time((s - 1e-6).clamp(min=0))[0]
    np.testing.assert_allclose(dt_ds[1:], ((after - before) / 2e-6)[1:], rtol=1e-4)


def test_sampling_time_of_the_vp_path_makes_equal_angles_of_equal_steps():
    path = VPPath()
    alpha, sigma, _, _ = path(path.sampling_time(th.linspace(0, 1, 11, dtype=th.float64))[0])
    angles = th.atan2(alpha, sigma)
    np.testing.assert_allclose(angles.diff(), angles.diff().mean(), rtol=0.02)
