"""
Where adjoint matching settles on the linear-Gaussian problem, whose optimum is known: as published, and as it is here.

    python -m benchmarks.adjoint
    python -m benchmarks.adjoint --paths
    python -m benchmarks.adjoint --step

Behaviour N(-0.466, 1.350^2), Q = -(a - 1)^2 / 2. Points and targets are linear in normal draws: a few dozen draws of exactly
mean 0 and covariance 1 stand for all, and each regression is solved exactly, so that what is left is the error of the steps.
Two distributions are printed: the end of the diffusion, and what the policy's flow, which acts, makes of noise.

--paths: on every path, and by how much the divergence over the path is off.
--step: what a step costs beside one of GMPO, in turn, by the processor's time (Hopper's shapes, default networks, one thread).
"""

import argparse
import math
import time
from typing import Any

import numpy as np
import torch as th

from benchmarks.step_times import BATCH_SIZE, SHARES, arrays
from sb3_genpolicy import GMPG, GMPO
from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.generative import CosinePath, LinearPath, PathKL, VPPath
from sb3_genpolicy.generative.adjoint_matching import ADJOINTS
from tests.helpers.closed_forms import GaussianMixture
from tests.helpers.gmpg import MEAN, STD
from tests.helpers.linear_gaussian import fixed_point, flow_end, moments, optimum, whitened

BETAS = {"ln 2": math.log(2.0), "4 ln 2": 4.0 * math.log(2.0)}
STEPS = (5, 7, 10, 20)


def published(
    steps: int, beta: float, rows: int = 64, iterations: int = 60
) -> tuple[tuple[float, float], tuple[float, float]]:
    """
    Euler's steps of X and of the adjoint a on straight lines, with t + h in place of t where that would be 0
    (Domingo-Enrich et al., 2024; the last step is one of the behaviour's flow, without noise).

    :param steps: number of steps
    :param beta: inverse temperature
    :param rows: number of draws
    :param iterations: of rollout and regression
    :return: mean and standard deviation of the rollout's end, and of the flow's
    """
    h = 1.0 / steps
    behaviour = GaussianMixture(LinearPath(), "velocity", [[MEAN]], [STD])
    times = h * th.arange(steps + 1, dtype=th.float64)
    at_0, at_1 = (behaviour(times[:, None], th.full((steps + 1, 1), x).double()) for x in (0.0, 1.0))
    fields = th.cat([at_1 - at_0, at_0], dim=1)
    slopes, policy = fields[:, 0], fields.clone()
    draws = whitened(rows, steps)
    for _ in range(iterations):
        xs = [draws[:, 0]]
        for k in range(steps - 1):
            t = times[k] + h
            drift = 2.0 * (policy[k, 0] * xs[k] + policy[k, 1]) - xs[k] / t
            xs.append(xs[k] + h * drift + (h * 2.0 * (1.0 - times[k] + h) / t).sqrt() * draws[:, k + 1])
        xs.append(xs[-1] + h * (fields[-2, 0] * xs[-1] + fields[-2, 1]))
        a = beta * (xs[-1] - 1.0)
        for k in range(steps - 1, -1, -1):
            a = a + h * (2.0 * slopes[k + 1] - 1.0 / (times[k] + h)) * a
            target = fields[k, 0] * xs[k] + fields[k, 1] - (1.0 - times[k] + h) / (times[k] + h) * a
            inputs = th.stack([xs[k], th.ones_like(a)], dim=1)
            policy[k] += 0.5 * (th.linalg.lstsq(inputs, target[:, None]).solution[:, 0] - policy[k])
    return moments(xs[-1]), flow_end(LinearPath(), times[:-1], fields[:-1], policy[:-1])


def shown(*moments: tuple[float, float]) -> str:
    return ", ".join(f"N({mean:.3f}, {std:.3f}²)" for mean, std in moments)


def step_times(turns: int = 60) -> None:
    gradients: dict[str, dict[str, Any]] = {
        "GMPO": {},
        "GMPG, path, 10 steps": dict(gradient_estimator="pathwise"),
        "GMPG, adjoint, 10 steps (default)": dict(gradient_estimator="adjoint"),
        "GMPG, adjoint, 7 steps": dict(gradient_estimator="adjoint", kl_estimator=PathKL(7)),
        "GMPG, scalar adjoint, 10 steps": dict(gradient_estimator="adjoint", adjoint="scalar"),
    }
    options: dict[str, Any] = dict(policy="FlowPolicy", dataset=arrays(), seed=0, batch_size=BATCH_SIZE, device="cpu")
    models: dict[str, OfflineAlgorithm] = {}
    for name, more in gradients.items():
        models[name] = GMPG(pretraining_steps=1, **options, **more) if more else GMPO(**options)
        models[name].learn(2, log_interval=None)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(turns):
        for name, model in models.items():
            start = time.process_time()
            model.train(1, BATCH_SIZE)
            seconds[name].append(time.process_time() - start)
    print("| | ms, lower decile | over GMPO's | ms, median | over GMPO's |\n|---|---|---|---|---|")
    for name, mine in seconds.items():
        cells = [name]
        for share in SHARES.values():
            ours, gmpo = (1e3 * float(np.quantile(taken, share)) for taken in (mine, seconds["GMPO"]))
            cells += [f"{ours:.0f}", f"{ours / gmpo:.2f}"]
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", action="store_true")
    parser.add_argument("--step", action="store_true")
    args = parser.parse_args()
    th.set_num_threads(1)
    if args.step:
        return step_times()
    if args.paths:
        print("| path | beta | steps | errors of the end | errors of the flow | path KL | KL |\n|---|---|---|---|---|---|---|")
        for path in (LinearPath(), CosinePath(), VPPath()):
            for name, beta in BETAS.items():
                mean, std = optimum(beta)
                exact = math.log(STD / std) + (std**2 + (mean - MEAN) ** 2) / (2.0 * STD**2) - 0.5
                for steps in STEPS:
                    end, action, kl = fixed_point(path, steps, beta)
                    errors = " | ".join(f"{found[0] - mean:+.4f}, {found[1] - std:+.4f}" for found in (end, action))
                    print(f"| {type(path).__name__} | {name} | {steps} | {errors} | {kl:.3f} | {exact:.3f} |", flush=True)
        return
    print("| beta | optimum | steps | published | here | here, scalar |\n|---|---|---|---|---|---|")
    for name, beta in BETAS.items():
        for steps in STEPS:
            ours = [shown(*fixed_point(LinearPath(), steps, beta, adjoint=adjoint)[:2]) for adjoint in ADJOINTS]
            cells = [name, shown(optimum(beta)), str(steps), shown(*published(steps, beta)), *ours]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
