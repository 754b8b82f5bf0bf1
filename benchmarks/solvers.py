"""
What each solver costs and how far off it is, on a trained policy: actions, log-probabilities, returns.

    python benchmarks/solvers.py --model gmpo_hopper.zip --dataset rlzoo/hopper/medium-v0 --returns --path solvers.json

Actions are compared, in units of the action range [-1, 1], with those of 128 rk4 steps from the same noise, log-probabilities
with those of 128 rk4 steps, at 256 observations of the dataset. Seconds are medians of seven calls on one thread.
Scores are of 100 episodes with sampled actions from the same starts.
``--table a.json b.json`` prints such files as one table; ``--only euler:4 midpoint:5 --episodes 200`` compares the returns of
a few more closely.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_genpolicy import GMPO, load_dataset, normalized_score
from sb3_genpolicy.generative import TIME_GRIDS, Likelihood, Sampler
from sb3_genpolicy.generative.time_grids import TimeGrid, smooth

SOLVERS = ("euler", "midpoint", "heun", "rk4", "dpm++", "sde")
STEPS = (4, 8, 16, 32)
PUBLISHED = Sampler("euler", 31, "uniform")
BATCH_SIZE = 256
# Starts of the episodes; trainings and tunings used others
EVALUATION_SEED = 10_000


def seconds_of(function: Callable[[], object], repetitions: int = 7) -> float:
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def samplers() -> list[Sampler]:
    fixed = [Sampler(solver, steps) for solver in SOLVERS for steps in STEPS]
    adaptive = [Sampler("dopri5", rtol=tolerance, atol=tolerance) for tolerance in (1e-2, 1e-4)]
    return [Sampler(), *fixed, *adaptive, PUBLISHED]


def name_of(sampler: Sampler) -> str:
    if sampler == PUBLISHED:
        return "euler 31, uniform"
    return f"dopri5 {sampler.rtol:g}" if sampler.solver == "dopri5" else f"{sampler.solver} {sampler.steps}"


@th.no_grad()
def compare_actions(model: GMPO, features: th.Tensor, noise: th.Tensor) -> dict[str, dict[str, float]]:
    actor = model.policy.actor_ema
    reference = actor.model.sample(features, noise, Sampler("rk4", 128)).clamp(-1, 1)
    rows = {}
    for sampler in samplers():
        actions = actor.model.sample(features, noise, sampler).clamp(-1, 1)
        seconds = seconds_of(lambda sampler=sampler: actor.model.sample(features, noise, sampler))
        row = {"seconds": seconds}
        # A stochastic sampler has no trajectory to be off from
        if sampler.solver != "sde":
            row["error"] = (actions - reference).square().mean().sqrt().item()
        rows[name_of(sampler)] = row
        print("sample", name_of(sampler), row, flush=True)
    return rows


@th.no_grad()
def compare_tapers(model: GMPO, features: th.Tensor, noise: th.Tensor) -> None:
    """Errors of the default's five midpoint steps were they tapered otherwise."""
    actor = model.policy.actor_ema
    reference = actor.model.sample(features, noise, Sampler("rk4", 128)).clamp(-1, 1)
    for taper in (1.0, 1.25, 1.5, 1.75, 2.0, 2.5):
        TIME_GRIDS["other"] = TimeGrid(smooth, taper)
        actions = actor.model.sample(features, noise, Sampler(time_grid="other")).clamp(-1, 1)
        print(f"taper {taper}: error {(actions - reference).square().mean().sqrt():.4f}")


@th.no_grad()
def compare_log_probs(model: GMPO, features: th.Tensor, noise: th.Tensor) -> dict[str, dict[str, float]]:
    actor = model.policy.actor_ema
    actions = actor.model.sample(features, noise, Sampler("rk4", 128))
    reference = actor.model.log_prob(actions, features, Likelihood(sampler=Sampler("rk4", 128)))
    rows = {}
    for sampler in samplers():
        if sampler.solver in ("sde", "dpm++"):
            continue
        likelihood = Likelihood(sampler=sampler)
        errors = (actor.model.log_prob(actions, features, likelihood) - reference).abs()
        seconds = seconds_of(lambda likelihood=likelihood: actor.model.log_prob(actions, features, likelihood), 3)
        rows[name_of(sampler)] = {"error": errors.median().item(), "worst": errors.max().item(), "seconds": seconds}
        print("log-probability", name_of(sampler), rows[name_of(sampler)], flush=True)
    return rows


def compare_returns(model: GMPO, env_id: str, episodes: int, chosen: list[Sampler]) -> dict[str, dict[str, float]]:
    env = make_vec_env(env_id, n_envs=episodes, seed=EVALUATION_SEED)
    rows = {}
    for sampler in chosen:
        env.seed(EVALUATION_SEED)
        th.manual_seed(EVALUATION_SEED)
        model.policy.set_sampler(sampler)
        returns, _ = evaluate_policy(
            model, env, n_eval_episodes=episodes, deterministic=False, return_episode_rewards=True, warn=False
        )
        scores = normalized_score(np.array(returns), model.reference_scores)
        rows[name_of(sampler)] = {"mean": scores.mean().item(), "standard_error": scores.std().item() / episodes**0.5}
        print("returns", name_of(sampler), rows[name_of(sampler)], flush=True)
    return rows


def print_table(paths: list[Path]) -> None:
    """Markdown: cost and errors of the first file, scores of all."""
    results = [json.loads(path.read_text()) for path in paths]
    first, names = results[0], [f"{result['dataset']}, {result['path']}" for result in results]
    columns = ["solver", "ms, 256 actions", "error", "ms, 256 log-probabilities", "error (worst), nats"]
    print("| " + " | ".join([*columns, *(f"score, {name}" for name in names)]) + " |")
    print("|" + "---|" * (len(columns) + len(names)))
    for name in ["rk4 64", *first["sample"]]:
        sample, log_prob = first["sample"].get(name), first["log_prob"].get(name)
        cells = (
            [f"{1e3 * sample['seconds']:.1f}", f"{sample['error']:.4f}" if "error" in sample else ""] if sample else ["", ""]
        )
        cells += (
            [f"{1e3 * log_prob['seconds']:.0f}", f"{log_prob['error']:.4f} ({log_prob['worst']:.2f})"]
            if log_prob
            else [""] * 2
        )
        for result in results:
            score = result["returns"].get(name)
            cells.append(f"{score['mean']:.1f} ± {score['standard_error']:.1f}" if score else "")
        print("| " + " | ".join([name, *cells]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a saved GMPO")
    parser.add_argument("--dataset", help="whose observations and environment")
    parser.add_argument("--returns", action="store_true", help="also play episodes (minutes)")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--only", nargs="+", help="returns of these alone, as euler:4 dpm++:8")
    parser.add_argument("--path", type=Path, help="write the numbers to this file")
    parser.add_argument("--tapers", action="store_true", help="only compare exponents of the tapered time grid")
    parser.add_argument("--table", type=Path, nargs="+", help="print what was written to these files")
    args = parser.parse_args()
    if args.table:
        return print_table(args.table)

    th.set_num_threads(1)
    chosen = [Sampler("rk4", 64), *samplers()]
    if args.only:
        chosen = [Sampler(solver, int(steps)) for solver, steps in (name.split(":") for name in args.only)]
    model = GMPO.load(args.model, device="cpu")
    data = load_dataset(args.dataset)
    actor = model.policy.actor_ema
    rows = np.random.default_rng(0).choice(len(data.rewards), BATCH_SIZE, replace=False)
    observations = th.as_tensor(np.asarray(data.observations[rows], np.float32))
    with th.no_grad():
        features = actor.extract_features(observations, actor.features_extractor)
    noise = th.randn((BATCH_SIZE, actor.action_dim), generator=th.Generator().manual_seed(0))
    if args.tapers:
        return compare_tapers(model, features, noise)
    result = {
        "dataset": args.dataset,
        "path": type(actor.model.path).__name__,
        "machine": f"{platform.machine()}, one thread",
    }
    if not args.only:
        result["sample"] = compare_actions(model, features, noise)
        result["log_prob"] = compare_log_probs(model, features, noise)
    if args.returns:
        result["returns"] = compare_returns(model, data.env_id, args.episodes, chosen)
    if args.path:
        args.path.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
