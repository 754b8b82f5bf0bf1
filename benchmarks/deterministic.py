"""
Normalised scores of the named deterministic actions, beside sampled ones: what `predict(deterministic=True)` had best do.

    python -m benchmarks.deterministic --dataset rlzoo/hopper/medium-v0 --episodes 20
    python -m benchmarks.deterministic --dataset rlzoo/hopper/medium-v0 --model model.zip --choices mean auto

Without ``--model`` it is the cloned policy of ``python -m benchmarks.critics``. Every choice appends one line to
``benchmarks/results/deterministic.jsonl`` as soon as it is done; what is there already is left out.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from benchmarks.critics.models import load_model
from benchmarks.scores import EVALUATION_SEED, MODELS
from sb3_genpolicy import load_dataset, normalized_score
from sb3_genpolicy.common.policies.deterministic import DETERMINISTIC_ACTIONS

RESULTS = Path(__file__).parent / "results" / "deterministic.jsonl"
CHOICES = ("sampled", *DETERMINISTIC_ACTIONS)


def measure(dataset: str, path: Path, choices: list[str], episodes: int, draws: int) -> None:
    """
    :param dataset: its id
    :param path: the model, of any algorithm with these policies
    :param choices: names of deterministic actions, and ``sampled``
    :param episodes: of each, all at once
    :param draws: fixed draws of those that look at some
    """
    data = load_dataset(dataset)
    model = load_model(path)
    model.policy.deterministic_draws = draws
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    done = [
        {name: row[name] for name in ("dataset", "model", "choice", "episodes", "draws")} for row in map(json.loads, lines)
    ]
    for choice in choices:
        row = dict(dataset=dataset, model=path.stem, choice=choice, episodes=episodes, draws=draws)
        if row in done:
            continue
        deterministic = choice != "sampled"
        if deterministic:
            model.policy.deterministic_action = choice
        env = make_vec_env(str(data.env_id), n_envs=episodes, seed=EVALUATION_SEED)
        model.set_random_seed(EVALUATION_SEED)
        returns, _ = evaluate_policy(
            model, env, n_eval_episodes=episodes, deterministic=deterministic, return_episode_rewards=True
        )
        env.close()
        scores = normalized_score(np.array(returns), data.reference_scores)
        mean, error = float(scores.mean()), float(scores.std(ddof=1) / np.sqrt(episodes))
        with RESULTS.open("a") as file:
            file.write(json.dumps({**row, "mean": mean, "error": error}) + "\n")
        print(f"{dataset} {choice:14} {mean:7.1f} +- {error:.1f} s.e.", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--draws", type=int, default=32)
    args = parser.parse_args()
    path = args.model or MODELS / "critics" / args.dataset.replace("/", "-") / "behaviour.zip"
    measure(args.dataset, path, args.choices, args.episodes, args.draws)


if __name__ == "__main__":
    main()
