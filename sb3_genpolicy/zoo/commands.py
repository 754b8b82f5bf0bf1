"""
rl_zoo3's commands, with our algorithms, our arguments, and what gets in their way put right.
"""

import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

from sb3_genpolicy.common.datasets.suites import register_suite
from sb3_genpolicy.zoo import hub, plots, register, results
from sb3_genpolicy.zoo.algorithms import trusting_pickles
from sb3_genpolicy.zoo.arguments import (
    Arguments,
    for_download,
    for_one_run,
    for_plots,
    for_training,
    import_gym_packages,
    picture_of,
    report_of,
    values_of,
    without,
)
from sb3_genpolicy.zoo.experiment import make_manager
from sb3_genpolicy.zoo.modules import module_of


class Command(NamedTuple):
    """
    :param run: does it, with arguments of ours
    :param help: what it is for
    """

    run: Callable[[Arguments], None]
    help: str


def train(arguments: Arguments) -> None:
    """Train, or search for hyper-parameters (``-optimize``)."""
    import rl_zoo3.train as module

    arguments, page = report_of(arguments)
    module.ExperimentManager = partial(make_manager, page=page)  # type: ignore[assignment,misc]
    with command_line("train", for_training(arguments)):
        module.train()


def enjoy(arguments: Arguments) -> None:
    """Watch a trained policy act."""
    hub.mend()
    from rl_zoo3.enjoy import enjoy as run

    with command_line("enjoy", for_one_run(arguments)):
        run()


def record_video(arguments: Arguments) -> None:
    """Record a trained policy."""
    with command_line("record_video", without(for_one_run(arguments), "--gym-packages")):
        _run_module("rl_zoo3.record_video")


def push_to_hub(arguments: Arguments) -> None:
    """Evaluate a trained policy, write its card, and publish both."""
    hub.mend()
    arguments = without(for_one_run(arguments, "logs"), "--gym-packages")
    with command_line("push_to_hub", arguments), hub.with_card(arguments):
        _run_module("rl_zoo3.push_to_hub")


def load_from_hub(arguments: Arguments) -> None:
    """Fetch a trained policy."""
    hub.mend()
    arguments = without(for_download(arguments), "--gym-packages")
    with command_line("load_from_hub", arguments):
        _run_module("rl_zoo3.load_from_hub")
    hub.make_plain(arguments)


def plot_train(arguments: Arguments) -> None:
    """Draw returns against steps: of the evaluations, where the environment was not trained in."""
    arguments, picture = picture_of(for_plots(arguments, ("-a", "--algo")))
    module = module_of("rl_zoo3.plots.plot_train")
    with plots.with_evaluations(module, without(arguments, "--gym-packages")) as arguments:
        with command_line("plot_train", arguments), plots.drawn_into(picture):
            module.plot_train()


def all_plots(arguments: Arguments) -> None:
    """Compare algorithms: curves and a table of returns."""
    arguments, picture = picture_of(for_plots(arguments, ("-a", "--algos")))
    module = module_of("rl_zoo3.plots.all_plots")
    with plots.with_few_evaluations(module, without(arguments, "--gym-packages")) as arguments:
        with command_line("all_plots", arguments), plots.drawn_into(picture):
            module.all_plots()


def plot_from_file(arguments: Arguments) -> None:
    """Draw what ``all_plots -o`` has kept."""
    arguments, picture = picture_of(arguments)
    with command_line("plot_from_file", arguments), plots.drawn_into(picture):
        module_of("rl_zoo3.plots.plot_from_file").plot_from_file()


def table_of_results(arguments: Arguments) -> None:
    """Normalised scores in the paper's layout."""
    results.main(without(arguments, "--gym-packages"))


def compare(arguments: Arguments) -> None:
    """Methods under equal conditions, and a page about them."""
    from sb3_genpolicy.zoo.comparison import command

    command.main(without(arguments, "--gym-packages"))


def evaluate_offline(arguments: Arguments) -> None:
    """What policies are worth, from logged data alone."""
    from sb3_genpolicy.zoo import offline_evaluation

    offline_evaluation.main(without(arguments, "--gym-packages"))


def report(arguments: Arguments) -> None:
    """A page about a run that is there."""
    from sb3_genpolicy.zoo import run_report

    run_report.main(without(arguments, "--gym-packages"))


COMMANDS: dict[str, Command] = {
    "train": Command(train, "train from a dataset, or search for hyper-parameters (-optimize)"),
    "enjoy": Command(enjoy, "watch a trained policy act"),
    "record_video": Command(record_video, "record a trained policy"),
    "plot_train": Command(plot_train, "draw returns against steps"),
    "all_plots": Command(all_plots, "compare algorithms: curves and a table of returns"),
    "plot_from_file": Command(plot_from_file, "draw what `all_plots -o` has kept"),
    "results": Command(table_of_results, "normalised scores in the paper's layout: table, curves, intervals"),
    "compare": Command(compare, "methods under equal conditions, shared among processes, and a page about them"),
    "evaluate_offline": Command(evaluate_offline, "what policies are worth, from logged data alone, and which is best"),
    "report": Command(report, "a page about runs or models that are there"),
    "push_to_hub": Command(push_to_hub, "publish a trained policy with its card"),
    "load_from_hub": Command(load_from_hub, "fetch a trained policy"),
}


def run(command: str, arguments: Arguments) -> None:
    """
    :param command: one of :data:`COMMANDS`
    :param arguments: its command line
    """
    import_gym_packages(arguments)
    for env_id in values_of(arguments, "--env") or []:
        register_suite(env_id)
    register()
    trusted = values_of(arguments, "--trust-pickle") is not None
    with trusting_pickles() if trusted else nullcontext():
        COMMANDS[command].run(without(arguments, "--trust-pickle"))


@contextmanager
def command_line(command: str, arguments: Arguments) -> Iterator[None]:
    """
    :param command: name of a command
    :param arguments: what rl_zoo3 reads from the command line while this lasts
    """
    given, sys.argv = sys.argv, [f"python -m sb3_genpolicy.zoo {command}", *arguments]
    try:
        yield
    finally:
        sys.argv = given


def _run_module(name: str) -> None:
    # Their arguments are read only under this name
    runpy.run_module(name, run_name="__main__")
