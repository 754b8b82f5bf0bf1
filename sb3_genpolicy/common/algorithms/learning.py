"""
Learning from a dataset: what comes before the loop, the loop, and what it repeats; methods of
:class:`~sb3_genpolicy.common.algorithms.offline_algorithm.OfflineAlgorithm`.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_genpolicy.common.algorithms import critic_hooks
from sb3_genpolicy.common.algorithms.begin_together import begin_together, check_together
from sb3_genpolicy.common.algorithms.callbacks import GradientStepProgressBar
from sb3_genpolicy.common.algorithms.doubt import watch_advantage
from sb3_genpolicy.common.algorithms.prepare_updates import prepare_updates
from sb3_genpolicy.common.algorithms.spreads import forget_spreads
from sb3_genpolicy.common.algorithms.training_log import watch_values
from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.datasets.envs import SpacesVecEnv
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.precision import autocast
from sb3_genpolicy.common.updates.processes import OneProcess, processes
from sb3_genpolicy.generative.checks import check_number

Model = TypeVar("Model", bound=Any)


def setup_learn(
    self: Any,
    total_timesteps: int,
    callback: MaybeCallback = None,
    reset_num_timesteps: bool = True,
    tb_log_name: str = "run",
    progress_bar: bool = False,
    dataset: DatasetSource | None = None,
) -> tuple[int, BaseCallback]:
    """
    cf `BaseAlgorithm`.
    """
    self.processes = processes()
    check_together(self)
    if self.env is None:
        self.env = SpacesVecEnv(self.observation_space, self.action_space)
    if not self.processes.is_first:
        # Only the first process logs and runs callbacks
        self.verbose, callback, progress_bar = 0, None, False
        self.set_logger(Logger(None, []))
    self.fill_replay_buffer(dataset)
    self.random.prepare(self.replay_buffer, self.seed, self.num_timesteps)
    self.descent.means.clear()
    prepared = OffPolicyAlgorithm._setup_learn(self, total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
    if self.kept_log not in self.logger.output_formats:
        self.logger.output_formats.append(self.kept_log)
    prepare_updates(self)
    begin_together(self)
    return prepared


def init_callback(self: Any, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
    """
    cf `BaseAlgorithm`; the progress bar counts gradient steps.
    """
    callback = OffPolicyAlgorithm._init_callback(self, callback, progress_bar=False)
    if progress_bar:
        callback = CallbackList([callback, GradientStepProgressBar()])
        callback.init_callback(self)
    return self.processes.listening(callback)


def learn(
    self: Model,
    total_timesteps: int = 100_000,
    callback: MaybeCallback = None,
    log_interval: int | None = 1000,
    tb_log_name: str | None = None,
    reset_num_timesteps: bool = True,
    progress_bar: bool = False,
    dataset: DatasetSource | None = None,
) -> Model:
    """
    Learn from the dataset; the environment is not stepped.

    :param total_timesteps: number of gradient steps
    :param callback: callback(s) called after every gradient step
    :param log_interval: number of gradient steps between two lines of the log (None for no log)
    :param tb_log_name: the name of the run for TensorBoard logging. Default: the algorithm's
    :param reset_num_timesteps: whether to start counting (and the schedules) anew
    :param progress_bar: display a progress bar using tqdm and rich
    :param dataset: the logged data, in place of those given to the constructor
    :return: the trained model
    """
    check_number("total_timesteps", total_timesteps, low=0, infinite=True)
    if log_interval is not None:
        check_number("log_interval", log_interval, low=1)
    tb_log_name = tb_log_name or type(self).__name__
    total_timesteps, callback = self._setup_learn(
        total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar, dataset
    )
    assert isinstance(callback, BaseCallback) and self.env is not None
    callback.on_training_start(locals(), globals())
    # Nothing happens in the environment; callbacks look into these locals for what SB3's online loop would have there
    new_obs = self._last_obs
    infos: list[dict[str, Any]] = [{} for _ in range(self.env.num_envs)]
    rewards, dones = np.zeros(self.env.num_envs), np.zeros(self.env.num_envs, dtype=bool)

    while self.num_timesteps < total_timesteps:
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        self.train(gradient_steps=1, batch_size=self.batch_size)
        self.num_timesteps += 1
        callback.update_locals(locals())
        if not callback.on_step():
            break
        if log_interval is not None and self.num_timesteps % log_interval == 0:
            self.dump_logs()
    watch_values(self)
    watch_advantage(self)
    forget_spreads(self)
    callback.on_training_end()
    return self


def update(model: Any, batch_size: int) -> None:
    """
    Draw rows, and descend on the objective.

    :param model: the model, whose ``begin_update`` was called
    :param batch_size: rows of the batch
    """
    if not model.processes.is_open:
        # The context that it learnt in is left
        model.processes = OneProcess()
    together = model.processes
    rows, samples = model.replay_buffer.draw(batch_size, model._vec_normalize_env, together.part(batch_size))
    source = together.source(model.generator)
    samples, next_actions = critic_hooks.rows_for_critics(model, rows, samples, [source])
    windows = critic_hooks.windows_for_critics(model, rows)
    others = critic_hooks.rows_for_policy(model, rows, [source])
    matched = None if others is None else Batch.of(*others, source, together.mean)
    batch = Batch.of(samples, rows, source, together.mean, next_actions, matched, windows)
    with autocast(model.precision, model.device), together.sharing(), model.policy.normalizer.once():
        objective = model.objective(batch)
    model.descent.descend(objective, together, model.before_step)


def begin_update(self: Any) -> None:
    """Set what Python decides before every update: training modes, learning rates, rates of the running averages."""
    self.set_training_mode()
    self._set_learning_rates()
    for average in self.descent.averages:
        self.descent.set_rate(average, self.tau)
    # The averaged actor follows closely in the first steps of a phase, then at the rate `actor_tau`
    steps_of_phase = self._n_updates - self._updates_before_policy
    self.descent.set_rate(self.policy.acting, max(self.actor_tau, 9.0 / (10.0 + steps_of_phase)))
    self.descent.guard.begin(self._n_updates + 1)


def end_update(self: Any, is_last: bool = True) -> None:
    """
    Count the update.

    :param is_last: whether it is the last one of a call of ``train``
    """
    self._n_updates += 1
    # `num_timesteps` already counts an environment step at its updates, but a gradient step only after its update
    all_is_done = self.num_timesteps + (not self.collects) >= self._total_timesteps
    self.descent.guard.check_kept(now=is_last and all_is_done)


def set_learning_rates(self: Any) -> None:
    """Set the learning rates of this update."""
    rate = self.lr_schedule(self._current_progress_remaining)
    self._set_learning_rate(rate)
    share = critic_hooks.share_of_learning_rate(self)
    if share < 1.0:
        self.logger.record("train/critic_learning_rate", share * rate)
        self.descent.set_learning_rate(share * rate, ("critic", "value_net"))


def set_learning_rate(self: Any, rate: float, networks: Sequence[str] | None = None) -> None:
    """
    Set and log a learning rate.

    :param rate: the learning rate
    :param networks: of the optimizers of these networks; all by default
    """
    self.logger.record("train/learning_rate", rate)
    self.descent.set_learning_rate(rate, networks)
