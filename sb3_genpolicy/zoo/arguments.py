"""
What our commands understand beyond rl_zoo3's: their arguments are turned into rl_zoo3's own.
"""

import argparse
import builtins
import importlib
import re
from collections.abc import Sequence
from pathlib import Path

from sb3_genpolicy.common.algorithms.registry import registered
from sb3_genpolicy.common.datasets.loading import JOINT
from sb3_genpolicy.generative.checks import did_you_mean
from sb3_genpolicy.zoo.algorithms import check_algorithm, hyperparams_file, is_ours
from sb3_genpolicy.zoo.environments import dataset_key, register_env, register_no_simulator
from sb3_genpolicy.zoo.runs import Run, find_runs

Arguments = list[str]

#: As a frequency of evaluations: so many that there are ten
BY_LENGTH = 0

#: Name of a run's page
REPORT = "report.html"

_EVALUATED = ("-params", "--hyperparams", "--env-kwargs", "--eval-env-kwargs")
_FOLDERS = ("-f", "--folder", "--log-folder", "--exp-folder", "--exp-folders")


# Looking into arguments


def known_options(parser: argparse.ArgumentParser, command: str, arguments: Arguments) -> argparse.Namespace:
    """
    :param parser: of a command
    :param command: its name
    :param arguments: of the command line, without the command
    :return: its options
    :raises ValueError: if it does not know one, naming the nearest
    """
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise ValueError(f"{command} does not know '{unknown[0]}'. {did_you_mean(unknown[0], flags)}")
    return options


def values_of(arguments: Arguments, *flags: str) -> list[str] | None:
    """
    :param arguments: of a command line
    :param flags: names of one flag
    :return: its values, None where the flag is not given
    """
    _, values = _split(arguments, flags)
    return values


def value_of(arguments: Arguments, *flags: str) -> str | None:
    """
    :param arguments: of a command line
    :param flags: names of one flag
    :return: its value, None where the flag is not given
    """
    values = values_of(arguments, *flags)
    return values[-1] if values else None


def without(arguments: Arguments, *flags: str) -> Arguments:
    """
    :param arguments: of a command line
    :param flags: names of one flag
    :return: the arguments without the flag and its values
    """
    return _split(arguments, flags)[0]


def _split(arguments: Arguments, flags: Sequence[str]) -> tuple[Arguments, list[str] | None]:
    rest: Arguments = []
    values: list[str] | None = None
    taking = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in flags and (name.startswith("--") or not equals):
            values, taking = ([value] if equals else []), not equals
        elif taking and not _is_flag(argument):
            assert values is not None
            values.append(argument)
        else:
            rest.append(argument)
            taking = False
    return rest, values


def _is_flag(argument: str) -> bool:
    return re.match(r"-{1,2}[A-Za-z]", argument) is not None


# Turning them into rl_zoo3's


def take_dataset(arguments: Arguments) -> tuple[Arguments, str | None]:
    """
    :param arguments: of a command line
    :return: the arguments without ``--dataset``, and its value; several are joined as one dataset
    :raises ValueError: if the flag has no value
    """
    rest, values = _split(arguments, ("--dataset",))
    if values == []:
        raise ValueError("--dataset needs the name of a dataset: a Minari id, a file, or an embedded name.")
    return rest, JOINT.join(values) if values else None


def import_gym_packages(arguments: Arguments) -> None:
    """
    :param arguments: of a command line; modules after ``--gym-packages`` are imported, so that they register environments and
        algorithms
    :raises ValueError: if there is no such module
    """
    for module in values_of(arguments, "--gym-packages") or []:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
            raise ValueError(f"--gym-packages {module}: there is no module '{error.name}' here.") from error


def quoted(setting: str) -> str:
    """
    rl_zoo3 evaluates what follows a hyper-parameter's name as Python. Words that mean nothing to Python are texts.

    :param setting: ``name:value``
    :return: the same, with the value in quotes if it is a word or a path (``dataset:a/b-v0``, ``weighting:softmax``)
    """
    from rl_zoo3 import utils

    name, colon, value = setting.partition(":")
    root = re.split(r"\W", value, maxsplit=1)[0]
    is_word = re.fullmatch(r"[A-Za-z_~.][\w.+/~:@ -]*", value) is not None or value.startswith(("/", "~", "./"))
    means_something = root in vars(utils) or hasattr(builtins, root)
    if colon and is_word and (name == "dataset" or not means_something):
        return f"{name}:{value!r}"
    return setting


def for_training(arguments: Arguments) -> Arguments:
    """
    :param arguments: of ``train``
    :return: rl_zoo3's: an environment registered for the dataset, the dataset among the hyper-parameters, our file of these
    :raises ValueError: if the dataset does not go with the algorithm, or there is none
    """
    arguments, dataset = take_dataset(arguments)
    is_offline = values_of(arguments, "--offline-evaluation") is not None
    arguments = without(arguments, "--offline-evaluation")
    algo = value_of(arguments, "--algo") or "ppo"
    check_algorithm(algo)
    settings = values_of(arguments, "-params", "--hyperparams") or []
    named = [setting.partition(":")[2].strip("'\"") for setting in settings if setting.startswith("dataset:")]
    if dataset is not None and named and named != [dataset]:
        raise ValueError(f"--dataset says '{dataset}' and -params says '{named[0]}': give one of them.")
    dataset = dataset or (named[0] if named else None)
    for flag in _EVALUATED:
        arguments = _with(arguments, flag, [quoted(setting) for setting in values_of(arguments, flag) or []])
    if is_offline and dataset is None:
        raise ValueError("--offline-evaluation judges by a dataset: add --dataset.")
    if not is_ours(algo):
        if dataset is not None:
            raise ValueError(f"{algo} learns in its environment: --dataset is for {', '.join(sorted(registered()))}.")
        return arguments
    if dataset is not None:
        key = register_no_simulator(dataset) if is_offline else register_env(dataset, value_of(arguments, "--env"))
        settings = [quoted(setting) for setting in settings if not setting.startswith("dataset:")]
        arguments = [*without(arguments, "--env", "-params", "--hyperparams"), "--env", key]
        arguments += ["-params", *settings, f"dataset:{dataset!r}"]
    if value_of(arguments, "--eval-freq") is None:
        # rl_zoo3's 25,000 steps are more than many trainings have
        arguments += ["--eval-freq", str(BY_LENGTH)]
    configuration = hyperparams_file(algo, value_of(arguments, "-conf", "--conf-file"))
    return _with(without(arguments, "-conf", "--conf-file"), "-conf", [] if configuration is None else [configuration])


def _with(arguments: Arguments, flag: str, values: list[str]) -> Arguments:
    return [*without(arguments, flag), flag, *values] if values else arguments


def for_one_run(arguments: Arguments, default_folder: str = "rl-trained-agents") -> Arguments:
    """
    :param arguments: of a command on one run: ``enjoy``, ``record_video``, ``push_to_hub``
    :param default_folder: where rl_zoo3 looks for runs by default
    :return: rl_zoo3's: with the id that the run's environment is registered under
    :raises ValueError: if the environment alone does not tell which run is meant
    """
    arguments, dataset = take_dataset(arguments)
    algo = value_of(arguments, "--algo") or "ppo"
    check_algorithm(algo)
    env_id = value_of(arguments, "--env")
    runs = find_runs(value_of(arguments, *_FOLDERS) or default_folder, [algo])
    key = run_key(runs, algo, env_id, dataset)
    return [*without(arguments, "--env"), "--env", key] if key is not None else arguments


def run_key(runs: Sequence[Run], algo: str, env_id: str | None, dataset: str | None) -> str | None:
    """
    :param runs: the runs there are of the algorithm
    :param algo: the algorithm
    :param env_id: the environment that was asked for: gymnasium's id, or the name of runs
    :param dataset: the dataset that was asked for
    :return: the id of the run's environment, which is registered now; None where rl_zoo3's default is meant
    :raises ValueError: if runs on several datasets are meant
    """
    if dataset is not None:
        key = dataset_key(dataset)
        recorded = [run.env_id for run in runs if run.key == key]
        return register_env(dataset, env_id or (recorded[-1] if recorded else None))
    of_that_name = [run for run in runs if run.key == env_id]
    if not of_that_name:
        of_that_name = [run for run in runs if env_id is None or run.env_id == env_id]
        datasets = sorted({run.dataset or run.env_id for run in of_that_name})
        if is_ours(algo) and len(datasets) > 1:
            raise ValueError(
                f"There are runs of {algo} on {len(datasets)} datasets: add --dataset, one of {', '.join(datasets)}."
            )
    if of_that_name and of_that_name[-1].dataset is not None:
        run = of_that_name[-1]
        return register_env(run.dataset, run.env_id)  # type: ignore[arg-type]
    return env_id


def for_download(arguments: Arguments) -> Arguments:
    """
    :param arguments: of ``load_from_hub``
    :return: rl_zoo3's, which name a repository and a folder after the dataset
    """
    arguments, dataset = take_dataset(arguments)
    if dataset is None:
        return arguments
    return [*without(arguments, "--env"), "--env", dataset_key(dataset)]


def for_plots(arguments: Arguments, algo_flags: Sequence[str]) -> Arguments:
    """
    :param arguments: of ``plot_train`` or ``all_plots``
    :param algo_flags: names of the flag for the algorithms
    :return: rl_zoo3's: an environment stands for all datasets of it
    """
    arguments, datasets = _split(arguments, ("--dataset",))
    algos = [algo.lower() for algo in values_of(arguments, *algo_flags) or []]
    folders = values_of(arguments, *_FOLDERS) or []
    runs = [run for folder in folders for run in find_runs(folder, algos)]
    names = [dataset_key(dataset) for dataset in datasets or []]
    for env_id in values_of(arguments, "-e", "--env") or []:
        keys = {run.key for run in runs if env_id in (run.env_id, run.key)}
        names += sorted(keys) or [env_id]
    if not names:
        names = sorted({run.key for run in runs})
    return [*without(arguments, "-e", "--env"), "-e", *names] if names else arguments


def report_of(arguments: Arguments) -> tuple[Arguments, str | None]:
    """
    :param arguments: of ``train``
    :return: the arguments without ``--report``, and its file: ``report.html`` in the run's folder where none is named, None
        where no report is asked for
    :raises ValueError: if there is nothing to report on
    """
    rest, values = _split(arguments, ("--report",))
    if values is None:
        return arguments, None
    algo = value_of(arguments, "--algo") or "ppo"
    if not is_ours(algo):
        raise ValueError(f"--report tells of {', '.join(sorted(registered()))}, not of {algo}.")
    if values_of(arguments, "-optimize", "--optimize-hyperparameters") is not None:
        raise ValueError(
            "--report tells of one training, and -optimize does many: report on the one that is done with the best."
        )
    return rest, values[-1] if values else REPORT


def picture_of(arguments: Arguments) -> tuple[Arguments, Path | None]:
    """
    :param arguments: of a command that plots
    :return: the arguments without ``--picture``, and its file
    """
    rest, values = _split(arguments, ("--picture",))
    if values == []:
        raise ValueError("--picture needs the name of a file (.png, .svg, .pdf).")
    return rest, Path(values[-1]) if values else None
