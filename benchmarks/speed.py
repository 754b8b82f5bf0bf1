"""
What a gradient step costs, beside the least that its matrix products and its memory traffic could take, with torch's own
products and in bfloat16; and the same work beside d3rlpy.

    python -m benchmarks.speed [--batch-sizes 256 4096] [--repeats 5] [--seconds 1.0]
    python -m benchmarks.speed --parts
    python -m benchmarks.speed --batch-sizes --peer <python of an environment with d3rlpy 2.8.1>

All sides of a table run in turn, ``--repeats`` times, and medians are compared; one thread, Hopper's shapes. The floor of
float32 is at the rate of oneDNN's products of two 1024 x 1024 matrices, which training uses; "torch's own" are those that
PyTorch takes by default (MKL's), beside a floor at their rate.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch as th
from gymnasium import spaces
from torch.profiler import ProfilerActivity, profile

from benchmarks.floor import Floor, copy_rate, product_rate
from benchmarks.peers import seconds_of
from sb3_genpolicy import GMPG, GMPO
from sb3_genpolicy.common.updates import precision
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.objective import Objective
from sb3_genpolicy.common.updates.precision import matmul_precision

OBS_DIM, ACTION_DIM, ROWS = 11, 3, 200_000
CPU = th.device("cpu")
NETWORKS: dict[str, dict[str, Any]] = {"default": {}, "paper's": {"network": "unet"}}
MODES = ("float32", "torch's own", "bfloat16")


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    ends = np.arange(ROWS) % 1000 == 999
    return dict(
        observations=rng.normal(size=(ROWS, OBS_DIM)).astype(np.float32),
        actions=rng.uniform(-1, 1, (ROWS, ACTION_DIM)).astype(np.float32),
        rewards=rng.normal(size=ROWS).astype(np.float32),
        terminals=np.zeros(ROWS, np.float32),
        timeouts=ends.astype(np.float32),
        action_space=spaces.Box(-1, 1, (ACTION_DIM,), np.float32),
    )


class Critics(GMPO):
    """Whose updates are of the critics alone."""

    def objective(self, batch: Batch) -> Objective:
        return self.critic_losses(batch).objective()


class Behaviour(GMPO):
    """Whose updates are of the behaviour model alone."""

    def objective(self, batch: Batch) -> Objective:
        matching_loss = self.actor.matching_loss(batch.observations, batch.actions, batch.generator).mean()
        return Objective(dict(matching_loss=matching_loss), ("actor",))


def sides(policy_kwargs: dict[str, Any], batch_size: int, data: dict[str, Any]) -> dict[str, GMPO | GMPG]:
    """Name of a step -> a model that makes it."""
    options: dict[str, Any] = dict(dataset=data, policy_kwargs=policy_kwargs, seed=0, batch_size=batch_size)
    models: dict[str, GMPO | GMPG] = {
        "critics": Critics("FlowPolicy", **options),
        "behaviour model": Behaviour("FlowPolicy", **options),
        "GMPO": GMPO("FlowPolicy", **options),
        "GMPG, second phase": GMPG("FlowPolicy", pretraining_steps=1, **options),
    }
    for model in models.values():
        model.learn(2, log_interval=None)
    return models


def step(model: GMPO | GMPG, mode: str, batch_size: int) -> None:
    model.precision = "bfloat16" if mode == "bfloat16" else "float32"
    with mock.patch.object(precision, "onednn_keeps_float32", lambda: mode == "float32"):
        model.train(1, batch_size)


def medians(runs: dict[Any, Callable[[], Any]], repeats: int, seconds: float) -> dict[Any, float]:
    """Name -> median time of a call; all take turns."""
    times: dict[Any, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(seconds_of(run, seconds))
    return {name: statistics.median(values) for name, values in times.items()}


def floors() -> dict[str, Floor]:
    copies = copy_rate()
    with matmul_precision("float32", CPU):
        exact = product_rate()
    rates = {"float32": exact, "torch's own": product_rate(), "bfloat16": product_rate(th.bfloat16)}
    said = ", ".join(f"{mode} {rate / 1e9:.0f}" for mode, rate in rates.items())
    print(f"Matrix products of one thread, GFLOP/s: {said}; copies {copies / 1e9:.0f} GB/s.\n")
    return {mode: Floor(rate, copies) for mode, rate in rates.items()}


def table_of_steps(options: argparse.Namespace) -> None:
    floor, data = floors(), arrays()
    print("| networks | batch | step | ms | floor | ratio | torch's own, ms | its floor | bfloat16, ms | gain |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for network in options.networks:
        for batch_size in options.batch_sizes:
            models = sides(NETWORKS[network], batch_size, data)
            runs = {(name, mode): partial(step, model, mode, batch_size) for name, model in models.items() for mode in MODES}
            timed = medians(runs, options.repeats, options.seconds)
            for name, model in models.items():
                times = {mode: timed[name, mode] for mode in MODES}
                print(
                    f"| {network} | {batch_size} | {name} | {cells(times, least(name, model, batch_size, floor))} |",
                    flush=True,
                )


def least(name: str, model: GMPO | GMPG, batch_size: int, floor: dict[str, Floor]) -> dict[str, float] | None:
    if name.startswith("GMPG"):
        return None
    parts = {"critics": ["critics"], "behaviour model": ["actor"], "GMPO": ["critics", "actor"]}[name]
    return {mode: sum(getattr(one, part)(model, batch_size) for part in parts) for mode, one in floor.items()}


def cells(times: dict[str, float], floor: dict[str, float] | None) -> str:
    exact, plain, half = (1e3 * times[mode] for mode in MODES)
    beside = ["", "", ""]
    if floor is not None:
        beside = [f"{1e3 * floor['float32']:.2f}", f"{exact / 1e3 / floor['float32']:.2f}", f"{1e3 * floor[MODES[1]]:.2f}"]
    return " | ".join([f"{exact:.2f}", *beside[:2], f"{plain:.2f}", beside[2], f"{half:.2f}", f"{exact / half:.2f}"])


# Where a step's time goes, by operation
PARTS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "linear"),
    "activations and their gradients": ("silu", "silu_backward", "relu", "relu_", "clamp_min_", "threshold_backward"),
    "optimizers and averages": ("_fused_adam_", "_foreach_lerp_", "lerp_", "Optimizer.step#Adam.step"),
    "drawing rows, times and noise": ("randint", "index_select", "index", "rand", "randn", "normal_", "uniform_", "random_"),
    "copies and changes of type": ("copy_", "_to_copy", "cat", "stack"),
}


def table_of_parts(options: argparse.Namespace) -> None:
    data = arrays()
    print("\n| networks | batch | precision | " + " | ".join(PARTS) + " | everything else |")
    print("|---|---|---|" + "---|" * (len(PARTS) + 1), flush=True)
    for network in options.networks:
        for batch_size in options.batch_sizes:
            for mode in ("float32", "bfloat16"):
                model = GMPO("FlowPolicy", dataset=data, policy_kwargs=NETWORKS[network], seed=0, batch_size=batch_size)
                model.learn(3, log_interval=None)
                with profile(activities=[ProfilerActivity.CPU]) as profiled:
                    for _ in range(max(5, 10_000 // batch_size)):
                        step(model, mode, batch_size)
                spent = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in profiled.key_averages()}
                shares = [sum(spent.get(name, 0.0) for name in names) / sum(spent.values()) for names in PARTS.values()]
                shares.append(1.0 - sum(shares))
                print(f"| {network} | {batch_size} | {mode} | " + " | ".join(f"{share:.0%}" for share in shares) + " |")


def table_of_peers(python: str, repeats: int) -> None:
    program = str(Path(__file__).with_name("peers.py"))
    commands = {"ours": [sys.executable, program, "ours"], "d3rlpy": [python, program, "d3rlpy"]}
    figures: dict[str, list[dict[str, float]]] = {side: [] for side in commands}
    for _ in range(repeats):
        for side, command in commands.items():
            finished = subprocess.run(command, capture_output=True, text=True, check=True)
            figures[side].append(json.loads(finished.stdout.splitlines()[-1]))
    print("\n| | GMPO | d3rlpy's IQL | ratio |\n|---|---|---|---|")
    for name in figures["ours"][0]:
        mine, other = (statistics.median(run[name] for run in runs) for runs in figures.values())
        print(f"| {name} | {mine:.2f} | {other:.2f} | {other / mine:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[256, 4096])
    parser.add_argument("--networks", choices=NETWORKS, nargs="+", default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each side's turn")
    parser.add_argument("--parts", action="store_true", help="where a step's time goes, in place of how long it takes")
    parser.add_argument("--peer", metavar="PYTHON", help="of an environment with d3rlpy")
    options = parser.parse_args()
    th.set_num_threads(1)
    if options.batch_sizes:
        (table_of_parts if options.parts else table_of_steps)(options)
    if options.peer:
        table_of_peers(options.peer, options.repeats)


if __name__ == "__main__":
    main()
