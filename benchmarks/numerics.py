"""
How exact the generative core is: the table of docs/guide/generative.md, against closed forms and finite differences.

    python -m benchmarks.numerics
"""

import math

import torch as th
from torch import nn

from sb3_genpolicy.generative import (
    ConditionalMLP,
    CosinePath,
    GenerativeModel,
    Likelihood,
    LinearPath,
    Sampler,
    VPPath,
    odeint,
)
from tests.helpers.closed_forms import GaussianMixture, central_difference, gaussian
from tests.helpers.models import BIMODAL, train_bimodal

PATHS = {"linear": LinearPath(), "cosine": CosinePath(), "vp": VPPath()}


def derivative_error(path) -> float:
    t, h = th.linspace(0.001, 0.999, 999, dtype=th.float64), 1e-6
    given, after, before = path(t.float()), path(t + h), path(t - h)
    errors = []
    for name in ("alpha", "sigma"):
        difference = (getattr(after, name) - getattr(before, name)) / (2 * h)
        errors.append(((getattr(given, f"d_{name}") - difference) / difference).abs().max().item())
    return max(errors)


def order(solver: str) -> float:
    """On dx/dt = t - 1.5 x."""
    exact = (1.0 + 1.0 / 2.25) * math.exp(-1.5) + 1.0 / 1.5 - 1.0 / 2.25
    x = th.ones((1, 1), dtype=th.float64)
    errors = [abs(odeint(lambda t, x: t - 1.5 * x, x, Sampler(solver, steps)).item() - exact) for steps in (32, 64)]
    return math.log2(errors[0] / errors[1])


def order_of_dpm_solver(path) -> float:
    """On data N(0.2, 0.3^2)."""
    model = GenerativeModel(gaussian(path, "score", 0.2, 0.3), path, "score", 1, data_bound=None)
    noise = th.tensor([[-1.5], [0.3], [1.0]], dtype=th.float64)
    solutions = [
        model.sample(th.zeros(3, 0), noise, Sampler(solver, steps, "log_snr"))
        for solver, steps in (("dpm++", 64), ("dpm++", 128), ("rk4", 2000))
    ]
    errors = [(solution - solutions[2]).abs().max().item() for solution in solutions[:2]]
    return math.log2(errors[0] / errors[1])


def density_error(path, dim: int) -> float:
    means = [[0.6, 0.5, 0.0], [-0.6, -0.3, 0.2]]
    network = GaussianMixture(path, "velocity", [mean[:dim] for mean in means], [0.3, 0.4], [0.3, 0.7])
    model = GenerativeModel(network, path, "velocity", dim)
    points = network.draw(1000, th.Generator().manual_seed(0))
    log_prob = model.log_prob(points, th.zeros(1000, 0), Likelihood(sampler=Sampler("rk4", 16)))
    return (log_prob - network.log_density(points)).abs().max().item()


def gradient_error(path, prediction, likelihood: Likelihood) -> tuple[float, float]:
    th.manual_seed(0)
    model = GenerativeModel(ConditionalMLP(2, 3, [8, 8], nn.Tanh), path, prediction, 2, data_bound=None).double()
    points, condition = 0.5 * th.randn(4, 2, dtype=th.float64), th.randn(4, 3, dtype=th.float64)
    weight = model.network.layers[0].weight

    def of_points(points):
        return model.log_prob(points, condition, likelihood).sum()

    def of_weight(values):
        before = weight.data.clone()
        weight.data.copy_(values)
        result = of_points(points)
        weight.data.copy_(before)
        return result

    leaf = points.clone().requires_grad_()
    of_points(leaf).backward()
    pairs = [
        (leaf.grad, central_difference(of_points, points)),
        (weight.grad, central_difference(of_weight, weight.data.clone())),
    ]
    return tuple(((given - wanted).norm() / wanted.norm()).item() for given, wanted in pairs)


def spread(path, std: float, sampler: Sampler) -> float:
    """Of the samples of an exact model of N(0, std^2), as a share of std."""
    model = GenerativeModel(gaussian(path, "velocity", 0.0, std), path, "velocity", 1)
    return model.sample(th.zeros(1, 0), th.ones(1, 1, dtype=th.float64), sampler).item() / std


def print_masses() -> None:
    """Integrals of the densities of trained one-dimensional policies, by the recipe of tests/helpers/models.py."""
    actions = th.linspace(-6.0, 10.0, 8001)[:, None]
    methods = {
        "16 rk4 steps": Likelihood(),
        "dopri5": Likelihood(sampler=Sampler("dopri5")),
        "discrete, default sampler": Likelihood("discrete"),
        "discrete, 10 euler steps": Likelihood("discrete", Sampler("euler", 10)),
    }
    for name in BIMODAL:
        policy = train_bimodal(name)
        for label, likelihood in methods.items():
            with th.no_grad():
                density = policy.log_prob(th.zeros(8001, 1), actions, likelihood).exp()
            print(f"integral of a trained policy's density, {name} path, {label}: {th.trapezoid(density, actions[:, 0]):.3f}")


def main() -> None:
    for name, path in PATHS.items():
        print(f"derivatives of the {name} path in float32, largest relative error: {derivative_error(path):.1e}")
    for solver in ("euler", "midpoint", "heun", "rk4"):
        print(f"order of {solver}: {order(solver):.2f}")
    for name in ("cosine", "vp"):
        print(f"order of dpm++ on the {name} path: {order_of_dpm_solver(PATHS[name]):.2f}")
    for name, path in PATHS.items():
        for label, sampler in (("default", Sampler()), ("32 uniform Euler steps", Sampler("euler", 32, "uniform"))):
            shares = ", ".join(f"{spread(path, std, sampler):.3f}" for std in (0.2, 0.05))
            print(f"spread kept of N(0, 0.2^2) and N(0, 0.05^2), {name} path, {label}: {shares}")
    for name, path in PATHS.items():
        errors = ", ".join(f"{density_error(path, dim):.1e}" for dim in (1, 2, 3))
        print(f"log_prob of a mixture, {name} path, 16 rk4 steps, worst of 1000 points in 1, 2, 3 dimensions: {errors} nats")
    for method, sampler in (("continuous", "rk4"), ("discrete", "euler"), ("discrete", "midpoint")):
        for name, prediction in (("linear", "velocity"), ("vp", "noise")):
            in_points, in_weights = gradient_error(PATHS[name], prediction, Likelihood(method, Sampler(sampler, 6)))
            print(
                f"gradient, {method} {sampler}, {name} path: {in_points:.1e} in points, {in_weights:.1e} in weights (relative)"
            )
    print_masses()


if __name__ == "__main__":
    main()
