"""
What Optuna may try for QGPO.
"""

from typing import TYPE_CHECKING, Any

from sb3_genpolicy.common.algorithms.search_space import Settings, convert, sample_critics, with_true_values

if TYPE_CHECKING:
    import optuna


def sample_qgpo(trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> Settings:
    """
    :param trial: the trial
    :param n_actions: action dimensions, as rl_zoo3 gives them to all samplers
    :param n_envs: number of environments, likewise
    :param additional_args: of other algorithms, likewise
    :return: options of QGPO
    """
    sampled = sample_critics(trial, ("support",))
    sampled["beta"] = trial.suggest_float("beta", 0.1, 10.0, log=True)
    return with_true_values(trial, sampled, convert_qgpo)


def convert_qgpo(sampled: Settings) -> Settings:
    """
    :param sampled: parameters of a trial, as the study keeps them
    :return: the options that they stand for, with the default critic, the only one there is
    """
    options = convert(sampled)
    del options["critic"]
    return options
