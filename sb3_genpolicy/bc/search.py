"""
What Optuna may try for BC.
"""

from typing import TYPE_CHECKING, Any

from sb3_genpolicy.common.algorithms.search_space import Settings, with_true_values

if TYPE_CHECKING:
    import optuna


def sample_bc(trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> Settings:
    """
    :param trial: the trial
    :param n_actions: action dimensions, as rl_zoo3 gives them to all samplers
    :param n_envs: number of environments, likewise
    :param additional_args: of other algorithms, likewise
    :return: options of BC
    """
    sampled = {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
        # From 2**6=64 to 2**10=1024
        "batch_size_pow": trial.suggest_int("batch_size_pow", 6, 10),
    }
    return with_true_values(trial, sampled, convert_bc)


def convert_bc(sampled: Settings) -> Settings:
    """
    :param sampled: parameters of a trial, as the study keeps them
    :return: the options that they stand for
    """
    options = dict(sampled)
    options["batch_size"] = 2 ** options.pop("batch_size_pow")
    return options
