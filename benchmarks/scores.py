"""
Scores of one training: mean and spread of normalised scores over fresh episodes, and seconds per gradient step.

    python benchmarks/scores.py train --dataset pendulum-mixed --steps 10000 --seeds 0 1 2
    python benchmarks/scores.py pretrain --dataset pendulum-mixed --steps 10000 --seeds 0 1 2
    python benchmarks/scores.py improve --dataset pendulum-mixed --algorithm GMPG --steps 1000 --seeds 0 1 2
    python benchmarks/scores.py table
    python benchmarks/scores.py evaluate --candidates 8
    python benchmarks/scores.py plot --path docs/_static/scores.png

Each training appends one line to ``benchmarks/results/scores.jsonl`` and saves its model in ``benchmarks/models``.
Nothing is selected: the last parameters are evaluated.
"""

import argparse
import json
import os
import platform
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_genpolicy import GMPG, GMPO, IQLCritic, load_dataset, normalized_score
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.objective import Objective

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).parent / "results" / "scores.jsonl"
MODELS = Path(__file__).parent / "models"
# Starts of the evaluations; tuning used others
EVALUATION_SEED = 10_000


class Cloning(GMPO):
    """
    GMPO(beta=0) without its critics, on which the cloned policy does not depend: the same, bit for bit, in less time.
    """

    def objective(self, batch: Batch) -> Objective:
        matching_loss = self.actor.matching_loss(batch.observations, batch.actions, batch.generator).mean()
        return Objective(dict(matching_loss=matching_loss), ("actor",))


def evaluate(model: GMPG | GMPO, env_id: str, episodes: int, deterministic: bool) -> dict[str, float]:
    env = make_vec_env(env_id, n_envs=episodes, seed=EVALUATION_SEED)
    returns, _ = evaluate_policy(
        model, env, n_eval_episodes=episodes, deterministic=deterministic, return_episode_rewards=True
    )
    scores = normalized_score(np.array(returns), model.reference_scores)
    return {"mean": float(scores.mean()), "std": float(scores.std())}


def scores_of(model: Any, dataset: str, episodes: int, deterministic: bool) -> dict[str, float]:
    """
    :param model: a model
    :param dataset: whose environment and reference scores
    :param episodes: all at once
    :param deterministic: how it acts
    :return: normalised score: mean, and its standard error over episodes
    """
    data = load_dataset(dataset)
    env = make_vec_env(str(data.env_id), n_envs=episodes, seed=EVALUATION_SEED)
    model.set_random_seed(EVALUATION_SEED)
    returns, _ = evaluate_policy(
        model, env, n_eval_episodes=episodes, deterministic=deterministic, return_episode_rewards=True
    )
    env.close()
    scores = normalized_score(np.array(returns), data.reference_scores)
    return {"mean": float(scores.mean()), "error": float(scores.std(ddof=1) / np.sqrt(episodes))}


def train(args: argparse.Namespace, seed: int) -> None:
    data = load_dataset(args.dataset)
    options = {} if args.beta is None else {"beta": args.beta}
    policy_kwargs = {} if args.path is None else {"path": args.path}
    algorithm = Cloning if args.beta == 0.0 else GMPO
    if args.algorithm == "GMPG":
        # The default, which chunks of `learn` would each take for their own
        algorithm, options = GMPG, {**options, "pretraining_steps": int(0.8 * args.steps)}
    model = algorithm(args.policy, data.env_id, dataset=data, seed=seed, policy_kwargs=policy_kwargs, **options)
    curve, seconds = [], 0.0
    for _ in range(args.evaluations):
        start = time.perf_counter()
        model.learn(args.steps // args.evaluations, reset_num_timesteps=False, log_interval=None)
        seconds += time.perf_counter() - start
        curve.append({"step": model.num_timesteps, **both_scores(model, data.env_id, args.episodes)})
        print(args.dataset, args.policy, args.path, f"beta={model.beta:g}", f"seed {seed}", curve[-1], flush=True)
    name = "-".join([args.dataset.replace("/", "-"), args.policy, args.path or "", f"beta{model.beta:g}", str(seed)])
    model.save(MODELS / name)
    # Rows without a critic are of release 0.1's
    critic = "" if isinstance(model.critic_options, IQLCritic) else f", {type(model.critic_options).__name__}"
    label = args.policy + (f" ({args.path})" if args.path else "") + (", GMPG" if args.algorithm == "GMPG" else "")
    row = {
        "dataset": args.dataset,
        "policy": label + critic,
        "beta": model.beta,
        "seed": seed,
        "steps": model.num_timesteps,
        "ms_per_step": 1e3 * seconds / model.num_timesteps,
        "threads": th.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "episodes": args.episodes,
        "curve": curve,
    }
    write(row)


def both_scores(model: GMPG | GMPO, env_id: str, episodes: int) -> dict[str, dict[str, float]]:
    return {name: evaluate(model, env_id, episodes, name == "deterministic") for name in ("deterministic", "sampled")}


def pretrained_path(dataset: str, seed: int) -> Path:
    return MODELS / f"pretrained-{dataset.replace('/', '-')}-{seed}.zip"


def write(row: dict[str, object]) -> None:
    print(row, flush=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")


def pretrain(args: argparse.Namespace, seed: int) -> None:
    """Behaviour model and critics, which any number of runs of `improve` start from: GMPG's first phase alone."""
    data = load_dataset(args.dataset)
    model = GMPG("FlowPolicy", data.env_id, dataset=data, seed=seed, pretraining_steps=args.steps)
    start = time.perf_counter()
    model.learn(args.steps, log_interval=None)
    seconds = time.perf_counter() - start
    model.save(pretrained_path(args.dataset, seed))
    print(args.dataset, f"seed {seed}: {args.steps} steps, {seconds:.0f} s")


def improve(args: argparse.Namespace, seed: int) -> None:
    """The second phase of GMPG or GMPO from a pretrained model; --steps 0 scores the pretrained model, which is cloning."""
    data = load_dataset(args.dataset)
    given = {name: getattr(args, name) for name in ("beta", "target_kl", "kl_estimator") if getattr(args, name) is not None}
    algorithm = {"GMPG": GMPG, "GMPO": GMPO}[args.algorithm]
    model = algorithm(
        "FlowPolicy", data.env_id, dataset=data, seed=seed, pretrained=pretrained_path(args.dataset, seed), **given
    )
    start = time.perf_counter()
    if args.steps > 0:
        model.learn(args.steps, log_interval=None)
    seconds = time.perf_counter() - start
    means = {name: float(mean) for name, mean in model.means.pop().items()}
    write(
        {
            "dataset": args.dataset,
            "policy": (
                f"{args.algorithm}, {args.steps} steps from a pretrained model" if args.steps > 0 else "pretrained model"
            ),
            "options": given,
            "beta": means.get("beta", model.beta),
            "seed": seed,
            "steps": args.steps,
            "seconds": seconds,
            "ms_per_step": 1e3 * seconds / max(args.steps, 1),
            "kl": means.get("kl"),
            "threads": th.get_num_threads(),
            "episodes": args.episodes,
            "curve": [{"step": args.steps, **both_scores(model, data.env_id, args.episodes)}],
        }
    )


def improvements() -> None:
    """The table of `improve`: one line for each dataset and setting."""
    groups = defaultdict(list)
    for line in RESULTS.read_text().splitlines():
        row = json.loads(line)
        if "options" in row:
            options = ", ".join(f"{name}={value}" for name, value in row["options"].items())
            groups[row["dataset"], row["policy"], options].append(row)
    print("| dataset | run | options | seeds | deterministic | sampled | KL | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for (dataset, policy, options), rows in sorted(groups.items()):
        cells = []
        for name in ("deterministic", "sampled"):
            means = np.array([row["curve"][-1][name]["mean"] for row in rows])
            cells.append(f"{means.mean():.1f} ± {means.std():.1f} ({', '.join(f'{mean:.0f}' for mean in means)})")
        kl = np.mean([row["kl"] if row["kl"] is not None else np.nan for row in rows])
        seconds = np.mean([row["seconds"] for row in rows])
        print(
            f"| `{dataset}` | {policy} | {options} | {len(rows)} | {cells[0]} | {cells[1]} | "
            f"{'' if np.isnan(kl) else f'{kl:.2f}'} | {seconds:.0f} |"
        )


def reevaluate(candidates: int, episodes: int) -> None:
    """Evaluate the saved models again, with the best of several candidates for every action."""
    for path in sorted(MODELS.glob("*.zip")):
        model = GMPO.load(path)
        # A clone has no critics to choose by
        if model.beta == 0.0 and candidates > 1:
            continue
        model.policy.n_candidates = candidates
        env_id = load_dataset(model.dataset_name).env_id
        scores = both_scores(model, env_id, episodes)
        row = {
            "dataset": model.dataset_name,
            "policy": f"{type(model.policy).__name__}, best of {candidates}",
            "beta": model.beta,
            "seed": model.seed,
            "steps": model.num_timesteps,
            "episodes": episodes,
            "curve": [{"step": model.num_timesteps, **scores}],
        }
        write(row)


def table() -> None:
    groups = defaultdict(list)
    for line in RESULTS.read_text().splitlines():
        row = json.loads(line)
        if "options" not in row:
            groups[row["dataset"], row["policy"], row["beta"], row["steps"]].append(row)
    print("| dataset | policy | steps | seeds | score, deterministic | score, sampled | ms per step |")
    print("|---|---|---|---|---|---|---|")
    for (dataset, policy, beta, steps), rows in sorted(groups.items()):
        cells = []
        for name in ("deterministic", "sampled"):
            means = np.array([row["curve"][-1][name]["mean"] for row in rows])
            cells.append(f"{means.mean():.1f} ± {means.std():.1f} ({', '.join(f'{mean:.0f}' for mean in means)})")
        label = policy if "GMPG" in policy else f"GMPO, {policy}" if beta > 0 else f"cloning, {policy}"
        speed = np.mean([row.get("ms_per_step", np.nan) for row in rows])
        print(f"| `{dataset}` | {label} | {steps:,} | {len(rows)} | {cells[0]} | {cells[1]} | {speed:.1f} |")


def plot(path: Path) -> None:
    curves = defaultdict(list)
    for line in RESULTS.read_text().splitlines():
        row = json.loads(line)
        if len(row["curve"]) == 1:
            # A saved model evaluated again, or one that started from a pretrained model: no curve
            continue
        label = f"GMPO, {row['policy']}" if row["beta"] > 0 else "cloning"
        curves[row["dataset"]].append((label, [0, *(point["step"] for point in row["curve"])], row["curve"]))
    figure, axes = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3.4), squeeze=False)
    for axis, (dataset, runs) in zip(axes[0], sorted(curves.items()), strict=True):
        data = load_dataset(dataset)
        labels = sorted({label for label, _, _ in runs})
        for label, steps, curve in runs:
            scores = [point["deterministic"]["mean"] for point in curve]
            color = f"C{labels.index(label)}"
            axis.plot(steps[1:], scores, color=color, marker="o", label=label, alpha=0.8)
        behaviour = normalized_score(data.episode_returns(), data.reference_scores).mean()
        axis.axhline(behaviour, color="grey", linestyle="--", label="behaviour")
        axis.set(title=dataset, xlabel="gradient steps", ylabel="normalised score, deterministic", ylim=(0, None))
        handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
        axis.legend(handles.values(), handles.keys(), fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def sweep(dataset: str, path: Path) -> None:
    """Draw score and KL against beta, of runs of `improve` with a fixed beta."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    rows = [row for row in rows if row["dataset"] == dataset and list(row.get("options", {})) == ["beta"]]
    rows = [row for row in rows if row["kl"] is not None]
    rows.sort(key=lambda row: row["beta"])
    betas = [row["beta"] for row in rows]
    figure, (scores, divergence) = plt.subplots(1, 2, figsize=(8, 3.4))
    for name, marker in (("deterministic", "o"), ("sampled", "s")):
        points = [row["curve"][-1][name] for row in rows]
        errors = [point["std"] / np.sqrt(row["episodes"]) for point, row in zip(points, rows, strict=True)]
        scores.errorbar(betas, [point["mean"] for point in points], errors, marker=marker, capsize=3, label=name)
    data = load_dataset(dataset)
    behaviour = normalized_score(data.episode_returns(), data.reference_scores).mean()
    scores.axhline(behaviour, color="grey", linestyle="--", label="behaviour")
    scores.set(xscale="log", xlabel="beta", ylabel="normalised score", title=dataset, ylim=(0, None))
    scores.legend(fontsize=8)
    divergence.plot(betas, [row["kl"] for row in rows], marker="o")
    divergence.set(xscale="log", yscale="log", xlabel="beta", ylabel="KL from the behaviour model, nats")
    for axis in (scores, divergence):
        axis.set_xticks(betas, [f"{beta:g}" for beta in betas])
        axis.minorticks_off()
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table", help="print the results so far as a Markdown table, spread over seeds")
    again = commands.add_parser("evaluate", help="evaluate the saved models with several candidates for every action")
    again.add_argument("--candidates", type=int, default=8)
    again.add_argument("--episodes", type=int, default=50)
    picture = commands.add_parser("plot", help="draw the learning curves")
    picture.add_argument("--path", type=Path, default=RESULTS.with_suffix(".png"))
    run = commands.add_parser("train", help="train and evaluate")
    run.add_argument("--dataset", required=True)
    run.add_argument("--algorithm", choices=["GMPO", "GMPG"], default="GMPO")
    run.add_argument("--policy", default="FlowPolicy")
    run.add_argument("--path", default=None, help="path of a DiffusionPolicy")
    run.add_argument("--beta", type=float, default=None, help="default: GMPO's; 0 clones")
    run.add_argument("--steps", type=int, default=100_000)
    run.add_argument("--seeds", type=int, nargs="+", default=[0])
    run.add_argument("--episodes", type=int, default=50)
    run.add_argument("--evaluations", type=int, default=4, help="points of the learning curve")
    run.add_argument("--threads", type=int, default=1)
    first = commands.add_parser("pretrain", help="train behaviour model and critics, for `improve`")
    second = commands.add_parser("improve", help="train and evaluate a policy from a pretrained model")
    second.add_argument("--algorithm", choices=["GMPG", "GMPO"], default="GMPG")
    second.add_argument("--beta", type=float, default=None)
    second.add_argument("--target-kl", type=float, default=None)
    second.add_argument("--kl-estimator", default=None)
    second.add_argument("--episodes", type=int, default=50)
    for command, steps in ((first, 100_000), (second, 1000)):
        command.add_argument("--dataset", required=True)
        command.add_argument("--steps", type=int, default=steps)
        command.add_argument("--seeds", type=int, nargs="+", default=[0])
        command.add_argument("--threads", type=int, default=1)
    curve = commands.add_parser("sweep", help="draw score and KL against beta, of what `improve --beta` gave")
    curve.add_argument("--dataset", required=True)
    curve.add_argument("--path", type=Path, default=RESULTS.with_name("beta_sweep.png"))
    commands.add_parser("improvements", help="print what `improve` gave as a Markdown table, spread over seeds")
    args = parser.parse_args()
    if args.command == "table":
        return table()
    if args.command == "improvements":
        return improvements()
    if args.command == "sweep":
        return sweep(args.dataset, args.path)
    if args.command == "plot":
        return plot(args.path)
    if args.command == "evaluate":
        return reevaluate(args.candidates, args.episodes)
    th.set_num_threads(args.threads)
    run_seed = {"train": train, "pretrain": pretrain, "improve": improve}[args.command]
    for seed in args.seeds:
        run_seed(args, seed)


if __name__ == "__main__":
    main()
