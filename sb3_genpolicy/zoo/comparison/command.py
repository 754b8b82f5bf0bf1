"""
The command line of a comparison.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import torch as th
from rl_zoo3.utils import StoreDict

from sb3_genpolicy.common.algorithms.registry import registered
from sb3_genpolicy.zoo.arguments import Arguments, known_options, quoted, values_of, without
from sb3_genpolicy.zoo.comparison.comparison import compare
from sb3_genpolicy.zoo.comparison.methods import Method

_PARAMS = ("-params", "--hyperparams")


def main(arguments: Arguments) -> None:
    """
    :param arguments: of the command line, without the command
    :raises ValueError: if something of it cannot be compared
    """
    settings = [quoted(setting) for setting in values_of(arguments, *_PARAMS) or []]
    known = [*without(arguments, *_PARAMS), *(["-params", *settings] if settings else [])]
    options = known_options(_parser(), "compare", known)
    algos = [name for word in options.algos for name in word.split(",") if name]
    common, own = _shared_out(options.hyperparams or {}, algos)
    if options.num_threads > 0:
        th.set_num_threads(options.num_threads)
    compare(
        options.dataset,
        [Method(algo, own[algo]) for algo in algos],
        seeds=options.seeds[0] if len(options.seeds) == 1 else options.seeds,
        steps=options.n_timesteps,
        pretraining_steps=options.pretraining_steps,
        batch_size=options.batch_size,
        episodes=options.eval_episodes,
        curve_points=options.n_evaluations,
        curve_episodes=options.curve_episodes,
        options=common,
        env=options.env,
        output=options.output,
        storage=options.storage,
        study_name=options.study_name,
        patience=options.patience,
        device=options.device,
        reps=options.reps,
    )


def _shared_out(settings: Mapping[str, Any], algos: Sequence[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Settings of all, and those that are one algorithm's, written ``algo.option:value``."""
    common: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {algo: {} for algo in algos}
    for name, value in settings.items():
        algo, dot, option = name.partition(".")
        if not dot:
            common[name] = value
        elif algo in own:
            own[algo][option] = value
        else:
            raise ValueError(f"-params {name}: {algo} is not among --algos {' '.join(algos)}.")
    return common, own


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sb3_genpolicy.zoo compare",
        # `--seed 3` is not `--seeds 3`
        allow_abbrev=False,
        description="Methods under equal conditions, and a page about them. Every process that runs the same command takes a "
        "share of the runs; a run whose process has died is done again.",
    )
    parser.add_argument("--dataset", nargs="+", required=True, metavar="ID", help="datasets, each a row of the table")
    names = ", ".join(sorted(registered()))
    parser.add_argument("--algos", "-a", nargs="+", required=True, metavar="ALGO", help=f"methods, of {names}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[5], help="how many (0, 1, ...), or several seeds")
    parser.add_argument("-n", "--n-timesteps", type=int, default=100_000, help="gradient steps of every method")
    parser.add_argument("--pretraining-steps", type=int, help="of these, the steps of a shared pretraining (default: half)")
    parser.add_argument("--batch-size", type=int, default=256, help="rows of each gradient step")
    parser.add_argument(
        *_PARAMS,
        nargs="+",
        action=StoreDict,
        metavar="[ALGO.]NAME:VALUE",
        help="options of all algorithms' constructors, or of one (gmpo.beta:2), written as for train",
    )
    parser.add_argument("--env", help="environment to evaluate in, where the datasets do not name one")
    parser.add_argument("--eval-episodes", type=int, default=50, help="episodes of the last parameters' evaluations")
    parser.add_argument("--n-evaluations", type=int, default=10, help="evaluations along the way, 0 for none")
    parser.add_argument("--curve-episodes", type=int, default=10, help="episodes of each of these")
    parser.add_argument("-o", "--output", default="report", help="folder of report and models, one for all processes")
    parser.add_argument("--storage", help="database or journal that processes share (default: study.db in the folder)")
    parser.add_argument("--study-name", default="comparison", help="of the study on it")
    parser.add_argument(
        "--patience", type=float, default=120.0, help="seconds without a sign of life after which a process counts as dead"
    )
    parser.add_argument("--device", default="auto", help="where models are trained")
    parser.add_argument("--num-threads", type=int, default=-1, help="threads of PyTorch")
    parser.add_argument("--reps", type=int, default=2000, help="resamples of the bootstrap")
    return parser
