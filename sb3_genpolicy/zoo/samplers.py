"""
What Optuna may try for GMPO and GMPG. Networks and paths stay as the file of hyper-parameters has them.
"""

from collections.abc import Callable
from typing import Any

import optuna

Settings = dict[str, Any]
Sampler = Callable[[optuna.Trial, int, int, dict[str, Any]], Settings]


def sample_gmpo(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> Settings:
    """
    :param trial: the trial
    :param n_actions: action dimensions, as rl_zoo3 gives them to all samplers
    :param n_envs: number of environments, likewise
    :param additional_args: of other algorithms, likewise
    :return: options of GMPO
    """
    sampled = _sample_critics(trial)
    # In the scale of `locomotion` rewards, from mixed data (1) to one agent's (12; paper: up to 16)
    sampled["beta"] = trial.suggest_float("beta", 0.3, 30.0, log=True)
    sampled["weight_clamp"] = trial.suggest_float("weight_clamp", 10.0, 1000.0, log=True)
    return _with_true_values(trial, sampled)


def sample_gmpg(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> Settings:
    """
    :param trial: the trial
    :param n_actions: action dimensions, as rl_zoo3 gives them to all samplers
    :param n_envs: number of environments, likewise
    :param additional_args: of other algorithms, likewise
    :return: options of GMPG
    """
    sampled = _sample_critics(trial)
    sampled["policy_learning_rate"] = trial.suggest_float("policy_learning_rate", 3e-5, 1e-3, log=True)
    # Past two nats the critics know nothing
    sampled["target_kl"] = trial.suggest_float("target_kl", 0.05, 2.0, log=True)
    return _with_true_values(trial, sampled)


def _sample_critics(trial: optuna.Trial) -> Settings:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
        # From 2**6=64 to 2**10=1024
        "batch_size_pow": trial.suggest_int("batch_size_pow", 6, 10),
        "tau": trial.suggest_float("tau", 0.002, 0.05, log=True),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 0.002, 0.03, log=True),
        "expectile": trial.suggest_float("expectile", 0.5, 0.95),
    }


def convert(sampled: Settings) -> Settings:
    """
    :param sampled: parameters of a trial, as the study keeps them
    :return: the options that they stand for
    """
    options = dict(sampled)
    options["batch_size"] = 2 ** options.pop("batch_size_pow")
    options["gamma"] = 1.0 - options.pop("one_minus_gamma")
    return options


def _with_true_values(trial: optuna.Trial, sampled: Settings) -> Settings:
    options = convert(sampled)
    for name in ("batch_size", "gamma"):
        trial.set_user_attr(name, options[name])
    return options


SAMPLERS: dict[str, Sampler] = {"gmpo": sample_gmpo, "gmpg": sample_gmpg}
CONVERTERS: dict[str, Callable[[Settings], Settings]] = {"gmpo": convert, "gmpg": convert}
