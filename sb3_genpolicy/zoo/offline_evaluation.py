"""
The command line of evaluations without a simulator, and searches and trainings that are judged so.
"""

import argparse
from pathlib import Path
from typing import Any

import gymnasium as gym
import optuna
import torch as th

from sb3_genpolicy.common.datasets import dataset_spaces
from sb3_genpolicy.evaluation.callbacks import OfflineSelectionCallback
from sb3_genpolicy.evaluation.choose import choose_policy
from sb3_genpolicy.evaluation.evaluate import evaluate_offline
from sb3_genpolicy.evaluation.fitted_q import FittedQOptions
from sb3_genpolicy.evaluation.verdict import UNKNOWN
from sb3_genpolicy.reporting.report import report
from sb3_genpolicy.zoo.arguments import Arguments, known_options
from sb3_genpolicy.zoo.runs import find_runs

# One discount for all that are compared, whatever they were trained with
_GAMMA = 0.99


def main(arguments: Arguments) -> None:
    """
    :param arguments: of the command line, without the command
    :raises ValueError: if something of it cannot be evaluated
    """
    options = known_options(_parser(), "evaluate_offline", arguments)
    if options.num_threads > 0:
        th.set_num_threads(options.num_threads)
    files = [str(file) for name in options.models for file in files_of(Path(name))]
    dataset = options.dataset[0] if options.dataset and len(options.dataset) == 1 else options.dataset
    how: dict[str, Any] = dict(
        deterministic=options.deterministic,
        gamma=options.gamma,
        n_actions=options.n_actions,
        max_rows=options.max_rows,
        behaviour_steps=options.behaviour_steps,
        options=FittedQOptions(steps=options.steps, first_steps=options.first_steps),
        level=options.level,
        seed=options.seed,
        device=options.device,
        progress_bar=True,
    )
    if len(files) == 1:
        found = evaluate_offline(files[0], dataset, **how)
        print(found)
        frame, evaluations = found.to_frame(), [found]
    else:
        choice = choose_policy(files, dataset, **how)
        print(choice)
        frame, evaluations = choice.to_frame(), list(choice.evaluations.values())
    if options.csv is not None:
        frame.to_csv(options.csv, index=False)
    if options.picture is not None:
        # Of several policies the best
        evaluations[0].picture(options.picture)
    if options.report is not None:
        best = files[0] if len(files) == 1 else evaluations[0].policy
        print(f"Report: {report(best, options.report, dataset, offline_evaluation=evaluations[0])}")


def files_of(path: Path) -> list[Path]:
    """
    :param path: a file, or a folder
    :return: a file itself; of a folder of the zoo's runs their models
    :raises ValueError: if there is none
    """
    if not path.is_dir():
        if not path.is_file() and not path.with_suffix(".zip").is_file():
            raise ValueError(f"There is no model {path}: give the zip file of a model, or a folder of runs.")
        return [path]
    found = [run.model for run in find_runs(str(path)) if run.model is not None]
    found = found or sorted(path.glob("*.zip"))
    if not found:
        raise ValueError(f"There is no model in {path}: give the zip file of a model, or a folder of runs.")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sb3_genpolicy.zoo evaluate_offline",
        allow_abbrev=False,
        description="What a policy is worth, from logged data alone; of several models, which is best.",
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="files of models, or folders of runs")
    parser.add_argument("--dataset", nargs="+", metavar="ID", help="what judges (default: what the model was trained on)")
    parser.add_argument("--deterministic", action="store_true", help="evaluate the deterministic actions")
    parser.add_argument("--gamma", type=float, help="discount factor (default: the algorithm's)")
    parser.add_argument("--steps", type=int, default=FittedQOptions().steps, help="gradient steps of fitted Q evaluation")
    parser.add_argument("--first-steps", type=int, default=FittedQOptions().first_steps, help="towards the behaviour's values")
    parser.add_argument("--behaviour-steps", type=int, default=3_000, help="of the flow that says what lies beyond the data")
    parser.add_argument("--n-actions", type=int, default=4, help="actions drawn for every state")
    parser.add_argument("--max-rows", type=int, default=200_000, help="rows at most, in whole episodes")
    parser.add_argument("--level", type=float, default=0.9, help="probability of the intervals")
    parser.add_argument("--csv", metavar="FILE", help="write the table into a file")
    parser.add_argument("--picture", metavar="FILE", help="draw the evaluation, of several models that of the best")
    parser.add_argument("--report", metavar="FILE", help="write a page about the model, of several about the best")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--num-threads", type=int, default=-1, help="threads of PyTorch")
    return parser


class NoSimulator(gym.Env):
    """
    Stands where rl_zoo3 wants an environment: it has the spaces of a dataset, and cannot be stepped.

    :param dataset: name of a dataset
    """

    def __init__(self, dataset: str, render_mode: str | None = None):
        self.observation_space, self.action_space = dataset_spaces(dataset)
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        raise ValueError("There is no simulator to step: this run is evaluated by its dataset (--offline-evaluation).")


class OfflineTrialCallback(OfflineSelectionCallback):
    """
    Judges a trial of a search by logged data, in place of rl_zoo3's ``TrialEvalCallback``, whose parameters it has.

    :param eval_env: not used
    :param trial: the trial
    :param best_model_save_path: folder of the best model
    :param log_path: folder of the evaluations
    :param n_eval_episodes: not used
    :param eval_freq: gradient steps between evaluations
    :param deterministic: whether ``predict(deterministic=True)`` is evaluated
    """

    def __init__(
        self,
        eval_env: Any,
        trial: optuna.Trial,
        best_model_save_path: str | None = None,
        log_path: str | None = None,
        n_eval_episodes: int = 5,
        eval_freq: int = 10_000,
        deterministic: bool = True,
    ):
        super().__init__(
            eval_freq=eval_freq,
            best_model_save_path=best_model_save_path,
            log_path=log_path,
            deterministic=deterministic,
            gamma=_GAMMA,
            verbose=0,
        )
        self.trial = trial
        self.is_pruned = False
        #: What the search is to maximise: the discounted value, minus infinity where nothing can be told
        self.last_mean_reward = -float("inf")

    def _evaluate(self) -> bool:
        goes_on = super()._evaluate()
        is_known = self.evaluations_verdicts[-1] != UNKNOWN
        self.last_mean_reward = self.evaluations_values[-1] if is_known else -float("inf")
        # A trial that ends so is none to choose
        self.is_pruned = not is_known
        if is_known:
            self.trial.report(self.last_mean_reward, len(self.evaluations_values))
            self.is_pruned = self.trial.should_prune()
        return goes_on and not (is_known and self.is_pruned)
