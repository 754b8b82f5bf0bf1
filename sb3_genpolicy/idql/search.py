"""
What Optuna may try for IDQL.
"""

from typing import TYPE_CHECKING, Any

from sb3_genpolicy.common.algorithms.search_space import Settings, sample_critics, with_true_values
from sb3_genpolicy.idql.idql import CHOICES

if TYPE_CHECKING:
    import optuna


def sample_idql(trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> Settings:
    """
    :param trial: the trial
    :param n_actions: action dimensions, as rl_zoo3 gives them to all samplers
    :param n_envs: number of environments, likewise
    :param additional_args: of other algorithms, likewise
    :return: options of IDQL
    """
    # The other critics have no expectile
    sampled = sample_critics(trial, ("iql",))
    sampled["expectile"] = trial.suggest_float("expectile", 0.5, 0.95)
    sampled["n_candidates"] = trial.suggest_int("n_candidates", 2, 64, log=True)
    sampled["choice"] = trial.suggest_categorical("choice", list(CHOICES))
    return with_true_values(trial, sampled)
