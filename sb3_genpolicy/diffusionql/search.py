"""
What Optuna may try for DiffusionQL.
"""

from typing import TYPE_CHECKING, Any

from sb3_genpolicy.common.algorithms.search_space import Settings, sample_critics, with_true_values

if TYPE_CHECKING:
    import optuna


def sample_diffusionql(trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> Settings:
    """
    :param trial: the trial
    :param n_actions: action dimensions, as rl_zoo3 gives them to all samplers
    :param n_envs: number of environments, likewise
    :param additional_args: of other algorithms, likewise
    :return: options of DiffusionQL
    """
    sampled = sample_critics(trial, ("policy",))
    # Paper: 0.001 to 5
    sampled["eta"] = trial.suggest_float("eta", 0.001, 10.0, log=True)
    return with_true_values(trial, sampled)
