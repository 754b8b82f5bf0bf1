"""
What defaults reach: every algorithm as `GMPO("MlpPolicy", env).learn(steps)` trains it, on any number of datasets.

    python -m benchmarks.defaults run --datasets rlzoo/hopper/mixed-v0 rlzoo/pendulum/mixed-v0 --steps 50000 --seeds 0 1 2
    python -m benchmarks.defaults table --steps 50000

Every run appends one line to ``benchmarks/results/defaults.jsonl`` as soon as it is done; what is there already is left out.
Nothing is selected: the last parameters are evaluated, deterministic and sampled, from starts that no tuning used.
"""

import argparse
import json
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from benchmarks.scores import MODELS, Cloning, scores_of
from sb3_genpolicy import (
    FQL,
    GMPG,
    GMPO,
    IDQL,
    IQL,
    QGPO,
    SRPO,
    BestEpisodes,
    DiffusionQL,
    OneStepCritic,
    ReBRAC,
    load_dataset,
    normalized_score,
)
from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm

RESULTS = Path(__file__).parent / "results" / "defaults.jsonl"
WAYS = ("deterministic", "sampled")
_CLONE: dict[str, Any] = dict(beta=0.0)
_ALIKE: dict[str, Any] = dict(episode_kl=0.0, target_kl=0.5)
#: By name, an algorithm and what is not its default
METHODS: dict[str, tuple[type[OfflineAlgorithm], dict[str, Any]]] = {
    "cloning": (Cloning, _CLONE),
    "weighted episodes cloned": (Cloning, dict(_CLONE, episode_kl=1.0)),
    "best tenth cloned": (Cloning, dict(_CLONE, transforms=[BestEpisodes(0.1)])),
    "GMPO": (GMPO, {}),
    # Before episodes had weights
    "GMPO, all episodes alike": (GMPO, _ALIKE),
    "GMPG, all episodes alike": (GMPG, _ALIKE),
    "GMPO, one step, 0.5 nats": (GMPO, dict(critic=OneStepCritic(gamma=None, return_lambda=0.0, passes=None), target_kl=0.5)),
    "GMPO, lambda dropout, 0.5 nats": (
        GMPO,
        dict(critic=OneStepCritic(gamma=None, return_lambda=0.95, dropout=0.2, passes=None), target_kl=0.5),
    ),
    # Before weights were bounded
    "GMPO, weights up to 100": (GMPO, dict(_ALIKE, weight_clamp=100.0, pretraining_steps=0)),
    "GMPG": (GMPG, {}),
    "GMPG, any tilt": (GMPG, dict(_ALIKE, weight_clamp=math.inf)),
    "GMPG, adjoint": (GMPG, dict(gradient_estimator="adjoint")),
    **{method.__name__: (method, {}) for method in (DiffusionQL, FQL, IDQL, IQL, QGPO, ReBRAC, SRPO)},
}


def run(datasets: list[str], methods: list[str], steps: int, seeds: list[int], episodes: int) -> None:
    """
    :param datasets: their ids
    :param methods: names
    :param steps: of each training, both phases of GMPG together
    :param seeds: of trainings
    :param episodes: of each evaluation
    """
    for seed in seeds:
        for dataset in datasets:
            for method in methods:
                key = dict(dataset=dataset, method=method, seed=seed, steps=steps)
                if any(key.items() <= row.items() for row in results()):
                    continue
                algorithm, options = METHODS[method]
                model = algorithm("MlpPolicy", load_dataset(dataset).env_id, dataset=dataset, seed=seed, **options)
                start = time.perf_counter()
                model.learn(steps, log_interval=None)
                model.save(model_path(dataset, method, seed))
                row = dict(key, seconds=round(time.perf_counter() - start, 1), episodes=episodes)
                row.update({way: scores_of(model, dataset, episodes, way == "deterministic") for way in WAYS})
                with RESULTS.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)


def model_path(dataset: str, method: str, seed: int) -> Path:
    """
    :param dataset: its id
    :param method: its name
    :param seed: of the training
    :return: where the trained model is kept
    """
    return MODELS / "defaults" / dataset.replace("/", "-") / f"{method.replace(', ', '-').replace(' ', '-')}-{seed}.zip"


def results() -> list[dict[str, Any]]:
    """
    :return: what was measured so far
    """
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def table(steps: int) -> None:
    """
    :param steps: of the trainings that are shown
    """
    cells: dict[Any, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in results():
        if row["steps"] == steps:
            for way in WAYS:
                cells[row["method"], way][row["dataset"]].append(row[way])
    datasets = sorted({dataset for columns in cells.values() for dataset in columns})
    print("| | " + " | ".join(f"`{dataset.removeprefix('rlzoo/').removesuffix('-v0')}`" for dataset in datasets) + " | mean |")
    print("|---" * (len(datasets) + 2) + "|")
    behaviour = [_behaviour(dataset) for dataset in datasets]
    print("| behaviour | " + " | ".join(f"{score:.0f}" for score in behaviour) + f" | {np.mean(behaviour):.1f} |")
    for method in METHODS:
        for way in WAYS:
            columns = cells[method, way]
            shown = [_cell(columns[dataset]) for dataset in datasets]
            means = [np.mean([score["mean"] for score in columns[dataset]]) for dataset in datasets if columns[dataset]]
            mean = f"{np.mean(means):.1f}" if len(means) == len(datasets) else ""
            print(f"| {method}, {way} | " + " | ".join(shown) + f" | {mean} |")


def _behaviour(dataset: str) -> float:
    data = load_dataset(dataset)
    return float(normalized_score(data.episode_returns(), data.reference_scores).mean())


def _cell(scores: list[dict[str, float]]) -> str:
    """Mean over seeds, and its standard error: over seeds, or over the episodes of a single one."""
    if not scores:
        return ""
    means = np.array([score["mean"] for score in scores])
    error = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else scores[0]["error"]
    return f"{means.mean():.0f} ± {error:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("run", help="train and evaluate")
    train.add_argument("--datasets", nargs="+", required=True)
    train.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    train.add_argument("--seeds", type=int, nargs="+", default=[0])
    train.add_argument("--episodes", type=int, default=50)
    shown = commands.add_parser("table", help="print the results so far as a Markdown table")
    for command in (train, shown):
        command.add_argument("--steps", type=int, default=50_000)
    args = parser.parse_args()
    if args.command == "table":
        return table(args.steps)
    th.set_num_threads(1)
    run(args.datasets, args.methods, args.steps, args.seeds, args.episodes)


if __name__ == "__main__":
    main()
