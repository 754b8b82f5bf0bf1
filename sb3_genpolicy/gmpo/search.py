"""
What Optuna may try for GMPO.
"""

from typing import TYPE_CHECKING, Any

from sb3_genpolicy.common.algorithms.search_space import Settings, sample_critics, with_true_values

if TYPE_CHECKING:
    import optuna


def sample_gmpo(trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> Settings:
    """
    :param trial: the trial
    :param n_actions: action dimensions, as rl_zoo3 gives them to all samplers
    :param n_envs: number of environments, likewise
    :param additional_args: of other algorithms, likewise
    :return: options of GMPO
    """
    sampled = sample_critics(trial)
    # The unit of beta differs between datasets, that of a divergence does not
    sampled["target_kl"] = trial.suggest_float("target_kl", 0.05, 2.0, log=True)
    sampled["weight_clamp"] = trial.suggest_float("weight_clamp", 3.0, 100.0, log=True)
    return with_true_values(trial, sampled)
