"""
GMPO's step on a GPU: made call by call, recorded once and replayed, in lower precisions, and of many seeds side by side.

    python -m benchmarks.cuda [--batch-size 4096] [--steps 300] [--repeats 5] [--seeds 16]

Hopper's shapes. All sides run in turn, ``--repeats`` times, and medians are compared; a side's time is from its first to its
last step, with one wait for the device at both ends. Before anything is timed, the recorded step is compared with the same
made call by call. The goals: a recorded step of batch 4096 at least 5 times faster, 16 seeds in at most 3 times the time of
one.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch as th

from benchmarks.speed import NETWORKS, arrays
from sb3_genpolicy import GMPO, learn_side_by_side

# Steps that are not timed: the first ones of a kind are made one by one, then one is recorded
WARM_UP = 20
# Recorded and call by call, parameters after so many steps may differ by this much of themselves
COMPARED_STEPS, TOLERANCE = 50, 1e-3


def seconds_per_step(run: Callable[[int], Any], n_steps: int) -> float:
    th.cuda.synchronize()
    start = time.perf_counter()
    run(n_steps)
    th.cuda.synchronize()
    return (time.perf_counter() - start) / n_steps


def make(data: dict[str, Any], network: str, batch_size: int, seed: int = 0, **options: Any) -> GMPO:
    policy_kwargs = NETWORKS[network]
    return GMPO(
        "FlowPolicy", dataset=data, policy_kwargs=policy_kwargs, seed=seed, batch_size=batch_size, device="cuda", **options
    )


@th.no_grad()
def largest_difference(one: GMPO, other: GMPO) -> float:
    pairs = zip(one.policy.parameters(), other.policy.parameters(), strict=True)
    return max(float((mine - theirs).norm() / theirs.norm().clamp(min=1e-6)) for mine, theirs in pairs)


def compare(data: dict[str, Any], batch_size: int) -> None:
    eager, recorded = (
        make(data, "default", batch_size, capture=capture).learn(COMPARED_STEPS, log_interval=None)
        for capture in (False, True)
    )
    difference = largest_difference(recorded, eager)
    print(f"After {COMPARED_STEPS} steps, recorded and call by call differ by {difference:.1e} of a parameter's norm.")
    if not recorded.recorder.active:
        print("Nothing was recorded: the log says why. What follows compares nothing.")
    elif difference > TOLERANCE:
        sys.exit(f"More than {TOLERANCE:g}: the recorded step is not the same step.")


def table_of_steps(data: dict[str, Any], options: argparse.Namespace) -> None:
    print("\n| networks | step | ms | times as fast |\n|---|---|---|---|")
    for network in NETWORKS:
        models = {
            "call by call": make(data, network, options.batch_size),
            "recorded": make(data, network, options.batch_size, capture=True),
            "recorded, tf32": make(data, network, options.batch_size, capture=True, precision="tf32"),
            "recorded, bfloat16": make(data, network, options.batch_size, capture=True, precision="bfloat16"),
        }
        times: dict[str, list[float]] = {name: [] for name in models}
        for model in models.values():
            model.learn(WARM_UP, log_interval=None)
        for _ in range(options.repeats):
            for name, model in models.items():
                times[name].append(seconds_per_step(lambda n, m=model: m.train(n, options.batch_size), options.steps))
        medians = {name: statistics.median(values) for name, values in times.items()}
        for name, seconds in medians.items():
            gain = medians["call by call"] / seconds
            print(f"| {network} | {name} | {1e3 * seconds:.3f} | {gain:.2f} |", flush=True)


def table_of_seeds(data: dict[str, Any], options: argparse.Namespace) -> None:
    print("\n| seeds side by side | batch | ms per step of all | times that of one |\n|---|---|---|---|")
    for batch_size in (256, options.batch_size):
        times: dict[int, list[float]] = {1: [], options.seeds: []}
        for _ in range(options.repeats):
            for n_seeds in times:
                models = [make(data, "default", batch_size, seed) for seed in range(n_seeds)]

                def go_on(n: int, models: list[GMPO] = models) -> None:
                    if len(models) > 1:
                        learn_side_by_side(models, n, log_interval=None, reset_num_timesteps=False)
                    else:
                        models[0].learn(n, log_interval=None, reset_num_timesteps=False)

                go_on(WARM_UP)
                # Putting models together and taking them apart does not count
                short = options.steps // 10
                few, many = seconds_per_step(go_on, short) * short, seconds_per_step(go_on, options.steps) * options.steps
                times[n_seeds].append((many - few) / (options.steps - short))
        one = statistics.median(times[1])
        for n_seeds, values in times.items():
            seconds = statistics.median(values)
            print(f"| {n_seeds} | {batch_size} | {1e3 * seconds:.3f} | {seconds / one:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=300, help="of each side's turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=16)
    options = parser.parse_args()
    if not th.cuda.is_available():
        sys.exit("There is no CUDA device here. On a CPU, run `python -m benchmarks.speed`.")
    print(f"{th.cuda.get_device_name()}, torch {th.__version__}")
    data = arrays()
    compare(data, options.batch_size)
    table_of_steps(data, options)
    table_of_seeds(data, options)


if __name__ == "__main__":
    main()
