"""
The command line of reports on runs that are there.
"""

import argparse
from pathlib import Path

import torch as th

from sb3_genpolicy.reporting.curves import EVALUATIONS, PROGRESS
from sb3_genpolicy.reporting.report import report
from sb3_genpolicy.zoo.arguments import REPORT, Arguments, known_options
from sb3_genpolicy.zoo.offline_evaluation import files_of
from sb3_genpolicy.zoo.runs import Run, find_runs


def main(arguments: Arguments) -> None:
    """
    :param arguments: of the command line, without the command
    :raises ValueError: if there is no such model, or its data are not to be had
    """
    options = known_options(_parser(), "report", arguments)
    if options.num_threads > 0:
        th.set_num_threads(options.num_threads)
    files = [file for name in options.models for file in files_of(Path(name))]
    if options.output is not None and len(files) > 1:
        raise ValueError(f"-o names one page, and there are {len(files)} models: leave it out, and each has one beside it.")
    dataset = options.dataset[0] if options.dataset and len(options.dataset) == 1 else options.dataset
    for file in files:
        run = _run_of(file)
        has_logs = any((file.parent / name).is_file() for name in (PROGRESS, EVALUATIONS))
        path = report(
            file,
            options.output or file.parent / (REPORT if run is not None else f"{file.stem}.html"),
            dataset,
            behaviour_steps=options.behaviour_steps,
            offline_evaluation=options.offline_evaluation,
            logs=file.parent if has_logs else None,
            command=None if run is None else run.args.get("command") or run.command,
            seed=options.seed,
        )
        print(f"Report: {path}")


def _run_of(file: Path) -> Run | None:
    """The zoo's run that a model is of, None where it is of none."""
    folder = file.resolve().parent
    if len(folder.parents) < 2:
        return None
    return next((run for run in find_runs(folder.parents[1]) if run.path.resolve() == folder), None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sb3_genpolicy.zoo report",
        allow_abbrev=False,
        description="A page about a model, in one file: data, curves, action densities, critics, settings, the command.",
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="files of models, or folders of runs")
    parser.add_argument("-o", "--output", metavar="FILE", help="the page (default: report.html in the run's folder)")
    parser.add_argument("--dataset", nargs="+", metavar="ID", help="what it is looked at by (default: what it was trained on)")
    parser.add_argument("--behaviour-steps", type=int, default=0, help="of a flow fitted to the data, where there is no model")
    parser.add_argument("--offline-evaluation", action="store_true", help="ask whether it is better than the data (minutes)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-threads", type=int, default=-1, help="threads of PyTorch")
    return parser
