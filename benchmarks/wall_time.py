"""
Normalised score against time of training, for our defaults and for the published settings (batch 4096, 1.6 M parameters).

    python -m benchmarks.wall_time train --dataset rlzoo/hopper/medium-v0 --setting defaults --seconds 600 --seeds 0 1 2
    python -m benchmarks.wall_time train --dataset rlzoo/hopper/medium-v0 --setting published --seconds 3000 --seeds 0
    python -m benchmarks.wall_time table
    python -m benchmarks.wall_time plot --path docs/_static/wall_time.png

One thread. Time is that of the processor, of training alone: evaluations do not count, nor does what else the machine does.
Each evaluation appends a line to ``benchmarks/results/wall_time.jsonl``; nothing is selected.
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch as th

from benchmarks.scores import evaluate
from sb3_genpolicy import GMPO, load_dataset
from sb3_genpolicy.generative import LinearPath

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).parent / "results" / "wall_time.jsonl"
# As the paper trains with the linear path (sb3_genpolicy/gmpo/hyperparams/published-linear.yml); there are no settings for
# pendulum, which takes the weights that most of its tasks have
PUBLISHED: dict[str, Any] = dict(
    learning_rate=1e-4,
    batch_size=4096,
    tau=0.005,
    actor_tau=1.0,
    policy_kwargs=dict(
        network="unet",
        path=LinearPath(extra_noise=0.1),
        normalize_observations=False,
        solver="euler",
        sampling_steps=31,
        time_grid="uniform",
    ),
)
WEIGHTS = {"hopper": dict(beta=16.0, weight_clamp=1000.0), "pendulum": dict(beta=1.0, weight_clamp=100.0)}
SETTINGS = ("defaults", "published")
# The first evaluation comes after so many seconds, and each later one after this much more than the one before
FIRST, FACTOR = 4.0, 1.5


def make(setting: str, dataset: str, seed: int) -> GMPO:
    options = {**PUBLISHED, **WEIGHTS[dataset.split("/")[1]]} if setting == "published" else {}
    return GMPO("FlowPolicy", load_dataset(dataset).env_id, dataset=dataset, seed=seed, **options)


def train(args: argparse.Namespace, seed: int) -> None:
    model, spent, due = make(args.setting, args.dataset, seed), 0.0, FIRST
    model.read_dataset()
    while spent < args.seconds:
        start = time.process_time()
        # So that a look at the clock costs nothing, and none comes late
        model.learn(10 if args.setting == "published" else 100, reset_num_timesteps=False, log_interval=None)
        spent += time.process_time() - start
        if spent >= min(due, args.seconds):
            due *= FACTOR
            score = evaluate(model, model.env.envs[0].spec.id, args.episodes, deterministic=True)
            run = dict(dataset=args.dataset, setting=args.setting, seed=seed)
            row = dict(**run, seconds=spent, steps=model.num_timesteps, **score)
            print(row, flush=True)
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")


def curves() -> dict[tuple[str, str], dict[int, list[tuple[float, float, int]]]]:
    """(dataset, setting) -> seed -> (seconds, score, steps)."""
    found: dict[tuple[str, str], dict[int, list[tuple[float, float, int]]]] = defaultdict(lambda: defaultdict(list))
    for line in RESULTS.read_text().splitlines():
        row = json.loads(line)
        found[row["dataset"], row["setting"]][row["seed"]].append((row["seconds"], row["mean"], row["steps"]))
    return found


def table() -> None:
    """When each seed first came to the best score that the published settings ever had."""
    found = curves()
    print("| dataset | setting | seeds | ms per step | last score | at, s | s to the published settings' best |")
    print("|---|---|---|---|---|---|---|")
    for (dataset, setting), seeds in sorted(found.items()):
        last = [points[-1] for points in seeds.values()]
        target = max(score for points in found[dataset, "published"].values() for _, score, _ in points)
        reached = [next((f"{s:.0f}" for s, score, _ in points if score >= target), "never") for points in seeds.values()]
        scores = ", ".join(f"{score:.1f}" for _, score, _ in last)
        per_step = 1e3 * np.mean([s / steps for s, _, steps in last])
        seconds = np.mean([s for s, _, _ in last])
        print(f"| {dataset} | {setting} | {len(seeds)} | {per_step:.1f} | {scores} | {seconds:.0f} | {', '.join(reached)} |")


def plot(path: str) -> None:
    found = curves()
    datasets = sorted({dataset for dataset, _ in found})
    figure, axes = plt.subplots(1, len(datasets), figsize=(5 * len(datasets), 3.6), squeeze=False)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        for setting, color in zip(SETTINGS, ("tab:blue", "tab:orange"), strict=True):
            for seed, points in found[dataset, setting].items():
                seconds, scores, _ = zip(*points, strict=True)
                label = {"defaults": "our defaults", "published": "published settings"}[setting] if seed == 0 else None
                axis.plot(seconds, scores, ".-", color=color, alpha=0.7, label=label)
        axis.set(xscale="log", xlabel="seconds of training, one core", ylabel="normalised score", title=dataset)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "table", "plot"])
    parser.add_argument("--dataset", default="rlzoo/hopper/medium-v0")
    parser.add_argument("--setting", choices=SETTINGS, default="defaults")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--path", default="wall_time.png")
    args = parser.parse_args()
    th.set_num_threads(1)
    if args.command == "train":
        for seed in args.seeds:
            train(args, seed)
    elif args.command == "table":
        table()
    else:
        plot(args.path)


if __name__ == "__main__":
    main()
