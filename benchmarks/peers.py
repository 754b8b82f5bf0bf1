"""
What the same work costs here and in d3rlpy, each in a process of its own: ``python benchmarks/peers.py ours`` or, with the
Python of an environment that has d3rlpy, ``... d3rlpy``. Prints one line of JSON. ``benchmarks/speed.py`` lets them take
turns.

One thread, Hopper's shapes, a million rows, default networks: three layers of 256 for our actor, two for all others.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th

OBS_DIM, ACTION_DIM, ROWS, BATCH = 11, 3, 1_000_000, 256


def make_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return dict(
        observations=rng.normal(size=(ROWS, OBS_DIM)).astype(np.float32),
        actions=rng.uniform(-1, 1, (ROWS, ACTION_DIM)).astype(np.float32),
        rewards=rng.normal(size=ROWS).astype(np.float32),
        terminals=np.zeros(ROWS, np.float32),
        timeouts=(np.arange(ROWS) % 1000 == 999).astype(np.float32),
    )


def seconds_of(run: Callable[[], Any], at_least: float = 2.0) -> float:
    """Mean time of a call, over calls of so many seconds in all."""
    run()
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < at_least:
        run()
        calls += 1
    return (time.perf_counter() - start) / calls


def ours(arrays: dict[str, np.ndarray]) -> tuple[Callable[[], Any], Callable[[np.ndarray], Any]]:
    from gymnasium import spaces

    from sb3_genpolicy import GMPO

    dataset = {**arrays, "action_space": spaces.Box(-1, 1, (ACTION_DIM,), np.float32)}
    model = GMPO("FlowPolicy", dataset=dataset, seed=0, batch_size=BATCH, device="cpu").learn(1, log_interval=None)
    return lambda: model.train(1, BATCH), lambda rows: model.predict(rows, deterministic=True)


def d3rlpy_s(arrays: dict[str, np.ndarray]) -> tuple[Callable[[], Any], Callable[[np.ndarray], Any]]:
    import d3rlpy

    dataset = d3rlpy.dataset.MDPDataset(**arrays)
    iql = d3rlpy.algos.IQLConfig(batch_size=BATCH).create(device="cpu:0")
    iql.build_with_dataset(dataset)
    iql.update(dataset.sample_transition_batch(BATCH))
    return lambda: iql.update(dataset.sample_transition_batch(BATCH)), iql.predict


def main() -> None:
    th.set_num_threads(1)
    arrays = make_arrays()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    update, act = (ours if sys.argv[1] == "ours" else d3rlpy_s)(arrays)
    figures = {"to the first update, s": time.perf_counter() - start, "update, ms": 1e3 * seconds_of(update)}
    for n in (1, 256):
        rows = arrays["observations"][:n]
        figures[f"act, {n} observation{'s' if n > 1 else ''}, ms"] = 1e3 * seconds_of(lambda rows=rows: act(rows))
    figures["memory beside the arrays, MiB"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
