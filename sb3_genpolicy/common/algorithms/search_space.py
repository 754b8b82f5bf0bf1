"""
What Optuna may try of the options that the algorithms share. Networks and paths stay as the file of hyper-parameters has them.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

Settings = dict[str, Any]


def sample_critics(trial: "optuna.Trial", critics: Sequence[str] = ("onestep", "iql")) -> Settings:
    """
    :param trial: the trial
    :param critics: names of the critics to try
    :return: its parameters for the critics and for the steps of all networks, as a study keeps them
    """
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
        # From 2**6=64 to 2**10=1024
        "batch_size_pow": trial.suggest_int("batch_size_pow", 6, 10),
        "tau": trial.suggest_float("tau", 0.002, 0.05, log=True),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 0.002, 0.03, log=True),
        "critic": trial.suggest_categorical("critic", list(critics)),
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


def with_true_values(
    trial: "optuna.Trial", sampled: Settings, converter: Callable[[Settings], Settings] = convert
) -> Settings:
    """
    :param trial: the trial; options that it samples in another form (``batch_size``, ``gamma``) are noted as its attributes
    :param sampled: its parameters
    :param converter: what makes options of them
    :return: the options that they stand for
    """
    options = converter(sampled)
    for name in ("batch_size", "gamma"):
        if name in options:
            trial.set_user_attr(name, options[name])
    return options
