"""
Time of drawing a batch of 256 from 10^4, 10^6 and 10^7 rows of Hopper's shape (needs 3 GB of memory).

    python benchmarks/sampling.py
"""

import time

import numpy as np
import torch as th

from sb3_genpolicy import load_dataset
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.transitions.rewards import AffineReward


def main() -> None:
    th.set_num_threads(1)
    rng = np.random.default_rng(0)
    for n_rows in (10**4, 10**6, 10**7):
        observations = rng.normal(size=(n_rows, 11)).astype(np.float32)
        zeros = np.zeros(n_rows, np.float32)
        arrays = dict(observations=observations, rewards=zeros, terminals=zeros, timeouts=zeros)
        data = load_dataset({**arrays, "actions": np.zeros((n_rows, 3), np.float32)})
        buffer = OfflineReplayBuffer(1, data.observation_space, data.action_space, device="cpu")
        buffer.fill(data, AffineReward())
        seconds = []
        for _ in range(500):
            start = time.perf_counter()
            buffer.sample(256)
            seconds.append(time.perf_counter() - start)
        print(f"{n_rows:>10,} rows: {1e3 * np.median(seconds):.3f} ms a batch")


if __name__ == "__main__":
    main()
