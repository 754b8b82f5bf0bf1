"""
Do samples come back from their own noise? What ``Likelihood("discrete")`` rests upon, and what it costs.

    python -m benchmarks.inversion
    python -m benchmarks.inversion --model gmpo_hopper.zip --dataset rlzoo/hopper/medium-v0

Without a model: 2,000 samples of a mixture of three narrow Gaussians, with equal and with tapered midpoint steps.
"""

import argparse
import time
import warnings

import numpy as np
import torch as th

from sb3_genpolicy import GMPO, load_dataset
from sb3_genpolicy.generative import CosinePath, GenerativeModel, Likelihood, LinearPath, Sampler, VPPath
from tests.helpers.closed_forms import GaussianMixture


@th.no_grad()
def report(name: str, model: GenerativeModel, condition: th.Tensor, noise: th.Tensor, sampler: Sampler) -> None:
    likelihood = Likelihood("discrete", sampler)
    samples, log_prob = model.sample_with_log_prob(condition, noise, likelihood)
    start = time.perf_counter()
    again = model.log_prob(samples, condition, likelihood)
    seconds = time.perf_counter() - start
    lost = ((again - log_prob).abs() > 0.01).sum().item()
    steps = f"{sampler.steps} {sampler.solver} steps ({sampler.time_grid})"
    print(f"{name}, {steps}: {lost} of {len(samples)} do not come back, log_prob {1e3 * seconds:.0f} ms")


def mixture() -> None:
    noise = th.randn((2000, 2), generator=th.Generator().manual_seed(0), dtype=th.float64)
    # Smooth in time, and the variance-preserving path in the angle
    for path, equal in ((LinearPath(), "uniform"), (CosinePath(), "uniform"), (VPPath(), "angle")):
        network = GaussianMixture(path, "velocity", [[0.5, 0.5], [-0.5, 0.5], [0.0, -0.6]], [0.2, 0.15, 0.1])
        model = GenerativeModel(network, path, "velocity", 2)
        for time_grid in (equal, "tapered"):
            report(type(path).__name__, model, th.zeros(2000, 0), noise, Sampler("midpoint", 5, time_grid))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a saved GMPO")
    parser.add_argument("--dataset", help="whose observations")
    args = parser.parse_args()
    th.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    if args.model is None:
        return mixture()
    actor, data = GMPO.load(args.model, device="cpu").policy.actor_ema, load_dataset(args.dataset)
    rows = np.random.default_rng(0).choice(len(data.rewards), 256, replace=False)
    with th.no_grad():
        features = actor.extract_features(
            th.as_tensor(np.asarray(data.observations[rows], np.float32)), actor.features_extractor
        )
    noise = th.randn((256, actor.action_dim), generator=th.Generator().manual_seed(0))
    for sampler in (Sampler("euler", 10), Sampler(), Sampler("midpoint", 10)):
        report(args.dataset, actor.model, features, noise, sampler)


if __name__ == "__main__":
    main()
