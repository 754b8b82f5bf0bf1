"""
rl_zoo3's experiments, with a dataset: one entry of the hyper-parameters for each dataset, and gradient steps for timesteps.
"""

import argparse
import importlib
import inspect
import os
import runpy
import shlex
import shutil
import socket
import sys
from collections import OrderedDict
from pathlib import Path
from pprint import pprint
from typing import Any, cast

import optuna
import yaml
from optuna.samplers import BaseSampler
from rl_zoo3.callbacks import SaveVecNormalizeCallback
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_genpolicy.common.algorithms.callbacks import GradientStepProgressBar
from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.algorithms.registry import RegisteredAlgorithm, registered
from sb3_genpolicy.common.datasets import local_datasets_for
from sb3_genpolicy.common.datasets.envs import carried_dataset
from sb3_genpolicy.common.datasets.suites import suite_scores
from sb3_genpolicy.common.utils import attributes
from sb3_genpolicy.evaluation.callbacks import OfflineSelectionCallback
from sb3_genpolicy.generative import PATHS
from sb3_genpolicy.reporting.report import report
from sb3_genpolicy.zoo.algorithms import is_ours
from sb3_genpolicy.zoo.arguments import BY_LENGTH, REPORT
from sb3_genpolicy.zoo.callbacks import CsvLog, LastEvalCallback
from sb3_genpolicy.zoo.environments import NO_SIMULATOR, entry_names, original_env_id
from sb3_genpolicy.zoo.modules import module_of
from sb3_genpolicy.zoo.offline_evaluation import OfflineTrialCallback
from sb3_genpolicy.zoo.settings import check_names, with_objects
from sb3_genpolicy.zoo.storage import lay_out_database
from sb3_genpolicy.zoo.tasks import published_task

# Evaluations of a training whose command says nothing of them
_EVALUATIONS = 10


def make_manager(
    args: argparse.Namespace, algo: str, *positional: Any, page: str | None = None, **named: Any
) -> ExperimentManager:
    """
    :param args: flags of ``train``
    :param algo: the algorithm
    :param page: file of a report on one of our algorithms, see ``report_of``; None for none
    :param positional: see ``ExperimentManager``
    :param named: see ``ExperimentManager``
    :return: our manager for our algorithms, rl_zoo3's for the others
    """
    if not is_ours(algo):
        return ExperimentManager(args, algo, *positional, **named)
    manager = OfflineExperimentManager(args, algo, *positional, **named)
    manager.page = page
    return manager


class OfflineExperimentManager(ExperimentManager):
    """
    Trains an offline algorithm. The environment is made as for any other algorithm, and only evaluates.

    Its parameters are those of ``ExperimentManager``, of which ``env_id`` may be an id that was registered for a dataset.
    """

    #: File of a report that is written after the training, None for none
    page: str | None = None

    def __init__(self, args: argparse.Namespace, algo: str, env_id: str, *positional: Any, **named: Any):
        super().__init__(args, algo, env_id, *positional, **named)
        self.env_id = original_env_id(env_id)
        self.entry = registered()[algo]
        if self.optimize_hyperparameters and self.entry.sampler is None:
            raise ValueError(
                f"Nothing says what -optimize may try for {algo}: give sb3_genpolicy.register({algo!r}, ...) a sampler=."
            )

    # Hyper-parameters

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        entry, found = self._entry()
        hyperparams = dict(entry)
        if self.storage and self.study_name and self.trial_id is not None:
            hyperparams.update(self.load_trial(self.storage, self.study_name, self.trial_id))
        custom = self.custom_hyperparams or {}
        hyperparams.update(custom)
        if "pretrained" in custom and "pretraining_steps" not in custom:
            # It takes the place of the file's first phase
            hyperparams.pop("pretraining_steps", None)
        if self.optimize_hyperparameters or (custom.get("critic") not in (None, "iql") and "expectile" not in custom):
            # Of the file's critic; a search tries critics of its own
            hyperparams.pop("expectile", None)
        if self.env_kwargs:
            # The command line overrules the file, and evaluations follow
            hyperparams["env_kwargs"] = self.env_kwargs
        elif self._eval_env_kwargs_args is None:
            self.eval_env_kwargs = hyperparams.get("env_kwargs") or {}
        check_names(self.algo, self.entry.algorithm, hyperparams)
        saved = OrderedDict(sorted(hyperparams.items()))
        print(f"Hyper-parameters: {found}")
        pprint(dict(saved))
        return hyperparams, saved

    def _entry(self) -> tuple[dict[str, Any], str]:
        """What the file says of this dataset, and where."""
        if self.args.conf_file is None:
            return _constructor_defaults(self.entry)
        entries = _read_config(self.config)
        dataset = (self.custom_hyperparams or {}).get("dataset")
        names = entry_names(dataset) if isinstance(dataset, str) else []
        for name in [*names, self.env_name.gym_id, self.env_id, "default"]:
            if name in entries:
                return entries[name], f"'{name}' of {self.config}"
        raise ValueError(f"{self.config} has neither an entry for {' or '.join([*names, self.env_id])} nor a 'default'.")

    @staticmethod
    def _preprocess_schedules(hyperparams: dict[str, Any]) -> dict[str, Any]:
        hyperparams = ExperimentManager._preprocess_schedules(hyperparams)
        if "policy_learning_rate" in hyperparams:
            schedule = ExperimentManager._preprocess_schedules({"learning_rate": hyperparams["policy_learning_rate"]})
            hyperparams["policy_learning_rate"] = schedule["learning_rate"]
        return hyperparams

    def _preprocess_hyperparams(self, hyperparams: dict[str, Any]) -> Any:
        options, *wrappers_and_callbacks = super()._preprocess_hyperparams(hyperparams)
        return with_objects(options, self.entry), *wrappers_and_callbacks

    def _preprocess_action_noise(
        self, hyperparams: dict[str, Any], saved_hyperparams: dict[str, Any], env: VecEnv
    ) -> dict[str, Any]:
        # The first that sees the environment: is there something to learn from?
        nothing = all(hyperparams.get(name) is None for name in ("dataset", "pretrained")) and not self.continue_training
        if nothing and carried_dataset(env) is None:
            local = local_datasets_for(self.env_id)
            known = f" On this machine there are, for {self.env_id}: {', '.join(local)}." if local else ""
            raise ValueError(
                f"{self.algo} learns from a dataset: add --dataset (a Minari id, a file, or an embedded name).{known}"
            )
        return super()._preprocess_action_noise(hyperparams, saved_hyperparams, env)

    # Training

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        try:
            experiment = super().setup_experiment()
            if experiment is not None:
                # Read now: a fault of the data is met before the training begins
                model = cast(OfflineAlgorithm, experiment[0])
                _read_dataset(model, self.env_id)
                self._write_config(model, experiment[1])
                return experiment
        except Exception:
            if not self.optimize_hyperparameters:
                _remove_unused(Path(self.save_path))
            raise
        return None

    # A search makes no folder of a run: `enjoy` would take it for the latest one, and the processes of a study have the same

    def create_log_folder(self) -> None:
        if not self.optimize_hyperparameters:
            super().create_log_folder()

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        return super().create_envs(n_envs, eval_env, no_log or self.optimize_hyperparameters)

    def create_callbacks(self) -> None:
        # Checkpoints are rl_zoo3's; the others know the phase of the training, and the scores
        eval_freq, self.eval_freq = self.eval_freq, -1
        show_progress, self.show_progress = self.show_progress, False
        super().create_callbacks()
        self.eval_freq, self.show_progress = eval_freq, show_progress
        if self.optimize_hyperparameters:
            return
        # rl_zoo3 ends the first callback once more when a training was broken off
        first: BaseCallback = GradientStepProgressBar() if show_progress else CsvLog(self.save_path)
        self.callbacks.insert(0, first)
        if show_progress:
            self.callbacks.append(CsvLog(self.save_path))
        if self.eval_freq == BY_LENGTH:
            self.eval_freq = max(self.n_timesteps // _EVALUATIONS, 1)
        if self.eval_freq > 0 and self.env_id == NO_SIMULATOR:
            folder = self.save_path
            self.callbacks.append(
                OfflineSelectionCallback(
                    eval_freq=self.eval_freq,
                    best_model_save_path=folder,
                    log_path=folder,
                    deterministic=self.deterministic_eval,
                )
            )
        elif self.eval_freq > 0:
            self.callbacks.append(
                LastEvalCallback(
                    self.create_envs(self.n_eval_envs, eval_env=True),
                    callback_on_new_best=SaveVecNormalizeCallback(save_freq=1, save_path=self.params_path),
                    best_model_save_path=self.save_path,
                    n_eval_episodes=self.n_eval_episodes,
                    log_path=self.save_path,
                    eval_freq=self.eval_freq,
                    deterministic=self.deterministic_eval,
                )
            )

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        # Waits for the model, see `_write_config`
        pass

    def _write_config(self, model: OfflineAlgorithm, saved_hyperparams: dict[str, Any]) -> None:
        # They travel with the model, also to the hub: what the folder is of, and how it was made
        self.args.dataset = saved_hyperparams.get("dataset")
        self.args.gym_env = self.env_id
        path = getattr(model.policy, "path", None)
        if path is not None:
            self.args.path = {cls: name for name, cls in PATHS.items()}.get(type(path), type(path).__name__)
        self.args.command = shlex.join(["python", *sys.orig_argv[1:]])
        super()._save_config(saved_hyperparams)

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        super().save_trained_model(model)
        if self.page is not None:
            folder = Path(self.save_path)
            path = folder / REPORT if self.page == REPORT else Path(self.page)
            print(f"Report: {report(cast(OfflineAlgorithm, model), path, logs=folder, command=self.args.command)}")

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        # Its critics are in the file that is loaded
        hyperparams.pop("pretrained", None)
        return super()._load_pretrained_agent(hyperparams, env)

    # Search for hyper-parameters

    def hyperparameters_optimization(self) -> None:
        if self.storage is not None and not self.storage.endswith(".log"):
            lay_out_database(self.storage)
        super().hyperparameters_optimization()

    def objective(self, trial: optuna.Trial) -> float:
        try:
            if self.env_id != NO_SIMULATOR:
                return super().objective(trial)
            with attributes(module_of("rl_zoo3.exp_manager"), TrialEvalCallback=OfflineTrialCallback):
                return super().objective(trial)
        except optuna.exceptions.TrialPruned as pruned:
            if isinstance(pruned.__cause__, (ValueError, AssertionError)):
                # An error in the settings or the data, which every trial would raise
                raise pruned.__cause__ from None
            raise
        except FloatingPointError as diverged:
            print(diverged)
            raise optuna.exceptions.TrialPruned(str(diverged)) from diverged

    def _create_sampler(self, sampler_method: str) -> BaseSampler:
        seed = self.seed
        if self.storage is not None:
            # Processes that share a study would try the same settings if they shared the seed
            self.seed = hash((seed, socket.gethostname(), os.getpid())) % 2**32
        try:
            return super()._create_sampler(sampler_method)
        finally:
            self.seed = seed


def _read_dataset(model: OfflineAlgorithm, env_id: str) -> None:
    model.read_dataset()
    task = published_task(model.dataset_name)
    if model.reference_scores is None:
        # D4RL's files leave out what D4RL says of them
        model.reference_scores = task.reference_scores if task is not None else suite_scores(env_id)


def _constructor_defaults(entry: RegisteredAlgorithm) -> tuple[dict[str, Any], str]:
    """What an algorithm is trained with that has no file, and a name for it."""
    policy = next(iter(entry.policies), "MlpPolicy")
    n_timesteps = inspect.signature(entry.algorithm.learn).parameters["total_timesteps"].default
    n_timesteps = 100_000 if n_timesteps is inspect.Parameter.empty else n_timesteps
    found = f"no file is registered for {entry.name}, so that {entry.algorithm.__name__}'s own defaults are taken (-conf FILE)"
    return {"policy": policy, "n_timesteps": n_timesteps}, found


def _read_config(config: str) -> dict[str, dict[str, Any]]:
    if config.endswith((".yml", ".yaml")):
        with open(config) as file:
            return yaml.safe_load(file)
    module = runpy.run_path(config) if config.endswith(".py") else vars(importlib.import_module(config))
    if "hyperparams" not in module:
        raise ValueError(f"{config} defines no dictionary 'hyperparams'.")
    return module["hyperparams"]


def _remove_unused(run: Path) -> None:
    """What could not start leaves no folder behind."""
    files = [path for path in run.rglob("*") if path.is_file()]
    if all(path.name.endswith("monitor.csv") for path in files):
        shutil.rmtree(run, ignore_errors=True)
