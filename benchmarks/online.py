"""
Going on online: normalised score against steps in the environment, from where training on a dataset ended.

    python -m benchmarks.online train --dataset rlzoo/hopper/medium-v0 --algorithm gmpo --seeds 0 1 2
    python -m benchmarks.online table
    python -m benchmarks.online plot --path docs/_static/online.png

One thread. Each evaluation appends a line to ``benchmarks/results/online.jsonl``; nothing is selected. Scores are of sampled
actions, as the policy acts while it collects, and of deterministic ones.
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch as th

from benchmarks.scores import evaluate
from sb3_genpolicy import GMPG, GMPO, load_dataset

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).parent / "results" / "online.jsonl"


class Setting(NamedTuple):
    """
    :param offline: gradient steps on the dataset
    :param online: steps in the environment, each with a gradient step
    :param options: of the algorithm
    """

    offline: int
    online: int
    options: dict[str, Any]


PENDULUM, HOPPER = "rlzoo/pendulum/mixed-v0", "rlzoo/hopper/medium-v0"
# On Hopper the inverse temperature of sb3_genpolicy/hyperparams; all else are defaults
SETTINGS = {
    (PENDULUM, "gmpo"): Setting(5_000, 10_000, {}),
    (PENDULUM, "gmpg"): Setting(6_000, 5_000, {}),
    (HOPPER, "gmpo"): Setting(40_000, 40_000, dict(beta=12.0)),
    (HOPPER, "gmpg"): Setting(40_000, 10_000, dict(target_kl=0.5, pretraining_steps=39_000)),
}
ALGORITHMS: dict[str, type[GMPO] | type[GMPG]] = dict(gmpo=GMPO, gmpg=GMPG)
EVALUATIONS = 10


def train(args: argparse.Namespace, seed: int) -> None:
    setting = SETTINGS[args.dataset, args.algorithm]
    env_id = load_dataset(args.dataset).env_id
    model = ALGORITHMS[args.algorithm]("FlowPolicy", env_id, dataset=args.dataset, seed=seed, **setting.options)
    start = time.process_time()
    model.learn(setting.offline, log_interval=None)
    note(args, seed, model, 0, time.process_time() - start)
    for part in range(1, EVALUATIONS + 1):
        start = time.process_time()
        model.learn_online(setting.online // EVALUATIONS, log_interval=None)
        note(args, seed, model, part * setting.online // EVALUATIONS, time.process_time() - start)


def note(args: argparse.Namespace, seed: int, model: GMPO | GMPG, steps: int, seconds: float) -> None:
    row = dict(dataset=args.dataset, algorithm=args.algorithm, seed=seed, online_steps=steps, seconds=seconds)
    for kind, deterministic in (("sampled", False), ("deterministic", True)):
        score = evaluate(model, model.env.envs[0].spec.id, args.episodes, deterministic)
        row.update({f"{kind}_{name}": value for name, value in score.items()})
    print(row, flush=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")


def curves() -> dict[tuple[str, str], dict[int, list[dict[str, Any]]]]:
    """(dataset, algorithm) -> seed -> rows."""
    found: dict[tuple[str, str], dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for line in RESULTS.read_text().splitlines():
        row = json.loads(line)
        found[row["dataset"], row["algorithm"]][row["seed"]].append(row)
    return found


def table() -> None:
    """Means and spread over seeds, of sampled actions."""
    print("| dataset | algorithm | seeds | where offline ended | lowest mean since | at the end | online steps |")
    print("|---|---|---|---|---|---|---|")
    for (dataset, algorithm), seeds in sorted(found_scores(curves()).items()):
        means, last = seeds.scores.mean(axis=0), seeds.scores[:, -1]
        first = f"{means[0]:.1f} ± {seeds.scores[:, 0].std():.1f}"
        end = f"{means[-1]:.1f} ± {last.std():.1f}"
        print(
            f"| `{dataset}` | {algorithm.upper()} | {len(last)} | {first} | {means[1:].min():.1f} | {end} | "
            f"{seeds.steps[-1]:,} |"
        )


class Scores(NamedTuple):
    """
    :param steps: (n_evaluations,)
    :param scores: (n_seeds, n_evaluations)
    """

    steps: np.ndarray
    scores: np.ndarray


def found_scores(found: dict[tuple[str, str], dict[int, list[dict[str, Any]]]], kind: str = "sampled") -> dict[Any, Scores]:
    """Of seeds that were trained to the end."""
    scores = {}
    for key, seeds in found.items():
        complete = [rows for rows in seeds.values() if len(rows) == EVALUATIONS + 1]
        if complete:
            steps = np.array([row["online_steps"] for row in complete[0]])
            scores[key] = Scores(steps, np.array([[row[f"{kind}_mean"] for row in rows] for rows in complete]))
    return scores


def plot(path: str) -> None:
    found = curves()
    datasets = sorted({dataset for dataset, _ in found}, reverse=True)
    figure, axes = plt.subplots(1, len(datasets), figsize=(5 * len(datasets), 3.6), squeeze=False)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        for algorithm, color in zip(ALGORITHMS, ("tab:blue", "tab:orange"), strict=True):
            for kind, style in (("sampled", "-"), ("deterministic", ":")):
                curve = found_scores(found, kind).get((dataset, algorithm))
                if curve is None:
                    continue
                axis.plot(curve.steps, curve.scores.mean(axis=0), style, color=color, label=f"{algorithm.upper()}, {kind}")
                if kind == "sampled":
                    low, high = curve.scores.min(axis=0), curve.scores.max(axis=0)
                    axis.fill_between(curve.steps, low, high, color=color, alpha=0.15, linewidth=0)
        axis.set(xlabel="steps in the environment", ylabel="normalised score", title=dataset, ylim=(0, None))
        axis.locator_params(axis="x", nbins=5)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "table", "plot"])
    parser.add_argument("--dataset", choices=[PENDULUM, HOPPER], default=HOPPER)
    parser.add_argument("--algorithm", choices=list(ALGORITHMS), default="gmpo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--path", default="online.png")
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
