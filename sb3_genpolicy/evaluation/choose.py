"""
Which of several policies is best, from logged data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import get_device

from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.evaluation.evaluate import Conditions, evaluate_all
from sb3_genpolicy.evaluation.fitted_q import FittedQOptions
from sb3_genpolicy.evaluation.intervals import Resamples
from sb3_genpolicy.evaluation.judges import Candidate
from sb3_genpolicy.evaluation.result import OfflineEvaluation
from sb3_genpolicy.evaluation.verdict import UNKNOWN, Guards
from sb3_genpolicy.generative.checks import named_arguments

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class PolicyChoice:
    """
    Policies in their order, the best first.

    :param evaluations: name -> evaluation, in that order: first those of which something can be told, then the others, each
        by their discounted values, where what lies beyond the data counts as the worst that was logged
    :param probabilities: name -> probability that it is the best of those of which something can be told; 0 for the others
    """

    evaluations: Mapping[str, OfflineEvaluation]
    probabilities: Mapping[str, float]

    @property
    def best(self) -> str | None:
        """Name of the best; None where nothing can be told of any."""
        name = next(iter(self.evaluations))
        return None if self.evaluations[name].verdict.word == UNKNOWN else name

    def to_frame(self) -> "DataFrame":
        """
        :return: a row for each policy, the best first
        """
        import pandas as pd

        rows = []
        for name, found in self.evaluations.items():
            value, difference = found.estimate(), found.estimate(of="difference")
            total = found.estimate("undiscounted")
            rows.append(
                {
                    "policy": name,
                    "probability": self.probabilities[name],
                    "value": value.value,
                    "cautious_value": found.cautious_value,
                    "low": value.low,
                    "high": value.high,
                    "difference": difference.value,
                    "undiscounted": total.value,
                    "score": found.score(total.value),
                    "outside": found.support.outside,
                    "verdict": found.verdict.word,
                    "why": "; ".join(found.verdict.reasons),
                }
            )
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        width = max(len(name) for name in self.evaluations)
        lines = []
        for name, found in self.evaluations.items():
            line = found.estimate()
            number = f"{line.value:.4g} [{line.low:.4g}, {line.high:.4g}]"
            lines.append(f"{name:{width}}  best with {self.probabilities[name]:4.0%}  {number}  {found.verdict}")
        lines.append("Nothing can be told of any of them." if self.best is None else f"Best: {self.best}")
        return "\n".join(lines)


@named_arguments
def choose_policy(
    models: Mapping[str, Candidate] | Sequence[Candidate],
    dataset: DatasetSource | None = None,
    *,
    deterministic: bool = False,
    gamma: float | None = None,
    n_actions: int = 4,
    max_rows: int = 200_000,
    behaviour: Any = None,
    behaviour_steps: int = 3_000,
    behaviour_log_probs: np.ndarray | None = None,
    options: FittedQOptions | None = None,
    guards: Guards | None = None,
    level: float = 0.9,
    n_resamples: int = 2_000,
    seed: int = 0,
    device: th.device | str = "auto",
    progress_bar: bool = False,
) -> PolicyChoice:
    """
    Rank policies, which may be checkpoints of one training, seeds, settings or methods, by what logged data tell of them:
    every one is evaluated as :func:`~sb3_genpolicy.evaluation.evaluate.evaluate_offline` does, on the same episodes, with
    networks that begin alike and see the same rows, and their values are resampled together.

    Policies of which nothing can be told come last: whoever acts beyond the data may have any value. Where some of a value is
    earned after a first such action, the least that it may be counts (``OfflineEvaluation.cautious_value``).

    :param models: models, policies or files of models, one or more; a mapping gives them names
    :param dataset: the logged data. Default: what the first model was trained on.

    The other parameters are those of :func:`~sb3_genpolicy.evaluation.evaluate.evaluate_offline`; the discount is by default
    the first model's.

    :return: the policies in their order, with the probability that each is the best
    :raises ValueError: if there is no model, or they are of different spaces, or as for one evaluation
    :raises TypeError: if one is no model
    """
    named = _with_names(models)
    device = get_device(device)
    options, guards = options or FittedQOptions(), guards or Guards()
    conditions = Conditions(deterministic, n_actions, level, n_resamples, options, guards, seed, device, progress_bar)
    densities = behaviour, behaviour_steps, behaviour_log_probs
    evaluations = evaluate_all(named, dataset, gamma, max_rows, densities, conditions)
    return rank(evaluations, n_resamples, seed)


def rank(evaluations: Mapping[str, OfflineEvaluation], n_resamples: int = 2_000, seed: int = 0) -> PolicyChoice:
    """
    :param evaluations: name -> evaluation, all by the same episodes, options and seed
    :param n_resamples: of the bootstrap
    :param seed: of that
    :return: their order
    """
    known = [name for name, found in evaluations.items() if found.verdict.word != UNKNOWN]
    probabilities = dict.fromkeys(evaluations, 0.0)
    probabilities.update(_probabilities([evaluations[name] for name in known], known, n_resamples, seed))
    order = sorted(evaluations, key=lambda name: (name not in known, -evaluations[name].cautious_value))
    return PolicyChoice({name: evaluations[name] for name in order}, probabilities)


def _probabilities(found: Sequence[OfflineEvaluation], names: Sequence[str], n_resamples: int, seed: int) -> dict[str, float]:
    if not found:
        return {}
    n_members, n_episodes = found[0].values["discounted"].initial.shape
    resamples = Resamples.draw(n_resamples, n_episodes, n_members, seed)
    drawn = []
    for number, evaluation in enumerate(found):
        # What is wrong with one evaluation's Bellman errors need not be with another's
        gaps = np.random.default_rng([seed, number]).normal(size=n_resamples)
        own = evaluation.values["discounted"]
        drawn.append(replace(resamples, gaps=gaps).of(own.policy, own.gap) - evaluation.cautions["discounted"].shortfall)
    best = np.argmax(drawn, axis=0)
    return {name: float((best == number).mean()) for number, name in enumerate(names)}


def _with_names(models: Mapping[str, Candidate] | Sequence[Candidate]) -> dict[str, Candidate]:
    if isinstance(models, Mapping):
        named = {str(name): model for name, model in models.items()}
    elif isinstance(models, (str, Path, BaseAlgorithm, BasePolicy)):
        raise TypeError("models is a list of models, or a mapping from names to models.")
    else:
        named = {}
        for number, model in enumerate(models):
            name = type(model).__name__ if isinstance(model, (BaseAlgorithm, BasePolicy)) else str(model)
            named[name if name not in named and not isinstance(model, BaseAlgorithm) else f"{name} {number}"] = model
    if not named:
        raise ValueError("There is no policy to choose from: models is empty.")
    return named
