"""
What Optuna may try for ReBRAC.
"""

from typing import TYPE_CHECKING, Any

from sb3_genpolicy.common.algorithms.search_space import Settings, convert, sample_critics, with_true_values
from sb3_genpolicy.common.policies.critics import PolicyCritic

if TYPE_CHECKING:
    import optuna


def sample_rebrac(trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> Settings:
    """
    :param trial: the trial
    :param n_actions: action dimensions, as rl_zoo3 gives them to all samplers
    :param n_envs: number of environments, likewise
    :param additional_args: of other algorithms, likewise
    :return: options of ReBRAC
    """
    sampled = sample_critics(trial, ("policy",))
    # On locomotion the paper's grid goes from 0.001 to 0.1
    sampled["actor_penalty"] = trial.suggest_float("actor_penalty", 0.001, 1.0, log=True)
    sampled["critic_penalty"] = trial.suggest_float("critic_penalty", 0.001, 0.5, log=True)
    return with_true_values(trial, sampled, convert_rebrac)


def convert_rebrac(sampled: Settings) -> Settings:
    """
    :param sampled: parameters of a trial, as the study keeps them
    :return: the options that they stand for
    """
    options = convert(sampled)
    penalty = options.pop("critic_penalty")
    return {**options, "critic": PolicyCritic(penalty=penalty, aggregation="minimum", net_arch=(256, 256, 256))}
