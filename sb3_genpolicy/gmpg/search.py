"""
What Optuna may try for GMPG.
"""

from typing import TYPE_CHECKING, Any

from sb3_genpolicy.common.algorithms.search_space import Settings, sample_critics, with_true_values

if TYPE_CHECKING:
    import optuna


def sample_gmpg(trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> Settings:
    """
    :param trial: the trial
    :param n_actions: action dimensions, as rl_zoo3 gives them to all samplers
    :param n_envs: number of environments, likewise
    :param additional_args: of other algorithms, likewise
    :return: options of GMPG
    """
    sampled = sample_critics(trial)
    sampled["policy_learning_rate"] = trial.suggest_float("policy_learning_rate", 3e-5, 1e-3, log=True)
    # More than two nats away from the behaviour policy the critics are not reliable
    sampled["target_kl"] = trial.suggest_float("target_kl", 0.05, 2.0, log=True)
    return with_true_values(trial, sampled)
