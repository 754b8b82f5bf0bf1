"""
``EvalCallback``'s place where there is no environment.
"""

import os
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EventCallback

from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.transitions.transitions import label_of
from sb3_genpolicy.common.utils import attributes
from sb3_genpolicy.evaluation.acting import Acting
from sb3_genpolicy.evaluation.evaluate import Conditions, ask_about, evaluate
from sb3_genpolicy.evaluation.fitted_q import Begun, FittedQOptions
from sb3_genpolicy.evaluation.judges import read_for
from sb3_genpolicy.evaluation.question import Question
from sb3_genpolicy.evaluation.result import OfflineEvaluation
from sb3_genpolicy.evaluation.support import fit_behaviour
from sb3_genpolicy.evaluation.verdict import UNKNOWN, Guards
from sb3_genpolicy.evaluation.weighing import Densities
from sb3_genpolicy.generative.checks import check_number, named_options

#: Of evaluations while a training goes on: a third of the steps
DURING_TRAINING = FittedQOptions(n_members=4, steps=2_000, first_steps=1_000, tau=0.04)


class OfflineSelectionCallback(EventCallback):
    """
    Evaluates the policy on logged data every ``eval_freq`` gradient steps, as
    :func:`~sb3_genpolicy.evaluation.evaluate.evaluate_offline` does, logs what it found (``offline/...``), and keeps the best
    checkpoint: that of the highest discounted value (``OfflineEvaluation.cautious_value``) among those of which something can
    be told. Train with
    ``transforms=[HeldOutEpisodes()]``, so that other episodes judge than train. The training's random numbers stay as they
    would be without it.

    :param dataset: the logged data. Default: the model's own.
    :param eval_freq: gradient steps between evaluations; after the last step there is one in any case
    :param callback_on_new_best: called when there is a new best policy
    :param best_model_save_path: folder in which the best model is saved as ``best_model.zip``; None: it is not saved
    :param log_path: folder in which all evaluations are kept as ``offline_evaluations.npz``; None: they are not
    :param deterministic: whether ``predict(deterministic=True)`` is evaluated
    :param gamma: discount factor, in [0, 1). Default: the algorithm's.
    :param n_actions: number of actions drawn for every state, >= 1
    :param max_rows: rows at most
    :param behaviour_steps: gradient steps of the model of the behaviour policy, which is fitted once
    :param options: of fitted Q evaluation. Default: fewer steps than for an evaluation alone.
    :param guards: what an evaluation has to pass for something to be told
    :param seed: of the evaluations, a whole number >= 0
    :param verbose: 1 to say when there is a new best policy, 2 to print every evaluation
    """

    model: Any

    @named_options
    def __init__(
        self,
        dataset: DatasetSource | None = None,
        eval_freq: int = 10_000,
        callback_on_new_best: BaseCallback | None = None,
        best_model_save_path: str | None = None,
        log_path: str | None = None,
        deterministic: bool = False,
        gamma: float | None = None,
        n_actions: int = 2,
        max_rows: int = 100_000,
        behaviour_steps: int = 2_000,
        options: FittedQOptions | None = None,
        guards: Guards | None = None,
        seed: int = 0,
        verbose: int = 1,
    ):
        super().__init__(callback_on_new_best, verbose=verbose)
        for name, number in (("eval_freq", eval_freq), ("max_rows", max_rows), ("behaviour_steps", behaviour_steps)):
            check_number(name, number, low=1, whole=True)
        self.dataset, self.eval_freq, self.gamma, self.max_rows = dataset, eval_freq, gamma, max_rows
        self.best_model_save_path, self.log_path = best_model_save_path, log_path
        self.deterministic, self.n_actions, self.behaviour_steps, self.seed = deterministic, n_actions, behaviour_steps, seed
        self.options, self.guards = options or DURING_TRAINING, guards or Guards()
        #: What was found last
        self.last_evaluation: OfflineEvaluation | None = None
        #: Discounted value of the best policy, minus infinity before there is one
        self.best_value = -np.inf
        #: Steps at which policies were evaluated, and their discounted values
        self.evaluations_timesteps: list[int] = []
        self.evaluations_values: list[float] = []
        self.evaluations_verdicts: list[str] = []
        self._asked: tuple[Question, Densities, str] | None = None
        self._begun: dict[str, Begun] = {}

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq == 0:
            return self._evaluate()
        return True

    def _on_training_end(self) -> None:
        if self.n_calls > 0 and self.evaluations_timesteps[-1:] != [self.num_timesteps]:
            self._evaluate()

    def _ask(self) -> tuple[Question, Densities, str]:
        """Read and fitted once."""
        if self._asked is None:
            data = read_for([self.model], self.dataset)
            question, _ = ask_about([self.model], data, self.gamma, self.max_rows, self.seed)
            space, length = self.model.observation_space, Acting(self.model).execute_length
            behaviour = fit_behaviour(question.data, space, self.behaviour_steps, self.seed, False, length)
            self._asked = question, Densities(behaviour.policy, None), label_of(data)
        return self._asked

    def _evaluate(self) -> bool:
        question, densities, label = self._ask()
        conditions = Conditions(
            self.deterministic,
            self.n_actions,
            level=0.9,
            n_resamples=500,
            options=self.options,
            guards=self.guards,
            seed=self.seed,
            device=self.model.device,
            progress_bar=False,
        )
        with attributes(self.model.policy, training=self.model.policy.training):
            found = evaluate(self.model, type(self.model).__name__, question, densities, conditions, label, self._begun)
        self.last_evaluation = found
        value = found.cautious_value
        self._record(found, value)
        if found.verdict.word == UNKNOWN or value <= self.best_value:
            return True
        self.best_value = value
        if self.verbose >= 1:
            print(f"New best policy by logged data: value {value:.4g}, {found.verdict}")
        if self.best_model_save_path is not None:
            os.makedirs(self.best_model_save_path, exist_ok=True)
            self.model.save(os.path.join(self.best_model_save_path, "best_model"))
        return self._on_event() if self.callback is not None else True

    def _record(self, found: OfflineEvaluation, value: float) -> None:
        self.evaluations_timesteps.append(self.num_timesteps)
        self.evaluations_values.append(value)
        self.evaluations_verdicts.append(found.verdict.word)
        difference, total = found.estimate(of="difference"), found.estimate("undiscounted")
        self.logger.record("offline/value", value)
        self.logger.record("offline/difference", difference.value)
        self.logger.record("offline/outside", found.support.outside)
        self.logger.record("offline/bellman_error", found.error)
        self.logger.record("offline/is_known", float(found.verdict.word != UNKNOWN))
        score = found.score(total.value)
        if score is not None:
            self.logger.record("offline/normalized_score", score)
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)
        if self.verbose >= 2:
            print(found)
        if self.log_path is not None:
            os.makedirs(self.log_path, exist_ok=True)
            np.savez(
                os.path.join(self.log_path, "offline_evaluations"),
                timesteps=self.evaluations_timesteps,
                values=self.evaluations_values,
                verdicts=self.evaluations_verdicts,
            )
