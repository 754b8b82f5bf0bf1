"""
What pairing noise with data by optimal transport costs, and what it does to the noise of a condition.

    python benchmarks/couplings.py
"""

import time

import torch as th

from sb3_genpolicy.generative import OptimalTransportCoupling


def main() -> None:
    th.set_num_threads(1)
    th.manual_seed(0)
    for batch_size in (256, 1024, 4096):
        noise, actions, condition = th.randn(batch_size, 3), th.rand(batch_size, 3) * 2.0 - 1.0, th.randn(batch_size, 11)
        for weight in (0.0, 10.0):
            start = time.perf_counter()
            OptimalTransportCoupling(weight)(noise, actions, condition)
            seconds = time.perf_counter() - start
            print(f"batch {batch_size}, condition_weight {weight:g}: {1e3 * seconds:.0f} ms")
    # One state, actions at half of it: does the noise that is paired with a state tell it?
    for weight in (0.0, 0.1, 1.0, 10.0, 100.0):
        products = []
        for _ in range(20):
            state, noise, spread = th.randn(3, 256, 1)
            actions = (0.5 * state + 0.2 * spread).clamp(-1.0, 1.0)
            products.append((OptimalTransportCoupling(weight)(noise, actions, state) * state).mean())
        print(f"condition_weight {weight:g}: correlation of noise and state {th.stack(products).mean():.2f}")


if __name__ == "__main__":
    main()
