"""
What a gradient step of GMPG costs, and how far its log pi and its gradient are off, with the paper's network.

    python -m benchmarks.gmpg
    python -m benchmarks.gmpg --fixed-points

A U-shaped network of 1.6 million parameters (three action dimensions, eleven of the state), batch 256, one thread. The
behaviour model is matched to a mixture for some hundred steps, and the policy trained away from it for some more. Errors are
against the continuous flow in float64 with many rk4 steps, on a part of the batch. The published implementation solves 999
Euler steps three times for a step; what it takes here follows from its measured time on a machine with a known rate of matrix
products (torch's own, which it uses; ours are those of training).

--fixed-points: where the loss settles on the linear-Gaussian problem, whose optimum is known.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch as th

from sb3_genpolicy.common.updates.precision import matmul_precision
from sb3_genpolicy.generative import (
    DiscreteKL,
    GenerativeModel,
    KLEstimator,
    Likelihood,
    LinearPath,
    OdeKL,
    PathKL,
    Sampler,
    UShapedMLP,
)
from sb3_genpolicy.generative.kl import Conditioned, Draws
from tests.helpers.gmpg import MEAN, STD, settle

DIM, STATE = 3, 11
# Seconds of the published step at batch 256 and its Euler steps, at this rate of float32 products
PUBLISHED = {32: 9.5, 100: 28.0, 1000: 280.0}
PUBLISHED_GFLOPS = 73.0

ESTIMATORS: dict[str, tuple[KLEstimator, Sampler]] = {
    "path, 10 steps (default)": (PathKL(), Sampler()),
    "discrete, 5 midpoint steps": (DiscreteKL(), Sampler()),
    "discrete, 10 Euler steps": (DiscreteKL(), Sampler("euler", 10)),
    "ode, 16 rk4 steps": (OdeKL(), Sampler("rk4", 16)),
    "ode, 5 midpoint steps": (OdeKL(Likelihood(sampler=Sampler("midpoint", 5))), Sampler()),
    **{
        f"detached (published), {steps} Euler steps": (
            OdeKL(Likelihood("hutchinson", Sampler("euler", steps, "uniform")), detached=True),
            Sampler("euler", steps, "uniform"),
        )
        for steps in (32, 1000)
    },
}


def gflops(size: int = 1024, repeats: int = 20) -> float:
    matrix = th.randn(size, size)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start)
    return 2.0 * size**3 / sorted(times)[repeats // 2] / 1e9


def draw(n: int, shift: float = 0.0) -> tuple[th.Tensor, th.Tensor]:
    states = th.randn(n, STATE)
    centre = 0.5 * th.tanh(states[:, :DIM]) * (th.randint(0, 2, (n, 1)) * 2 - 1)
    return (centre + shift + 0.1 * th.randn(n, DIM)).clamp(-1, 1), states


def match(model: GenerativeModel, steps: int, shift: float) -> None:
    optimizer = th.optim.Adam(model.parameters(), lr=1e-3 if shift == 0.0 else 1e-4)
    for _ in range(steps):
        actions, states = draw(256, shift)
        loss = model.matching_loss(actions, states).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def gradient(model: GenerativeModel, loss: Callable[[], th.Tensor]) -> th.Tensor:
    model.zero_grad()
    loss().backward()
    return th.cat([parameter.grad.double().flatten() for parameter in model.parameters() if parameter.grad is not None])


def kl_gradient(
    policy: GenerativeModel, behaviour: GenerativeModel, states: th.Tensor, noise: th.Tensor, name: str, truth: bool = False
) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
    """Gradient, actions and log pi of an estimator, the same noise for all."""
    estimator, sampler = ESTIMATORS[name]
    if truth:
        sampler = Sampler("rk4", 64)
        estimator = OdeKL(Likelihood(sampler=sampler))
    samples = []

    def loss() -> th.Tensor:
        sides = Conditioned(policy, states), Conditioned(behaviour, states)
        samples.append(estimator.of_samples(*sides, Draws(noise, sampler, th.Generator().manual_seed(0))))
        return samples[-1].log_ratio.mean()

    found = gradient(policy, loss)
    log_model = samples[-1].log_model
    return found, samples[-1].x1.detach(), None if log_model is None else log_model.detach()


def fixed_points() -> None:
    detached = OdeKL(Likelihood(sampler=Sampler("midpoint", 16)), detached=True)
    quadrature = OdeKL(Likelihood(sampler=Sampler()))
    print(
        "| beta | optimum | discrete | path, 10 steps | path, 40 steps | ode, 5 midpoint steps | detached, 16 midpoint steps |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, beta in (("0", 0.0), ("ln 2", math.log(2.0)), ("4 ln 2", 4.0 * math.log(2.0))):
        variance = 1.0 / (1.0 / STD**2 + beta)
        cells = [(variance * (MEAN / STD**2 + beta), math.sqrt(variance))]
        for estimator in (DiscreteKL(), PathKL(10), PathKL(40), quadrature):
            cells.append(settle(estimator, beta, Sampler(), iterations=200, rows=127))
        cells.append(settle(detached, beta, Sampler("midpoint", 16), rows=127))
        print(f"| {name} | " + " | ".join(f"N({mean:.3f}, {std:.3f}²)" for mean, std in cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="of matching")
    parser.add_argument("--rows", type=int, default=256, help="rows whose gradient is compared")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fixed-points", action="store_true")
    args = parser.parse_args()
    th.set_num_threads(1)
    if args.fixed_points:
        return fixed_points()
    th.manual_seed(0)
    path = LinearPath()
    behaviour = GenerativeModel(UShapedMLP(DIM, STATE, [512, 256, 128]), path, "velocity", DIM)
    match(behaviour, args.steps, 0.0)
    policy = copy.deepcopy(behaviour)
    match(policy, args.steps // 4, 0.1)
    behaviour.requires_grad_(False)
    rate = gflops()
    count = sum(parameter.numel() for parameter in policy.parameters())
    print(f"{count / 1e6:.2f} million parameters, {rate:.0f} GFLOP/s in float32 products")

    _, states = draw(256)
    noise = th.randn(256, DIM)
    exact_policy, exact_behaviour = copy.deepcopy(policy).double(), copy.deepcopy(behaviour).double()
    few = states[: args.rows].double(), noise[: args.rows].double()
    true_gradient, _, _ = kl_gradient(exact_policy, exact_behaviour, *few, "ode, 16 rk4 steps", truth=True)
    print("| estimator | seconds a step | published 1000 steps takes this many times longer | error of log pi | cosine |")
    print("|---|---|---|---|---|")
    for name in ESTIMATORS:
        seconds = PUBLISHED[1000] * PUBLISHED_GFLOPS / rate
        if "1000" not in name:
            # As in training; the published estimator as it is computed there
            with nullcontext() if "published" in name else matmul_precision("float32", th.device("cpu")):
                kl_gradient(policy, behaviour, states, noise, name)
                start = time.perf_counter()
                for _ in range(args.repeats):
                    kl_gradient(policy, behaviour, states, noise, name)
                seconds = (time.perf_counter() - start) / args.repeats
        found, actions, log_pi = kl_gradient(policy, behaviour, states[: args.rows], noise[: args.rows], name)
        error = "none taken"
        if log_pi is not None:
            with th.no_grad():
                exact = exact_policy.log_prob(actions.double(), few[0], Likelihood(sampler=Sampler("rk4", 64)))
            error = f"{(log_pi - exact).abs().median().item():.3f}"
        cosine = th.nn.functional.cosine_similarity(found, true_gradient, dim=0).item()
        ratio = PUBLISHED[1000] * PUBLISHED_GFLOPS / rate / seconds
        print(f"| {name} | {seconds:.2f} | {ratio:.0f} | {error} | {cosine:.2f} |", flush=True)


if __name__ == "__main__":
    main()
