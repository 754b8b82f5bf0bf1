"""
Time of `predict`, of one observation and of 256, on one core: Hopper's shapes, default network and sampler.

    python benchmarks/acting.py
"""

import time
import warnings

import numpy as np
import torch as th

from sb3_genpolicy import GMPO

N_OBSERVATIONS, N_ACTIONS = 11, 3


def make_model(policy: str) -> GMPO:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2, 40, N_OBSERVATIONS)).astype(np.float32)
    arrays = dict(observations=rows[0], next_observations=rows[1], actions=rng.uniform(-1, 1, (40, N_ACTIONS)))
    zeros = dict(rewards=np.zeros(40), terminals=np.ones(40))
    return GMPO(policy, dataset={**arrays, **zeros}, device="cpu", batch_size=8).learn(1, log_interval=None)


def microseconds(model: GMPO, observations: np.ndarray, deterministic: bool, n: int) -> np.ndarray:
    times = []
    for _ in range(n + 20):
        start = time.perf_counter()
        model.predict(observations, deterministic=deterministic)
        times.append(1e6 * (time.perf_counter() - start))
    return np.array(times[20:])


def main() -> None:
    warnings.simplefilter("ignore")
    th.set_num_threads(1)
    for policy in ("FlowPolicy", "DiffusionPolicy"):
        model = make_model(policy)
        for batch, n in ((1, 2000), (256, 300)):
            observations = np.random.default_rng(1).normal(size=(batch, N_OBSERVATIONS)).astype(np.float32)
            for deterministic in (True, False):
                times = microseconds(model, observations[0] if batch == 1 else observations, deterministic, n)
                kind = "deterministic" if deterministic else "sampled"
                print(
                    f"{policy:15} {batch:3} x {kind:13} median {np.median(times):6.0f} us, shortest {times.min():6.0f} us, "
                    f"99 % under {np.quantile(times, 0.99):6.0f} us"
                )


if __name__ == "__main__":
    main()
