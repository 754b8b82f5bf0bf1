"""
What a sampler computes once and keeps: the same numbers as ever, in every context, and nothing that a path outgrows.
"""

import copy
import math
import pickle

import numpy as np
import pytest
import torch as th
from torch import nn

from sb3_genpolicy.generative import (
    PATHS,
    SOLVERS,
    ConditionalMLP,
    CosinePath,
    GenerativeModel,
    LinearPath,
    Path,
    PathCoefficients,
    Sampler,
    VPPath,
)
from sb3_genpolicy.generative.schedules import kept
from sb3_genpolicy.generative.solvers import integrate, sdeint
from tests.helpers.closed_forms import central_difference

NOISE, CONDITION = th.tensor([[0.5, -1.0], [2.0, 0.1]]), th.zeros(2, 1)


def model_on(path, prediction="velocity"):
    th.manual_seed(0)
    return GenerativeModel(ConditionalMLP(2, 1, [16, 16]), path, prediction, 2)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_field_is_told_the_scalars_of_the_very_time_it_is_asked_at(name, solver):
    path, seen = PATHS[name](), []

    def field(point, x):
        seen.append(point)
        return -x

    for _ in range(2):
        if solver == "sde":
            sdeint(field, NOISE, Sampler(solver, 3), path, th.zeros(2, 1, 2))
        else:
            integrate(field, NOISE, Sampler(solver, 3), path)
    for point in seen:
        assert point.t.shape == (1, 1)
        np.testing.assert_array_equal(th.cat(point.coefficients), th.cat(path(point.t)))
    half = len(seen) // 2
    assert [float(point.t) for point in seen[:half]] == [float(point.t) for point in seen[half:]]


def test_midpoint_steps_are_those_of_the_textbook():
    """Two steps of a noise model, in plain numbers: the path from its definition, steps equal in time."""

    def velocity(x, t):
        # The network says 0.3 x
        log_alpha = -0.5 * (0.1 * (1 - t) + 0.5 * (1 - t) ** 2 * 19.9)
        alpha = math.exp(log_alpha)
        sigma = math.sqrt(1 - alpha**2)
        d_alpha = 0.5 * (0.1 + 19.9 * (1 - t)) * alpha
        data = min(max((x - sigma * 0.3 * x) / max(alpha, 5e-3), -1.0), 1.0)
        return d_alpha * data - alpha * d_alpha / sigma * 0.3 * x

    x = 1.3
    for t in (0.0, 0.5):
        middle = x + 0.25 * velocity(x, t)
        x = x + 0.5 * velocity(middle, t + 0.25)

    class Network(nn.Module):
        def forward(self, t, x, condition):
            return 0.3 * x

    model = GenerativeModel(Network(), VPPath(), "noise", 1)
    one = th.full((1, 1), 1.3, dtype=th.float64)
    assert model.sample(th.zeros(1, 0), one, Sampler("midpoint", 2, "uniform")).item() == pytest.approx(x, rel=1e-12)


class CountingPath(LinearPath):
    """A path that counts how often it is asked, outside of its attributes."""

    calls = 0

    def _coefficients(self, t):
        CountingPath.calls += 1
        return super()._coefficients(t)


@pytest.mark.parametrize("solver", sorted(set(SOLVERS) - {"dopri5"}))
def test_a_path_is_asked_once(solver):
    model, sampler = model_on(CountingPath(), "data"), Sampler(solver, 6)
    model.sample(CONDITION, NOISE, sampler)
    before = CountingPath.calls
    assert before > 0
    model.sample(CONDITION, NOISE, sampler)
    # Another path of the same numbers is the same path
    model_on(CountingPath(), "data").sample(CONDITION, NOISE, sampler)
    assert CountingPath.calls == before
    model_on(CountingPath(extra_noise=0.25), "data").sample(CONDITION, NOISE, sampler)
    assert CountingPath.calls > before


@pytest.mark.parametrize("solver", sorted(set(SOLVERS) - {"sde"}))
def test_a_path_whose_numbers_change_is_another(solver):
    model = model_on(VPPath(), "noise")
    first = model.sample(CONDITION, NOISE, Sampler(solver))
    model.path.beta_max = 5.0
    changed = model.sample(CONDITION, NOISE, Sampler(solver))
    assert not th.allclose(first, changed)
    assert th.equal(changed, model_on(VPPath(beta_max=5.0), "noise").sample(CONDITION, NOISE, Sampler(solver)))
    model.path.beta_max = 20.0
    assert th.equal(model.sample(CONDITION, NOISE, Sampler(solver)), first)


class LateCosinePath(CosinePath):
    """The cosine path, passed at another speed."""

    def _coefficients(self, t):
        alpha, sigma, d_alpha, d_sigma = super()._coefficients(t.square())
        return PathCoefficients(alpha, sigma, 2.0 * t * d_alpha, 2.0 * t * d_sigma)

    def time_of_angle(self, angle):
        return super().time_of_angle(angle).sqrt()


def test_a_path_of_another_class_is_another():
    samples = [model_on(path(), "data").sample(CONDITION, NOISE) for path in (CosinePath, LateCosinePath, CosinePath)]
    assert th.equal(samples[0], samples[2]) and not th.allclose(samples[0], samples[1])


class LearntPath(Path):
    """x_t = t^p x_1 + (1 - t) x_0, with a p that is learnt."""

    def __init__(self):
        self.power = th.tensor(1.5, dtype=th.float64, requires_grad=True)

    def _coefficients(self, t):
        d_alpha = self.power * t.clamp(min=1e-6) ** (self.power - 1.0)
        return PathCoefficients(t**self.power, 1.0 - t, d_alpha, -th.ones_like(t))

    def time_of_angle(self, angle):
        raise NotImplementedError


def test_a_path_that_learns_is_asked_every_time():
    path = LearntPath()
    model, noise = GenerativeModel(nn.Module(), path, "data", 2), NOISE.double()
    model.network.forward = lambda t, x, condition: 0.2 * x

    def total():
        return model.sample(CONDITION, noise, Sampler("midpoint", 3)).sum()

    (gradient,) = th.autograd.grad(total(), path.power)
    values = []
    for step in (1e-5, -2e-5):
        path.power.data += step
        values.append(total().item())
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(gradient.item(), rel=1e-4) and abs(gradient) > 1e-4


def through_inference_mode(model, sampler):
    with th.inference_mode():
        model.sample(CONDITION, NOISE, sampler)


def through_nested_transforms(model, sampler):
    def total(noise):
        return model.sample(CONDITION, noise, sampler).sum()

    th.func.grad(lambda noise: th.func.grad(total)(noise).sum())(NOISE)


def through_a_transform_of_steps(model, sampler):
    def ends(noise):
        return integrate(lambda point, x: model.velocity(point.t, x, CONDITION), noise, sampler, model.path)

    th.func.jvp(ends, (NOISE,), (NOISE,))


FIRST = (through_inference_mode, through_nested_transforms, through_a_transform_of_steps)


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("solver", ["midpoint", "dpm++"])
def test_whoever_comes_first_leaves_nothing_that_others_cannot_use(solver, first):
    # A path that no other test has asked for
    model, sampler = model_on(VPPath(beta_max=11.0 + FIRST.index(first)), "noise"), Sampler(solver, 4)
    first(model, sampler)
    noise = NOISE.clone().requires_grad_()
    model.sample(CONDITION, noise, sampler).sum().backward()
    transformed = th.func.grad(lambda x: model.sample(CONDITION, x, sampler).sum())(NOISE)
    np.testing.assert_allclose(transformed.detach(), noise.grad, rtol=1e-5)
    moved = central_difference(lambda x: model.double().sample(CONDITION.double(), x, sampler).sum(dim=1), NOISE.double())
    np.testing.assert_allclose(noise.grad, moved, rtol=2e-3, atol=1e-3)


def test_points_of_each_type_have_times_of_it():
    model = model_on(VPPath(beta_max=17.0), "noise")
    assert model.sample(CONDITION, NOISE).dtype == th.float32
    assert model.double().sample(CONDITION.double(), NOISE.double()).dtype == th.float64


def test_what_is_kept_belongs_to_no_model():
    model = model_on(VPPath(), "noise")
    before = len(pickle.dumps(model)), set(model.state_dict()), set(vars(model))
    expected = model.sample(CONDITION, NOISE)
    assert (len(pickle.dumps(model)), set(model.state_dict()), set(vars(model))) == before
    assert th.equal(copy.deepcopy(model).sample(CONDITION, NOISE), expected)


def test_only_so_many_are_kept():
    calls = []

    @kept
    def make(path, number):
        calls.append(number)
        return number

    path = LinearPath()
    for _ in range(2):
        assert make(path, 1) == 1
    assert calls == [1]
    assert [make(path, number) for number in range(300)] == list(range(300))
    (known,) = (cell.cell_contents for cell in make.__closure__ if isinstance(cell.cell_contents, dict))
    assert len(known) < 100
