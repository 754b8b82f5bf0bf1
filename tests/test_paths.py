"""
Paths, time grids, predictions and couplings, against finite differences, closed forms and one another.
"""

import math
from itertools import permutations

import numpy as np
import pytest
import torch as th

from sb3_genpolicy.generative import (
    COUPLINGS,
    PATHS,
    TIME_GRIDS,
    CosinePath,
    GenerativeModel,
    IndependentCoupling,
    LinearPath,
    OptimalTransportCoupling,
    VPPath,
    convert,
)
from tests.helpers.closed_forms import gaussian

ALL_PATHS = [LinearPath(), LinearPath(extra_noise=0.1), CosinePath(), VPPath(), VPPath(beta_min=0.5, beta_max=5.0)]
EACH_PATH = pytest.mark.parametrize(
    "path", ALL_PATHS, ids=["linear", "linear with noise", "cosine", "vp", "vp of other rates"]
)


@EACH_PATH
@pytest.mark.parametrize("dtype", [th.float64, th.float32])
def test_derivatives_agree_with_finite_differences(path, dtype):
    """The differences are of float64 scalars, also where float32 ones are checked."""
    t, h = th.linspace(0.001, 0.999, 999, dtype=th.float64), 1e-6
    _, _, d_alpha, d_sigma = path(t.to(dtype))
    after, before = path(t + h), path(t - h)
    np.testing.assert_allclose(d_alpha, (after.alpha - before.alpha) / (2 * h), rtol=1e-4)
    np.testing.assert_allclose(d_sigma, (after.sigma - before.sigma) / (2 * h), rtol=1e-4)


@EACH_PATH
@pytest.mark.parametrize("dtype", [th.float64, th.float32])
def test_paths_lead_from_noise_to_data_and_stay_finite_at_both_ends(path, dtype):
    ends = path(th.tensor([0.0, 1e-7, 1.0 - 1e-7, 1.0], dtype=dtype))
    assert all(th.isfinite(scalar).all() for scalar in ends) and (ends.wronskian > 0).all()
    # What is left of the data at t = 0, and of the noise at t = 1
    assert ends.alpha[0] < 0.3 and abs(ends.sigma[0] - path.prior_std) < 0.05
    assert abs(ends.alpha[-1] - 1.0) < 1e-4 and abs(ends.sigma[-1] - getattr(path, "extra_noise", 0.0)) < 4e-3


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


def test_squared_diffusion_is_that_of_the_sde():
    """On the VP path the noise rate by definition; on the cosine path pi tan(pi u / 2), 19.84 where the published has 9.26."""
    u = th.tensor([0.05, 0.5, 0.9], dtype=th.float64)
    np.testing.assert_allclose(VPPath().squared_diffusion(1.0 - u), 0.1 + 19.9 * u, rtol=1e-9)
    np.testing.assert_allclose(CosinePath().squared_diffusion(1.0 - u), math.pi * (math.pi * u / 2).tan(), rtol=1e-9)
    assert CosinePath().squared_diffusion(th.tensor(0.1)).item() == pytest.approx(19.84, abs=0.01)


def test_extra_noise_has_the_field_of_the_published_construction():
    """Published: x_t = t x_1 + (1 - t) x_0 + s eps with the target x_1 - x_0, regressed here on draws for Gaussian data."""
    generator, n, t, extra = th.Generator().manual_seed(0), 400_000, 0.7, 0.3
    x0, x1, eps = th.randn((3, n), generator=generator, dtype=th.float64)
    x1 = 0.5 + 0.2 * x1
    x = t * x1 + (1 - t) * x0 + extra * eps
    slope = th.cov(th.stack([x, x1 - x0]))[0, 1] / x.var()
    network = gaussian(LinearPath(extra_noise=extra), "velocity", mean=0.5, std=0.2)
    at = th.tensor([[0.0], [1.0]], dtype=th.float64)
    mine = network(th.full((1, 1), t, dtype=th.float64), at)
    np.testing.assert_allclose(mine[1] - mine[0], slope, atol=0.01)
    np.testing.assert_allclose(mine[0], (x1 - x0).mean() - slope * x.mean(), atol=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VPPath(beta_min=2.0, beta_max=1.0), "beta_min"),
        (lambda: LinearPath(extra_noise=-0.1), "extra_noise of LinearPath must be a number >= 0"),
        (lambda: OptimalTransportCoupling(condition_weight=-1.0), "condition_weight must be a number >= 0"),
    ],
)
def test_numbers_that_make_no_path_or_coupling_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", PATHS)
def test_interpolation_passes_through_both_points_and_moves_with_its_velocity(name):
    path, (x0, x1) = PATHS[name](), th.randn(2, 4, 3, dtype=th.float64)
    t, h = th.full((4, 1), 0.4, dtype=th.float64), 1e-6
    after, before = path.interpolate(t + h, x0, x1)[0], path.interpolate(t - h, x0, x1)[0]
    np.testing.assert_allclose(path.interpolate(t, x0, x1)[1], (after - before) / (2 * h), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(path.interpolate(t * 0 + 1.0, x0, x1)[0], x1, atol=4e-3 * 4)


@EACH_PATH
@pytest.mark.parametrize("grid", TIME_GRIDS)
def test_time_grids_run_from_noise_to_data_at_their_own_rate(path, grid):
    s = th.linspace(0.0, 0.98, 50, dtype=th.float64)
    t, dt_ds = TIME_GRIDS[grid].times(path, s)
    ends = TIME_GRIDS[grid].times(path, th.tensor([0.0, 1.0]))[0]
    assert ends[0] < 2e-3 and ends[1] > 1.0 - 2e-3 and (t.diff() > 0).all()
    after, before = TIME_GRIDS[grid].times(path, s + 1e-6)[0], TIME_GRIDS[grid].times(path, (s - 1e-6).clamp(min=0))[0]
    np.testing.assert_allclose(dt_ds[1:], ((after - before) / 2e-6)[1:], rtol=2e-4)


def test_steps_of_a_grid_are_equal_in_what_it_is_named_after():
    s = th.linspace(0, 1, 11, dtype=th.float64)
    for path in (VPPath(), LinearPath(), CosinePath()):
        angles = path.angle(TIME_GRIDS["angle"].times(path, s)[0])
        np.testing.assert_allclose(angles.diff(), angles.diff().mean(), rtol=0.02)
        coefficients = path(TIME_GRIDS["log_snr"].times(path, s)[0])
        steps = (coefficients.alpha / coefficients.sigma).log().diff()
        np.testing.assert_allclose(steps, steps.mean(), rtol=1e-6)


@pytest.mark.parametrize("grid", TIME_GRIDS)
def test_steps_cover_the_way_in_either_direction_and_shorten_only_where_they_say_so(grid):
    knots = TIME_GRIDS[grid].knots(6)
    assert (
        knots[0] == 0.0
        and knots[-1] == 1.0
        and len(knots) == 7
        and th.equal(TIME_GRIDS[grid].knots(6, reverse=True), knots.flip(0))
    )
    if grid == "tapered":
        # By hand: half of the steps end at 1 - 0.5^1.75
        assert (knots.diff().diff() < 0).all() and knots[3].item() == pytest.approx(0.7027, abs=1e-4)
    else:
        np.testing.assert_allclose(knots.diff(), 1 / 6, rtol=1e-12)


@EACH_PATH
@pytest.mark.parametrize("source", ["velocity", "noise", "score", "data"])
@pytest.mark.parametrize("target", ["velocity", "noise", "score", "data"])
def test_predictions_convert_into_one_another(path, source, target):
    """Each against the closed form for Gaussian data, away from the ends, where every pair is defined."""
    t, x = th.full((5, 1), 0.6, dtype=th.float64), th.linspace(-1, 1, 5, dtype=th.float64)[:, None]
    networks = {name: gaussian(path, name, std=0.3) for name in (source, target)}
    converted = convert(source, target, networks[source](t, x), path(t), x)
    np.testing.assert_allclose(converted, networks[target](t, x), rtol=1e-9)


@pytest.mark.parametrize("prediction", ["noise", "score"])
def test_predictions_that_are_undefined_on_a_path_are_refused(prediction):
    path = LinearPath()
    with pytest.raises(ValueError, match=f"'{prediction}' is undefined on a LinearPath.*use 'velocity' or 'data'"):
        GenerativeModel(gaussian(path, "velocity"), path, prediction, dim=1)


def test_optimal_transport_is_the_cheapest_pairing():
    """Against every permutation of five points."""
    x0, x1 = th.randn(2, 5, 2, generator=th.Generator().manual_seed(0))
    paired = OptimalTransportCoupling(condition_weight=0.0)(x0, x1, th.zeros(5, 0))
    cheapest = min((x0[list(order)] - x1).square().sum() for order in permutations(range(5)))
    np.testing.assert_allclose((paired - x1).square().sum(), cheapest, rtol=1e-6)
    assert th.equal(IndependentCoupling()(x0, x1, th.zeros(5, 0)), x0) and set(COUPLINGS) == {
        "independent",
        "optimal_transport",
    }


def test_transport_across_conditions_leaves_the_noise_of_each_condition_normal():
    """Published OT-CFM ignores the condition: the noise then tells it, and standard normal noise is none it was trained on."""
    generator = th.Generator().manual_seed(0)
    correlations = {}
    for weight in (0.0, 10.0):
        products = []
        for _ in range(10):
            condition, noise, spread = th.randn((3, 256, 1), generator=generator)
            actions = (0.5 * condition + 0.2 * spread).clamp(-1, 1)
            products.append((OptimalTransportCoupling(weight)(noise, actions, condition) * condition).mean())
        correlations[weight] = abs(float(np.mean(products)))
    assert correlations[0.0] > 0.8 and correlations[10.0] < 0.1


def test_transport_leaves_noise_to_its_condition_where_conditions_are_far_apart():
    condition = th.arange(6.0)[:, None].repeat_interleave(2, dim=0)
    x0, x1 = th.randn(2, 12, 1, generator=th.Generator().manual_seed(0))
    paired = OptimalTransportCoupling(100.0)(x0, x1, condition)
    for k in range(6):
        mine = slice(2 * k, 2 * k + 2)
        assert th.equal(paired[mine].sort(dim=0).values, x0[mine].sort(dim=0).values)
        # In one dimension, the cheapest pairing keeps the order
        assert paired[mine].flatten().argsort().tolist() == x1[mine].flatten().argsort().tolist()


@pytest.mark.parametrize(("prediction", "loss"), [("score", None), ("noise", "likelihood")])
def test_a_score_needs_independent_noise(prediction, loss):
    path = VPPath()
    with pytest.raises(ValueError, match="OptimalTransportCoupling makes noise depend on data"):
        GenerativeModel(
            gaussian(path, prediction), path, prediction, 1, matching_loss=loss, coupling=OptimalTransportCoupling()
        )
