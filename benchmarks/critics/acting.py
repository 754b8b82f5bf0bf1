"""
What policies make of critics: normalised scores of the cloned policy with the best of several actions, and of GMPO and GMPG
that were trained on the same critics and the same clone.
"""

import json
from itertools import product
from typing import Any

from benchmarks.critics.ablation import CriticsAlone, path_of
from benchmarks.critics.models import RESULTS
from benchmarks.scores import scores_of
from sb3_genpolicy import GMPG, GMPO, load_dataset

ACTING = RESULTS.with_name("critic_acting.jsonl")
# What tells a line of the results from others
_KEYS = ("dataset", "variant", "seed", "updates", "algorithm", "episodes")


def act(dataset: str, variants: list[str], seeds: list[int], episodes: int, algorithms: list[str], steps: int) -> None:
    """
    Evaluate, and append a line to the results for every policy. What is there already is left out.

    :param dataset: its id
    :param variants: names of kinds of critics, which were trained
    :param seeds: of these trainings
    :param episodes: of each evaluation
    :param algorithms: ``best of 1``, ``best of 8``, ``drawn of 8`` (in proportion to the exponential of Q / spread), ``drawn
        of 8 at 3`` (at that temperature), ``gmpo``, ``gmpg``, and with a divergence asked for, ``gmpo of 0.5 nats``
    :param steps: of GMPO; GMPG has a fifth of them
    """
    lines = ACTING.read_text().splitlines() if ACTING.exists() else []
    done = [{name: row[name] for name in _KEYS} for row in map(json.loads, lines)]
    for seed, variant, algorithm in product(seeds, variants, algorithms):
        updates = CriticsAlone.load(path_of(dataset, variant, seed), device="cpu").num_timesteps
        row = dict(zip(_KEYS, (dataset, variant, seed, updates, algorithm, episodes), strict=True))
        if row in done:
            continue
        model = _policy(dataset, variant, seed, algorithm, steps)
        row.update(sampled=scores_of(model, dataset, episodes, False), fixed=scores_of(model, dataset, episodes, True))
        model.policy.deterministic_action = "auto"
        row.update(auto=scores_of(model, dataset, episodes, True))
        with ACTING.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


def _policy(dataset: str, variant: str, seed: int, algorithm: str, steps: int) -> Any:
    path = path_of(dataset, variant, seed)
    choice, _, rest = algorithm.partition(" of ")
    if choice in ("best", "drawn"):
        n_candidates, _, temperature = rest.partition(" at ")
        model = CriticsAlone.load(path, device="cpu")
        model.policy.n_candidates = int(n_candidates)
        model.policy.candidate_temperature = float(temperature or (choice == "drawn"))
        return model
    env = load_dataset(dataset).env_id
    options: dict[str, Any] = dict(dataset=dataset, pretrained=path, seed=seed, device="cpu")
    options.update({"target_kl": float(rest.removesuffix(" nats"))} if rest else {"beta": 1.0})
    if choice == "gmpo":
        return GMPO("FlowPolicy", env, **options).learn(steps, log_interval=None)
    return GMPG("FlowPolicy", env, **options).learn(steps // 5, log_interval=None)
