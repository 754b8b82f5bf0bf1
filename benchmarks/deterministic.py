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

from benchmarks.critics.models import load_model
from benchmarks.scores import MODELS, scores_of
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
        scores = scores_of(model, dataset, episodes, deterministic)
        with RESULTS.open("a") as file:
            file.write(json.dumps({**row, **scores}) + "\n")
        print(f"{dataset} {choice:14} {scores['mean']:7.1f} +- {scores['error']:.1f} s.e.", flush=True)


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
