"""
What Optuna may try for IQL.
"""

from typing import TYPE_CHECKING, Any

from sb3_genpolicy.common.algorithms.search_space import Settings, sample_critics, with_true_values

if TYPE_CHECKING:
    import optuna


def sample_iql(trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> Settings:
    """
    :param trial: the trial
    :param n_actions: action dimensions, as rl_zoo3 gives them to all samplers
    :param n_envs: number of environments, likewise
    :param additional_args: of other algorithms, likewise
    :return: options of IQL
    """
    sampled = sample_critics(trial)
    # In the scale of `locomotion` rewards; paper: 0.5 to 10
    sampled["beta"] = trial.suggest_float("beta", 0.1, 30.0, log=True)
    return with_true_values(trial, sampled)
